"""Pictures of one CT by other projectors, brought in by `data import` and compared with our own.

    python scripts/bench/imports.py --ct CT --plastimatch BINARY --rtk PYTHON --nanodrr PYTHON

CT defaults to ``ct/chest_LIDC-IDRI-0001.nii.gz`` in ``MEDNERF_KIT_DATA``. ``--plastimatch`` is the
program of ``pip install plastimatch``; ``--rtk`` and ``--nanodrr`` are the Pythons of environments
with ``itk-rtk`` and ``nanodrr``. What is not given is left out. Each projects the CT on the same
orbit (RTK and nanodrr a volume of attenuation per mm, plastimatch its own of HU), writes its own
files, and `data import` makes a set of them without being told anything. The table says how far the
set's line integrals are from the package's own; RTK, which ends a volume at the centres of its
outermost voxels, is compared where rays meet nothing dense there. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mednerf_kit.data.drr import render_orbit
from mednerf_kit.data.imports.base import (
    IMPORTERS,
    find_importer,
    import_set,
    line_integrals,
)
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.geometry_files.base import GEOMETRY_FILES
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volume

MU_WATER, AIR_BELOW_HU = 0.022, -800.0  # plastimatch's
#: Voxels at the CT's ends that count as near them.
END = 2

RTK = """
import sys, numpy as np, itk
from itk import RTK as rtk
folder, rows, cols, pixel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
held = np.load(folder + "/volume.npz")
kind = itk.Image[itk.F, 3]
volume = itk.image_from_array(np.ascontiguousarray(held["mu"].transpose(2, 0, 1)))
x, y, z = held["spacing"]
volume.SetSpacing([y, z, x])
sizes = held["mu"].transpose(2, 0, 1).shape[::-1]
volume.SetOrigin([-(n - 1) / 2 * s for n, s in zip(sizes, (y, z, x))])
reader = rtk.ThreeDCircularProjectionGeometryXMLFileReader.New()
reader.SetFilename(folder + "/rtk/geometry.xml")
reader.GenerateOutputInformation()
setup = reader.GetOutputObject()
views = len(setup.GetGantryAngles())
stack = rtk.ConstantImageSource[kind].New()
stack.SetOrigin([-pixel * (cols - 1) / 2, -pixel * (rows - 1) / 2, 0.0])
stack.SetSpacing([pixel, pixel, 1.0])
stack.SetSize([cols, rows, views])
joseph = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
joseph.SetInput(0, stack.GetOutput())
joseph.SetInput(1, volume)
joseph.SetGeometry(setup)
joseph.Update()
itk.imwrite(joseph.GetOutput(), folder + "/rtk/projections.mha")
"""
NANODRR = """
import sys, types
import numpy as np, torch
try:
    import torchio
except ImportError:  # only its readers are needed from there
    stand_in = types.ModuleType("torchio")
    stand_in.ScalarImage = stand_in.LabelMap = stand_in.Subject = object
    sys.modules["torchio"] = stand_in
from nanodrr.camera import make_k_inv
from nanodrr.data import Subject
from nanodrr.drr import render
folder, rows, cols, pixel, sod, sdd = sys.argv[1], *map(float, sys.argv[2:7])
rows, cols = int(rows), int(cols)
held = np.load(folder + "/volume.npz")
mu = torch.from_numpy(held["mu"])[None, None]
affine = np.eye(4)
n = np.array(mu.shape[:1:-1])
affine[:3, :3] = np.diag(held["spacing"] * [-1, -1, 1])  # RAS
affine[:3, 3] = -affine[:3, :3] @ ((n - 1) / 2)
to_world = torch.from_numpy(affine).float()
to_voxel = torch.from_numpy(np.linalg.inv(affine)).float()
grid = Subject._make_voxel_to_grid(mu.shape)
subject = Subject(mu, torch.zeros_like(mu), to_world, to_voxel, grid, torch.zeros(3))
subject.convert_to_mu = False
k_inv = make_k_inv(sdd, pixel, pixel, 0.0, 0.0, rows, cols)
pictures, poses = [], []
for angle in np.deg2rad(held["angles"]):
    towards = np.array([-np.cos(angle), np.sin(angle), 0.0])  # of the source, in RAS
    right = np.array([np.sin(angle), np.cos(angle), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, [0, 0, -1], -towards], 1)
    pose[:3, 3] = sod * towards
    pose = torch.from_numpy(pose).float()[None]
    pictures.append(render(subject, k_inv, pose, torch.tensor([sdd]), rows, cols, 1000)[0])
    poses.append(pose)
torch.save({"image": torch.stack(pictures), "rt_inv": torch.cat(poses), "k_inv": k_inv,
            "sdd": torch.tensor([sdd]), "isocenter": torch.zeros(3)}, folder + "/nanodrr.pt")
"""


def plastimatch(program: str, ct: Volume, geometry: Geometry, home: Path) -> Path:
    """The orbit by plastimatch's `uniform` projector."""
    write_volume(replace(ct, values=ct.values.round()), home / "ct.mha")
    (home / "plastimatch").mkdir()
    step = geometry.angles_deg[1]
    side = f"{geometry.cols * geometry.pixel_mm} {geometry.rows * geometry.pixel_mm}"
    subprocess.run(
        [
            program,
            "drr",
            "-a",
            str(geometry.views),
            "-N",
            str(step),
            "-i",
            "uniform",
            "-t",
            "pfm",
            "--sad",
            str(geometry.source_to_isocentre_mm),
            "--sid",
            str(geometry.source_to_detector_mm),
            "-r",
            f"{geometry.cols} {geometry.rows}",
            "-z",
            side,
            "-o",
            " ".join(map(str, ct.centre_mm)),
            "-O",
            str(home / "plastimatch" / "v"),
            "-I",
            str(home / "ct.mha"),
        ],
        check=True,
        capture_output=True,
    )
    return home / "plastimatch"


def by_python(python: str, script: str, made: str, geometry: Geometry, home: Path) -> Path:
    """The orbit by a script that runs in another environment."""
    (home / "rtk").mkdir(exist_ok=True)
    GEOMETRY_FILES.build("rtk").write(geometry, home / "rtk" / "geometry.xml")
    numbers = (
        geometry.rows,
        geometry.cols,
        geometry.pixel_mm,
        geometry.source_to_isocentre_mm,
        geometry.source_to_detector_mm,
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [python, "-c", script, str(home), *map(str, numbers)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return home / made


def difference(source: Path, home: Path, ct: Volume, counted: Tensor) -> dict[str, float]:
    """How far what is read from ``source`` is from the package's own line integrals.

    Shares of the densest ray, in percent, over rays that meet the patient, and the rms of ``all``
    counted pixels too; ``held`` is the rms of the set that `data import` makes as training holds
    it, in half precision.
    """
    name = find_importer(source)
    assert name is not None
    orbit = IMPORTERS.build(name).read(source, None)[0]
    ours = render_orbit(ct, orbit.geometry)
    theirs, _ = line_integrals(orbit, orbit.kind, invert=False)
    made = load_orbits(import_set(source, out=home / "set").root, split="all")
    held = made.images[0].float() * (made.geometry.line_integral_scale or 1)
    met = counted & (ours > 0.01 * ours.max())
    percent = [100 * (v - ours) / float(ours.max()) for v in (theirs, held)]

    def rms(values: Tensor) -> float:
        return float(values.square().mean().sqrt())

    return {
        "rms_percent": rms(percent[0][met]),
        "all_rms_percent": rms(percent[0][counted]),
        "median_percent": float(percent[0][met].abs().median()),
        "largest_percent": float(percent[0][met].abs().max()),
        "held_rms_percent": rms(percent[1][met]),
    }


def away_from_ends(ct: Volume, geometry: Geometry) -> Tensor:
    """Pixels [V, rows, cols] whose rays meet nothing dense in the outermost voxels: bool."""
    shell = (ct.values > 0).float()
    shell[END:-END, END:-END, END:-END] = 0
    ends = replace(ct, values=shell, quantity="mu_per_mm")
    return render_orbit(ends, geometry) <= 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    data = Path(os.environ.get("MEDNERF_KIT_DATA", "."))
    parser.add_argument("--ct", type=Path, default=data / "ct/chest_LIDC-IDRI-0001.nii.gz")
    parser.add_argument("--plastimatch")
    parser.add_argument("--rtk")
    parser.add_argument("--nanodrr")
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    hu = read_volume(options.ct).aligned()
    ct = replace(hu, mu_water_per_mm=MU_WATER).to_mu(air_below_hu=AIR_BELOW_HU)
    orbit = DEFAULTS["chest"].resized(options.size).orbit(options.views)
    geometry = replace(orbit, columns_flipped=False, line_integral_scale=None)
    everywhere = torch.ones(geometry.views, geometry.rows, geometry.cols, dtype=torch.bool)
    jobs: dict[str, tuple[str | None, Tensor, Callable[[str, Path], Path]]] = {
        "plastimatch": (
            options.plastimatch,
            everywhere,
            lambda tool, home: plastimatch(tool, hu, geometry, home),
        ),
        "rtk": (
            options.rtk,
            away_from_ends(ct, geometry),
            lambda tool, home: by_python(tool, RTK, "rtk", geometry, home),
        ),
        "nanodrr": (
            options.nanodrr,
            everywhere,
            lambda tool, home: by_python(tool, NANODRR, "nanodrr.pt", geometry, home),
        ),
    }
    found = {}
    for name, (tool, counted, work) in jobs.items():
        if tool is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            np.savez(
                home / "volume.npz",
                mu=ct.values.numpy(),
                spacing=np.array(ct.spacing_mm),
                angles=np.array(geometry.angles_deg),
            )
            centred = (
                ct
                if name == "plastimatch"
                else Volume.centred(ct.values, ct.spacing_mm, "mu_per_mm")
            )
            found[name] = difference(work(tool, home), home, centred, counted)
        row = "  ".join(f"{key} {value:.3g}" for key, value in found[name].items())
        print(f"{name:12s} {row}  ({float(counted.float().mean()):.0%} of the pixels)")
    print(json.dumps({"ct": options.ct.name, "size": options.size, **found}))


if __name__ == "__main__":
    main()
