"""Folders of X2CT-GAN: a frontal and a lateral DRR of each patient.

Both are plastimatch's (``-g "541 949" -r "320 320" -z "500 500"``): ``xray1.png`` from behind
(``-nrm "0 1 0"``), turned over left to right, and ``xray2.png`` from the left (``-nrm "1 0 0"``),
each divided by its own maximum.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.errors import UserError
from ...imaging.geometry import FRONTAL_DEG, LATERAL_DEG, Geometry
from ..films.formats import read_film
from .base import IMPORTERS, ForeignOrbit, one_size

NAMES = ("xray1.png", "xray2.png")
SIDE_MM = 500.0
STRETCHED = "each picture was divided by its own maximum: there is no scale"


@IMPORTERS.register("x2ct")
class X2ct:
    """Folders of patients with ``xray1.png`` and ``xray2.png``, or with ``ct_xray_data.h5``.

    HDF5 files need the package h5py.
    """

    @staticmethod
    def detect(source: Path) -> bool:
        return source.is_dir() and bool(_patients(source))

    @staticmethod
    def example(folder: Path) -> Path:
        from PIL import Image

        for name in ("LIDC-IDRI-0001", "LIDC-IDRI-0002"):
            (folder / name).mkdir(parents=True)
            for picture in NAMES:
                pixels = np.zeros((16, 16), np.uint8)
                pixels[4:12, 3:9] = 255
                Image.fromarray(pixels).save(folder / name / picture)
        return folder

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        return [_patient(folder) for folder in _patients(source)]


def _patients(source: Path) -> list[Path]:
    """The folders of patients in, or at, a folder."""
    found = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    return [
        folder
        for folder in found
        if all((folder / name).is_file() for name in NAMES)
        or (folder / "ct_xray_data.h5").is_file()
    ]


def _patient(folder: Path) -> ForeignOrbit:
    if (folder / "ct_xray_data.h5").is_file():
        frontal, lateral = _hdf5(folder / "ct_xray_data.h5")
    else:
        films = [read_film(folder / name) for name in NAMES]
        frontal, lateral = (film.pixels.astype(np.float32) / film.full_scale for film in films)
    values = one_size([frontal[:, ::-1], lateral], [str(folder / name) for name in NAMES])
    rows, cols = values.shape[1:]
    return ForeignOrbit(
        patient=folder.resolve().name,
        values=values,
        names=NAMES,
        geometry=Geometry(
            source_to_isocentre_mm=541,
            source_to_detector_mm=949,
            rows=rows,
            cols=cols,
            pixel_mm=SIDE_MM / cols,
            columns_flipped=False,
            angles_deg=(FRONTAL_DEG, LATERAL_DEG),
        ),
        unit=None,
        log_unit=None,
        notes=(STRETCHED,),
    )


def _hdf5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two pictures of an HDF5 file, in [0, 1]."""
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"got '{path}'",
            "wanted the package h5py to read it",
            "pip install h5py, or save its arrays xray1 and xray2 as xray1.png and xray2.png there",
        ) from None
    try:
        with h5py.File(path, "r") as held:
            frontal, lateral = (np.asarray(held[name], np.float32) for name in ("xray1", "xray2"))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"got '{path}' ({error})", "wanted xray1 and xray2 in it", "copy it again"
        ) from None
    top = max(float(frontal.max()), float(lateral.max()), 1e-6)
    return frontal / top, lateral / top
