"""What each format of foreign projections means: line integrals of a known body come back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from foreign_pickles import pickled, run
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.imports.base import IMPORTERS, ForeignOrbit, find_importer, import_set
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.geometry_files.base import GEOMETRY_FILES, turned_over
from mednerf_kit.imaging.projector import project_volume

ORBIT = replace(
    DEFAULTS["chest"].resized(24).orbit(8), rows=20, columns_flipped=False, line_integral_scale=None
)
SPACING_MM = 10.0
MU = torch.zeros(12, 16, 20)
MU[2:9, 3:13, 4:15] = 0.02
MU[6:9, 9:12, 5:8] = 0.05
#: Writes the arrays of an NPZ file as tensors of a PT file.
AS_PT = """import sys, numpy, torch
held = numpy.load(sys.argv[1])
torch.save({name: torch.from_numpy(held[name]) for name in held.files}, sys.argv[2])
"""
TO_RAS = np.diag([-1.0, -1.0, 1.0])


def integrals(geometry: Geometry) -> np.ndarray:
    return project_volume(MU, (SPACING_MM,) * 3, geometry).numpy()


def read(source: Path, **options: Any) -> ForeignOrbit:
    name = find_importer(source)
    assert name is not None
    (found,) = IMPORTERS.build({"name": name, **options}).read(source, None)
    return found


def scanner(geometry: Geometry, unit_mm: float) -> dict[str, Any]:
    """TIGRE's numbers of an orbit, in units of ``unit_mm``."""
    sides = [geometry.rows * geometry.pixel_mm, geometry.cols * geometry.pixel_mm]
    return {
        "mode": "cone",
        "DSD": geometry.source_to_detector_mm / unit_mm,
        "DSO": geometry.source_to_isocentre_mm / unit_mm,
        "nDetector": [geometry.rows, geometry.cols],
        "sDetector": [side / unit_mm for side in sides],
        "dDetector": [geometry.pixel_mm / unit_mm] * 2,
        "nVoxel": list(MU.shape[::-1]),
        "sVoxel": [n * SPACING_MM / unit_mm for n in MU.shape[::-1]],
        "dVoxel": [SPACING_MM / unit_mm] * 3,
        "offOrigin": [0, 0, 0],
        "offDetector": [0, 0],
    }


def thetas(geometry: Geometry) -> list[float]:
    return [-math.radians(angle) for angle in geometry.angles_deg]


def write_r2(folder: Path, geometry: Geometry, **frame: Any) -> Path:
    folder.mkdir()
    frames = []
    for k, (view, theta) in enumerate(zip(integrals(geometry), thetas(geometry), strict=True)):
        np.save(folder / f"{k}.npy", view)
        frames.append({"file_path": f"{k}.npy", "angle": theta, **frame})
    np.save(folder / "vol_gt.npy", 1000 * MU.permute(2, 1, 0).numpy())
    numbers = {"scanner": scanner(geometry, 1000.0), "vol": "vol_gt.npy"}
    meta = {**numbers, "proj_train": frames[::2], "proj_test": frames[1::2]}
    (folder / "meta_data.json").write_text(json.dumps(meta))
    return folder


def test_r2_gaussian_s_views_are_sorted_and_its_volume_explains_them(tmp_path: Path) -> None:
    source = write_r2(tmp_path / "case", ORBIT)
    found = read(source)
    assert found.geometry == ORBIT and np.allclose(found.values, integrals(ORBIT), atol=1e-5)
    made = import_set(source, out=tmp_path / "set")
    assert any("no attenuation" in note for note in made.notes)
    orbits = load_orbits(made.root, split="all")
    from mednerf_kit.recon.field_volume import FieldVolume

    truth = FieldVolume.from_ct(str(orbits.volumes["case"]), orbits.geometry, size=48)
    apart = truth.project(orbits.geometry) - orbits.images[0].float()
    assert float(apart.square().mean().sqrt()) < 0.03


def test_a_helix_of_r2_gaussian_moves_source_and_detector(tmp_path: Path) -> None:
    found = read(write_r2(tmp_path / "case", ORBIT, z_shift=0.05)).geometry
    assert {round(frame.source_mm[2], 6) for frame in found.view_frames} == {50.0}
    assert {round(frame.detector_mm[2], 6) for frame in found.view_frames} == {50.0}


def test_views_of_a_helix_keep_their_own_height(tmp_path: Path) -> None:
    source = write_r2(tmp_path / "case", ORBIT)
    path = source / "meta_data.json"
    meta = json.loads(path.read_text())
    for k, frame in enumerate([*meta["proj_train"], *meta["proj_test"]]):
        frame["z_shift"] = 0.01 * k
        frame["file_path"] = f".\\{frame['file_path']}"  # as Windows joins paths
    path.write_text(json.dumps(meta))
    found = read(source)
    heights = dict(zip([0, 2, 4, 6, 1, 3, 5, 7], range(0, 80, 10), strict=True))
    for name, frame in zip(found.names, found.geometry.view_frames, strict=True):
        view = int(Path(name).stem)
        assert round(frame.source_mm[2], 6) == heights[view]
        angle = math.degrees(math.atan2(-frame.source_mm[1], frame.source_mm[0])) % 360
        assert math.isclose(angle, ORBIT.angles_deg[view], abs_tol=1e-6)


@pytest.mark.parametrize("protocol", [2, 4])
def test_naf_s_pickle_is_millimetres_and_radians(protocol: int, tmp_path: Path) -> None:
    arrays = {"p": integrals(ORBIT), "a": thetas(ORBIT), "image": MU.permute(2, 1, 0).numpy()}
    np.savez(tmp_path / "arrays.npz", **arrays)
    parts = ", ".join(
        f"{part!r}: {{'projections': held['p'][{k}::2], 'angles': held['a'][{k}::2]}}"
        for k, part in enumerate(("train", "val"))
    )
    data = f"{{**{scanner(ORBIT, 1.0)!r}, {parts}, 'image': 1000 * held['image']}}"
    load = f"held = np.load({str(tmp_path / 'arrays.npz')!r})"
    (tmp_path / "case.pickle").write_bytes(pickled(data, protocol, load))
    found = read(tmp_path / "case.pickle")
    assert found.geometry == ORBIT and np.allclose(found.values, integrals(ORBIT))
    assert found.volume is not None and torch.allclose(found.volume.values, MU)


@pytest.mark.parametrize("upwards", [True, False])
def test_rtk_s_stack_is_placed_by_its_origin_and_the_xml(upwards: bool, tmp_path: Path) -> None:
    geometry = replace(ORBIT, offset_mm=(30.0, -12.0))
    pixel = geometry.pixel_mm
    GEOMETRY_FILES.build("rtk").write(
        replace(geometry, offset_mm=(20.0, 0.0)), tmp_path / "geometry.xml"
    )
    values = integrals(geometry)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values[:, ::-1] if upwards else values))
    first = [10.0 - pixel * (geometry.cols - 1) / 2, -12.0 - pixel * (geometry.rows - 1) / 2, 0.0]
    if not upwards:  # the first row on top: the axis points down
        first[1] = -12.0 + pixel * (geometry.rows - 1) / 2
        image.SetDirection([1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin(first)
    image.SetSpacing([pixel, pixel, 1.0])
    sitk.WriteImage(image, str(tmp_path / "projections.mha"))
    found = read(tmp_path)
    assert found.geometry == geometry and np.allclose(found.values, values)


def test_rtk_s_projections_in_files_of_their_own_are_to_be_joined(tmp_path: Path) -> None:
    source = IMPORTERS["rtk"].example(tmp_path / "case")
    stack = sitk.ReadImage(str(source / "projections.mha"))
    for k in range(6):
        sitk.WriteImage(stack[:, :, k], str(source / f"p{k}.mha"))
    (source / "projections.mha").unlink()
    with pytest.raises(UserError, match="got 6 pictures of a projection each.*join them"):
        read(source)


def test_a_stack_without_an_origin_is_said(tmp_path: Path) -> None:
    source = IMPORTERS["rtk"].example(tmp_path / "case")
    stack = sitk.ReadImage(str(source / "projections.mha"))
    assert not any("origin" in note for note in read(source).notes)
    stack.SetOrigin([0.0, 0.0, 0.0])
    sitk.WriteImage(stack, str(source / "projections.mha"))
    assert any("origin of 'projections.mha' is 0, 0" in note for note in read(source).notes)


def test_rtk_without_its_stack_says_what_lies_there(tmp_path: Path) -> None:
    GEOMETRY_FILES.build("rtk").write(ORBIT, tmp_path / "geometry.xml")
    with pytest.raises(UserError, match="got 0 stacks of 8 projections"):
        read(tmp_path)


def camera(geometry: Geometry) -> dict[str, torch.Tensor]:
    """nanodrr's camera of an orbit whose columns are mirrored (in RAS): pose, lens, distance."""
    frames = geometry.frames_of_views()
    pixel = geometry.pixel_mm
    axes = torch.stack([frames.column / pixel, frames.row / pixel, -frames.towards], -1)
    rt_inv = torch.eye(4).repeat(geometry.views, 1, 1).double()
    mirror = torch.from_numpy(TO_RAS)
    rt_inv[:, :3, :3], rt_inv[:, :3, 3] = mirror @ axes, frames.source @ mirror
    sdd, (right, up) = geometry.source_to_detector_mm, geometry.offset_mm
    # principal point: columns and rows from the picture's corner to where the central ray lands
    cx, cy = geometry.cols / 2 - right / pixel, geometry.rows / 2 + up / pixel
    lens = [[pixel / sdd, 0, -cx * pixel / sdd], [0, pixel / sdd, -cy * pixel / sdd], [0, 0, 1]]
    return {
        "rt_inv": rt_inv,
        "k_inv": torch.tensor([lens], dtype=torch.float64),
        "sdd": torch.tensor([sdd]),
    }


@pytest.mark.parametrize(("ending", "kept"), [(".pt", True), (".npz", True), (".npz", False)])
def test_nanodrr_s_camera_is_in_ras(ending: str, kept: bool, tmp_path: Path) -> None:
    geometry = replace(turned_over(ORBIT), offset_mm=(15.0, 5.0))
    centre = torch.tensor([30.0, -20.0, 100.0])
    held = {"image": torch.from_numpy(integrals(geometry))[:, None], **camera(geometry)}
    held["rt_inv"][:, :3, 3] += centre
    held = {**held, "isocenter": centre} if kept else held
    np.savez(tmp_path / "case.npz", **{name: tensor.numpy() for name, tensor in held.items()})
    if ending == ".pt":
        run(AS_PT, str(tmp_path / "case.npz"), str(tmp_path / "case.pt"))
    found = read(tmp_path / f"case{ending}")
    assert math.isclose(found.geometry.pixel_mm, geometry.pixel_mm, rel_tol=1e-12)
    assert replace(found.geometry, pixel_mm=geometry.pixel_mm) == geometry
    assert np.allclose(found.values, integrals(geometry))


def test_a_pose_alone_is_refused_with_what_to_save(tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", image=np.ones((2, 1, 8, 8)), pose=np.eye(4))
    with pytest.raises(UserError, match="source and target"):
        read(tmp_path / "case.npz")


def test_a_torch_file_with_a_class_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "case.pt").write_bytes(pickled("{'image': os.getcwd}", 2))
    with pytest.raises(UserError, match="cannot be used"):
        read(tmp_path / "case.pt")


def test_x2ct_s_frontal_picture_is_turned_back(tmp_path: Path) -> None:
    patient = tmp_path / "x2ct" / "LIDC-IDRI-0001"
    patient.mkdir(parents=True)
    geometry = Geometry(
        source_to_isocentre_mm=541,
        source_to_detector_mm=949,
        rows=24,
        cols=24,
        pixel_mm=500 / 24,
        columns_flipped=False,
        angles_deg=(270.0, 0.0),
    )
    frontal, lateral = (view / view.max() for view in integrals(geometry))
    Image.fromarray((frontal[:, ::-1] * 255).astype(np.uint8)).save(patient / "xray1.png")
    Image.fromarray((lateral * 65535).astype(np.uint16)).save(patient / "xray2.png")
    (found,) = IMPORTERS.build("x2ct").read(tmp_path / "x2ct", None)
    assert found.geometry == geometry and found.unit is None
    assert np.allclose(found.values, np.stack([frontal, lateral]), atol=1 / 255)


@pytest.mark.parametrize(
    "header", ["file,angle_deg", "Filename;Angle", "name\ttheta", "picture,angle_rad"]
)
def test_pictures_take_the_angles_of_a_table(header: str, tmp_path: Path) -> None:
    geometry = turned_over(ORBIT).at([-100.0, 3.5, 60.0, 10.0])
    replace(geometry, angles_deg=(), line_integral_scale=None).save(tmp_path / "geometry.json")
    lines, mark = [header], next(c for c in ",;\t" if c in header)
    radians = "theta" in header or "rad" in header
    for letter, angle, view in zip("dbca", geometry.angles_deg, integrals(geometry), strict=True):
        np.save(tmp_path / f"{letter}.npy", view)
        name = letter if "name" in header else f"{letter}.npy"
        lines.append(f"{name}{mark}{math.radians(angle) if radians else angle!r}")
    (tmp_path / "angles.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    found = read(tmp_path)
    assert np.allclose(found.geometry.angles_deg, geometry.angles_deg)
    assert found.names == ("d.npy", "b.npy", "c.npy", "a.npy")
    assert np.allclose(found.values, integrals(geometry))


def test_integer_pictures_take_the_geometry_s_scale_or_none(tmp_path: Path) -> None:
    values = integrals(ORBIT)
    scale = float(values.max())
    lines = ["file,angle"]
    for k, (angle, view) in enumerate(zip(ORBIT.angles_deg, values, strict=True)):
        Image.fromarray((view / scale * 65535).astype(np.uint16)).save(tmp_path / f"{k}.tif")
        lines.append(f"{k}.tif,{angle}")
    (tmp_path / "angles.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="wanted the X-ray set-up"):
        read(tmp_path)
    ORBIT.save(tmp_path / "geometry.json")
    assert read(tmp_path).unit is None
    replace(ORBIT, line_integral_scale=scale).save(tmp_path / "geometry.json")
    made = import_set(tmp_path, out=tmp_path / "set")
    found = load_orbits(made.root, split="all")
    stored = found.images[0].float() * found.geometry.line_integral_scale
    assert torch.allclose(stored, torch.from_numpy(values), atol=0.01)


def test_counts_behind_the_patient_become_line_integrals_whatever_the_scale(tmp_path: Path) -> None:
    values = integrals(ORBIT)
    lines = ["Image File,Angle (deg)"]
    for k, (angle, view) in enumerate(zip(ORBIT.angles_deg, values, strict=True)):
        np.save(tmp_path / f"{k}.npy", (60000 * np.exp(-view)).astype(np.uint16))
        lines.append(f"{k}.npy,{angle}")
    (tmp_path / "angles.csv").write_text("\n".join(lines))
    for name, scale in (("scaled", 7.5), ("plain", None)):
        replace(ORBIT, line_integral_scale=scale).save(tmp_path / "geometry.json")
        made = import_set(tmp_path, out=tmp_path / name, input_kind="transmission")
        found = load_orbits(made.root, split="all")
        stored = found.images[0].float() * found.geometry.line_integral_scale
        assert torch.allclose(stored, torch.from_numpy(values), atol=0.01)


@pytest.mark.parametrize("line", ["a.npy,", "a.npy,east", ",5", "a.npy,nan"])
def test_a_table_with_a_bad_line_names_it(line: str, tmp_path: Path) -> None:
    ORBIT.save(tmp_path / "geometry.json")
    (tmp_path / "angles.csv").write_text(f"file,angle\n{line}\n")
    with pytest.raises(UserError, match="line 2 of"):
        read(tmp_path)
