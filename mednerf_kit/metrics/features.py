"""Pictures as vectors of features, by which sets of them are compared: hand-made ones, or
InceptionV3's where its weights are at hand.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError
from .distances import laplacian_pyramid

EXTRACTORS: Registry[Extractor] = Registry("extractor")
INCEPTION_URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
INCEPTION_FILE = INCEPTION_URL.rpartition("/")[2]  # the name under which torch.hub caches it
BATCH = 64  # pictures at once


class Extractor(Protocol):
    """What turns pictures [N, rows, cols] in [0, 1] into features [N, F] on the same device."""

    rule: str  # how a picture becomes what the features are read from, for the reader of a score

    def __call__(self, images: Tensor) -> Tensor: ...


@EXTRACTORS.register("pyramid")
class PyramidFeatures:
    """Hand-made features that need no weights: means and detail of the cells of a picture.

    The means of 8×8 cells, and 2 + log10(0.001 + RMS) of every band-pass level of the Laplacian
    pyramid down to 8 px, cell by cell: half the detail in a cell moves its feature by 0.3, a cell
    twice as bright by as much or less.

    Options:
        cells: cells each way in which detail is measured.

    >>> PyramidFeatures()(torch.rand(5, 32, 32)).shape
    torch.Size([5, 96])
    """

    def __init__(self, *, cells: int = 4) -> None:
        if cells < 1:
            raise UserError(f"got {cells} cells", "wanted at least 1", "correct the extractor")
        self.cells = cells
        self.rule = (
            f"means in 8×8 cells and log10 detail of each pyramid band in {cells}×{cells} cells, "
            "at the pictures' own size"
        )

    def __call__(self, images: Tensor) -> Tensor:
        *bands, _ = laplacian_pyramid(images[:, None].float(), 8)
        detail = [
            functional.adaptive_avg_pool2d(band.square(), self.cells).sqrt().flatten(1)
            for band in bands
        ]
        means = functional.adaptive_avg_pool2d(images[:, None].float(), 8).flatten(1)
        return torch.cat([means, *(2 + torch.log10(1e-3 + d) for d in detail)], 1)


@EXTRACTORS.register("inception")
class Inception:
    """The 2048 pooled features of torchvision's InceptionV3 (ImageNet-1K V1).

    Published FIDs use the TensorFlow graph of 2015: their numbers differ. Without weights it is a
    :class:`UserError`.

    Options:
        weights: path of its state dict; null looks at ``$MEDNERF_KIT_INCEPTION``, then into
            torch.hub's cache, and downloads it there.
    """

    rule = "grey copied to three channels, bilinear (antialiased) to 299×299, scaled to [-1, 1]"

    def __init__(self, *, weights: str | None = None) -> None:
        path = inception_path(weights) or downloaded()
        try:
            from torchvision.models import inception_v3
        # a torchvision that does not fit torch fails with a RuntimeError
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"got a torchvision that cannot be imported ({error})",
                "wanted it for InceptionV3",
                "install the torchvision of this torch, or choose --extractor pyramid",
            ) from None
        model = inception_v3(weights=None, init_weights=False, transform_input=False)
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # a damaged archive fails in as many ways as it has bytes
            raise UserError(
                f"got InceptionV3 weights '{path}' that cannot be used ({type(error).__name__})",
                "wanted torchvision's state dict",
                f"check the path, or load {INCEPTION_URL}",
            ) from None
        model.aux_logits, model.AuxLogits, model.fc = False, None, nn.Identity()
        self.model = model.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        wide = images[:, None].float().expand(-1, 3, -1, -1)
        wide = functional.interpolate(
            wide, (299, 299), mode="bilinear", align_corners=False, antialias=True
        )
        return self.model.to(images.device)(2 * wide - 1)


def inception_path(weights: str | None = None) -> Path | None:
    """Where InceptionV3's weights are on this disk: as named (here or in
    ``$MEDNERF_KIT_INCEPTION``, a file or the folder that holds it), else in torch.hub's cache; None
    when nothing was named and the cache has none.
    """
    named = weights or os.environ.get("MEDNERF_KIT_INCEPTION")
    path = Path(named).expanduser() if named else Path(torch.hub.get_dir()) / "checkpoints"
    if not named or path.is_dir():
        path = path / INCEPTION_FILE
    if path.is_file():
        return path
    if named:
        raise UserError(
            f"got InceptionV3 weights '{path}', which is no file",
            f"wanted {INCEPTION_FILE}",
            "correct --weights or $MEDNERF_KIT_INCEPTION",
        )
    return None


def downloaded() -> Path:
    """InceptionV3's weights, fetched into torch.hub's cache and checked by their hash."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix="0cc3c7bd")
    # no network is an OSError, a wrong hash a RuntimeError
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"got no InceptionV3 weights: none on this disk, and no download ({error})",
            f"wanted {INCEPTION_FILE}",
            "name it with --weights, or use --extractor pyramid",
        ) from None
    return path


@torch.no_grad()
def read(extractor: Extractor, images: Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Features [N, F] in float64 on the CPU of pictures [N, rows, cols], batch by batch."""
    return torch.cat(
        [extractor(some.to(device).float()).double().cpu() for some in images.split(BATCH)]
    )
