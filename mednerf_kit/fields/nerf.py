"""NeRF's MLP (Mildenhall et al., ECCV 2020): density by place, colour by direction too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu, softplus

from ..core.errors import UserError
from ..core.types import FieldOutput
from .base import FIELDS, SceneField, other_parameters, parameter_groups
from .encodings import build_encoding
from .frequency import encoded_width, frequency_encoding
from .heads import PerPoint, query_present, trunk_layers


@dataclass(frozen=True, kw_only=True)
class NerfOptions:
    """Options of :class:`Nerf`.

    Options:
        depth: layers of the trunk.
        width: of the trunk's layers.
        skip: layer that sees the encoded point again, counted from 0; 0: none.
        octaves: in which points are encoded, [x, sin 2ᵏx, cos 2ᵏx] without π (as nerf-pytorch).
        view_octaves: in which the viewing direction is encoded.
        positional: encode points; false leaves the coordinates alone.
        encoding: any other encoding, or a list of them, in place of the octaves.
        view_directions: let the colour depend on the viewing direction.
        activation: of the density; ``softplus`` starts low, so that a new field is a thin haze and
            not a wall.
        noise: standard deviation of what is added to the raw density while training (1 for
            forward-facing scenes).
        precision: in which layers multiply; ``auto`` is bf16 on a GPU and fp32 elsewhere. Densities
            and everything along the ray are fp32.
        grid_rate: learning rate of the encoding's grids, as a multiple of the MLP's.
    """

    depth: int = 8
    width: int = 256
    skip: int = 5
    octaves: int = 10
    view_octaves: int = 4
    positional: bool = True
    encoding: dict | list | str | None = None
    view_directions: bool = True
    activation: Literal["relu", "softplus"] = "relu"
    noise: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    grid_rate: float = 20.0

    def __post_init__(self) -> None:
        if (
            min(self.depth, self.width) < 1
            or not 0 <= self.skip < max(self.depth, 1)
            or min(self.octaves, self.view_octaves) < 0
            or self.noise < 0
        ):
            raise UserError(
                f"got depth {self.depth}, width {self.width}, skip {self.skip}, octaves "
                f"{self.octaves} and {self.view_octaves}, noise {self.noise:g}",
                "wanted positive sizes and a skip from 0 (none) to below the depth",
                "correct them",
            )


@FIELDS.register("nerf")
class Nerf(SceneField):
    """The published MLP: a trunk, a density head, a feature and a half as wide colour layer."""

    def __init__(self, options: NerfOptions, *, box: Tensor, channels: int = 3) -> None:
        super().__init__()
        self.options = options
        self.channels = channels
        octaves = {"name": "frequency", "octaves": options.octaves if options.positional else 0}
        self.encoding = build_encoding(options.encoding or octaves, box=box)
        self.register_buffer("box", box.clone().float())
        self.trunk = trunk_layers(self.encoding.width, options.depth, options.width, options.skip)
        self.to_density = nn.Linear(options.width, 1)
        if channels:
            seen = encoded_width(options.view_octaves) if options.view_directions else 0
            self.to_feature = nn.Linear(options.width, options.width)
            self.to_color = nn.Sequential(
                nn.Linear(options.width + seen, options.width // 2),
                nn.ReLU(inplace=True),
                nn.Linear(options.width // 2, channels),
            )

    def groups(self) -> list[dict[str, Any]]:
        grids = list(self.encoding.parameters())
        networks = other_parameters(self, grids)
        return parameter_groups((networks, 1.0), (grids, self.options.grid_rate))

    def hidden(self, points: Tensor) -> Tensor:
        """The trunk's last layer at points [N, 3]."""
        h = encoded = aligned(self.encoding(points))
        for i, layer in enumerate(self.trunk):
            if i and i == self.options.skip:
                h = torch.cat([h, encoded], -1)
            h = linear(layer, h).relu_()
        return h

    def activated(self, raw: Tensor) -> Tensor:
        """Density per unit length of the density head's output."""
        return relu(raw) if self.options.activation == "relu" else softplus(raw - 1)

    def autocast(self, x: Tensor) -> torch.autocast:
        """The context in which layers multiply on the device of x."""
        precision = self.options.precision
        half = precision == "bfloat16" or (precision == "auto" and x.is_cuda)
        return torch.autocast(x.device.type, torch.bfloat16, enabled=half)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        with self.autocast(x):
            raw = self.to_density(self.hidden(x.reshape(-1, 3)))
        return self.activated(raw.float()).view(x.shape[:-1])

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        color = self.color if self.channels else None
        return query_present(x, d, dt, dt > 0, self.at, color, encode=self.seen_along)

    def at(self, points: Tensor) -> tuple[Tensor, PerPoint]:
        """Density [N] at points [N, 3], with noise while training, and the trunk's last layer."""
        with self.autocast(points):
            h = self.hidden(points)
            raw = self.to_density(h)[:, 0].float()
        if self.options.noise and self.training and self.rng is not None:
            noise = torch.randn(raw.shape, generator=self.rng, device=self.rng.device)
            raw = raw + self.options.noise * noise.to(raw)
        return self.activated(raw), (h,)

    def seen_along(self, d: Tensor | None) -> Tensor | None:
        """The share [R, width / 2] of directions [R, 3] in the colour layer, bias and all.

        None where colours do not depend on them. A product is a sum over inputs, so that all
        samples of a ray share theirs.
        """
        if not self.options.view_directions:
            return None
        if d is None:
            raise ValueError("a colour that depends on the viewing direction needs one")
        first, width = self.to_color[0], self.options.width
        assert isinstance(first, nn.Linear)
        with self.autocast(d):
            encoded = frequency_encoding(d, self.options.view_octaves)
            return torch.nn.functional.linear(encoded, first.weight[:, width:], first.bias)

    def color(self, rows: PerPoint, along: Tensor | None) -> Tensor:
        """Colours [N, C] from the trunk's last layer [N, width] and what is :meth:`seen_along`."""
        first, *rest = self.to_color
        assert isinstance(first, nn.Linear)
        with self.autocast(rows[0]):
            feature = self.to_feature(rows[0])
            if along is None:
                hidden = first(feature)
            else:
                weight = first.weight[:, : self.options.width]
                hidden = torch.nn.functional.linear(feature, weight) + along
            for layer in rest:
                hidden = layer(hidden)
            return torch.sigmoid(hidden.float())


def aligned(x: Tensor) -> Tensor:
    """Features [N, F] as layers multiply them: in autocast's precision, F a multiple of 16.

    A GPU takes its slow kernels for other widths. Outside autocast they stay as they are.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return x
    return pad(x.to(torch.get_autocast_dtype(x.device.type)), (0, -x.shape[-1] % 16))


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer at features [N, F] that may be padded with zeros.

    >>> layer = nn.Linear(3, 2)
    >>> padded = linear(layer, torch.tensor([[1.0, 2.0, 3.0, 0.0]]))
    >>> torch.equal(padded, layer(torch.tensor([[1.0, 2.0, 3.0]])))
    True
    """
    assert isinstance(layer, nn.Linear)
    if x.shape[-1] == layer.in_features:
        return layer(x)
    return torch.nn.functional.linear(
        x, pad(layer.weight, (0, x.shape[-1] - layer.in_features)), layer.bias
    )
