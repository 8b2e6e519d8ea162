"""DRR sets: the four layouts, splitting by patient, recognition of patients, and what a broken set
gets.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.data import orbits
from mednerf_kit.data.orbits import load_orbits, split_patients
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.data.radiograph import find_geometry
from mednerf_kit.imaging.geometry import DEFAULTS

VIEWS, SIDE = 6, 16


def picture(patient: int, view: int, dtype=np.uint8, side: int = SIDE) -> np.ndarray:
    """A picture that no mirror, swap of views or swap of patients leaves unchanged."""
    full = np.iinfo(dtype).max
    image = np.random.default_rng(100 * patient + view).integers(0, full // 2, (side, side))
    image[:, 0], image[0, 0] = full, view * (full // 255)
    return image.astype(dtype)


def flat_set(root, patients=4, *, bbg=()):
    root.mkdir()
    for patient in range(1, patients + 1):
        for view in range(VIEWS):
            middle = "_bbg" if patient in bbg else ""
            Image.fromarray(picture(patient, view)).save(
                root / f"{patient:02d}{middle}_xray{view:04d}.png"
            )
    return root


def own_set(root, patients=3, *, split=None):
    for patient in range(patients):
        (root / f"p{patient}").mkdir(parents=True)
        for view in range(VIEWS):
            Image.fromarray(picture(patient, view, np.uint16)).save(
                root / f"p{patient}" / f"xray_{view:03d}.png"
            )
    DEFAULTS["knee"].resized(SIDE).orbit(VIEWS, start_deg=30, direction=-1).save(
        root / "geometry.json"
    )
    if split:
        (root / "split.json").write_text(json.dumps(split))
    return root


def test_flat_layout_reads_pixels_unmirrored_with_the_stated_default(tmp_path):
    found = load_orbits(flat_set(tmp_path / "my_chest_drrs", bbg=[1]), split="all")
    assert (found.layout, found.anatomy, found.patients) == (
        "flat",
        "chest",
        ("01", "02", "03", "04"),
    )
    assert found.images.shape == (4, VIEWS, SIDE, SIDE) and found.images.dtype == torch.float16
    for patient in (1, 3):
        for view in range(VIEWS):
            wanted = torch.from_numpy(picture(patient, view).astype(np.float32) / 255)
            assert torch.allclose(found.images[patient - 1, view].float(), wanted, atol=5e-4)
    assert found.geometry.fov_deg == pytest.approx(18.2, abs=0.05)
    assert (
        found.geometry.angles_deg == (0, 60, 120, 180, 240, 300)
        and found.geometry.line_integral_scale is None
    )
    assert any("18.2" in note for note in found.notes)


def test_knee_default_has_its_own_field_of_view(tmp_path):
    assert load_orbits(
        flat_set(tmp_path / "knee_xrays"), split="all"
    ).geometry.fov_deg == pytest.approx(19.1, abs=0.05)


def test_own_layout_keeps_geometry_split_and_16_bits(tmp_path):
    root = own_set(tmp_path / "mine", split={"train": ["p2", "p0"], "val": [], "test": ["p1"]})
    found = load_orbits(root, split="train")
    assert (found.layout, found.patients, found.notes) == ("own", ("p0", "p2"), ())
    assert (
        found.geometry.angles_deg[:2] == (30.0, -30.0) and found.geometry.line_integral_scale == 3.7
    )
    wanted = torch.from_numpy(picture(2, 1, np.uint16) / np.float32(65535))
    assert torch.allclose(found.images[1, 1].float(), wanted, atol=5e-4)
    assert load_orbits(root, split="test").patients == ("p1",)
    assert load_orbits(root, split="all", limit=2).patients == ("p0", "p1")
    assert load_orbits(root, patients=["p1"]).patients == ("p1",)


def test_folders_of_any_sorted_pictures_take_natural_order(tmp_path):
    for patient in range(2):
        (tmp_path / "knee" / f"p{patient}").mkdir(parents=True)
        for view in range(12):
            Image.fromarray(picture(patient, view)).save(
                tmp_path / "knee" / f"p{patient}" / f"angle{30 * view}.png"
            )
    found = load_orbits(tmp_path / "knee", split="all")
    assert found.layout == "folders" and found.geometry.views == 12
    assert [round(v * 255) for v in found.images[0, :, 0, 0].tolist()] == list(range(12))


def test_size_averages_areas_and_scales_the_pixels(tmp_path):
    root = own_set(tmp_path / "mine")
    full, small = load_orbits(root, split="all"), load_orbits(root, split="all", size=SIDE // 4)
    blocks = full.images.float().unflatten(-1, (4, 4)).unflatten(-3, (4, 4)).mean((-1, -3))
    assert torch.allclose(small.images.float(), blocks, atol=1e-3)
    assert small.geometry.pixel_mm == pytest.approx(4 * full.geometry.pixel_mm)
    assert small.geometry.half_width_mm == pytest.approx(full.geometry.half_width_mm)


def test_split_by_patient_is_a_partition_fixed_by_the_seed(tmp_path):
    for count in (1, 2, 4, 7, 8, 16, 20):
        names = [f"{i:02d}" for i in range(count)]
        parts = split_patients(names, seed=3)
        assert sorted(sum(parts.values(), [])) == names and parts["train"]
        assert len(parts["test"]) >= (count > 1) and parts == split_patients(
            reversed(names), seed=3
        )
    assert split_patients(names, seed=3) != split_patients(names, seed=4)
    root = flat_set(tmp_path / "knee")
    train, test = load_orbits(root, seed=5), load_orbits(root, split="test", seed=5)
    assert (len(train.patients), len(test.patients)) == (3, 1) and not set(train.patients) & set(
        test.patients
    )
    assert "seed 5" in train.notes[0]


def test_subset_orders_and_refuses_strangers(tmp_path):
    found = load_orbits(flat_set(tmp_path / "knee"), split="all")
    two = found.subset(["03", "01"])
    assert two.patients == ("03", "01") and torch.equal(two.images[0], found.images[2])
    with pytest.raises(UserError, match="01"):
        found.subset(["1"])


def test_patients_are_recognised_under_another_name(tmp_path):
    trained = load_orbits(flat_set(tmp_path / "knee"), patients=["01", "02"])
    for path in (tmp_path / "knee").glob("02_*"):
        path.rename(path.with_name(path.name.replace("02_", "09_")))
    again = load_orbits(tmp_path / "knee", split="all", size=8)
    assert again.seen_before(trained.all_fingerprints()) == ("01", "09")


def test_a_recorded_ct_identifies_a_patient_whose_pictures_differ(tmp_path):
    root = own_set(tmp_path / "a")
    (root / "p1" / "patient.json").write_text('{"identity": "phantom:chest:7"}')
    assert "phantom:chest:7" in load_orbits(root, split="all").all_fingerprints()
    assert load_orbits(root, split="all").seen_before(["phantom:chest:7"]) == ("p1",)


def break_missing(root):
    (root / "p1" / "xray_002.png").unlink()


def break_size(root):
    Image.fromarray(picture(1, 3, np.uint16, side=SIDE - 4)).save(root / "p1" / "xray_003.png")


def break_patient_size(root):
    for view in range(VIEWS):
        Image.fromarray(picture(1, view, np.uint16, side=SIDE - 4)).save(
            root / "p1" / f"xray_{view:03d}.png"
        )


def break_depth(root):
    Image.fromarray(picture(1, 3)).save(root / "p1" / "xray_003.png")


def break_picture(root):
    path = root / "p0" / "xray_000.png"
    path.write_bytes(path.read_bytes()[:200])


def break_angles(root):
    DEFAULTS["knee"].resized(SIDE).orbit(VIEWS + 1).save(root / "geometry.json")


def break_shape(root):
    values = DEFAULTS["knee"].resized(SIDE).orbit(VIEWS).to_json()
    (root / "geometry.json").write_text(json.dumps({**values, "rows": SIDE // 2}))


def break_split(root):
    (root / "split.json").write_text('{"train": ["p0", "someone"]}')


def break_split_json(root):
    (root / "split.json").write_text("[1, 2]")


def lose_geometry(root):
    (root / "geometry.json").unlink()


@pytest.mark.parametrize(
    "harm, said",
    [
        (break_missing, "5 of 6 views of patient 'p1'.*missing: 2"),
        (break_size, "xray_003.png.*12×12"),
        (break_depth, "uint8"),
        (break_patient_size, "two sizes"),
        (break_picture, "xray_000.png.*damaged"),
        (break_angles, "6 views.*7 angles_deg"),
        (break_shape, "16×16.*8×16"),
        (break_split, "someone"),
        (break_split_json, "split.json"),
        (lose_geometry, "geometry.json"),
    ],
)
def test_a_broken_set_gets_one_sentence(tmp_path, harm, said):
    root = own_set(tmp_path / "mine")
    harm(root)
    with pytest.raises(UserError, match=said) as caught:
        load_orbits(root, split="train" if "split" in harm.__name__ else "all")
    assert "\n" not in str(caught.value)


def test_a_broken_choice_gets_one_sentence(tmp_path):
    root = own_set(tmp_path / "mine", split={"train": ["p0"], "test": ["p1", "p2"]})
    for wanted, said in [
        ({"split": "tran"}, "did you mean 'train'"),
        ({"split": "val"}, "val split is empty"),
        ({"patients": ["p9"]}, "patient 'p9'"),
    ]:
        with pytest.raises(UserError, match=said):
            load_orbits(root, **wanted)
    (tmp_path / "empty").mkdir()
    for source, said in [
        (tmp_path / "empty", "no known layout.* DRRs .* posed scene .*data/README.md"),
        (tmp_path / "nowhere", "no folder; .*blocks"),
        ("ches", "no folder"),
    ]:
        with pytest.raises(UserError, match=said):
            load_orbits(source)
    flat_set(tmp_path / "sets")
    (tmp_path / "sets").rename(tmp_path / "inner")
    (tmp_path / "outer").mkdir()
    (tmp_path / "inner").rename(tmp_path / "outer" / "chest_xrays")
    with pytest.raises(UserError, match="folder of sets.*chest_xrays"):
        load_orbits(tmp_path / "outer")


def test_hidden_files_and_a_folder_of_masks_are_left_out(tmp_path):
    root = own_set(tmp_path / "set")
    wanted = load_orbits(root, split="all")
    for folder in list(root.iterdir()):
        if folder.is_dir():
            (folder / "._xray_000.png").write_bytes(b"\0\5\x16\7")  # what macOS lays beside
            masks = shutil.copytree(folder, root / "masks", dirs_exist_ok=True)
    found = load_orbits(root, split="all")
    assert found.patients == wanted.patients and torch.equal(found.images, wanted.images)
    assert any(f"folder '{masks.name}' was left out" in note for note in found.notes)


def test_two_pictures_of_one_view_are_refused(tmp_path):
    root = flat_set(tmp_path / "chest")
    Image.fromarray(picture(1, 0)).save(root / "01_bbg_xray0000.png")
    with pytest.raises(UserError, match="one picture per view"):
        load_orbits(root)


def test_a_patient_left_out_need_not_be_whole(tmp_path):
    root = flat_set(tmp_path / "knee")
    (root / "03_xray0005.png").unlink()
    assert load_orbits(root, patients=["01", "04"]).images.shape[1] == VIEWS
    with pytest.raises(UserError, match="missing: 5"):
        load_orbits(root, patients=["03"])


def test_the_fingerprint_reads_pixels_not_files(tmp_path):
    orbit = np.stack([picture(1, view) for view in range(VIEWS)])
    assert orbits.pixel_fingerprint(orbit) == orbits.pixel_fingerprint(np.asfortranarray(orbit))
    assert orbits.pixel_fingerprint(orbit) != orbits.pixel_fingerprint(orbit[::-1])


def test_an_orbit_that_was_written_is_a_set_of_one_patient(tmp_path):
    home = tmp_path / "anna" / "orbit"
    home.mkdir(parents=True)
    for view in range(VIEWS):
        Image.fromarray(picture(0, view, np.uint16)).save(home / f"view_{view:03d}.png")
    geometry = DEFAULTS["chest"].resized(SIDE).orbit(VIEWS, start_deg=15)
    geometry.save(home / "geometry.json")
    found = load_orbits(home, split="all")
    assert (found.layout, found.patients, found.geometry) == ("orbit", ("anna",), geometry)
    wanted = np.stack([picture(0, view, np.uint16) / 65535 for view in range(VIEWS)])
    np.testing.assert_allclose(found.images[0].float().numpy(), wanted, atol=5e-4)
    scene = load_scene(home, format=None, split="test")
    assert scene.facts["patient"] == "anna" and scene.format == "orbit"
    assert find_geometry(home / "view_002.png").angles_deg == (135.0,)
