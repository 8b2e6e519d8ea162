"""Foreign sets as people have them: tables in their spellings, other units, odd names."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.imports.base import IMPORTERS, find_importer, import_set
from mednerf_kit.data.posed.orbit import ball_integrals
from mednerf_kit.imaging.geometry import DEFAULTS

GEOMETRY = replace(
    DEFAULTS["chest"].resized(16), columns_flipped=False, line_integral_scale=None
).at([10.5, -5.0, 100.25])
INTEGRALS = ball_integrals(GEOMETRY, radius=0.5).numpy()


@pytest.mark.parametrize(
    "lines",
    [
        ["a.npy,10.5", "b.npy,-5", "c.npy,100.25"],
        ["10.5 \t a.npy", "-5\tb.npy", "100.25\tc.npy"],
        ["a;10,5", "b;-5,0", "c;100,25"],
        ["Datei;file;angle", "1;a.npy;10,5", "2;b.npy;-5", "3;c.npy;100,25", ""],
        ["file,angle", ".\\a.npy,10.5", ".\\b.npy,-5", "./c.npy,100.25"],
        ["Image Name,Gantry Angle [°]", "a.npy,10.5", "b.npy,-5", "c.npy,100.25"],
        ["# made by hand", "# file,theta_deg", "a.npy,10.5", "# worse", "b.npy,-5", "c.npy,100.25"],
    ],
    ids=["no titles", "angles first", "decimal comma", "columns", "Windows", "units", "remarks"],
)
def test_a_table_of_angles_in_its_spellings(lines: list[str], tmp_path: Path) -> None:
    GEOMETRY.save(tmp_path / "geometry.json")
    for letter, view in zip("abc", INTEGRALS, strict=True):
        np.save(tmp_path / f"{letter}.npy", view)
    for coding in ("utf-8-sig", "utf-16"):
        (tmp_path / "angles.csv").write_text("\r\n".join(lines), encoding=coding)
        assert find_importer(tmp_path) == "pictures"
        (found,) = IMPORTERS.build("pictures").read(tmp_path, None)
        assert found.geometry.angles_deg == GEOMETRY.angles_deg
        np.testing.assert_array_equal(found.values, INTEGRALS)


@pytest.mark.parametrize("title", ["theta", "angle_rad"])
def test_degrees_under_a_title_of_radians_are_refused(title: str, tmp_path: Path) -> None:
    GEOMETRY.save(tmp_path / "geometry.json")
    np.save(tmp_path / "a.npy", INTEGRALS[0])
    (tmp_path / "angles.csv").write_text(f"file,{title}\na.npy,93.6\n")
    with pytest.raises(UserError, match="look like degrees.*call the column angle_deg"):
        IMPORTERS.build("pictures").read(tmp_path, None)


def test_a_table_of_unknown_titles_is_named(tmp_path: Path) -> None:
    (tmp_path / "winkel.csv").write_text("Bild,Winkel\na.npy,93.6\n")
    for format in (None, "pictures"):
        with pytest.raises(UserError, match="give 'winkel.csv' the titles file and angle_deg"):
            import_set(tmp_path, out=tmp_path / "set", format=format)


@pytest.mark.parametrize("name", ["r2_gaussian", "rtk", "plastimatch", "x2ct"])
def test_a_folder_that_is_none_of_the_format_named_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"which is none of {name}; wanted one of"):
        import_set(tmp_path, out=tmp_path / "set", format=name)


def test_a_file_of_a_folder_is_answered_with_the_folder(tmp_path: Path) -> None:
    source = IMPORTERS["r2_gaussian"].example(tmp_path / "case")
    with pytest.raises(UserError, match="give the folder '.*case', which is one of r2_gaussian"):
        import_set(source / "meta_data.json", out=tmp_path / "set")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.exp(-INTEGRALS), ["air is bright"]),
        (60000 * np.exp(-INTEGRALS), ["air is bright", "line integrals reach 6e"]),
    ],
)
def test_floats_that_are_no_line_integrals_are_said(stored, words, tmp_path: Path) -> None:
    GEOMETRY.save(tmp_path / "geometry.json")
    lines = ["file,angle"]
    for letter, angle, view in zip("abc", GEOMETRY.angles_deg, stored, strict=True):
        np.save(tmp_path / f"{letter}.npy", view.astype(np.float32))
        lines.append(f"{letter}.npy,{angle}")
    (tmp_path / "angles.csv").write_text("\n".join(lines))
    notes = import_set(tmp_path, out=tmp_path / "set").notes
    for word in words:
        assert any(word in note for note in notes)


def test_texts_and_objects_beside_arrays_are_passed_over(tmp_path: Path) -> None:
    from mednerf_kit.data.imports.tensors import _arrays

    made = {"image": np.ones((2, 3), np.float16), "note": np.array("a CT")}
    np.savez(tmp_path / "a.npz", **made, more=np.array([{}], dtype=object))
    assert list(_arrays(tmp_path / "a.npz")) == ["image"]


def test_a_table_of_something_else_is_none(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", INTEGRALS[0])
    (tmp_path / "notes.csv").write_text("a.npy,a good one\n")
    assert find_importer(tmp_path) is None


def r2(folder: Path, change) -> Path:
    path = IMPORTERS["r2_gaussian"].example(folder) / "meta_data.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta), encoding="utf-8-sig")  # as some editors save it
    return folder


def test_degrees_where_radians_belong_are_refused(tmp_path: Path) -> None:
    def in_degrees(meta: dict) -> None:
        for k, frame in enumerate(meta["proj_train"]):
            frame["angle"] = 7.5 * k

    with pytest.raises(UserError, match="22.5, which look like degrees; wanted radians"):
        import_set(r2(tmp_path / "a", in_degrees), out=tmp_path / "set")


def test_lengths_in_another_unit_are_refused_with_the_option_that_says_it(tmp_path: Path) -> None:
    def in_mm(meta: dict) -> None:
        scanner = meta["scanner"]
        for key in ("DSD", "DSO"):
            scanner[key] *= 1000
        for key in ("sDetector", "sVoxel"):
            scanner[key] = [1000 * v for v in scanner[key]]

    source = r2(tmp_path / "a b (1)", in_mm)
    with pytest.raises(UserError, match="unit_mm"):
        import_set(source, out=tmp_path / "set")
    made = import_set(source, out=tmp_path / "set", options={"unit_mm": 1.0})
    assert made.patients == ("a-b-1",)  # a name that a folder may have


def test_a_damaged_stack_is_named(tmp_path: Path) -> None:
    source = IMPORTERS["rtk"].example(tmp_path / "rtk")
    stack = source / "projections.mha"
    stack.write_bytes(stack.read_bytes()[:-99])
    with pytest.raises(UserError, match="projections.mha', which cannot be read"):
        import_set(source, out=tmp_path / "set")
    xml = source / "geometry.xml"
    xml.write_text(xml.read_text(), encoding="utf-8-sig")
    assert find_importer(source) == "rtk"


def x2ct_h5(folder: Path) -> Path:
    """A patient as the published files have it."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir(parents=True)
    pixels = np.zeros((2, 32, 32), np.uint8)
    pixels[0, 4:20, 3:12], pixels[1, 4:20, 6:9] = 200, 255
    with h5py.File(folder / "ct_xray_data.h5", "w") as file:
        file["ct"] = np.zeros((8, 8, 8), np.uint16)
        file["ori_size"], file["spacing"] = np.int64(320), np.ones(3)
        file["xray1"], file["xray2"] = pixels
    return folder


def test_x2ct_s_hdf5_files_are_its_pictures(tmp_path: Path, monkeypatch) -> None:
    folder = x2ct_h5(tmp_path / "LIDC-HDF5-256" / "LIDC-IDRI-0011.1")
    assert find_importer(folder.parent) == "x2ct"
    (found,) = IMPORTERS.build("x2ct").read(folder.parent, None)
    assert found.patient == "LIDC-IDRI-0011.1" and found.values.shape == (2, 32, 32)
    assert found.values[0, 10, 31 - 5] > 0 and found.values[0, 10, 5] == 0  # turned back
    assert found.values[1, 10, 7] == 1 and found.geometry.pixel_mm == 500 / 32
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install h5py, or save"):
        IMPORTERS.build("x2ct").read(folder, None)


def test_angles_that_may_be_radians_are_asked_about(tmp_path: Path) -> None:
    source = IMPORTERS["rtk"].example(tmp_path / "rtk")
    xml = source / "geometry.xml"

    def in_radians(found: re.Match[str]) -> str:
        return f"<GantryAngle>{math.radians(float(found[1]))}</GantryAngle>"

    said = import_set(source, out=tmp_path / "degrees").notes
    assert not any("radians" in note for note in said)
    xml.write_text(re.sub("<GantryAngle>(.*?)</GantryAngle>", in_radians, xml.read_text()))
    said = import_set(source, out=tmp_path / "radians").notes
    assert any("within 5.24°: are their angles radians?" in note for note in said)


def test_views_that_are_there_twice_are_said(tmp_path: Path) -> None:
    source = r2(tmp_path / "a", lambda meta: meta.update(proj_test=meta["proj_train"]))
    assert any("angles are there twice" in n for n in import_set(source, out=tmp_path / "s").notes)
