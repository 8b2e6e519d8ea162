"""R²-Gaussian and FaCT-GS folders (``meta_data.json``), and the pickles of NAF and SAX-NeRF.

Both hold TIGRE's numbers: see :mod:`~mednerf_kit.imaging.geometry_files.tigre`. Their volumes are
scaled to [0, 1], and line integrals are those of such values over lengths in metres: consistent,
but no attenuation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core import files
from ...core.errors import UserError
from ...core.plain_pickle import read_plain_pickle
from ...imaging.geometry import Geometry
from ...imaging.geometry_files.base import with_frames_moved
from ...imaging.geometry_files.tigre import METRE, orbit_of_scanner, refuse_degrees
from ...imaging.volume import Volume
from .base import IMPORTERS, ForeignOrbit, one_size, read_json, square_pixels

NO_ATTENUATION = (
    "densities are the source's, from 0 to 1 and per metre, and no attenuation: volumes compare "
    "with its own volume only"
)


@IMPORTERS.register("r2_gaussian")
class R2Gaussian:
    """A folder with ``meta_data.json``, projections and ``vol_gt`` as NPY files.

    Training and test views are all taken. A ``z_shift`` of a view moves source and detector along
    the axis.

    Options:
        unit_mm: millimetres of a unit of length.
    """

    def __init__(self, *, unit_mm: float = METRE) -> None:
        self.unit_mm = unit_mm

    @staticmethod
    def detect(source: Path) -> bool:
        return (source / "meta_data.json").is_file()

    @staticmethod
    def example(folder: Path) -> Path:
        scanner, values, thetas, volume = _example()
        folder.mkdir(parents=True)
        frames = []
        for view, (picture, theta) in enumerate(zip(values, thetas, strict=True)):
            np.save(folder / f"p{view}.npy", picture)
            frames.append({"file_path": f"p{view}.npy", "angle": theta})
        np.save(folder / "vol_gt.npy", volume)
        meta = {"scanner": scanner, "vol": "vol_gt.npy", "proj_train": frames, "proj_test": []}
        files.write_json(folder / "meta_data.json", meta)
        return folder

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        meta = read_json(source / "meta_data.json")
        try:
            frames = [*meta["proj_train"], *meta.get("proj_test", ())]
            names = [str(frame["file_path"]).replace("\\", "/") for frame in frames]
            thetas = [float(frame["angle"]) for frame in frames]
            lifts = [float(frame.get("z_shift", 0)) * self.unit_mm for frame in frames]
            scanner = meta["scanner"]
            if not frames:
                raise ValueError("no view")
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise _damaged(source / "meta_data.json", error) from None
        arrays = [_array(source / name) for name in names]
        volume = source / str(meta.get("vol", "vol_gt.npy")).replace("\\", "/")
        return [
            orbit(
                source.resolve().name,
                one_size(arrays, names),
                names,
                scanner,
                thetas,
                self.unit_mm,
                _array(volume) if volume.is_file() else None,
                lifts,
            )
        ]


@IMPORTERS.register("naf")
class NafPickle:
    """A pickle of NAF or SAX-NeRF; plain arrays are read, and nothing in it is executed.

    Training and validation views are all taken. Its lengths are millimetres, its line integrals
    those of densities per metre.
    """

    @staticmethod
    def detect(source: Path) -> bool:
        return source.is_file() and source.suffix in (".pickle", ".pkl")

    @staticmethod
    def example(folder: Path) -> Path:
        import json

        scanner, values, thetas, _ = _example()
        mm = {k: (np.array(v) * METRE).tolist() for k, v in scanner.items() if k[0] in "Ds"}
        # protocol 0: texts, numbers and lists only
        data = {**scanner, **mm, "train": {"projections": values.tolist(), "angles": thetas}}
        folder.mkdir(parents=True)
        path = folder / "ball.pickle"
        path.write_bytes(_protocol_0(json.loads(json.dumps(data))) + b".")
        return path

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        data = read_plain_pickle(source)
        try:
            parts = [data[part] for part in ("train", "val", "test") if data.get(part)]
            values = np.concatenate([np.asarray(p["projections"], np.float32) for p in parts])
            thetas = [float(theta) for part in parts for theta in part["angles"]]
            volume = data.get("image")
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise _damaged(source, error) from None
        if values.ndim != 3 or len(values) != len(thetas):
            raise _damaged(source, ValueError(f"{len(values)} projections, {len(thetas)} angles"))
        names = [f"view {k}" for k in range(len(values))]
        return [orbit(source.stem, values, names, data, thetas, 1.0, volume)]


def orbit(
    name: str,
    values: np.ndarray,
    names: Sequence[str],
    scanner: Mapping[str, Any],
    thetas: Sequence[float],
    unit_mm: float,
    volume: np.ndarray | None,
    lifts_mm: Sequence[float] = (),
) -> ForeignOrbit:
    """A patient of TIGRE's numbers, projections [V, rows, cols] and a volume [x, y, z] or None.

    Views are sorted by angle. ``lifts_mm`` move source and detector of each view along the axis.
    """
    try:
        rows, cols = values.shape[1:]
        sizes = {"nDetector": [rows, cols]}  # some write columns first
        geometry, (row_mm, col_mm) = orbit_of_scanner({**scanner, **sizes}, thetas, unit_mm)
        refuse_degrees(thetas, in_turns=any(lifts_mm))
        truth = None if volume is None else _volume(volume, scanner, unit_mm)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise _damaged(Path(name), error) from None
    values, pitch, notes = square_pixels(values, row_mm, col_mm)
    order = np.argsort(geometry.angles_deg, kind="stable")
    geometry = replace(
        geometry,
        rows=values.shape[1],
        cols=values.shape[2],
        pixel_mm=pitch,
        angles_deg=tuple(geometry.angles_deg[k] for k in order),
    )
    if any(lifts_mm):
        geometry = with_frames_moved(geometry, [lifts_mm[k] for k in order])
    return ForeignOrbit(
        patient=name,
        values=values[order],
        names=tuple(names[k] for k in order),
        geometry=geometry,
        volume=truth,
        notes=(*notes, NO_ATTENUATION),
    )


def _volume(values: Any, scanner: Mapping[str, Any], unit_mm: float) -> Volume:
    """A volume [x, y, z] of density per metre as attenuation per mm about the isocentre."""
    xyz = np.asarray(values, np.float32)
    if "dVoxel" in scanner:
        spacing = [float(v) * unit_mm for v in scanner["dVoxel"]]
    else:
        spacing = [
            float(side) * unit_mm / n for side, n in zip(scanner["sVoxel"], xyz.shape, strict=True)
        ]
    centre = [float(v) * unit_mm for v in scanner.get("offOrigin", (0, 0, 0))]
    per_mm = torch.from_numpy(np.ascontiguousarray(xyz.transpose(2, 1, 0) / METRE))
    return Volume.centred(per_mm, spacing, "mu_per_mm", centre_mm=centre)


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False).astype(np.float32)
    except Exception as error:  # a header that is no Python, among others
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"got '{path}' ({type(error).__name__}: {error})",
        "wanted what R²-Gaussian or NAF writes",
        "write it again, or copy it again",
    )


def _example() -> tuple[dict[str, Any], np.ndarray, list[float], np.ndarray]:
    """A toy: scanner in metres, projections, angles and a volume of a ball."""
    from ...imaging.projector import project_volume

    scanner = {"mode": "cone", "DSD": 1.5, "DSO": 1.0, "offOrigin": [0, 0, 0]}
    scanner |= {"nDetector": [16, 16], "sDetector": [0.4, 0.4], "offDetector": [0, 0]}
    scanner |= {"nVoxel": [16, 16, 16], "sVoxel": [0.2, 0.2, 0.2]}
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"))
    volume = np.linalg.norm(grid - np.array([0.2, -0.1, 0.1])[:, None, None, None], axis=0) < 0.6
    thetas = [0.0, 0.5, 1.5, 3.0]
    geometry, _ = orbit_of_scanner(scanner, thetas, METRE)
    mu = torch.from_numpy(volume.transpose(2, 1, 0).astype(np.float32) / METRE)
    return scanner, project_volume(mu, (12.5,) * 3, geometry).numpy(), thetas, volume * 1.0


def _protocol_0(value: Any) -> bytes:
    """Texts, numbers, lists and dictionaries as a pickle without its end."""
    if isinstance(value, dict):
        pairs = b"".join(_protocol_0(k) + _protocol_0(v) + b"s" for k, v in value.items())
        return b"}" + pairs
    if isinstance(value, list):
        return b"]" + b"".join(_protocol_0(entry) + b"a" for entry in value)
    if isinstance(value, str):
        return f"V{value}\n".encode("ascii")
    return f"F{float(value)!r}\n".encode("ascii")
