"""Pictures of linear light: OpenEXR and TIFF of floating point, with a tone map for the screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .reading import ToneMap

EXR, TIFF = (".exr",), (".tif", ".tiff")
ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError)


def is_linear(path: Path) -> bool:
    """Whether a file is OpenEXR or a TIFF of floating point; a damaged one is not."""
    if path.suffix.lower() in TIFF:
        import tifffile

        try:
            with tifffile.TiffFile(path) as file:
                kind = file.pages.first.dtype
                return kind is not None and kind.kind == "f"
        except (*ERRORS, tifffile.TiffFileError):
            return False
    return path.suffix.lower() in EXR


def linear_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a linear picture, from its header."""
    if path.suffix.lower() in TIFF:
        import tifffile

        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return page.imagelength, page.imagewidth
    import OpenEXR

    low, high = OpenEXR.File(str(path), header_only=True).header()["dataWindow"]
    return int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1


def read_linear(path: Path) -> Tensor:
    """A linear picture as float32 [H, W, 3], or [H, W, 4] with straight alpha; not finite is 0.

    OpenEXR's colours are multiplied with their alpha; here that is undone.
    """
    if path.suffix.lower() in TIFF:
        import tifffile

        values = np.asarray(tifffile.imread(path, key=0), dtype=np.float32)
        values = values if values.ndim == 3 else values[..., None]
        if values.shape[-1] not in (1, 3, 4):
            raise ValueError(f"{values.shape[-1]} channels")
        picture = torch.from_numpy(values)
    else:
        picture = _exr(path)
    picture = picture.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return picture.expand(-1, -1, 3) if picture.shape[-1] == 1 else picture


def _exr(path: Path) -> Tensor:
    """The channels R, G, B and A of an OpenEXR file, or Y alone."""
    import OpenEXR

    with OpenEXR.File(str(path), separate_channels=True) as file:
        planes = {name: np.asarray(c.pixels) for name, c in file.channels().items()}
    names = [name for name in ("R", "G", "B") if name in planes] or ["Y"]
    if names not in (["R", "G", "B"], ["Y"]) or names[0] not in planes:
        raise ValueError(f"channels {', '.join(sorted(planes))}, not R, G and B")
    colours = torch.from_numpy(np.stack([planes[n] for n in names], -1).astype(np.float32))
    if "A" not in planes:
        return colours
    alpha = torch.from_numpy(planes["A"].astype(np.float32))[..., None].clamp(0, 1)
    straight = torch.where(alpha > 0, colours / alpha.clamp_min(1e-6), colours)
    return torch.cat([straight.expand(-1, -1, 3), alpha], -1)


def tone_mapped(picture: Tensor, path: Path, tone_map: ToneMap | None) -> Tensor:
    """A linear picture [H, W, 3 or 4] as seen on a screen: cut at 1, then sRGB's curve or none."""
    tone_map = tone_map or ("srgb" if path.suffix.lower() in EXR else "none")
    picture = picture.clamp(0, 1)
    if tone_map == "none":
        return picture
    return torch.cat([srgb(picture[..., :3]), picture[..., 3:]], -1)


def srgb(light: Tensor) -> Tensor:
    """sRGB's levels of linear light in [0, 1] (IEC 61966-2-1).

    >>> [round(float(v), 3) for v in srgb(torch.tensor([0.0, 0.002, 0.2140, 1.0]))]
    [0.0, 0.026, 0.5, 1.0]
    """
    return torch.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-8) ** (1 / 2.4) - 0.055
    )


def tone_note(paths: list[Path], tone_map: ToneMap | None) -> list[str]:
    """What was done to linear pictures, in a sentence, if there are any."""
    linear = [path for path in paths if is_linear(path)]
    if not linear:
        return []
    curve = tone_map or ("srgb" if linear[0].suffix.lower() in EXR else "none")
    then = "given sRGB's curve" if curve == "srgb" else "taken as they are"
    other = "none" if curve == "srgb" else "srgb"
    return [
        f"{len(linear)} pictures of floating point are cut at 1 and {then} "
        f"(tone_map: {other} does the other)"
    ]
