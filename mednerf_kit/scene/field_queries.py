"""The field of a fitted scene evaluated at points: densities, signed distances, colours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.errors import UserError
from ..fields.base import SceneField
from ..recon.field_volume import cell_axis, cubic_grid
from .load import Fit
from .views import Chunks

BLOCK = 4  # cells along each side of what one signed distance settles at once


def finest_field(fit: Fit) -> SceneField:
    """The field of the last level: what the pictures show."""
    field = fit.model.levels[-1].field
    assert isinstance(field, SceneField)
    return field


def signed_distance(fit: Fit) -> Callable[[Tensor], Tensor] | None:
    """The signed distance of that field, points [..., 3] -> [...]; None for one that has none."""
    return getattr(finest_field(fit), "sdf", None)


def density_grid(fit: Fit, size: int = 128) -> tuple[Tensor, Tensor]:
    """Density [D, H, W] = [z, y, x] at the centres of size³ cells of the scene's box [2, 3].

    Both are returned.
    """
    x, box = cell_centres(fit, size)
    return over(fit, finest_field(fit).density, x.view(-1, 3)).view(size, size, size), box


def distance_grid(
    fit: Fit, sdf: Callable[[Tensor], Tensor], size: int = 128
) -> tuple[Tensor, Tensor]:
    """A signed distance at the same places.

    Blocks of cells whose middle is more than twice their half diagonal away from the surface are
    given the distance there: all of them lie on one side, as long as the slope is below 2.
    """
    x, box = cell_centres(fit, size)
    if size % BLOCK:
        return over(fit, sdf, x.view(-1, 3)).view(size, size, size), box
    few = size // BLOCK
    coarse = over(fit, sdf, cell_centres(fit, few)[0].view(-1, 3)).view(few, few, few)
    values = (
        coarse.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    )
    near = values.abs() < float((box[1] - box[0]).norm()) / few
    values[near] = over(fit, sdf, x[near])
    return values, box


def cell_centres(fit: Fit, size: int) -> tuple[Tensor, Tensor]:
    """Centres [size, size, size, 3] = [z, y, x] of the cells of the scene's box, and the box."""
    box = torch.tensor(fit.meta["box"])
    return box[0] + cubic_grid(cell_axis(size)) * (box[1] - box[0]), box


@torch.no_grad()
def over(
    fit: Fit, values_at: Callable[[Tensor], Tensor], x: Tensor, *, chunk: int = 1 << 16
) -> Tensor:
    """A function of points at x [N, 3], in chunks on the fit's device: [N] on the CPU."""
    return torch.cat(Chunks(chunk)(len(x), lambda rows: values_at(x[rows].to(fit.device)).cpu()))


@torch.no_grad()
def colour_at(fit: Fit, x: Tensor, d: Tensor, *, chunk: int = 1 << 16) -> Tensor:
    """Colour of points [N, 3] seen along unit directions [N, 3]: [N, C]."""
    field = finest_field(fit)

    def colours(rows: slice) -> Tensor:
        points, ahead = x[rows, None].to(fit.device), d[rows, None].to(fit.device)
        answer = field(points, ahead, torch.full(points.shape[:-1], 1e6, device=fit.device))
        if answer.color is None:
            raise UserError(
                "got a field without colour",
                "wanted a scene of photographs",
                "export its mesh without colours",
            )
        return answer.color[:, 0].cpu()

    return torch.cat(Chunks(chunk)(len(x), colours))
