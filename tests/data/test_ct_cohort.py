"""A folder of CTs as a set: what is read, skipped and kept, and sets brought to another scale."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dicom_slices import write_slice

from mednerf_kit import cli
from mednerf_kit.core.errors import UserError
from mednerf_kit.data import ct_cohort
from mednerf_kit.data.ct_cohort import CtCohort, make_ct_cohort
from mednerf_kit.data.ct_files import find_cts, is_folder_of_cts
from mednerf_kit.data.drr import make_drr, picture_faults
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.data.xray_setup import XraySetup
from mednerf_kit.imaging.body import find_body
from mednerf_kit.imaging.geometry import CT_SCALES, DEFAULTS
from mednerf_kit.imaging.volume import Volume, write_volume

SETUP = XraySetup(views=4, size=16)


def chest(radius_mm: float = 45.0, *, spacing_mm: float = 8.0) -> Volume:
    """A water cylinder of 280 mm with two upright air-filled ones of this radius in it; HU."""
    n = int(320 / spacing_mm)
    axis = (torch.arange(n) - (n - 1) / 2) * spacing_mm
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    values = torch.where(x**2 + y**2 < 140**2, 20.0, -1000.0)
    values[(x.abs() - 65) ** 2 + y**2 < radius_mm**2] = -850.0
    return Volume.centred(values, spacing_mm, "hu")


def save(volume: Volume, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(volume, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two patients in folders of their own and files of other kinds."""
    root = tmp_path / "scans"
    save(chest(40), root / "anna" / "anna.nii.gz")
    save(chest(50), root / "ben" / "ben.mha")
    (root / "notes.txt").write_text("arms up")
    return root


def made(folder: Path, **options) -> CtCohort:
    defaults = {"out": folder.parent / "set", "setup": SETUP, "progress": False}
    return make_ct_cohort(source=folder, **{**defaults, **options})


def by_source(cohort: CtCohort) -> dict[str, dict]:
    return {row["source"]: row for row in cohort.rows}


def test_every_ct_becomes_what_drr_makes_of_it(folder, tmp_path):
    cohort = made(folder)
    assert cohort.patients == ("anna", "ben")
    found = load_orbits(cohort.folder, split="all")
    make_drr(
        str(folder / "anna" / "anna.nii.gz"), out=tmp_path / "one", setup=SETUP, patient_name="a"
    )
    alone = load_orbits(tmp_path / "one", split="all")
    assert found.geometry == alone.geometry == SETUP.geometry_of("chest")
    assert found.geometry.line_integral_scale == CT_SCALES["chest"]
    assert torch.equal(found.images[0], alone.images[0])
    assert set(found.volumes) == set(cohort.patients)
    assert found.seen_before(alone.all_fingerprints()) == ("anna",)
    split = json.loads((cohort.folder / "split.json").read_text())
    assert sorted(sum(split.values(), [])) == list(cohort.patients)


def test_folders_of_dicom_slices_are_cts_too(folder):
    volume = chest(42)
    series = folder / "study" / "series"
    series.mkdir(parents=True)
    for k, values in enumerate(volume.values):
        write_slice(
            series / f"IM{k:03d}",
            8.0 * k,
            (values.numpy() + 1000).astype("int16"),
            PixelSpacing=[8.0, 8.0],
        )
    (series / "report.txt").write_text("beside the slices")
    row = by_source(made(folder))["study/series"]
    assert (row["patient"], row["status"], row["voxels"]) == ("series", "made", "40×40×40")
    write_slice(series / "localiser", 0.0, volume.values[0].numpy().astype("int16"), "9.9")
    row = by_source(made(folder))["study/series"]
    assert row["status"] == "made" and row["note"] == "passed over: a single slice"


def test_of_several_series_the_largest_is_taken_and_said_and_another_chosen(folder):
    volume = chest(42)
    for k, values in enumerate(volume.values[4:36]):  # thick, then thin slices of the same patient
        both = folder / "study"
        both.mkdir(exist_ok=True)
        for series, step in (("9.1", 2), ("9.2", 1)):
            if k % step == 0:
                stored = (values.numpy() + 1000).astype("int16")
                name = both / f"{series}-{k:03d}"
                write_slice(name, 8.0 * k, stored, series, PixelSpacing=[8.0, 8.0])
    row = by_source(made(folder))["study"]
    assert (row["status"], row["voxels"]) == ("made", "40×40×32")
    assert (
        "of 2 DICOM series (1: 16 axial" in row["note"] and "number 2, the largest" in row["note"]
    )
    row = by_source(made(folder, series=1))["study"]
    assert (row["status"], row["voxels"]) == ("made", "40×40×16")
    assert by_source(made(folder, series=1))["study"]["status"] == "kept"
    row = by_source(made(folder, series=3))["study"]
    assert row["status"] == "skipped" and "which holds 2" in row["note"]


def test_the_table_says_what_was_read_and_why_not(folder):
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    save(chest(15), folder / "belly.nrrd")
    labels = replace(chest(), values=(chest().values > 0).float())
    save(replace(labels, quantity="relative"), folder / "labels.mha")
    save(chest(40), folder / "copy.nii")
    cohort = made(folder, jobs=2)
    rows = by_source(cohort)
    skipped = {name for name, row in rows.items() if row["status"] == "skipped"}
    twins = {"copy.nii", "anna/anna.nii.gz"}
    assert skipped - twins == {"broken.nii.gz", "belly.nrrd", "labels.mha", "notes.txt"}
    assert len(skipped & twins) == 1
    assert "shows no lungs" in rows["belly.nrrd"]["note"]
    assert "relative attenuation" in rows["labels.mha"]["note"]
    assert "the same scan" in rows[(skipped & twins).pop()]["note"]
    assert rows["ben/ben.mha"]["voxels"] == "40×40×40"
    # two cylinders of 50 mm radius and 320 mm height
    assert rows["ben/ben.mha"]["air_ml"] == pytest.approx(2 * 3.1416 * 5**2 * 32, rel=0.05)
    with open(cohort.folder / "cohort.csv", newline="") as file:
        written = {row["source"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in written.items()} == {
        name: row["status"] for name, row in rows.items()
    }
    assert any(note.startswith("skipped belly.nrrd") for note in cohort.notes)


def test_air_inside_is_measured_without_that_around():
    body = find_body(chest(45, spacing_mm=4.0))
    assert body.air_ml == pytest.approx(2 * 3.1416 * 4.5**2 * 32, rel=0.02)


def test_an_interrupted_cohort_goes_on_and_what_changed_is_made_again(folder, monkeypatch):
    write = ct_cohort.write_drrs

    def stop_at_ben(place, *args, **options):
        if place.name == "ben":
            raise KeyboardInterrupt
        return write(place, *args, **options)

    monkeypatch.setattr(ct_cohort, "write_drrs", stop_at_ben)
    with pytest.raises(KeyboardInterrupt):
        made(folder)
    monkeypatch.setattr(ct_cohort, "write_drrs", write)
    statuses = lambda cohort: [row["status"] for row in cohort.rows[:2]]  # noqa: E731
    assert statuses(made(folder)) == ["kept", "made"]
    assert statuses(made(folder)) == ["kept", "kept"]
    assert statuses(made(folder, mask_table=True)) == ["made", "made"]
    moved = folder.rename(folder.parent / "moved")
    assert statuses(made(moved, mask_table=True)) == ["kept", "kept"]
    save(chest(48), moved / "ben" / "ben.mha")
    os.utime(moved / "ben" / "ben.mha", ns=(1, 1))
    assert statuses(made(moved, mask_table=True)) == ["kept", "made"]
    (moved / "ben" / "ben.mha").write_bytes(b"damaged since")
    assert made(moved, mask_table=True).patients == ("anna",)


def test_who_left_the_folder_leaves_the_set_and_who_came_otherwise_stays(folder):
    cohort = made(folder)
    make_drr("phantom:chest:3", out=cohort.folder, setup=SETUP)
    (folder / "anna" / "anna.nii.gz").unlink()
    assert made(folder).patients == ("ben", "chest-00003")
    assert load_orbits(cohort.folder, split="all").patients == ("ben", "chest-00003")


def test_a_split_by_hand_stays_while_the_patients_do(folder):
    cohort = made(folder)
    mine = {"train": ["ben"], "val": [], "test": ["anna"]}
    (cohort.folder / "split.json").write_text(json.dumps(mine))
    made(folder)
    assert json.loads((cohort.folder / "split.json").read_text()) == mine
    save(chest(35), folder / "carl.nii")
    made(folder)
    dealt = json.loads((cohort.folder / "split.json").read_text())
    assert sorted(sum(dealt.values(), [])) == ["anna", "ben", "carl"]


def test_one_patient_leaves_none_to_test_on(folder):
    (folder / "ben" / "ben.mha").unlink()
    (note,) = [note for note in made(folder).notes if "notes.txt" not in note]
    assert "--split all" in note


@pytest.mark.parametrize(
    ("content", "said"),
    [({}, "could be a CT"), ({"a.nii": b"x"}, "none could be used"), (None, "no folder")],
)
def test_nothing_that_can_be_read_is_one_sentence(tmp_path, content, said):
    root = tmp_path / "scans"
    if content is not None:
        root.mkdir()
        for name, written in content.items():
            (root / name).write_bytes(written)
    with pytest.raises(UserError, match=said):
        made(root)
    assert not (tmp_path / "set").exists()


def test_patients_are_named_by_their_files_and_where_these_agree_by_their_folders(tmp_path):
    for name in ("a/x/scan.nii", "b/x/scan.nii", "b/other one.mha", "c.nii.gz", "c.nrrd"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    slices = tmp_path / "b" / "series 2"
    slices.mkdir()
    (slices / "0001").write_bytes(bytes(128) + b"DICM")
    scans, strangers = find_cts(tmp_path)
    assert {scan.relative: scan.name for scan in scans} == {
        "a/x/scan.nii": "a_x_scan",
        "b/x/scan.nii": "b_x_scan",
        "b/other one.mha": "other-one",
        "b/series 2": "series-2",
        "c.nii.gz": "c",
        "c.nrrd": "c-2",
    }
    assert strangers == []


def test_the_command_makes_a_set_with_a_sheet(folder, tmp_path, capsys):
    out = tmp_path / "set"
    words = ["data", "make", "ct", "--from", folder, "--out", out, "--views", 4, "--size", 16]
    assert cli.main([str(word) for word in words]) == 0
    said, warned = capsys.readouterr()
    assert said.splitlines()[-1] == str(out) and "notes.txt" in warned
    from PIL import Image

    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width >= 2 * 2 * 16
    assert {path.name for path in out.iterdir()} == {
        "anna",
        "ben",
        "cohort.csv",
        "contact_sheet.png",
        "geometry.json",
        "split.json",
    }


def test_a_folder_of_cts_is_a_data_set_by_itself(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(tmp_path / "cache"))
    assert is_folder_of_cts(folder)
    found = load_orbits(folder, split="all", size=16, views=4, progress=False)
    assert found.patients == ("anna", "ben")
    assert found.geometry == SETUP.geometry_of("chest") and found.anatomy == "chest"
    assert "is a folder of CTs" in found.notes[0] and str(found.root) in found.notes[0]
    assert not is_folder_of_cts(found.root)
    with monkeypatch.context() as unread:
        unread.setattr(ct_cohort, "read_volume", None)
        again = load_orbits(folder, split="all", size=16, views=4, progress=False)
    assert again.root == found.root and again.notes == found.notes
    save(chest(35), folder / "carl.nii")
    grown = load_orbits(folder, split="all", size=16, views=4, progress=False)
    assert grown.root == found.root and grown.patients == ("anna", "ben", "carl")
    other = replace(DEFAULTS["chest"].resized(16).orbit(2), line_integral_scale=None)
    by_view = load_orbits(folder, split="all", geometry=other, progress=False)
    assert by_view.root != found.root and by_view.geometry == other
    assert (by_view.images.amax((2, 3)) == 1).all()


def test_a_default_scale_cuts_nobody_and_phantoms_keep_theirs(tmp_path):
    assert XraySetup().geometry_of("chest").line_integral_scale == 12
    assert XraySetup().geometry_of("chest", phantom=True).line_integral_scale == 7.5
    assert XraySetup(line_integral_scale=3.0).geometry_of("knee").line_integral_scale == 3
    save(chest(), tmp_path / "anna.nii.gz")
    make_drr(str(tmp_path / "anna.nii.gz"), out=tmp_path / "set", setup=SETUP)
    joined = make_drr("phantom:chest:1", out=tmp_path / "set", setup=SETUP)
    assert joined.geometry.line_integral_scale == 12


@pytest.mark.parametrize(
    ("brightest", "said"),
    [(13.0, "exceed the scale 12"), (0.0, "are black"), (0.3, "nearly black"), (11.0, None)],
)
def test_pictures_that_show_nothing_or_are_cut_are_named(brightest, said):
    faults = picture_faults(torch.full((2, 4, 4), brightest), 12.0)
    assert len(faults) == (said is not None) and all(said in fault for fault in faults)


def test_a_set_is_brought_to_another_scale(folder):
    orbits = load_orbits(made(folder).folder, split="all")
    darker, cut = orbits.at_scale(24.0), orbits.at_scale(3.0)
    torch.testing.assert_close(darker.images.float(), orbits.images.float() / 2, atol=1e-3, rtol=0)
    assert darker.geometry == replace(orbits.geometry, line_integral_scale=24.0)
    assert "brought to 24" in darker.notes[-1] and "cuts" not in darker.notes[-1]
    expected = (orbits.images.float() * 4).clamp(max=1)
    torch.testing.assert_close(cut.images.float(), expected, atol=2e-3, rtol=0)
    assert "cuts" in cut.notes[-1]
    assert orbits.at_scale(None) is orbits and orbits.at_scale(12.0) is orbits
