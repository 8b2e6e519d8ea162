"""What a result folder holds for the eye: views over angles with their numbers, volumes, words.

Torch is not needed: pictures are read with Pillow, numbers from ``metrics.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.files import natural_key
from .catalogue import VOLUME_ENDINGS, number_at, read_json

#: what views show -> the folder of a result that they lie in
VIEWS = {"prediction": "orbit", "truth": "truth", "spread": "orbit_spread"}
#: volumes that are laid over another -> their title
OVERLAYS = {
    "uncertainty": "spread (standard deviation)",
    "measured": "share that the X-ray determined",
    "difference": "difference to the truth",
}
PICTURES = {
    "as_read": "The X-ray as stored and as read; red is left out of the fit",
    "target": "What the fit saw",
    "proj": "What the volume makes of it",
    "disagreement": "Where film and prior disagree, in standard deviations",
    "strips": "Truth above prediction, the first patients",
    "comparison": "Rendered views",
    "error_by_angle": "Error over angles, all patients",
}
# title -> ending of the name of a scene's scored view
RENDERED = {
    "Truth": "_truth",
    "Prediction": "",
    "Error (on one scale for all views)": "_error",
    "Depth: near is bright": "_depth",
}
MEASURES = {
    "lung_volume_ml": "lung volume",
    "heart_width_mm": "width of the heart",
    "thorax_width_mm": "width of the thorax",
    "cardiothoracic_ratio": "heart to thorax",
    "thorax_depth_mm": "depth of the thorax",
}


@dataclass(frozen=True)
class Shown:
    """Everything of one result, run or volume that the page shows."""

    home: Path  # a folder, or the file of a volume
    values: Mapping[str, Any] = field(default_factory=dict)  # metrics.json

    @classmethod
    def at(cls, path: Path) -> Shown:
        """What lies at a path of the catalogue; of a run, its evaluation."""
        if (path / "config.yaml").is_file() and (path / "evaluate").is_dir():
            path = path / "evaluate"
        home = path if path.is_dir() else path.parent
        file = home / "metrics.json"
        return cls(path, read_json(file) if file.is_file() else {})

    @cached_property
    def views(self) -> dict[str, list[Path]]:
        """Files of the views of each kind that is there, in order of their angles."""
        found = {
            kind: sorted((self.home / folder).glob("view_*.png"), key=natural_key)
            for kind, folder in VIEWS.items()
        }
        return {kind: paths for kind, paths in found.items() if paths}

    @cached_property
    def angles_deg(self) -> list[float]:
        """Angles of the views; equal steps where nothing says them."""
        count = len(next(iter(self.views.values()), ()))
        file = self.home / VIEWS["prediction"] / "geometry.json"
        angles = list(read_json(file).get("angles_deg", ())) if file.is_file() else []
        return angles if len(angles) == count else [360 * k / max(count, 1) for k in range(count)]

    def volume_file(self, name: str) -> Path | None:
        """The file of one of its volumes; None where there is none."""
        if self.home.is_file():
            if not self.home.name.endswith(VOLUME_ENDINGS):
                return None
            if name == "volume":
                return self.home
            beside = self.home.parent / f"{name}.nii.gz"
            return beside if name in OVERLAYS and beside.is_file() else None
        files = (self.home / f"{name}{ending}" for ending in VOLUME_ENDINGS)
        return next((file for file in files if file.is_file()), None)

    @property
    def overlays(self) -> list[str]:
        """The names of what can be laid over its volume."""
        has = {name for name in ("uncertainty", "measured") if self.volume_file(name)}
        if self.volume_file("truth"):
            has.add("difference")
        return [name for name in OVERLAYS if name in has]

    @property
    def quantity(self) -> str | None:
        """What the voxels are, as ``metrics.json`` says; None where it does not."""
        volume = self.values.get("volume")
        said = volume.get("quantity") if isinstance(volume, Mapping) else None
        return said if isinstance(said, str) else None

    def about(self) -> dict[str, Any]:
        """All but pixels and voxels, in plain values for JSON."""
        values = self.values
        return {
            "frames": self._frames(),
            "rendered": self._rendered(),
            "inputs_deg": _inputs_deg(values),
            "scores": [dict(row) for row in values.get("per_angle") or ()],
            "means": {k: number_at(values, k) for k in ("psnr_db", "ssim", "mae")},
            "has_volume": self.volume_file("volume") is not None,
            "overlays": [[name, OVERLAYS[name]] for name in self.overlays],
            "pictures": self._pictures(),
            "sentences": _sentences(values),
            "warnings": [str(text) for text in values.get("warnings") or ()],
            "measures": _measures(values),
            "note": values.get("note", ""),
        }

    def _frames(self) -> dict[str, Any] | None:
        if not self.views:
            return None
        first = pixels(next(iter(self.views.values()))[:1])
        return {
            "kinds": list(self.views),
            "angles_deg": self.angles_deg,
            "rows": first.shape[1],
            "cols": first.shape[2],
        }

    def _rendered(self) -> dict[str, Any] | None:
        """The scored views of a scene: their names, scores, and files of each kind of picture."""
        rows = [row for row in self.values.get("per_view") or () if "stem" in row]
        folder = self.home / str(self.values.get("split", "test"))
        stems = [str(row["stem"]).replace("/", "_") for row in rows]
        kinds = {
            title: [f"{folder.name}/{stem}{ending}.png" for stem in stems]
            for title, ending in RENDERED.items()
        }
        there = {
            title: names
            for title, names in kinds.items()
            if all((self.home / name).is_file() for name in names)
        }
        if not rows or "Prediction" not in there:
            return None
        return {"kinds": there, "rows": rows}

    def _pictures(self) -> list[list[str]]:
        if not self.home.is_dir():
            return []
        found = []
        for stem, title in PICTURES.items():
            for path in sorted(self.home.glob(f"{stem}*.png"), key=natural_key):
                if path.stem == stem or path.stem[len(stem) :].strip("_").isdigit():
                    found.append([path.name, title])
        return found


def pixels(paths: Sequence[Path]) -> np.ndarray:
    """Grey pictures of one size as 16-bit levels [V, H, W]; a colour picture becomes its grey."""
    from PIL import Image, UnidentifiedImageError

    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                sixteen = image.mode.startswith("I")
                levels = np.asarray(image if sixteen else image.convert("L"))
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
            raise _damaged(path, "a picture that cannot be read") from None
        found.append(levels.astype("<u2") if sixteen else levels.astype("<u2") * 257)
        if found[-1].shape != found[0].shape:
            raise _damaged(path, "a view of another size than the first")
    return np.stack(found)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"got '{path.name}', {what}", "wanted the views as they were written", "make them again"
    )


def _inputs_deg(values: Mapping[str, Any]) -> list[float]:
    """Angles of the views that were given."""
    if angles := values.get("input_angles_deg"):
        return [float(angle) for angle in angles]
    return [float(one["angle_deg"]) for one in values.get("inputs") or () if "angle_deg" in one]


def _sentences(values: Mapping[str, Any]) -> list[str]:
    """What was measured and what the spread is worth, in words."""
    found = []
    for name in ("measured", "input_fit"):
        node = values.get(name)
        if isinstance(node, Mapping) and node.get("meaning"):
            db = number_at(node, "held_out_psnr_db")
            number = f" ({db:.1f} dB)" if db is not None else ""
            found.append(f"{str(node['meaning']).rstrip('.')}{number}.")
    if text := values.get("calibration_meaning"):
        found.append(str(text))
    provenance = values.get("provenance")
    if isinstance(provenance, Mapping) and provenance.get("trained_on"):
        found.append(f"The prior was trained on {provenance['trained_on']}.")
    return [text[0].upper() + text[1:] for text in found]


def _measures(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measures with their 90 % bounds, where there are any."""
    return [
        {"name": MEASURES.get(name, name), **node}
        for name, node in (values.get("measures") or {}).items()
        if isinstance(node, Mapping)
    ]


def as_json(values: Any) -> str:
    """JSON that may stand inside a page's ``<script>``.

    >>> as_json({"name": "</script>"})
    '{"name":"<\\\\/script>"}'
    """
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
