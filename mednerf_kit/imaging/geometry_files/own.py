"""``geometry.json`` of this package."""

from __future__ import annotations

from pathlib import Path

from ...core import files
from ..geometry import Geometry
from .base import GEOMETRY_FILES, Detector


@GEOMETRY_FILES.register("own")
class OwnFile:
    """``geometry.json`` as it lies at the root of a set, or the set that holds it."""

    suffix = ".json"

    @staticmethod
    def detect(path: Path) -> bool:
        try:
            values = files.read_json(_file(path))
        except (OSError, ValueError):
            return False
        return isinstance(values, dict) and "pixel_mm" in values

    def read(self, path: Path, detector: Detector | None) -> Geometry:
        return Geometry.from_json(_file(path))

    def write(self, geometry: Geometry, path: Path) -> tuple[str, ...]:
        geometry.save(path)
        return ()


def _file(path: Path) -> Path:
    return path / "geometry.json" if path.is_dir() else path
