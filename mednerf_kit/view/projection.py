"""What the page asks of a projection, and how an X-ray looks to the reader and to a prior."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.errors import UserError
from .catalogue import BUNDLED, Entry

if TYPE_CHECKING:
    from torch import Tensor

    from ..invert.film_checks import FilmChecks
    from ..prior.load import Prior

ROTATIONS = (0, 90, 180, 270)
MOST_SAMPLES, MOST_MINUTES, MOST_SIZE = 16, 600.0, 512
Crop = Literal["auto", "none"] | tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one X-ray is read; the fields are options of ``invert.input_xray.read_xray``."""

    view: str | float | None = None  # PA, AP, lateral, left-lateral or degrees; None: the file's
    input_kind: str = "auto"
    invert: bool = False
    rotate: int = 0  # degrees clockwise
    flip: bool = False
    crop: Crop = "auto"
    fit: str = "pad"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Reading:
        """What a page says, each as text or as JSON has it; a :class:`UserError` names a bad one.

        >>> Reading.of({"view": "265", "flip": "1", "rotate": 90, "crop": "10,20,300,400"})
        Reading(view=265.0, input_kind='auto', invert=False, rotate=90, flip=True, \
crop=(10, 20, 300, 400), fit='pad')
        """
        return cls(
            view=_view(str(values.get("view") or "")),
            input_kind=str(values.get("input_kind", cls.input_kind)),
            invert=_truth(values.get("invert")),
            rotate=int(_number("rotation", values.get("rotate", 0), 0, 270)),
            flip=_truth(values.get("flip")),
            crop=_crop(str(values.get("crop", cls.crop))),
            fit=str(values.get("fit", cls.fit)),
        )

    def of_the_file(self) -> dict[str, Any]:
        """The options that the reader alone takes, without the view."""
        return {name: value for name, value in vars(self).items() if name != "view"}


def run_of(entry: Entry) -> str:
    """What ``--run`` is for a prior of the catalogue."""
    if entry.kind != "prior":
        raise UserError(f"got '{entry.name}', a {entry.kind}", "wanted a prior", "choose another")
    return entry.name if entry.path.parent == BUNDLED else str(entry.path.resolve())


def project_options(entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``invert.reconstruct.project``, but for the X-ray and the folder."""
    reading = Reading.of(values)
    options: dict[str, Any] = {
        "run": run_of(entry),
        "view": [] if reading.view is None else [reading.view],
        **reading.of_the_file(),
        "samples": int(_number("number of samples", values.get("samples", 4), 1, MOST_SAMPLES)),
        "update": _truth(values.get("update", True)),
        "seed": int(_number("seed", values.get("seed", 0), 0, 2**31 - 1)),
    }
    if values.get("size"):
        options["size"] = int(_number("size", values["size"], 16, MOST_SIZE))
    if values.get("max_minutes"):
        minutes = _number("time of the search", values["max_minutes"], 1e-3, MOST_MINUTES)
        options["max_minutes"] = minutes
    return options


def _truth(value: Any) -> bool:
    return value is True or str(value) in ("1", "true", "True")


def _number(what: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        shown = str(value)[:40]
        raise UserError(
            f"got {what} {shown}", f"wanted a number from {low:g} to {high:g}", "correct it"
        )
    return number


def _view(text: str) -> str | float | None:
    try:
        return float(text)
    except ValueError:
        return text or None  # the reader knows which names there are


def _crop(text: str) -> Crop:
    if text in ("auto", "none"):
        return "auto" if text == "auto" else "none"
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"got a crop of {text[:40]}", "wanted auto, none or x,y,w,h in pixels", "correct it"
        ) from None
    return x, y, width, height


def look(path: Path, reading: Reading, entry: Entry) -> dict[str, Any]:
    """An X-ray as the reader shows it and as a prior takes it, with the sentences about it.

    ``whole`` is the upright picture before a rectangle is cut out, ``taken`` what the prior gets:
    PNGs of grey values in the red channel and of what counts in the fit in the green one. Where the
    prior cannot take it, ``problem`` says why.
    """
    from ..data.radiograph import WORK_PX, read_radiograph
    from ..invert.input_xray import checked, read_xray

    how = reading.of_the_file()
    whole, told = None, dict[str, Any]()
    try:
        prior, checks = _known_prior(run_of(entry), entry.modified)
        xray = read_xray(path, reading.view, prior.fitted_geometry, **how)
        turned = {name: how[name] for name in ("invert", "rotate", "flip")}
        xray = checked(xray, checks, **turned)
        whole = xray.read
        told = {
            "taken": _png(xray.image, xray.mask),
            "view": xray.view,
            "angle_deg": xray.angle_deg,
            "mirrored": xray.mirrored,
            "notes": xray.notes,
            "warnings": xray.warnings,
        }
    except UserError as error:
        told = {"problem": named(str(error), path), "notes": (), "warnings": ()}
    if whole is None or isinstance(reading.crop, tuple):
        uncut = "auto" if isinstance(reading.crop, tuple) else reading.crop
        whole = read_radiograph(path, size=WORK_PX // 2, **how | {"crop": uncut})
    return told | {
        "shape": whole.shape[::-1] if reading.rotate % 180 else whole.shape,
        "bits": whole.bits,
        "kind": whole.kind,
        "whole": _png(whole.picture, whole.picture_mask),
    }


def named(text: str, path: Path) -> str:
    """A sentence with a file's name in place of its path.

    >>> named("got '/home/me/out/xray.png', which is empty", Path("/home/me/out/xray.png"))
    "got 'xray.png', which is empty"
    """
    return text.replace(f"{path.parent}/", "")


@lru_cache(maxsize=2)
def _known_prior(run: str, modified: float) -> tuple[Prior, FilmChecks]:
    """A prior and its checks of X-rays, kept as long as its files stay as they are."""
    from ..invert.film_checks import FilmChecks
    from ..prior.load import load_prior

    prior = load_prior(run)
    prior.check_xray()
    return prior, FilmChecks.of(prior)


def _png(image: Tensor, mask: Tensor) -> str:
    """A picture [h, w] and its mask in [0, 1] as the address of a PNG."""
    import torch

    from ..viz import figures

    both = figures.to_uint8(torch.stack([image, mask, torch.zeros_like(image)], -1))
    return "data:image/png;base64," + base64.b64encode(figures.png_bytes(both)).decode()
