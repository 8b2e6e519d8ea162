"""How different two pictures look: LPIPS where its backbone's weights are at hand, and a named
substitute where they are not.

Both answer one number per picture and let gradients through to the first argument.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError

PERCEPTUAL: Registry[Perceptual] = Registry("perceptual distance")


class Perceptual(Protocol):
    """Pictures [N, C, H, W] in [0, 1] against others -> [N]."""

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor: ...


@PERCEPTUAL.register("pyramid")
class Pyramid:
    """Mean |difference| of values and of both gradients, over ``levels`` halvings: LPIPS without
    weights, by name.

    >>> Pyramid(levels=1)(torch.full((1, 1, 8, 8), 0.3), torch.zeros(1, 1, 8, 8)).round(decimals=4)
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
    """LPIPS v0.1 (arXiv 1801.03924) over VGG-16 or AlexNet; ``weights`` is the path of
    torchvision's state dict.
    """

    def __init__(self, *, weights: str, net: Literal["vgg", "alex"] = "vgg") -> None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"got LPIPS weights '{path}', which is no file",
                "wanted torchvision's state dict of the backbone",
                "correct the path, or use the substitute perceptual={name: pyramid}",
            )
        import lpips

        with warnings.catch_warnings():  # lpips still speaks torchvision's previous dialect
            warnings.simplefilter("ignore")
            self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        try:
            known = torch.load(path, map_location="cpu", weights_only=True)
            self.model.net.load_state_dict(
                {k: known["features." + k.split(".", 1)[1]] for k in self.model.net.state_dict()}
            )
        except Exception as error:  # a damaged archive fails in as many ways as it has bytes
            raise UserError(
                f"got LPIPS weights '{path}' that cannot be used ({type(error).__name__})",
                f"wanted torchvision's state dict of {net}",
                "check the path or download it again",
            ) from None
        self.model.requires_grad_(False).eval()

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        model = self.model.to(images.device)
        wide = (x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1) for x in (images, truth))
        return model(*wide, normalize=True).flatten()
