"""NeRF's MLP (Mildenhall et al., ECCV 2020): an encoded point becomes density, and with the viewing
direction colour.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu, softplus

from ..core.errors import UserError
from ..core.types import FieldOutput
from .base import FIELDS, SceneField
from .encoding import encoded_width, frequency_encoding
from .encodings import build_encoding
from .heads import Rows, query_present


@FIELDS.register("nerf")
class Nerf(SceneField):
    """The published MLP: ``depth`` layers of ``width`` with the encoded point again as an input of
    layer ``skip`` (counted from 0; 0: none), a density head, a feature, and a half as wide layer
    for colour.

    ``octaves`` and ``view_octaves`` encode point and viewing direction ([x, sin 2ᵏx, cos 2ᵏx], as
    nerf-pytorch does, without π); ``positional`` and ``view_directions`` switch the one and the
    other off. ``encoding`` is any other node of ENCODINGS, or a list of them, in place of the
    octaves; its grids learn ``grid_rate`` times as fast as the MLP. ``noise`` is the standard
    deviation of what is added to the raw density while training (1 for forward-facing scenes).
    Layers multiply in ``precision``: ``auto`` is bf16 on a GPU and fp32 elsewhere; densities and
    everything along the ray are fp32.
    """

    def __init__(
        self,
        *,
        depth: int = 8,
        width: int = 256,
        skip: int = 5,
        octaves: int = 10,
        view_octaves: int = 4,
        positional: bool = True,
        encoding: dict | list | str | None = None,
        view_directions: bool = True,
        activation: Literal["relu", "softplus"] = "relu",
        noise: float = 0.0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        grid_rate: float = 20.0,
        box: Tensor,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if (
            min(depth, width) < 1
            or not 0 <= skip < max(depth, 1)
            or min(octaves, view_octaves) < 0
            or noise < 0
        ):
            sizes = f"depth {depth}, width {width}, skip {skip}, octaves {octaves} and {view_octaves}, noise {noise:g}"
            raise UserError(
                f"got {sizes}",
                "wanted positive sizes and a skip from 0 (none) to below the depth",
                "correct them",
            )
        self.skip, self.activation, self.noise, self.channels = skip, activation, noise, channels
        self.grid_rate, self.precision = grid_rate, precision
        self.encoding = build_encoding(
            encoding or {"name": "frequency", "octaves": octaves if positional else 0}, box=box
        )
        self.view_octaves, self.view_directions = view_octaves, view_directions
        self.register_buffer("box", box.clone().float())
        first = self.encoding.width
        inputs = [first] + [width + (first if i == skip and skip else 0) for i in range(1, depth)]
        self.trunk = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.to_density = nn.Linear(width, 1)
        if channels:
            seen = encoded_width(view_octaves) if view_directions else 0
            self.to_feature = nn.Linear(width, width)
            self.to_color = nn.Sequential(
                nn.Linear(width + seen, width // 2),
                nn.ReLU(inplace=True),
                nn.Linear(width // 2, channels),
            )

    def groups(self) -> list[dict[str, Any]]:
        grids = list(self.encoding.parameters())
        known = {id(p) for p in grids}
        networks = [p for p in self.parameters() if id(p) not in known]
        return [{"params": networks, "rate": 1.0}] + (
            [{"params": grids, "rate": self.grid_rate}] if grids else []
        )

    def hidden(self, points: Tensor) -> Tensor:
        """The trunk's last layer at points [N, 3]."""
        encoded = aligned(self.encoding(points))
        h = encoded
        for i, layer in enumerate(self.trunk):
            h = linear(
                layer, torch.cat([h, encoded], -1) if self.skip and i == self.skip else h
            ).relu_()
        return h

    def activated(self, raw: Tensor) -> Tensor:
        """Density per unit length; softplus starts low, so that a new field is a thin haze and not
        a wall.
        """
        return relu(raw) if self.activation == "relu" else softplus(raw - 1)

    def rounded(self, x: Tensor) -> torch.autocast:
        """The context in which layers multiply, where x is."""
        half = self.precision == "bfloat16" or (self.precision == "auto" and x.is_cuda)
        return torch.autocast(x.device.type, torch.bfloat16, enabled=half)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        with self.rounded(x):
            raw = self.to_density(self.hidden(x.reshape(-1, 3)))
        return self.activated(raw.float()).view(x.shape[:-1])

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        def density(points: Tensor) -> tuple[Tensor, Rows]:
            with self.rounded(points):
                h = self.hidden(points)
                raw = self.to_density(h)[:, 0].float()
            if self.noise and self.training and self.rng is not None:
                raw = raw + self.noise * torch.randn(
                    raw.shape, generator=self.rng, device=self.rng.device
                ).to(raw)
            return self.activated(raw), (h,)

        def color(rows: Rows, directions: Tensor | None) -> Tensor:
            if self.view_directions and directions is None:
                raise ValueError("a colour that depends on the viewing direction needs one")
            with self.rounded(rows[0]):
                feature = self.to_feature(rows[0])
                if self.view_directions and directions is not None:
                    feature = torch.cat(
                        [feature, frequency_encoding(directions, self.view_octaves, feature.dtype)],
                        -1,
                    )
                first, *rest = self.to_color
                hidden = linear(first, aligned(feature))
                for layer in rest:
                    hidden = layer(hidden)
                return torch.sigmoid(hidden.float())

        return query_present(x, d, dt, dt > 0, density, color if self.channels else None)


def aligned(x: Tensor) -> Tensor:
    """Features [N, F] in the precision of the products, on a GPU padded to a multiple of 16: others
    take its slow kernels.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return x
    return pad(x.to(torch.get_autocast_dtype(x.device.type)), (0, -x.shape[-1] % 16))


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer at features that may be padded with zeros: their weights do not matter.

    >>> layer = nn.Linear(3, 2)
    >>> torch.equal(linear(layer, torch.tensor([[1.0, 2.0, 3.0, 0.0]])), layer(torch.tensor([[1.0, 2.0, 3.0]])))
    True
    """
    assert isinstance(layer, nn.Linear)
    if x.shape[-1] == layer.in_features:
        return layer(x)
    return torch.nn.functional.linear(
        x, pad(layer.weight, (0, x.shape[-1] - layer.in_features)), layer.bias
    )
