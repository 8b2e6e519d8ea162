"""A CT or a phantom as DRRs: where a point lands, what is written, what a refused make leaves."""

import errno
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ct_files import AFFINE, ball, write_itk, write_nifti
from PIL import Image

from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.data.drr import (
    Drr,
    XraySetup,
    make_drr,
    phantom_volume,
    render_orbit,
)
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.data.radiograph import read_radiograph
from mednerf_kit.imaging.body import body_only, bone_only
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volume

SIZE, VIEWS = 16, 4
GEOMETRY = Geometry(
    source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=64, cols=64, pixel_mm=4.0
)


def drr(ct: str, *, out, **options) -> Drr:
    """:func:`make_drr` with options of the set-up beside its own."""
    names = {field.name for field in fields(XraySetup)} & options.keys()
    setup = XraySetup(**{name: options.pop(name) for name in names})
    return make_drr(ct, out=out, setup=setup, **options)


def dot(at_mm, *, origin_mm=(0.0, 0.0, 0.0)) -> Volume:
    """Air with one dense voxel, 4 mm wide, at a point of the grid about ``origin_mm``."""
    values = torch.full((31, 31, 31), -1000.0)
    i, j, k = (int(p / 4 + 15) for p in at_mm)
    values[k, j, i] = 3000.0
    return Volume.centred(values, 4.0, "hu", centre_mm=origin_mm)


def centroid(image):
    y, x = torch.meshgrid(torch.arange(image.shape[0]), torch.arange(image.shape[1]), indexing="ij")
    return float((image * x).sum() / image.sum()), float((image * y).sum() / image.sum())


@pytest.mark.parametrize("angle", [0.0, 35.0, 90.0, 180.0, 270.0])
def test_a_point_lands_where_similar_triangles_say(angle):
    p = np.array([24.0, -12.0, 36.0])
    image = render_orbit(dot(p), GEOMETRY.at([angle]))[0]
    a = math.radians(angle)
    source = 1000 * np.array([math.cos(a), -math.sin(a), 0.0])
    right = np.array([-math.sin(a), -math.cos(a), 0.0])
    magnified = 1500 / (1000 - p @ source / 1000)
    x, y = centroid(image)
    assert x == pytest.approx(31.5 + magnified * (p @ right) / 4, abs=0.1)
    assert y == pytest.approx(31.5 - magnified * p[2] / 4, abs=0.1)


def test_views_with_frames_make_the_pictures_of_the_orbit_they_stand_on(tmp_path):
    orbit = GEOMETRY.orbit(3)
    framed = replace(orbit, view_frames=tuple(orbit.frames_of_views().to_list()))
    for name, geometry in (("orbit", orbit), ("frames", framed)):
        drr(
            str(ct(tmp_path / f"{name}.nii.gz")),
            out=tmp_path / name,
            geometry=geometry,
            size=32,
            line_integral_scale=1.0,
        )
    ours, theirs = (load_orbits(tmp_path / name, split="all") for name in ("frames", "orbit"))
    assert torch.allclose(ours.images, theirs.images, atol=1e-3) and theirs.images.max() > 0.1
    assert len(ours.geometry.view_frames) == 3 and ours.geometry.cols == 32
    with pytest.raises(UserError, match="offset_mm beside a geometry of view_frames"):
        drr(
            str(ct(tmp_path / "again.nii.gz")),
            out=tmp_path / "again",
            geometry=framed,
            offset_mm=(5.0, 0.0),
        )


def test_the_patients_left_is_right_on_a_pa_film_and_the_head_is_up():
    x, y = centroid(render_orbit(dot((40, 0, 40)), GEOMETRY.at([270.0]))[0])
    assert x > 40 and y < 24


def test_isocentre_and_axes_come_from_the_world_not_the_array():
    here = render_orbit(dot((24, -12, 36)), GEOMETRY.orbit(6))
    away = dot((24, -12, 36), origin_mm=(100, -50, 7))
    assert torch.allclose(render_orbit(away, GEOMETRY.orbit(6)), here, atol=1e-5)
    assert torch.allclose(
        render_orbit(away, GEOMETRY.orbit(6), isocentre_mm=(100, -50, 7)), here, atol=1e-5
    )
    beside = centroid(render_orbit(away, GEOMETRY.at([270.0]), isocentre_mm=(84, -50, 7))[0])
    assert beside == pytest.approx(
        centroid(render_orbit(dot((40, -12, 36)), GEOMETRY.at([270.0]))[0]), abs=0.02
    )
    ras = dot((24, -12, 36))  # the same scan, stored with x and y running the other way
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    ras = replace(ras, values=ras.values.flip(1, 2), affine=flip @ ras.affine)
    assert torch.allclose(render_orbit(ras, GEOMETRY.orbit(6)), here, atol=1e-5)


def test_supersampling_averages_the_rays_of_a_pixel():
    coarse = replace(GEOMETRY, rows=16, cols=16, pixel_mm=16.0).orbit(3)
    fine = (
        render_orbit(dot((24, -12, 36)), GEOMETRY.orbit(3))
        .unflatten(-1, (16, 4))
        .unflatten(-3, (16, 4))
        .mean((-1, -3))
    )
    assert torch.allclose(render_orbit(dot((24, -12, 36)), coarse, supersample=4), fine, atol=1e-5)


def test_drr_writes_a_set_that_reads_back(tmp_path):
    made = drr("phantom:knee:3", out=tmp_path / "set", views=VIEWS, size=SIZE, float_arrays=True)
    assert (
        made.folder == tmp_path / "set" / "knee-00003" and made.geometry.line_integral_scale == 3.7
    )
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(
        [
            "patient.json",
            "volume.nii.gz",
            *(f"xray_{k:03d}.{s}" for k in range(VIEWS) for s in ("png", "npy")),
        ]
    )
    integrals = render_orbit(phantom_volume("knee", 3, SIZE), made.geometry)
    stored = Image.open(made.folder / "xray_003.png")
    assert stored.mode == "I;16" and np.allclose(
        np.load(made.folder / "xray_003.npy"), integrals[3]
    )
    assert np.allclose(
        np.asarray(stored) / 65535 * 3.7, integrals[3].clamp(max=3.7), atol=3.7 / 65535
    )
    found = load_orbits(tmp_path / "set", split="all")
    assert (found.layout, found.anatomy, found.notes) == (
        "own",
        "knee",
        (),
    ) and found.geometry == made.geometry
    assert torch.allclose(found.images[0].float() * 3.7, integrals, atol=5e-3)
    again = render_orbit(read_volume(found.volumes["knee-00003"]), made.geometry)
    assert torch.allclose(again, integrals, atol=1e-4)
    for name in ("xray_003.png", "xray_003.npy"):
        single = read_radiograph(made.folder / name, size=SIZE)
        assert torch.allclose(
            single.image * 3.7, integrals[3], atol=1e-4
        ) and single.geometry.angles_deg == (270.0,)


def test_autoscale_view_stretches_every_view(tmp_path):
    drr("phantom:knee:3", out=tmp_path, views=VIEWS, size=SIZE, autoscale="view")
    found = load_orbits(tmp_path, split="all")
    assert found.geometry.line_integral_scale is None and found.images.amax((2, 3)).eq(1).all()


def ct(path, at_mm=(24, -12, 36)):
    write_volume(dot(at_mm), path)
    return str(path)


def test_a_ct_takes_the_setup_it_is_given(tmp_path):
    made = drr(
        ct(tmp_path / "some.nii.gz"),
        out=tmp_path / "set",
        size=32,
        views=3,
        start_deg=10,
        direction=-1,
        tilt_deg=5,
        axis="x",
        source_to_isocentre_mm=700,
        source_to_detector_mm=900,
        detector_mm=160,
        offset_mm=(5, -3),
        line_integral_scale=2.0,
    )
    g = made.geometry
    assert made.folder.name == "some" and "chest default" in made.notes[0]
    assert (g.source_to_isocentre_mm, g.source_to_detector_mm, g.pixel_mm, g.rows, g.cols) == (
        700,
        900,
        5,
        32,
        32,
    )
    assert (g.offset_mm, g.tilt_deg, g.axis, g.line_integral_scale) == ((5, -3), 5, "x", 2)
    assert (
        g.angles_deg == (10, -110, -230)
        and Geometry.from_json(tmp_path / "set" / "geometry.json") == g
    )
    given = drr(
        ct(tmp_path / "knee.mha"), out=tmp_path / "b", size=32, geometry=g, patient_name="Q"
    )
    assert given.geometry == g and given.notes == () and given.folder.name == "Q"
    assert (
        drr(
            ct(tmp_path / "MyKnee.nii"), out=tmp_path / "c", size=8, views=1
        ).geometry.source_to_isocentre_mm
        == 570
    )


def test_the_volume_kept_is_what_was_projected(tmp_path):
    z, y, x = torch.meshgrid(*(torch.linspace(-60, 60, 61),) * 3, indexing="ij")
    hu = 40 * torch.exp(-((x - 10) ** 2 + 2 * y**2 + z**2) / 900) * 25 - 1000
    ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    scan = Volume.centred(hu, 2.0, "hu", centre_mm=(300, 200, -100))
    write_volume(
        replace(scan, values=hu.flip(1, 2), affine=ras @ scan.affine @ np.diag([1, 1, 1, 1.0])),
        tmp_path / "a.mha",
    )
    made = drr(
        str(tmp_path / "a.mha"),
        out=tmp_path / "set",
        size=32,
        views=3,
        detector_mm=180,
        line_integral_scale=3.0,
        mu_water_per_mm=0.022,
        air_below_hu=-800,
        isocentre_mm=(-295, -205, -100),
    )
    found = load_orbits(tmp_path / "set", split="all", geometry=made.geometry)
    kept = read_volume(found.volumes["a"])
    assert kept.mu_water_per_mm == 0.022 and kept.values.min() == -1000 and min(kept.spacing_mm) > 3
    again = render_orbit(kept, made.geometry, isocentre_mm=(0, 0, 0))
    wanted = found.images[0].float() * 3
    assert again.max() > 1 and float((again - wanted).norm() / wanted.norm()) < 0.03


def test_patients_join_a_set_of_the_same_geometry_only(tmp_path):
    for name in ("one", "two"):
        drr(ct(tmp_path / f"{name}.nii.gz"), out=tmp_path / "set", size=SIZE, views=VIEWS)
    assert load_orbits(tmp_path / "set", split="all", geometry=None).patients == ("one", "two")
    refused = [
        ({}, "'one', who is in"),
        ({"patient_name": "three", "tilt_deg": 3}, "another geometry"),
        ({"patient_name": "three", "autoscale": "view"}, "another geometry"),
        ({"patient_name": "../three"}, "patient name"),
        ({"out": tmp_path}, "not empty and no set"),
        ({"out": tmp_path / "one.nii.gz"}, "a file"),
    ]
    for options, said in refused:
        with pytest.raises(UserError, match=said):
            drr(
                str(tmp_path / "one.nii.gz"),
                **{"out": tmp_path / "set", "size": SIZE, "views": VIEWS, **options},
            )
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "geometry.json",
        "one",
        "two",
    ]


def test_drrs_of_one_ct_are_recognised_whatever_their_size(tmp_path):
    one = drr(ct(tmp_path / "a.nii.gz"), out=tmp_path / "chest_one", size=SIZE, views=VIEWS)
    two = drr(
        ct(tmp_path / "b.mha"),
        out=tmp_path / "chest_two",
        size=2 * SIZE,
        views=2,
        autoscale="view",
        mu_water_per_mm=0.02,
    )
    other = drr(
        ct(tmp_path / "c.mha", (0, 0, 0)), out=tmp_path / "chest_three", size=SIZE, views=VIEWS
    )
    one, two, other = (load_orbits(made.folder.parent, split="all") for made in (one, two, other))
    assert (
        two.seen_before(one.all_fingerprints()) == ("b",)
        and other.seen_before(one.all_fingerprints()) == ()
    )


def test_a_cut_off_brightness_is_remarked(tmp_path):
    made = drr("phantom:knee:0", out=tmp_path, size=SIZE, views=1, line_integral_scale=1.0)
    assert any("exceed the scale 1" in note for note in made.notes)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"ct": "phantom:ches:1"}, "did you mean 'chest'"),
        ({"ct": "phantom:chest:one"}, "phantom:chest:0"),
        ({"ct": "nowhere.nii.gz"}, "does not exist"),
        ({"autoscale": "sett"}, "did you mean 'set'"),
        ({"views": 0}, "one view"),
        ({"pixel_mm": 1.0, "detector_mm": 100.0}, "one of them"),
        ({"source_to_isocentre_mm": 2000.0}, "SOD < SDD"),
        ({"axis": "w"}, "orbit axis"),
        ({"source_to_isocentre_mm": 100.0}, "reaches the X-ray source"),
    ],
)
def test_an_impossible_drr_leaves_nothing_behind(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        drr(
            **{
                "ct": "phantom:knee:1",
                "out": tmp_path / "set",
                "size": SIZE,
                "views": VIEWS,
                **options,
            }
        )
    assert not (tmp_path / "set").exists()


def test_a_full_disk_leaves_no_half_patient(tmp_path, monkeypatch):
    def full(self, path, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RunError, match="No space left") as caught:
        drr("phantom:knee:1", out=tmp_path / "set", size=SIZE, views=VIEWS)
    assert caught.value.exit_code == 1
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["geometry.json"]


def body_on_a_table(spacing=4.0):
    """A water cylinder with two lungs, open at both ends, on a thin table; HU."""
    z, y, x = torch.meshgrid(
        *(torch.arange(n) * spacing - n * spacing / 2 for n in (20, 80, 80)), indexing="ij"
    )
    values = torch.full(x.shape, -1000.0)
    body = x**2 + y**2 < 100**2
    values[body] = 20.0
    lungs = ((x.abs() - 45) ** 2 + y**2) < 35**2
    values[lungs] = -850.0
    table = (y >= 116) & (y < 120) & (x.abs() < 140)
    values[table] = 300.0
    return Volume.centred(values, spacing, "hu"), body, table


def test_the_table_goes_and_the_patient_stays():
    volume, body, table = body_on_a_table()
    left = body_only(volume).values
    assert (left[table] == -1000).all() and torch.equal(left[body], volume.values[body])
    fine = volume.resampled(spacing_mm=1.3)  # where the mask is found on every second voxel
    kept = body_only(fine).values
    inside = body_only(replace(fine, values=torch.zeros_like(fine.values))).values == 0
    assert inside.all(), "a block of water is all body"
    r = (torch.arange(kept.shape[1]) - (kept.shape[1] - 1) / 2) * 1.3
    within = (r[:, None] ** 2 + r**2 < 100**2).expand(kept.shape)
    assert torch.equal(kept[within], fine.values[within]) and (kept[:, r > 112] == -1000).all()


def test_a_scan_without_a_solid_body_is_refused():
    volume, body, table = body_on_a_table()
    with pytest.raises(UserError, match="no body was found"):
        body_only(replace(volume, values=torch.where(body, -1000.0, volume.values)))


def test_bone_alone_is_what_is_denser_than_soft_tissue():
    hu = torch.tensor([-1000.0, 0.0, 60.0, 400.0, 1500.0]).reshape(1, 1, 5)
    found = bone_only(Volume.centred(hu, (1.0, 1.0, 1.0), "hu"))
    assert found.values.flatten().tolist() == [-1000, -1000, -1000, 400, 1500]


def test_films_have_no_scale_and_say_what_they_are(tmp_path):
    folder = drr("phantom:chest:3", out=tmp_path / "films", views=2, size=32, film="sigmoid").folder
    plain = drr("phantom:chest:3", out=tmp_path / "plain", views=2, size=32).folder
    films, known = (load_orbits(made.parent, split="all") for made in (folder, plain))
    assert films.geometry == replace(known.geometry, line_integral_scale=None)
    p = known.images[0].double()
    low, high = (1 / (1 + math.exp(7 * (0.4 - end))) for end in (0, 1))
    expected = (torch.sigmoid(7 * (p - 0.4)) - low) / (high - low)
    assert float((films.images[0] - expected).abs().max()) < 2e-3  # stored as half
    assert any("films (sigmoid)" in note for note in films.notes) and known.notes == ()
    record = json.loads((folder / "patient.json").read_text())["film"]
    assert record["line_integral_scale"] == 7.5
    assert record["curve"] == {"name": "sigmoid", "slope": 7.0, "centre": 0.4}
    assert films.seen_before(known.all_fingerprints()) == films.patients


def test_films_want_one_scale_and_a_known_name(tmp_path):
    with pytest.raises(UserError, match="film"):
        drr("phantom:chest:3", out=tmp_path / "x", film="sigmoid", autoscale="view")
    with pytest.raises(UserError, match="did you mean 'sigmoid'"):
        drr("phantom:chest:3", out=tmp_path / "x", film="sigmoyd")
    assert not (tmp_path / "x").exists()


def mu_file(path, factor=1.0):
    """The ball of ``ct_files`` in attenuation per mm, a little below 0 in air."""
    path.parent.mkdir(exist_ok=True)
    write_itk(path, factor * (0.0205 * (1 + ball() / 1000) - 0.0002), AFFINE)
    return str(path)


def test_attenuation_in_mm_is_no_matter_of_what_water_has(tmp_path):
    for water in (0.0205, 0.018):
        made = drr(
            mu_file(tmp_path / "ct.mha"),
            out=tmp_path / str(water),
            quantity="mu_per_mm",
            mu_water_per_mm=water,
            views=2,
            size=SIZE,
            float_arrays=True,
        )
        found = np.load(made.folder / "xray_000.npy")
        assert found.max() == pytest.approx(1.55, abs=0.1)  # 2·34 mm of water and some of the bead
    first, second = (np.load(p / "ct" / "xray_001.npy") for p in sorted(tmp_path.glob("0.0*")))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_relative_attenuation_has_pictures_without_a_scale(tmp_path):
    path = mu_file(tmp_path / "ct.mha", 7.0)
    with pytest.raises(UserError, match="--autoscale view"):
        drr(path, out=tmp_path / "a", quantity="relative", views=2, size=SIZE)
    with pytest.raises(UserError, match="--quantity"):
        drr(path, out=tmp_path / "a", views=2, size=SIZE)
    made = drr(path, out=tmp_path / "b", quantity="relative", autoscale="view", views=2, size=SIZE)
    assert np.asarray(Image.open(made.folder / "xray_001.png")).max() == 65535
    assert not (made.folder / "volume.nii.gz").exists()
    assert load_orbits(tmp_path / "b", split="all").geometry.line_integral_scale is None


def test_scans_in_attenuation_are_told_apart(tmp_path):
    identities = set()
    for factor in (1.0, 0.9):
        made = drr(
            mu_file(tmp_path / "ct.mha", factor),
            out=tmp_path / str(factor),
            quantity="mu_per_mm",
            views=2,
            size=SIZE,
        )
        identities.add(json.loads((made.folder / "patient.json").read_text())["identity"])
    assert len(identities) == 2


def test_what_was_assumed_of_a_ct_is_in_the_notes(tmp_path):
    write_nifti(tmp_path / "ct.nii", ball(), None)
    made = drr(str(tmp_path / "ct.nii"), out=tmp_path / "s", views=2, size=SIZE)
    assert any("no voxel size" in note for note in made.notes)
