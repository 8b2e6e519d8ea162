"""What scene fields share: small MLPs, colour heads, and evaluating only samples that are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.raymath import exclusive_sum
from ..core.types import FieldOutput

ViewEncoding = Literal["frequency", "spherical", "none"]
PerPoint = tuple[Tensor, ...]  # tensors [N, ...] with a row for each point: features, grid places


def query_present(
    x: Tensor,
    d: Tensor | None,
    dt: Tensor,
    there: Tensor,
    density: Callable[[Tensor], tuple[Tensor, PerPoint]],
    color: Callable[[PerPoint, Tensor | None], Tensor] | None,
    *,
    encode: Callable[[Tensor | None], Tensor | None] | None = None,
    faint: float | None = None,
    faint_color: float = 0.0,
) -> FieldOutput:
    """A field's output at samples x [..., S, 3] of lengths dt [..., S], from those ``there``.

    Where ``there`` [..., S] is false, tau is 0. ``density(points [N, 3])`` gives the
    attenuation per unit length [N] and what it knows of each point; ``color(that, directions
    [N, F])`` gives [N, C], of the rays' directions [R, 3] as ``encode`` makes them [R, F], once per
    ray. With ``faint`` colours are evaluated only where a sample's weight in
    its ray, w = exp(−Σ_before tau)(1 − exp(−tau)), exceeds it, and are ``faint_color`` elsewhere.
    ``n_evaluated`` in the result counts the densities.
    """
    spots = there.reshape(-1).nonzero()[:, 0]
    n_evaluated = len(spots)
    attenuation, rows = density(x.reshape(-1, 3).index_select(0, spots))
    everywhere = torch.zeros(dt.numel(), device=x.device, dtype=attenuation.dtype)
    tau = everywhere.index_copy(0, spots, attenuation).view(dt.shape) * dt
    if color is None:
        return FieldOutput(tau, n_evaluated=n_evaluated)
    if faint is not None:
        with torch.no_grad():
            w = torch.exp(-exclusive_sum(tau)) * -torch.expm1(-tau)
            kept = (w.view(-1).index_select(0, spots) > faint).nonzero()[:, 0]
        spots = spots.index_select(0, kept)
        rows = tuple(row.index_select(0, kept) for row in rows)
    if d is not None:
        d = d.expand(*dt.shape[:-1], 1, 3).reshape(-1, 3)
    directions = d if encode is None else encode(d)
    if directions is not None:
        ray = spots.div(dt.shape[-1], rounding_mode="floor")
        directions = directions.index_select(0, ray)
    seen = color(rows, directions)
    colors = seen.new_full((dt.numel(), seen.shape[-1]), faint_color).index_copy(0, spots, seen)
    return FieldOutput(tau, colors.view(*dt.shape, -1), n_evaluated)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with a ReLU between each two.

    >>> [type(layer).__name__ for layer in mlp([2, 8, 1])]
    ['Linear', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def trunk_layers(inputs: int, depth: int, width: int, skip: int) -> nn.ModuleList:
    """``depth`` layers of ``width``; the first and layer ``skip`` see the inputs.

    >>> [layer.in_features for layer in trunk_layers(3, 3, 8, 2)]
    [3, 8, 11]
    """
    again = [inputs if skip and i == skip else 0 for i in range(depth)]
    widths = [inputs] + [width + extra for extra in again[1:]]
    return nn.ModuleList(nn.Linear(n, width) for n in widths)


def waves(x: Tensor, octaves: int) -> Tensor:
    """[x, sin x, cos x, sin 2x, cos 2x, …, cos 2^{L−1} x]: [..., F] -> [..., F (1 + 2L)].

    The octaves L come from one sine and cosine by the double-angle recurrence.

    >>> waves(torch.zeros(1, 27), 2).shape
    torch.Size([1, 135])
    """
    if not octaves:
        return x
    s, c = x.sin(), x.cos()
    parts = [x, s, c]
    for _ in range(octaves - 1):
        s, c = 2 * s * c, 1 - 2 * s * s
        parts += [s, c]
    return torch.cat(parts, -1)


def spherical_harmonics(d: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit directions d [..., 3]: [..., degree²].

    There are 1 to 4 bands, ``degree`` of them, in order; within band l, m = −l … l. They are
    orthonormal over the sphere.

    >>> spherical_harmonics(torch.tensor([0.0, 0.0, 1.0]), 2)
    tensor([0.2821, 0.0000, 0.4886, 0.0000])
    """
    x, y, z = d.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    pi = math.pi
    bands = [[torch.full_like(x, 0.5 / math.sqrt(pi))]]
    if degree > 1:
        k = math.sqrt(3 / (4 * pi))
        bands.append([k * y, k * z, k * x])
    if degree > 2:
        k = math.sqrt(15 / (4 * pi))
        bands.append(
            [
                k * x * y,
                k * y * z,
                math.sqrt(5 / (16 * pi)) * (3 * zz - 1),
                k * x * z,
                k / 2 * (xx - yy),
            ]
        )
    if degree > 3:
        a, b, c = math.sqrt(35 / (32 * pi)), math.sqrt(105 / (4 * pi)), math.sqrt(21 / (32 * pi))
        bands.append(
            [
                a * y * (3 * xx - yy),
                b * x * y * z,
                c * y * (5 * zz - 1),
                math.sqrt(7 / (16 * pi)) * z * (5 * zz - 3),
                c * x * (5 * zz - 1),
                b / 2 * z * (xx - yy),
                a * x * (xx - 3 * yy),
            ]
        )
    return torch.stack([value for band in bands for value in band], -1)


class ColorHead(nn.Module):
    """Colours [N, C]: the sigmoid of a small MLP over features [N, F] and encoded directions.

    The MLP sees the features and ``octaves`` octaves of their waves. The viewing direction enters
    as ``frequency`` with ``degree`` octaves (NeRF, TensoRF), as ``spherical`` harmonics of
    ``degree`` bands (Instant-NGP), or not at all (``none``).
    """

    def __init__(
        self,
        features: int,
        channels: int,
        *,
        hidden: Sequence[int],
        view_encoding: ViewEncoding,
        degree: int,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        self.view_encoding = view_encoding
        self.degree = degree
        self.octaves = octaves
        widths = {"frequency": 3 * (1 + 2 * degree), "spherical": degree**2, "none": 0}
        inputs = features * (1 + 2 * octaves) + widths[view_encoding]
        self.net = mlp([inputs, *hidden, channels])

    def encoded(self, d: Tensor | None) -> Tensor | None:
        """Directions [..., 3] as the MLP sees them; None where it sees none."""
        if self.view_encoding == "none":
            return None
        if d is None:
            raise ValueError("a colour that depends on the viewing direction needs one")
        encode = waves if self.view_encoding == "frequency" else spherical_harmonics
        return encode(d, self.degree)

    def forward(self, features: Tensor, directions: Tensor | None) -> Tensor:
        """Colours of features [N, F], seen along directions that are :meth:`encoded` already."""
        parts = [waves(features, self.octaves)]
        if directions is not None:
            parts.append(directions)
        return torch.sigmoid(self.net(torch.cat(parts, -1)))
