"""Geometry files of other programs: there and back, and against what those programs wrote."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.geometry_files.base import (
    GEOMETRY_FILES,
    Detector,
    geometry_format,
    read_geometry,
)
from mednerf_kit.imaging.geometry_files.plastimatch import orbit_of_views, read_view, view_text
from mednerf_kit.imaging.geometry_files.rtk import TO_OURS, projection_matrix, read_views
from mednerf_kit.imaging.orbit_of_frames import geometry_of_frames

CHEST, KNEE = DEFAULTS["chest"], DEFAULTS["knee"]
ORBITS = {
    "full turn": CHEST.orbit(72),
    "sevenths, shifted, unmirrored": replace(
        KNEE.orbit(7), offset_mm=(12.5, -3.25), columns_flipped=False
    ),
    "clockwise": CHEST.orbit(36, direction=-1),
    "arc": CHEST.at([-100 + 5.0 * k for k in range(41)]),
    "mirrored, shifted, oblong": replace(
        CHEST.at([3, 50, 271.25]), offset_mm=(1.0, 2.0), rows=60, cols=40, line_integral_scale=None
    ),
    "odd angles": CHEST.at([10.0, -5.0, 370.0, 0.1, 725.3]),
}
TILTED = replace(CHEST.at([3, 50, 271.25]), tilt_deg=12.5, offset_mm=(1.0, 2.0))
ABOUT_X = replace(CHEST.at([3, 50, 271.25]), axis="x")

#: What RTK 2.7.0 wrote for AddProjection(1000, 1500, 30, 5, -7, 12, 8, 3, -4) and
#: AddProjection(1100, 1400, -75, 0, 0, -20).
RTK_WROTE = """<?xml version="1.0"?>
<!DOCTYPE RTKGEOMETRY>
<RTKThreeDCircularGeometry version="3">
  <Projection>
    <GantryAngle>30</GantryAngle>
    <SourceToIsocenterDistance>1000</SourceToIsocenterDistance>
    <SourceToDetectorDistance>1500</SourceToDetectorDistance>
    <SourceOffsetX>3</SourceOffsetX>
    <SourceOffsetY>-4</SourceOffsetY>
    <ProjectionOffsetX>5</ProjectionOffsetX>
    <ProjectionOffsetY>-7</ProjectionOffsetY>
    <InPlaneAngle>8</InPlaneAngle>
    <OutOfPlaneAngle>12</OutOfPlaneAngle>
    <Matrix>
        -1309.07588978358   -203.781928804522    703.418254156107                6500
         27.8421514322376   -1453.56623835675   -369.295282007534               -9000
        0.489073800366903  -0.207911690817759   0.847100670886274               -1000
    </Matrix>
  </Projection>
  <Projection>
    <GantryAngle>285</GantryAngle>
    <SourceToIsocenterDistance>1100</SourceToIsocenterDistance>
    <SourceToDetectorDistance>1400</SourceToDetectorDistance>
    <OutOfPlaneAngle>340</OutOfPlaneAngle>
    <Matrix>
        -362.346663143529                   0    -1352.2961568047                   0
        -462.512525369093   -1315.56966910027    123.929857661928                   0
       -0.907673371190369   0.342020143325669   0.243210346801694               -1100
    </Matrix>
  </Projection>
</RTKThreeDCircularGeometry>
"""
#: What plastimatch 1.10.0 wrote beside the second of `drr -N 10 -a 36 --sad 1120 --sid 1600
#: -r "48 48" -z "512 512"` of a CT about (-12.95775, 122.01593, -281.5).
PLASTIMATCH_WROTE = """\
    2.35000000e+01     2.35000000e+01
    1.62795162e-02     9.23257269e-02     0.00000000e+00    -1.10542635e+01
    0.00000000e+00     0.00000000e+00    -9.37500000e-02    -2.63906250e+01
   -6.15504846e-04     1.08530108e-04     0.00000000e+00     6.78782038e-01
    1.12000000e+03
    1.60000000e+03
   -9.84807754e-01     1.73648173e-01    -0.00000000e+00
Extrinsic
    1.73648173e-01     9.84807754e-01    -0.00000000e+00    -1.17912144e+02
   -0.00000000e+00    -0.00000000e+00    -1.00000000e+00    -2.81500000e+02
   -9.84807754e-01     1.73648173e-01    -0.00000000e+00     1.08605126e+03
    0.00000000e+00     0.00000000e+00     0.00000000e+00     1.00000000e+00
Intrinsic
    9.37500000e-02     0.00000000e+00     0.00000000e+00     0.00000000e+00
    0.00000000e+00     9.37500000e-02     0.00000000e+00     0.00000000e+00
    0.00000000e+00     0.00000000e+00     6.25000000e-04     0.00000000e+00
"""


def there_and_back(name: str, geometry: Geometry, folder: Path) -> Geometry:
    path = folder / f"g{GEOMETRY_FILES[name].suffix}"
    GEOMETRY_FILES.build(name).write(geometry, path)
    assert geometry_format(path) == name
    return read_geometry(path)


@pytest.mark.parametrize("name", sorted(GEOMETRY_FILES.entries))
@pytest.mark.parametrize("kind", ORBITS)
def test_orbits_go_there_and_back_exactly(name: str, kind: str, tmp_path: Path) -> None:
    assert there_and_back(name, ORBITS[kind], tmp_path) == ORBITS[kind]


@pytest.mark.parametrize("name", ["astra", "own", "plastimatch", "rtk"])
def test_tilted_orbits_go_there_and_back_exactly(name: str, tmp_path: Path) -> None:
    assert there_and_back(name, TILTED, tmp_path) == TILTED


def test_views_with_a_frame_each_go_to_astra_and_rtk_and_back(tmp_path: Path) -> None:
    frames = [
        frame
        for tilt, angle in ((20.0, 10.0), (-35.0, 80.0))
        for frame in replace(CHEST.at([angle]), tilt_deg=tilt).frames_of_views().to_list()
    ]
    x, y, z = frames[0].source_mm
    frames[0] = replace(frames[0], source_mm=(x + 3, y + 4, z + 5))
    wanted = geometry_of_frames(frames, rows=100, cols=60, line_integral_scale=7.5)
    assert len(wanted.view_frames) == 2
    assert there_and_back("astra", wanted, tmp_path) == wanted
    found = there_and_back("rtk", wanted, tmp_path)
    for ours, theirs in zip(wanted.frames_of_views(), found.frames_of_views(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    for name in ("plastimatch", "tigre"):
        with pytest.raises(UserError, match="a frame each"):
            there_and_back(name, wanted, tmp_path)


@pytest.mark.parametrize("name", ["tigre", "rtk"])
def test_an_orbit_about_another_axis_is_refused_where_it_has_no_place(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="an orbit about x"):
        there_and_back(name, ABOUT_X, tmp_path)


def test_rtk_s_own_file_places_pixels_as_its_own_matrices_do(tmp_path: Path) -> None:
    path = tmp_path / "rtk.xml"
    path.write_text(RTK_WROTE)
    matrices = [
        np.array(text.split(), dtype=float).reshape(3, 4)
        for text in re.findall(r"<Matrix>(.*?)</Matrix>", RTK_WROTE, re.DOTALL)
    ]
    _, views = read_views(path)
    frames = read_geometry(path, detector=Detector(64, 80, 2.0)).frames_of_views()
    for k, (view, matrix) in enumerate(zip(views, matrices, strict=True)):
        assert np.allclose(projection_matrix(view), matrix, atol=1e-8)
        for y, x in ((0, 0), (10, 50), (63, 79)):
            pixel = frames.pixels(torch.tensor([y, x], dtype=torch.float64), 64, 80)[k].numpy()
            halfway = (pixel + frames.source[k].numpy()) / 2
            u, v, w = matrix @ np.append(TO_OURS.T @ halfway, 1)
            assert np.allclose([u / w, v / w], [(x - 39.5) * 2, (31.5 - y) * 2], atol=1e-6)


def test_rtk_s_file_without_a_detector_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "rtk.xml"
    path.write_text(RTK_WROTE)
    with pytest.raises(UserError, match="--rows, --cols and --pixel-mm"):
        read_geometry(path)


def test_a_tilt_of_a_full_turn_less_is_one_below(tmp_path: Path) -> None:
    path = tmp_path / "rtk.xml"
    second = RTK_WROTE.index("  <Projection>", RTK_WROTE.index("</Projection>"))
    path.write_text(RTK_WROTE[: RTK_WROTE.index("  <Projection>")] + RTK_WROTE[second:])
    found = read_geometry(path, detector=Detector(64, 64, 2.0))
    assert (found.tilt_deg, found.angles_deg) == (20.0, (75.0,))


def test_plastimatch_s_text_is_an_orbit_about_the_ct_s_isocentre(tmp_path: Path) -> None:
    path = tmp_path / "x0001.txt"
    path.write_text(PLASTIMATCH_WROTE)
    found, isocentre = orbit_of_views([read_view(path)], Detector(48, 48, 512 / 48))
    wanted = Geometry(
        source_to_isocentre_mm=1120,
        source_to_detector_mm=1600,
        rows=48,
        cols=48,
        pixel_mm=512 / 48,
        columns_flipped=False,
        angles_deg=(10.0,),
    )
    assert found == wanted
    assert np.allclose(isocentre, [-12.95775, 122.01593, -281.5], atol=1e-4)
    assert read_geometry(path) == wanted  # the detector's size by the middle


def test_plastimatch_s_text_is_written_as_it_writes_it() -> None:
    geometry = replace(CHEST, rows=48, cols=48, pixel_mm=512 / 48)
    ours = np.array(re.findall(r"-?\d\.\d+e[+-]\d+", view_text(geometry, 10.0)), dtype=float)
    theirs = np.array(re.findall(r"-?\d\.\d+e[+-]\d+", PLASTIMATCH_WROTE), dtype=float)
    isocentre_at = [5, 9, 13, 22, 26, 30]  # the columns that hold the way to it
    kept = np.setdiff1d(np.arange(len(theirs)), isocentre_at)
    assert len(ours) == len(theirs)
    assert np.allclose(ours[kept], theirs[kept], atol=1e-6)


def test_cone_vectors_are_source_middle_column_and_row(tmp_path: Path) -> None:
    path = tmp_path / "g.astra.json"
    GEOMETRY_FILES.build("astra").write(CHEST.at([0.0]), path)
    vectors = np.array(re.findall(r"-?\d+\.\d+", path.read_text().partition("Vectors")[2])[:12])
    assert vectors.astype(float).tolist() == [1120, 0, 0, -480, 0, 0, 0, -4, 0, 0, 0, -4]


CALL = 'plastimatch drr --sad 1000 --sid 1500 -r "32 24" -z "160 120" '
SETUP = Geometry(
    source_to_isocentre_mm=1000,
    source_to_detector_mm=1500,
    rows=24,
    cols=32,
    pixel_mm=5,
    columns_flipped=False,
)
THREE = SETUP.at([0.0, 20.0, 40.0])


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        (CALL + "-a 3 -N 20", THREE),
        (CALL.replace("-z", "\\\n  -z") + "\\\n -a 3 -N 20 > log", THREE),
        (
            'plastimatch drr -r"32 24" --detector-size="160 120" -a3 --gantry-angle-spacing=20',
            THREE,
        ),
        (f"#!/bin/sh\nnice /usr/bin/{CALL} -a 3 -N 20", THREE),
        ('plastimatch drr -g "1000 1500" -r "32 24" -z "160 120" -a 3 -N 20', THREE),
        (CALL + '-a 3 -a 9 -N 20 -N 30 -z "80 60"', THREE),
        (CALL + "-y 0.3", SETUP.at([np.degrees(0.3)])),
        # what plastimatch 1.10.0 writes for it: 16 × 16 pixels, whose middle ray meets (11.5, 3.5)
        (
            CALL + '-w "4 19 8 23"',
            replace(SETUP.at([0.0]), rows=16, cols=16, offset_mm=(-20.0, -20.0)),
        ),
        (
            f"{CALL} -a 1\n{CALL.replace('1500', '1600')} -N 20 -a 2",
            {"source_to_detector_mm": [1500, 1600, 1600]},
        ),
    ],
)
def test_calls_of_plastimatch_mean_what_it_makes_of_them(script, wanted, tmp_path: Path) -> None:
    (tmp_path / "drr.sh").write_text(script + "\n")
    found = read_geometry(tmp_path / "drr.sh")
    if isinstance(wanted, Geometry):
        assert found == wanted
        return
    frames = found.frames_of_views()
    distances = frames.source_to_detector_mm
    assert np.allclose(distances, wanted["source_to_detector_mm"]) and found.views == 3


def test_calls_of_several_detectors_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drr.sh").write_text(f"{CALL}\n{CALL.replace('32 24', '64 48')}\n")
    with pytest.raises(UserError, match="2 calls that differ in the detector's pixels"):
        read_geometry(tmp_path / "drr.sh")


def test_astra_s_cone_is_its_cone_vec(tmp_path: Path) -> None:
    path = tmp_path / "cone.json"
    cone = {"type": "cone", "DetectorRowCount": 24, "DetectorColCount": 32}
    cone |= {"DetectorSpacingX": 5.0, "DetectorSpacingY": 4.0, "ProjectionAngles": [0.0, 0.5]}
    cone |= {"DistanceOriginSource": 1000.0, "DistanceOriginDetector": 500.0}
    path.write_text(json.dumps(cone))
    first = read_geometry(path).view_frames[0]  # what astra.geom_2vec answers for angle 0
    assert (*first.source_mm, *first.detector_mm) == (0, -1000, 0, 0, 500, 0)
    assert (*first.column_mm, *first.row_mm) == (5, 0, 0, 0, 0, 4)
    path.write_text(json.dumps({**cone, "type": "parallel3d"}))
    with pytest.raises(UserError, match="type 'parallel3d'; wanted cone or cone_vec"):
        read_geometry(path)


SCANNER = {"mode": "Cone", "DSD": 1.5, "DSO": 1.0, "nDetector": [24, 32], "dDetector": [0.005] * 2}


def test_tigre_s_lengths_are_metres_or_millimetres(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text(json.dumps({**SCANNER, "angles": [0.0]}))
    assert read_geometry(path) == SETUP.at([0.0])
    mm = {"DSD": 1500.0, "DSO": 1000.0, "dDetector": [5.0, 5.0]}
    path.write_text(json.dumps({**SCANNER, **mm, "angles": [0.0]}))
    assert read_geometry(path) == SETUP.at([0.0])


def test_a_helix_of_tigre_keeps_its_height(tmp_path: Path) -> None:
    frames = [{"file_path": "a", "angle": 2.0 * k, "z_shift": 0.01 * k} for k in range(4)]
    path = tmp_path / "meta_data.json"
    path.write_text(json.dumps({"scanner": SCANNER, "proj_train": frames}))
    found = read_geometry(path)
    assert [round(frame.source_mm[2], 6) for frame in found.view_frames] == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"angles": [93.6 * k for k in range(4)]}, "280.8, which look like degrees"),
        ({"COR": 0.01}, "with COR 0.01; wanted an axis through the origin"),
        ({"rotDetector": [0.1, 0, 0]}, "an upright detector"),
    ],
)
def test_what_tigre_s_numbers_cannot_say_here_is_refused(change, words, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text(json.dumps({**SCANNER, "angles": [0.0, 1.0], **change}))
    with pytest.raises(UserError, match=words):
        read_geometry(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.xml", '<RTKThreeDCircularGeometry version="3"><Projection></Projection>'),
        ("g.xml", '<RTKThreeDCircularGeometry version="3"></RTKThreeDCircularGeometry>'),
        ("g.astra.json", '{"type": "cone_vec", "DetectorRowCount": 4, "Vectors": [[1]]}'),
        ("g.tigre.json", '{"scanner": {"DSO": 5}}'),
        ("g.txt", "plastimatch drr --sad 100"),
        ("g.txt", "Extrinsic 1 2 3 Intrinsic"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="which cannot be read"):
        read_geometry(tmp_path / name)
