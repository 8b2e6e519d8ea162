"""Radiance field after Instant-NGP (Müller et al., SIGGRAPH 2022): a hash grid (or any encoding), a
density MLP, a colour MLP.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..core.types import FieldOutput
from .base import FIELDS, SceneField
from .encodings import build_encoding
from .grids import Mask
from .heads import Color, Rows, Views, mlp, query_present


@FIELDS.register("hash")
class HashField(SceneField):
    """A density MLP of one hidden layer answers raw density and ``geometry`` features; a colour MLP
    of two sees these and the direction.

    density = exp(raw − 1) / longest side of the box, inside the box (``softplus`` in place of exp
    grows more calmly). ``encoding`` is any node of ENCODINGS, or a list of them; None is
    Instant-NGP's hash grid of its default size. ``network_rate`` is the share of the learning rate
    the MLPs get. Colour is asked where a sample's weight exceeds ``faint``; empty space is left to
    the sampler (``occupancy``).
    """

    def __init__(
        self,
        *,
        encoding: dict | list | str | None = None,
        width: int = 64,
        geometry: int = 15,
        views: Views = "spherical",
        view_degree: int = 4,
        activation: Literal["exp", "softplus"] = "exp",
        faint: float = 1e-4,
        network_rate: float = 1.0,
        box: Tensor,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.activation, self.faint, self.network_rate, self.channels = (
            activation,
            faint,
            network_rate,
            channels,
        )
        self.scale = 1 / float((box[1] - box[0]).max())
        self.inside = Mask(box)
        self.encoding = build_encoding("hash" if encoding is None else encoding, box=box)
        self.trunk = mlp([self.encoding.width, width, 1 + (geometry if channels else 0)])
        if channels:
            self.head = Color(
                geometry, channels, hidden=(width, width), views=views, degree=view_degree
            )

    def at(self, points: Tensor) -> tuple[Tensor, Rows]:
        """Density [N] at points [N, 3], and the features of its colour."""
        out = self.trunk(self.encoding(points))
        raw = out[:, 0] - 1
        if self.activation == "softplus":
            return softplus(raw) * self.scale, (out[:, 1:],)
        # Beyond e^±15 the value stays and the slope goes on, so that no point is lost for good.
        return torch.exp(raw + (raw.clamp(-15, 15) - raw).detach()) * self.scale, (out[:, 1:],)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        points = x.reshape(-1, 3)
        return (self.at(points)[0] * self.inside(points)).view(x.shape[:-1])

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        def color(rows: Rows, directions: Tensor | None) -> Tensor:
            return self.head(rows[0], directions)

        return query_present(
            x,
            d,
            dt,
            (dt > 0) & self.inside(x),
            self.at,
            color if self.channels else None,
            faint=self.faint,
        )

    def groups(self) -> list[dict[str, Any]]:
        grids = list(self.encoding.parameters())
        networks = [*self.trunk.parameters(), *(self.head.parameters() if self.channels else ())]
        return ([{"params": grids, "rate": 1.0}] if grids else []) + [
            {"params": networks, "rate": self.network_rate}
        ]
