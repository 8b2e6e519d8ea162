"""DAG policies: the fixed transforms T_k under which a discriminator's heads look at a picture
(arXiv 2006.05338).

A policy is a tuple of transforms, the identity first. Reals and fakes go through the same transform
and each head learns to tell them apart under its own, so that nothing leaks into the generator.
Heads are numbered by a running offset: head 0 is always the picture as it is, and a policy that is
combined with another does not bring its identity along again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError

Transform = Callable[[Tensor], Tensor]  # [B, C, N, N] -> [B, C, N, N]
POLICIES: Registry[tuple[Transform, ...]] = Registry("policy")


def identity(images: Tensor) -> Tensor:
    """The picture as it is."""
    return images


@POLICIES.register("none")
def none() -> tuple[Transform, ...]:
    """One head that sees the picture as it is."""
    return (identity,)


@POLICIES.register("rotation")
def rotation() -> tuple[Transform, ...]:
    """Turned by 0°, 90°, 180° and 270°."""
    return (identity, *(partial(torch.rot90, k=k, dims=(-2, -1)) for k in (1, 2, 3)))


@POLICIES.register("fliprot")
def fliprot() -> tuple[Transform, ...]:
    """As it is, upside down, mirrored, and turned by 90° (transposed, then flipped)."""
    return (
        identity,
        partial(torch.flip, dims=(-2,)),
        partial(torch.flip, dims=(-1,)),
        lambda images: images.transpose(-2, -1).flip(-1),
    )


@POLICIES.register("tilt")
def tilt(*, angle_deg: float = 8.0) -> tuple[Transform, ...]:
    """As it is, and turned a little to either side, as patients lie; black (air) moves in.

    Options:
        angle_deg: how far, in degrees.
    """
    if not 0 < angle_deg < 90:
        raise UserError(
            f"got an angle of {angle_deg:g} degrees for a policy",
            "wanted one between 0 and 90",
            "correct it",
        )

    def turned(images: Tensor, angle: float) -> Tensor:
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).to(images)
        grid = functional.affine_grid(
            matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False
        )
        return functional.grid_sample(images, grid, align_corners=False)

    angle = math.radians(angle_deg)
    return (identity, partial(turned, angle=angle), partial(turned, angle=-angle))


@POLICIES.register("cropping")
def cropping(*, share: float = 0.75) -> tuple[Transform, ...]:
    """As it is, and its four corner windows, enlarged to full size.

    Options:
        share: side of a window, as a share of the picture's.
    """
    _check_share(share)

    def corner(images: Tensor, bottom: bool, right: bool) -> Tensor:
        height, width = images.shape[-2:]
        h, w = max(1, round(share * height)), max(1, round(share * width))
        top, left = (height - h) * bottom, (width - w) * right
        window = images[..., top : top + h, left : left + w]
        return functional.interpolate(window, (height, width), mode="bilinear", align_corners=False)

    return (
        identity,
        *(partial(corner, bottom=b, right=r) for b in (False, True) for r in (False, True)),
    )


@POLICIES.register("translation")
def translation(*, share: float = 0.25) -> tuple[Transform, ...]:
    """As it is, and moved right, left, down and up; black (air) moves in.

    Options:
        share: how far, as a share of the picture's side.
    """
    _check_share(share)

    def moved(images: Tensor, down: int, right: int) -> Tensor:
        height, width = images.shape[-2:]
        dy, dx = round(share * height) * down, round(share * width) * right
        return functional.pad(images, (dx, -dx, dy, -dy))  # a negative width crops the far side

    return (
        identity,
        *(partial(moved, down=d, right=r) for d, r in ((0, 1), (0, -1), (1, 0), (-1, 0))),
    )


@POLICIES.register("cutout")
def cutout(*, share: float = 0.5) -> tuple[Transform, ...]:
    """As it is, and with one of its four corners blackened.

    Options:
        share: side of a corner, as a share of the picture's.
    """
    _check_share(share)

    def covered(images: Tensor, bottom: bool, right: bool) -> Tensor:
        y, x = (torch.arange(n, device=images.device) for n in images.shape[-2:])
        rows = (y.flip(0) if bottom else y) < round(share * len(y))
        columns = (x.flip(0) if right else x) < round(share * len(x))
        return images.masked_fill(rows[:, None] & columns, 0.0)

    return (
        identity,
        *(partial(covered, bottom=b, right=r) for b in (False, True) for r in (False, True)),
    )


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise UserError(
            f"got a share of {share:g} for a policy",
            "wanted a share of the side between 0 and 1",
            "correct it",
        )


class Dag:
    """The transforms of one or several policies; head k sees transform k.

    >>> dag, images = Dag(["rotation", "cropping"]), torch.zeros(2, 1, 16, 16)
    >>> dag.count, dag.apply(images, 5).shape, dag.stack(images).shape
    (8, torch.Size([2, 1, 16, 16]), torch.Size([16, 1, 16, 16]))
    """

    def __init__(self, policy: str | Sequence[str | dict], *, heads: int | None = None) -> None:
        """``heads``, where given, is how many the policy must make."""
        nodes = [policy] if isinstance(policy, str) else policy
        self.transforms = (identity, *(t for node in nodes for t in POLICIES.build(node)[1:]))
        if heads not in (None, self.count):
            raise UserError(
                f"got {heads} heads",
                f"wanted {self.count}, as many as the policy has transforms",
                "correct heads, or leave it out",
            )

    @property
    def count(self) -> int:
        """K, the number of heads."""
        return len(self.transforms)

    def apply(self, images: Tensor, k: int) -> Tensor:
        """T_k of images [B, C, N, N], same shape."""
        return self.transforms[k](images)

    def stack(self, images: Tensor, heads: int | None = None) -> Tensor:
        """The first ``heads`` transforms (default all) of a batch, head by head: [B, C, N, N] ->
        [heads·B, C, N, N].
        """
        return torch.cat([transform(images) for transform in self.transforms[:heads]])
