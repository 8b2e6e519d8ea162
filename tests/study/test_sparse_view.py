"""Few views of one patient: the loss and the field that fit them, the methods of the table, what is
written and refused.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from tiny import VIEWS, make_set, small_geometry
from tiny_prior import GEOMETRY, QUICK, snapshot

from mednerf_kit.commands import tomography as command
from mednerf_kit.core import config
from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import FieldOutput, Rays, Rendering, Samples
from mednerf_kit.data.posed.orbit import OrbitScene
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.engine.session import resolve, train
from mednerf_kit.fields.voxels import Voxels
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.rays.render import Level, LevelRendering
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.recon import rtk
from mednerf_kit.scene.losses import Outcome, SquaredErrorUpToGain, fitted_gains
from mednerf_kit.study.sparse_view import case as cases
from mednerf_kit.study.sparse_view import compare, methods

BOX = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.5, 1.5]])
QUICK_SETTINGS = [
    "steps=40",
    "snapshot_steps=40",
    "selector.n=256",
    "levels.0.sampler.n=24",
    "task.learning_rate=0.2",
    "fields.scene={name: voxels, start_voxels: 4096, end_voxels: 13824, upsample: [0.3]}",
]


# The field


def test_voxels_are_trilinear_between_their_centres():
    """Values that are linear in space are read back exactly, except within half a voxel of the
    border.
    """
    field = Voxels(start_voxels=12 * 18 * 12, upsample=(), sharpness=1e4, box=BOX, channels=0)
    z, y, x = field.grid.shape[2:]
    assert (x, y, z) == (12, 18, 12)
    lines = [
        BOX[0, k] + (torch.arange(n) + 0.5) / n * (BOX[1, k] - BOX[0, k])
        for k, n in enumerate((x, y, z))
    ]
    with torch.no_grad():
        field.grid.copy_(3 + lines[0] + 0.5 * lines[1][:, None] - lines[2][:, None, None])
    points = BOX.mean(0) + 0.4 * (BOX[1] - BOX[0]) * (
        2 * torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 1
    )
    wanted = (3 + points @ torch.tensor([1.0, 0.5, -1.0])) / 3  # per longest side
    torch.testing.assert_close(field.density(points), wanted, rtol=1e-4, atol=1e-4)
    # |(1, 1/2, -1)| = 3/2
    assert field.regularisers()["tv_density"].item() == pytest.approx(1.5 / 3, rel=1e-3)


def test_a_finer_grid_shows_the_same():
    field = Voxels(start_voxels=8**3, end_voxels=16**3, upsample=(0.5,), box=BOX, channels=0)
    with torch.no_grad():
        field.grid.copy_(torch.linspace(1, 2, field.grid.shape[4]))
    points = BOX.mean(0) + 0.3 * (BOX[1] - BOX[0]) * (2 * torch.rand(50, 3) - 1)
    before = field.density(points)
    assert not field.advance(0.4) and field.advance(0.5) and not field.advance(1.0)
    assert field.grid[0, 0].numel() == pytest.approx(16**3, rel=0.2)
    torch.testing.assert_close(field.density(points), before, rtol=0.01, atol=0)
    with pytest.raises(UserError, match="at least 8 voxels"):
        Voxels(end_voxels=1, box=BOX)


# The loss


def outcome(
    image: torch.Tensor, truth: torch.Tensor, view: torch.Tensor, weight: torch.Tensor
) -> Outcome:
    origin = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [-3.0, 0, 0]])[view]
    rays = Rays(origin, -origin / 3, torch.ones(len(view)), torch.full((len(view),), 5.0))
    samples = Samples(torch.ones(len(view), 1), torch.ones(len(view), 1))
    seen = LevelRendering(
        Rendering(image[:, None], image[:, None]), samples, FieldOutput(image[:, None])
    )
    return Outcome([seen], [Level(Stratified(n=1))], rays, truth[:, None], weight, 0.0)


def test_pictures_that_differ_by_a_gain_a_view_cost_nothing():
    g = torch.Generator().manual_seed(0)
    view, truth = torch.randint(3, (60,), generator=g), 0.2 + torch.rand(60, generator=g)
    gains = torch.tensor([0.9, 1.0, 1.1])
    loss = SquaredErrorUpToGain()
    assert float(loss(outcome(gains[view] * truth, truth, view, torch.ones(60)))) < 1e-12
    assert float(loss(outcome(1.5 * truth, truth, view, torch.ones(60)))) == pytest.approx(
        float((0.5 * truth).square().mean())
    )


def test_gains_are_weighted_least_squares():
    g = torch.Generator().manual_seed(1)
    image, truth, weight = (0.1 + torch.rand(40, generator=g) for _ in range(3))
    view = torch.arange(40) % 2
    found = fitted_gains(image[:, None], truth[:, None], weight, view, 2)
    solved = torch.stack(
        [
            torch.linalg.lstsq(
                (truth * weight.sqrt())[view == k, None], (image * weight.sqrt())[view == k, None]
            ).solution[0, 0]
            for k in range(2)
        ]
    )
    torch.testing.assert_close(found, solved / solved.mean())


# The scene reader


def test_an_orbit_opens_as_told_and_its_patient_may_be_a_number(tmp_path):
    root = make_set(tmp_path / "set", volumes=False)
    (root / "p0").rename(root / "05")
    (root / "split.json").unlink()
    scene = load_scene(root, patient=5, views=3, fov_deg=30.0)
    assert scene.facts["patient"] == "05" and scene.facts["geometry"].fov_deg == pytest.approx(30.0)
    assert scene.facts["mm_per_unit"] == pytest.approx(
        load_scene(root, patient="05").facts["mm_per_unit"]
    )
    assert scene.stems == ("xray_000", "xray_002", "xray_005")
    held = load_scene(root, patient=5, views=3, split="test")
    assert not set(held.stems) & set(scene.stems) and len(held.stems) == 5
    with pytest.raises(UserError, match="patient '7'"):
        OrbitScene(patient=7).read(root)


# What all methods share


def test_voxels_that_every_view_sees():
    distance, size = 3.0, 24
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * 1.4
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    inside = torch.ones(size, size, size, dtype=torch.bool)
    for a in torch.arange(0, 2 * torch.pi, 0.01):
        depth = distance - (a.cos() * x - a.sin() * y)
        inside &= ((a.sin() * x + a.cos() * y) * distance / depth).abs() <= 1
        inside &= (z * distance / depth).abs() <= 1
    geometry = Geometry(
        source_to_isocentre_mm=distance,
        source_to_detector_mm=2 * distance,
        rows=8,
        cols=8,
        pixel_mm=0.5,
    ).orbit(90)
    assert float((inside == compare.seen_by_all(size, geometry)).float().mean()) > 0.999
    framed = replace(geometry, view_frames=tuple(geometry.frames_of_views().to_list()))
    assert float((inside == compare.seen_by_all(size, framed)).float().mean()) > 0.999
    raised = geometry.frames_of_views()
    for part in (raised.source, raised.detector):  # a helix: no voxel is seen all the way round
        part[:, 2] += torch.linspace(-2, 2, 90).double()
    helix = replace(geometry, view_frames=tuple(raised.to_list()))
    seen = compare.seen_by_all(size, helix)
    assert 0.1 < float(seen.float().mean()) < 0.9 and bool(seen[size // 2, size // 2, size // 2])


def test_gains_of_a_set_scaled_view_by_view_are_found_from_its_training_views(tmp_path):
    one = cases.read_case(
        str(make_set(tmp_path / "one")), patient="p1", views=6, fov_deg=None, fit_fov=False, size=24
    )
    root = make_set(tmp_path / "each", per_view=True)
    each = cases.read_case(str(root), patient="p1", views=6, fov_deg=None, fit_fov=False, size=24)
    assert each.scaled_by_view and not one.scaled_by_view and torch.equal(one.gains, torch.ones(6))
    # what is left of the gains, up to one scale
    ratio = (each.images.sum((1, 2)) / one.images.sum((1, 2))).log()
    before = ((each.images * each.gains[:, None, None]).sum((1, 2)) / one.images.sum((1, 2))).log()
    assert float(ratio.std()) < 0.3 * float(before.std())


# The table


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("fewview") / "set")


@pytest.fixture(scope="module")
def scene_run(tiny_set):
    return train(
        dataset=str(tiny_set),
        config="tomo_chest",
        outdir=tiny_set.parent / "runs",
        device="cpu",
        settings=[*QUICK_SETTINGS, "scene.patient=p1", "scene.views=5"],
    )


@pytest.fixture(scope="module")
def table(tiny_set, scene_run):
    folder = tiny_set.parent / "out"
    names = ("fdk", "sart", "sart_tv", "field")
    return folder, compare.compare(
        dataset=str(tiny_set),
        out=folder,
        patient="p1",
        views=5,
        run=str(scene_run),
        methods=names,
        size=24,
        settings=["sart.epochs=8", "sart_tv.epochs=8"],
    )


def test_every_method_has_a_row_and_files(table):
    folder, found = table
    rows = found["methods"]
    assert list(rows) == ["fdk", "sart", "sart_tv", "field"] and found["held_out_views"] == 3
    assert rows["sart"]["options"] == {"epochs": 8} and "data range" in found["conventions"]
    assert json.loads((folder / "table.json").read_text()) == found
    with open(folder / "table.csv", encoding="utf-8") as file:
        read = {row["method"]: row for row in csv.DictReader(file)}
    assert (
        float(read["fdk"]["psnr_db"]) == rows["fdk"]["psnr_db"]
        and "| sart |" in (folder / "table.md").read_text()
    )
    for name in [*rows, "truth"]:
        volume = read_volume(folder / f"{name}.nii.gz")
        assert (
            volume.quantity == "hu"
            and "diagnosis" in volume.note
            and (folder / f"{name}_slices.png").is_file()
        )
    assert (folder / "views.png").is_file()


def test_methods_are_worth_what_they_should_be(table):
    rows = table[1]["methods"]
    assert (
        rows["sart"]["psnr_db"] > 24
        and rows["sart_tv"]["psnr_db"] > 24
        and rows["field"]["psnr_db"] > 20
    )
    assert (
        rows["sart"]["psnr_db"] > rows["fdk"]["psnr_db"]
        and rows["sart_tv"]["psnr_3d_db"] > rows["fdk"]["psnr_3d_db"]
    )
    assert all(len(row["per_view_psnr_db"]) == 3 for row in rows.values())


def test_the_truth_scores_best(tiny_set, monkeypatch):
    case = cases.read_case(
        str(tiny_set), patient="p1", views=5, fov_deg=None, fit_fov=False, size=40
    )
    found, shown = compare.scores(case, case.truth)
    assert (
        found["psnr_3d_db"] == 120
        and found["ssim_3d"] == pytest.approx(1)
        and found["psnr_db"] > 28
    )
    assert shown.shape == case.held.shape


def test_sart_goes_on_from_the_prior(tiny_set, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "Inversion", QUICK)
    case = cases.read_case(
        str(tiny_set), patient="p1", views=2, fov_deg=None, fit_fov=False, size=24
    )
    prior = str(snapshot(tmp_path / "prior"))
    alone, after = (methods.FromPrior(prior=prior, epochs=n)(case) for n in (0, 2))
    assert alone.values.shape == after.values.shape == (24, 24, 24)
    assert compare.scores(case, after)[0]["psnr_db"] > compare.scores(case, alone)[0]["psnr_db"]


def test_the_prior_is_brought_to_the_views(tiny_set, tmp_path, monkeypatch):
    """Views, given and held out, are explained better, in whatever millimetres the prior was
    trained: field units are the same.
    """
    monkeypatch.setattr(methods, "Inversion", QUICK)
    case = cases.read_case(
        str(tiny_set), patient="p1", views=2, fov_deg=None, fit_fov=False, size=24
    )
    prior = str(snapshot(tmp_path / "prior"))
    large = replace(
        GEOMETRY,
        source_to_isocentre_mm=2 * GEOMETRY.source_to_isocentre_mm,
        source_to_detector_mm=2 * GEOMETRY.source_to_detector_mm,
        pixel_mm=2 * GEOMETRY.pixel_mm,
    )
    of_giants = str(snapshot(tmp_path / "giants", geometry=large))
    before = methods.FromPrior(prior=prior, epochs=0, update=False)(case)
    after, same = (methods.FromPrior(prior=p, epochs=0)(case) for p in (prior, of_giants))
    given = [
        (volume.project(case.geometry) - case.images).square().mean() for volume in (before, after)
    ]
    assert given[1] < 0.25 * given[0]
    assert compare.scores(case, after)[0]["psnr_db"] > compare.scores(case, before)[0]["psnr_db"]
    assert after.unit_mm == same.unit_mm == case.geometry.half_width_mm
    # not to rounding: what the prior does not know is looked for by size in mm
    assert (same.values - after.values).norm() < 0.2 * after.values.norm()


def test_the_prior_is_brought_to_views_that_stand_on_no_orbit(tmp_path, monkeypatch):
    """Every other view leans; the prior was trained in other millimetres than the set's."""
    monkeypatch.setattr(methods, "Inversion", QUICK)
    level, leaning = (
        replace(small_geometry(), tilt_deg=tilt_deg).frames_of_views().to_list()
        for tilt_deg in (0.0, 15.0)
    )
    frames = tuple(leaning[k] if k % 2 else level[k] for k in range(VIEWS))
    geometry = replace(small_geometry(), angles_deg=(), view_frames=frames)
    root = str(make_set(tmp_path / "set", geometry=geometry))
    case = cases.read_case(root, patient="p1", views=3, fov_deg=None, fit_fov=False, size=24)
    prior = str(snapshot(tmp_path / "prior", geometry=replace(GEOMETRY, pixel_mm=5.0)))
    before, after = (
        methods.FromPrior(prior=prior, epochs=0, update=update)(case) for update in (False, True)
    )
    assert after.unit_mm == case.geometry.half_width_mm
    errors = [(v.project(case.geometry) - case.images).square().mean() for v in (before, after)]
    assert errors[1] < 0.5 * errors[0] < 0.5 * case.images.square().mean()


@pytest.mark.skipif(not rtk.installed(), reason="itk-rtk is not installed")
def test_rtk_agrees_where_every_view_sees(tiny_set):
    case = cases.read_case(
        str(tiny_set), patient="p1", views=7, fov_deg=None, fit_fov=False, size=24
    )
    mask = compare.seen_by_all(24, case.geometry)
    ours = methods.fdk(case.images, case.geometry, size=24, cutoff=torch.inf, extend=0.0)
    theirs = rtk.fdk(case.images, case.geometry, size=24, hann=0.0, extend=0.0)
    torch.testing.assert_close(ours.values[mask], theirs.values[mask], rtol=1e-3, atol=1e-4)


def test_views_that_are_no_orbit_are_reconstructed_by_what_can(tmp_path, capsys):
    """Every other view leans: SART has them, and FDK's row is left out, which is said."""
    level, leaning = (
        replace(small_geometry(), tilt_deg=tilt_deg).frames_of_views().to_list()
        for tilt_deg in (0.0, 20.0)
    )
    frames = tuple(leaning[k] if k % 2 else level[k] for k in range(VIEWS))
    geometry = replace(small_geometry(), angles_deg=(), view_frames=frames)
    root = str(make_set(tmp_path / "set", geometry=geometry))
    options = {"dataset": root, "patient": "p1", "views": 6, "size": 24}
    found = compare.compare(
        **options, out=tmp_path / "out", settings=["sart.epochs=4", "sart_tv.epochs=1"]
    )
    assert list(found["methods"]) == ["sart", "sart_tv"]
    assert found["methods"]["sart"]["psnr_db"] > 22
    assert "no row fdk" in capsys.readouterr().err
    with pytest.raises(UserError, match="level orbit"):
        compare.compare(**options, out=tmp_path / "fdk", methods=["fdk"])
    with pytest.raises(UserError, match="opening angle"):
        compare.compare(**options, out=tmp_path / "fov", methods=["sart"], fov_deg=20.0)


# What is refused


@pytest.mark.parametrize(
    "options, words",
    [
        ({"methods": ("field",)}, "wanted --run"),
        ({"methods": ("prior",)}, "wanted --prior"),
        ({"methods": ("art",)}, "tomography method"),
        ({"views": 8}, "one left to score with"),
        ({"size": 8}, "at least 11"),
        ({"patient": "nobody"}, "patient"),
        ({"settings": ["sart.turns=3"]}, "turns"),
        ({"settings": ["fdk.cutoff=wide"]}, "number|float"),
    ],
)
def test_bad_input_is_one_sentence(tiny_set, tmp_path, options, words):
    with pytest.raises(UserError, match=words) as caught:
        compare.compare(
            **{
                "dataset": str(tiny_set),
                "out": tmp_path,
                "views": 4,
                "methods": ("fdk", "sart"),
                "size": 24,
                **options,
            }
        )
    assert "\n" not in str(caught.value)


def test_a_run_that_saw_held_out_views_or_another_patient_is_refused(tiny_set, scene_run, tmp_path):
    common = {
        "dataset": str(tiny_set),
        "out": tmp_path,
        "run": str(scene_run),
        "methods": ("field",),
        "size": 24,
    }
    with pytest.raises(UserError, match="held out"):
        compare.compare(**common, patient="p1", views=3)
    with pytest.raises(UserError, match="wanted patient 'p2'"):
        compare.compare(**common, patient="p2", views=5)
    with pytest.raises(UserError, match="opening angle"):
        compare.compare(**common, patient="p1", views=5, fov_deg=40.0)


def test_missing_rtk_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rtk, "installed", lambda: False)
    with pytest.raises(UserError, match=r"mednerf-kit\[baselines\]"):
        compare.chosen_methods(["rtk_fdk"], run=None, prior=None)
    assert compare.chosen_methods([], run=None, prior="bundled:chest") == [
        "fdk",
        "sart",
        "sart_tv",
        "prior",
    ]


# The command and the recipes


def test_the_command_names_every_method():
    (option,) = [p for p in command.tomography.params if p.name == "methods"]
    named = option.help.partition(": ")[2].rstrip(".").split(", ")
    assert sorted(named) == sorted(methods.METHODS.entries)


def test_the_command_prints_table_and_folder(tiny_set, tmp_path):
    words = [
        "--dataset",
        str(tiny_set),
        "--views",
        "4",
        "--method",
        "fdk",
        "--size",
        "24",
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(command.tomography, words, catch_exceptions=False)
    assert (
        result.exit_code == 0
        and result.stdout.splitlines()[-1] == str(tmp_path / "out")
        and "| fdk |" in result.stdout
    )


@pytest.mark.parametrize("name", ["tomo_chest", "tomo_knee"])
@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
def test_recipes_resolve(name, preset):
    recipe = resolve("x", name, preset, ["scene.views=36"])
    assert recipe["image_model"] == "line_integral" and recipe["scene"]["views"] == 36
    assert len((config.folder() / f"{name}.yaml").read_text().splitlines()) <= 40
