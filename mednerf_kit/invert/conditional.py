"""What a prior's conditional generator makes of an X-ray: volumes, and a guide to codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..core.resampling import area_resized
from ..imaging.geometry import angle_difference_deg
from ..prior.load import Conditional, Prior
from ..recon.field_volume import FieldVolume
from ..recon.ray_grid import RayGrid

#: Degrees from the angle that a conditional generator learned, up to which it is asked.
MOST_TURN_DEG = 10.0
#: Views of a guide, from the X-ray's own angle on; those in between differ little.
GUIDE_TURNS_DEG = (30.0, 60.0, 90.0, 120.0, 150.0, 180.0, 225.0, 315.0)


@dataclass(frozen=True)
class Guide:
    """Views that were not taken, as the conditional generator's answers show them."""

    images: Tensor  # [M, g, rows, cols] line integrals, in image values: of the best guess first
    angles_deg: Tensor  # [g]

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Random pixels (view, row, column), with repetition: [count, 3]."""
        sizes = torch.tensor(self.images.shape[1:])
        return (torch.rand(count, 3, generator=rng) * sizes).long()


def answered_view(prior: Prior, angles_deg: Tensor) -> int | None:
    """Which of the views at ``angles_deg`` [n] the prior's conditional generator answers, if any.

    It is the one nearest to the angle that it learned, within :data:`MOST_TURN_DEG`.
    """
    if prior.conditional is None:
        return None
    learned_deg = prior.conditional.angle_deg
    turns = [abs(angle_difference_deg(angle, learned_deg)) for angle in angles_deg.tolist()]
    nearest = min(range(len(turns)), key=turns.__getitem__)
    return nearest if turns[nearest] <= MOST_TURN_DEG else None


def grid_of(conditional: Conditional, prior: Prior, angle_deg: float, distance: float) -> RayGrid:
    """The grid along an X-ray's rays in which a conditional generator answers."""
    generator = conditional.generator
    return RayGrid.of(
        prior.geometry,
        angle_deg,
        distance,
        rays=generator.rays,
        planes=generator.planes,
        half_width=generator.half_width,
    )


@torch.no_grad()
def conditional_volumes(
    conditional: Conditional,
    grid: RayGrid,
    xray: Tensor,
    mask: Tensor,
    rng: Generator,
    *,
    samples: int,
    size: int,
    spread: float = 1.0,
) -> Tensor:
    """Cubes [samples, size, size, size] that explain an X-ray, in image values per field unit.

    ``xray`` [rows, cols] are line integrals as the prior's own pictures have them, and ``mask`` of
    the same shape is below one half where a pixel says nothing. ``spread`` 0 gives the best guess.
    """
    generator = conditional.generator.to(xray.device)
    pixels = (generator.pixels, generator.pixels)
    picture = area_resized(xray, *pixels)[None]
    seen = (area_resized(mask, *pixels) >= 0.5).to(picture)[None]
    densities = generator(picture, seen, rng, samples=samples, antithetic=True, spread=spread)
    return grid.cubes(densities, size)


def guide_of(
    prior: Prior, xray: Tensor, mask: Tensor, angle_deg: float, rng: Generator, *, samples: int
) -> Guide:
    """Views of the best guess at an X-ray [rows, cols] of line integrals, and of random answers.

    ``angle_deg`` is where it was taken; ``mask`` [rows, cols] as for :func:`conditional_volumes`.
    """
    assert prior.conditional is not None
    size = xray.shape[-1]
    grid = grid_of(prior.conditional, prior, angle_deg, prior.distance)
    volumes = torch.cat(
        [
            conditional_volumes(
                prior.conditional, grid, xray, mask, rng, samples=count, size=size, spread=spread
            )
            for count, spread in ((1, 0.0), (samples, 1.0))
            if count
        ]
    )
    angles_deg = [angle_deg + turn for turn in GUIDE_TURNS_DEG]
    geometry = prior.geometry.resized(size).at(angles_deg)
    images = FieldVolume.of(volumes, geometry).project(geometry, prior.distance)
    return Guide(images, torch.tensor(angles_deg).to(images))
