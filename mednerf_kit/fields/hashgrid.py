"""A radiance field after Instant-NGP (Müller et al., SIGGRAPH 2022): a hash grid and two MLPs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..core.types import FieldOutput
from .base import FIELDS, SceneField, other_parameters, parameter_groups
from .encodings import build_encoding
from .grids import Mask
from .heads import ColorHead, PerPoint, ViewEncoding, mlp, query_present


@FIELDS.register("hash")
class HashField(SceneField):
    """Instant-NGP's field: an encoding, a density MLP of one hidden layer, a colour MLP of two.

    The density MLP gives raw density and features, which the colour MLP sees with the viewing
    direction. density = exp(raw − 1) / longest side of the box, inside the box. Empty space is left
    to the sampler (``occupancy``).

    Options:
        encoding: of the points, any encoding or a list of them; Instant-NGP's hash grid of its
            default size unless given.
        width: of the MLPs' hidden layers.
        geometry: features that the density MLP hands to the colour MLP.
        view_encoding: how the colour MLP sees the viewing direction.
        view_degree: bands (``spherical``) or octaves (``frequency``) of the viewing direction.
        activation: of the density; ``softplus`` grows more calmly than ``exp``.
        faint: colour is evaluated where a sample's weight exceeds this.
        network_rate: learning rate of the MLPs, as a share of the encoding's.
    """

    def __init__(
        self,
        *,
        encoding: dict | list | str | None = None,
        width: int = 64,
        geometry: int = 15,
        view_encoding: ViewEncoding = "spherical",
        view_degree: int = 4,
        activation: Literal["exp", "softplus"] = "exp",
        faint: float = 1e-4,
        network_rate: float = 1.0,
        box: Tensor,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.faint = faint
        self.network_rate = network_rate
        self.channels = channels
        self.scale = 1 / float((box[1] - box[0]).max())
        self.inside = Mask(box)
        self.encoding = build_encoding("hash" if encoding is None else encoding, box=box)
        self.trunk = mlp([self.encoding.width, width, 1 + (geometry if channels else 0)])
        if channels:
            self.head = ColorHead(
                geometry,
                channels,
                hidden=(width, width),
                view_encoding=view_encoding,
                degree=view_degree,
            )

    def at(self, points: Tensor) -> tuple[Tensor, PerPoint]:
        """Density [N] at points [N, 3], and the features of its colour."""
        out = self.trunk(self.encoding(points))
        raw = out[:, 0] - 1
        if self.activation == "softplus":
            return softplus(raw) * self.scale, (out[:, 1:],)
        # Beyond e^±15 the value stays and the slope goes on, so that no point is lost for good.
        bounded = raw + (raw.clamp(-15, 15) - raw).detach()
        return torch.exp(bounded) * self.scale, (out[:, 1:],)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        points = x.reshape(-1, 3)
        return (self.at(points)[0] * self.inside(points)).view(x.shape[:-1])

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        def color(rows: PerPoint, directions: Tensor | None) -> Tensor:
            return self.head(rows[0], directions)

        there = (dt > 0) & self.inside(x)
        colored = color if self.channels else None
        return query_present(
            x,
            d,
            dt,
            there,
            self.at,
            colored,
            encode=self.head.encoded if self.channels else None,
            faint=self.faint,
            faint_color=self.faint_color,
        )

    def groups(self) -> list[dict[str, Any]]:
        grids = list(self.encoding.parameters())
        networks = other_parameters(self, grids)
        return parameter_groups((grids, 1.0), (networks, self.network_rate))
