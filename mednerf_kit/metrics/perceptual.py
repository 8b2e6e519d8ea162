"""How different two pictures look: LPIPS where its backbone's weights are at hand, and a substitute
with a name of its own where they are not.

A recipe's perceptual distance gives one number per picture and lets gradients through to its first
argument; :func:`lpips_distance` and :func:`lpips_of_colours` score finished pictures.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError

# the names under which torch.hub caches torchvision's weights
LPIPS_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
LPIPS_BACKBONE = LPIPS_BACKBONES["alex"]

PERCEPTUAL: Registry[Perceptual] = Registry("perceptual distance")


class Perceptual(Protocol):
    """A distance of pictures [N, C, H, W] in [0, 1] from others -> [N]."""

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor: ...


@PERCEPTUAL.register("pyramid")
class PyramidDistance:
    """Mean |difference| of values and of both gradients over halvings; needs no weights.

    Options:
        levels: resolutions that are compared, each half of the one before.

    >>> distance = PyramidDistance(levels=1)
    >>> distance(torch.full((1, 1, 8, 8), 0.3), torch.zeros(1, 1, 8, 8)).round(decimals=4)
    tensor([0.3000])
    """

    def __init__(self, *, levels: int = 3) -> None:
        if levels < 1:
            raise UserError(
                f"got {levels} levels", "wanted at least 1", "correct the perceptual distance"
            )
        self.levels = levels

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        off = images - truth
        parts = []
        for _ in range(self.levels):
            parts += [d.abs().mean((1, 2, 3)) for d in (off, off.diff(dim=-1), off.diff(dim=-2))]
            if min(off.shape[-2:]) < 4:
                break
            off = functional.avg_pool2d(off, 2)
        return torch.stack(parts).sum(0) * 3 / len(parts)


@PERCEPTUAL.register("lpips")
class Lpips:
    """LPIPS v0.1 (arXiv 1801.03924) over VGG-16 or AlexNet.

    Options:
        weights: path of torchvision's state dict of the backbone.
        net: the backbone, ``vgg`` or ``alex``.
    """

    def __init__(self, *, weights: str, net: Literal["vgg", "alex"] = "vgg") -> None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"got LPIPS weights '{path}', which is no file",
                "wanted torchvision's state dict of the backbone",
                "correct the path, or use the substitute perceptual={name: pyramid}",
            )
        # a new model each time: making one draws from torch's global random numbers, and a second
        # training in this process must draw as the first one did
        self.model = load_lpips(path, net, f"torchvision's state dict of {net}")

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        model = self.model.to(images.device)
        wide = (x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1) for x in (images, truth))
        return model(*wide, normalize=True).flatten()


def lpips_distance(
    a: Tensor, b: Tensor, weights_path: str | Path | None = None
) -> tuple[Tensor | None, str | None]:
    """Learned perceptual distance of grey views [..., H, W] in [0, 1] -> ([...], None):
    :func:`lpips_of_colours` with AlexNet.
    """
    shape = torch.broadcast_shapes(a.shape, b.shape)
    three = (*shape[:-2], 3, *shape[-2:])
    a, b = (x.expand(shape)[..., None, :, :].expand(three) for x in (a, b))
    return lpips_of_colours(a, b, weights_path)


def lpips_of_colours(
    a: Tensor,
    b: Tensor,
    weights_path: str | Path | None = None,
    *,
    net: Literal["alex", "vgg"] = "alex",
) -> tuple[Tensor | None, str | None]:
    """Learned perceptual distance (LPIPS v0.1; Zhang et al. 2018) of pictures [..., 3, H, W] in
    [0, 1] -> ([...], None).

    The backbone is torchvision's AlexNet or VGG16 state dict: the file ``weights_path``, else
    ``$MEDNERF_KIT_LPIPS`` (either may be a folder that holds it under torch.hub's name), else
    torch.hub's cache. Nothing is downloaded; where something is missing the result is (None, the
    reason in one sentence). Weights that were named and are unusable are a :class:`UserError`.
    """
    if min(a.shape[-2:]) < 32:
        return (
            None,
            f"LPIPS wants images of at least 32×32 pixels, these have {a.shape[-2]}×{a.shape[-1]}.",
        )
    named = weights_path or os.environ.get("MEDNERF_KIT_LPIPS")
    path = Path(named or Path(torch.hub.get_dir()) / "checkpoints")
    if named is None or path.is_dir():
        path = path / LPIPS_BACKBONES[net]
    if named is None and not path.is_file():
        return None, (
            f"LPIPS was not computed: the backbone '{path.name}' is not in '{path.parent}' and "
            "nothing is downloaded; put it there or name it in $MEDNERF_KIT_LPIPS."
        )
    try:
        wanted = f"torchvision's {'AlexNet' if net == 'alex' else 'VGG16'} state dict"
        model = _cached_lpips(path, net, wanted).to(a.device)
    # a torchvision that does not fit torch fails with a RuntimeError
    except (ImportError, RuntimeError) as error:
        return None, f"LPIPS was not computed: its package cannot be imported ({error})."
    shape = torch.broadcast_shapes(a.shape, b.shape)
    pairs = (x.expand(shape).reshape(-1, *shape[-3:]).float().split(32) for x in (a, b))
    with torch.no_grad():
        parts = [model(x, y, normalize=True).flatten() for x, y in zip(*pairs, strict=True)]
    return torch.cat(parts).reshape(shape[:-3]), None


def load_lpips(path: Path, net: str, wanted: str) -> torch.nn.Module:
    """LPIPS over the backbone whose state dict lies at ``path``; an error says what was
    ``wanted``.
    """
    import lpips

    with warnings.catch_warnings():  # lpips still speaks torchvision's previous dialect
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        known = _backbone(path)
        model.net.load_state_dict(
            {name: known["features." + name.split(".", 1)[1]] for name in model.net.state_dict()}
        )
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes
        raise UserError(
            f"got LPIPS weights '{path}' that cannot be used ({type(error).__name__})",
            f"wanted {wanted}",
            "check the path or download it again",
        ) from None
    return model.requires_grad_(False).eval()


@lru_cache(maxsize=2)
def _cached_lpips(path: Path, net: str, wanted: str) -> torch.nn.Module:
    return load_lpips(path, net, wanted)


def _backbone(path: Path) -> dict[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)
