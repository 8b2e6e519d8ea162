"""The records that travel through the package, and the letters that name their axes.

B batch (patients, samples of the prior) · V views · R rays · S samples per ray · N points · C
channels · D/H/W volume (z, y, x) · ``t`` distance along a unit ray · ``dt`` the length a sample
stands for · ``tau`` optical depth of a sample · ``w`` the weight of a sample in its pixel.

World frame: LPS (x to the patient's left, y to posterior, z to superior), isocentre at the origin.
Imaging works in millimetres; learned fields work in *field units*, in which the field of view is ±1
at the isocentre.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

#: By default the radius of the cylinder in which matter may lie, and half the side of the cube of
#: voxels around it, in field units.
SUPPORT = 1.4


@dataclass(frozen=True)
class Pixels:
    """Which pixels are supervised: all fields share the leading shape [...]."""

    view: Tensor  # [...] index of the view, int64
    yx: Tensor  # [..., 2] row and column, in pixels; integers are pixel centres
    weight: Tensor  # [...] importance weight, mean 1


@dataclass(frozen=True)
class Rays:
    """Unit rays: all fields share the leading shape [...].

    ``near`` and ``far`` bound the part of a ray that is sampled.
    """

    origin: Tensor  # [..., 3]
    direction: Tensor  # [..., 3] unit length
    near: Tensor  # [...]
    far: Tensor  # [...] equal to near where the ray misses the support
    # [..., 3] unit viewing direction where it is not ``direction`` (a warped space such as NDC)
    viewing: Tensor | None = None
    depth: Tensor | None = None  # [...] distance to the surface where it is known, nan elsewhere

    def scaled(self, factor: float) -> Rays:
        """The same rays in another unit of length (millimetres to field units, say)."""
        depth = None if self.depth is None else self.depth * factor
        return replace(
            self,
            origin=self.origin * factor,
            near=self.near * factor,
            far=self.far * factor,
            depth=depth,
        )


@dataclass(frozen=True)
class Samples:
    """A quadrature rule along each ray: nodes and lengths. ``dt == 0`` marks what is not there."""

    t: Tensor  # [..., S] sorted, inside [near, far]
    dt: Tensor  # [..., S] non-negative


@dataclass(frozen=True)
class FieldOutput:
    """What a field answers for samples."""

    tau: Tensor  # [..., S] optical depth of each sample, >= 0
    color: Tensor | None = None  # [..., S, C]; None for a density-only field
    n_evaluated: int | None = None  # samples that were evaluated; None: all that are there
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendering:
    """What rays see, and the share of each sample in it."""

    image: Tensor  # [..., C]
    w: Tensor  # [..., S]


@dataclass(frozen=True)
class DiscriminatorOutput:
    """What a discriminator answers: one logit per head and picture."""

    heads: Tensor  # [B, K]
    extras: dict[str, Tensor] = field(default_factory=dict)


class Field(Protocol):
    """What fills space.

    A code is a batch of per-sample weights for generated fields, and None for a fixed field.
    """

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """Attenuation per unit length at points x [..., 3] -> [...]."""

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        """Depth and colour of samples x [..., R, S, 3] with lengths dt [..., R, S].

        They are seen along d [..., R, 1, 3]. Samples with ``dt == 0`` need not be evaluated.
        """
