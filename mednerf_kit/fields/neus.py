"""NeuS (Wang et al., NeurIPS 2021): a signed distance whose zero is the surface, and its colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import relu, softplus

from ..core.errors import UserError
from ..core.raymath import exclusive_sum
from ..core.types import FieldOutput
from .base import FIELDS, Penalties, SceneField, other_parameters, parameter_groups
from .encodings import Frequency, build_encoding
from .frequency import encoding_gradient
from .heads import ColorHead, trunk_layers

# half the width over which a ReLU's corner is rounded: as soft as a softplus of β = 100, NeuS's
# choice
CORNER = 0.028
SHARPEST = 1e6
CONTRACTED = torch.tensor([[-2.0] * 3, [2.0] * 3])  # where the background's points lie


@dataclass(frozen=True, kw_only=True)
class NeusOptions:
    """Options of :class:`Neus`; lengths are in the box's longest half sides.

    Options:
        depth: layers of the distance MLP.
        width: of the layers of both MLPs.
        skip: layer of the distance MLP that sees its inputs again, counted from 0; 0: none.
        octaves: in which points are encoded.
        encoding: any other encoding, or a list of them, in place of the octaves.
        radius: of the ball that the field starts as, whatever the encoding.
        sharpness: s at the beginning.
        anneal: share of the training over which the slope along a ray is annealed.
        head_depth: hidden layers of the colour MLP.
        view_octaves: in which the colour MLP sees the viewing direction.
        faint: colour is evaluated where a sample's weight exceeds this.
        scatter: random points of the box at which ``eikonal`` is evaluated too.
        grid_rate: learning rate of the encoding's grids, as a multiple of the MLPs'.
        background: a field that stands outside the box, in a space that is contracted to twice the
            box; nothing is evaluated there without one.
    """

    depth: int = 8
    width: int = 256
    skip: int = 4
    octaves: int = 6
    encoding: dict | list | str | None = None
    radius: float = 0.5
    sharpness: float = 20.0
    anneal: float = 0.0
    head_depth: int = 4
    view_octaves: int = 4
    faint: float = 1e-4
    scatter: int = 1024
    grid_rate: float = 20.0
    background: dict | None = None

    def __post_init__(self) -> None:
        if (
            min(self.depth, self.width) < 1
            or not 0 <= self.skip < self.depth
            or min(self.octaves, self.view_octaves, self.scatter, self.head_depth) < 0
        ):
            raise UserError(
                f"got depth {self.depth}, width {self.width}, skip {self.skip}, head_depth "
                f"{self.head_depth}, octaves {self.octaves} and {self.view_octaves}, scatter "
                f"{self.scatter}",
                "wanted positive sizes and a skip from 0 (none) to below the depth",
                "correct them",
            )
        if self.radius <= 0 or self.sharpness <= 0 or not 0 <= self.anneal <= 1:
            raise UserError(
                f"got radius {self.radius:g}, sharpness {self.sharpness:g}, anneal {self.anneal:g}",
                "wanted a radius and a sharpness above 0, and anneal as a share of the training",
                "correct them",
            )


@FIELDS.register("neus")
class Neus(SceneField):
    """A signed distance with f(x) < 0 inside and |∇f| = 1; its zero is the surface.

    Φ_s(f) = sigmoid(s f), with a learned sharpness s, turns distances into opacity. A section of
    length dt about x, seen along d, has the optical depth of :func:`section_depth`, whose slope
    along the ray is n·d with n = ∇f, annealed at the beginning of the training (:func:`annealed`).
    Distances are in the scene's unit; the network works in units of the box's longest half side,
    about its middle.

    The layers of the distance MLP are ReLUs with rounded corners. The colour MLP sees place,
    normal, direction and a feature (IDR's head). The penalty ``eikonal`` is the mean of (|∇f| − 1)²
    over the samples of the last training batch and over random points of the box.

    The normal is written out as a second pass through the layers, so that one ordinary way back
    serves it: two products a layer, where three tangents forward would need four. On a CPU at width
    64 a point costs two thirds of what it does by ``autograd.grad`` through softplus layers with
    its graph kept, and no more than with plain ReLUs (scripts/bench/surface.py).
    """

    box: Tensor

    def __init__(self, options: NeusOptions, *, box: Tensor, channels: int = 3) -> None:
        super().__init__()
        self.options = options
        self.channels = channels
        self.progress = 1.0
        self.register_buffer("box", box.detach().float().clone())
        self.middle = tuple(box.mean(0).tolist())
        self.unit = 0.5 * float((box[1] - box[0]).max())
        octaves = {"name": "frequency", "octaves": options.octaves}
        self.encoding = build_encoding(options.encoding or octaves, box=box)
        width = options.width
        self.trunk = trunk_layers(3 + self.encoding.width, options.depth, width, options.skip)
        self.to_distance = nn.Linear(width, 1 + (width if channels else 0))
        self.start_as_ball(options.radius)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(options.sharpness) / 10))
        if channels:
            self.head = ColorHead(
                6 + width,
                channels,
                hidden=(width,) * options.head_depth,
                view_encoding="frequency",
                degree=options.view_octaves,
            )
        self.background: SceneField | None = None
        if options.background is not None:
            self.background = FIELDS.build(
                options.background, box=CONTRACTED.clone(), channels=channels
            )
        self.normals: Tensor | None = None  # of the last training batch

    @torch.no_grad()
    def start_as_ball(self, radius: float) -> None:
        """Initialise to f ≈ |u| − radius (Atzmon & Lipman, SAL, CVPR 2020, theorem 1).

        Its layers have weights of variance 2/width, and see the place alone.
        """
        width = self.to_distance.in_features
        for i, layer in enumerate(self.trunk):
            assert isinstance(layer, nn.Linear)
            layer.weight.normal_(0, math.sqrt(2 / width))
            layer.bias.zero_()
            if i == 0:
                layer.weight[:, 3:] = 0
            elif i == self.options.skip:
                layer.weight[:, width:] = 0
        self.to_distance.weight.normal_(0, 1e-4 if not self.channels else math.sqrt(1 / width))
        self.to_distance.weight[0].normal_(math.sqrt(math.pi / width), 1e-4)
        self.to_distance.bias.zero_()
        self.to_distance.bias[0] = -radius

    @property
    def sharpness(self) -> Tensor:
        """s, per unit of length of the scene."""
        limit = math.log(SHARPEST)
        return torch.exp((10 * self.log_sharpness).clamp(-limit, limit)) / self.unit

    def sdf(self, x: Tensor) -> Tensor:
        """Signed distance [...] of points x [..., 3], negative inside."""
        points = x.reshape(-1, 3)
        h = inputs = self.inputs(points)
        for i, layer in enumerate(self.trunk):
            h = rounded_relu(layer(self.layer_input(i, h, inputs)))[0]
        last = self.to_distance
        distance = nn.functional.linear(h, last.weight[:1], last.bias[:1])
        return self.unit * distance.view(x.shape[:-1])

    def at(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance [N], its gradient [N, 3] and feature [N, F] at points [N, 3]."""
        octaves = self.encoding.octaves if isinstance(self.encoding, Frequency) else None
        # a grid has no written-out derivative: only this step is left to autograd
        with torch.enable_grad():
            tracked = points
            if octaves is None and not points.requires_grad:
                tracked = points.detach().requires_grad_()
            inputs = kept = self.inputs(tracked)
        if not torch.is_grad_enabled():
            inputs = inputs.detach()
        h = inputs
        slopes = []
        for i, layer in enumerate(self.trunk):
            h, slope = rounded_relu(layer(self.layer_input(i, h, inputs)))
            slopes.append(slope)
        out = self.to_distance(h)
        g = self.to_distance.weight[0] * slopes[-1]
        again = None  # what the skip connection sends back to the inputs
        for i in range(len(slopes) - 1, -1, -1):
            layer = self.trunk[i]
            assert isinstance(layer, nn.Linear)
            g = g @ layer.weight
            if i and i == self.options.skip:
                g, again = g[:, : -inputs.shape[1]], g[:, -inputs.shape[1] :]
            if i:
                g = g * slopes[i - 1]
        g = g if again is None else g + again
        if octaves is not None:
            normal = g[:, :3] + self.unit * encoding_gradient(g[:, 3:], inputs[:, 3:], octaves)
        else:
            with torch.enable_grad():
                (normal,) = torch.autograd.grad(
                    kept, tracked, self.unit * g, create_graph=g.requires_grad
                )
        return self.unit * out[:, 0], normal, out[:, 1:]

    def inputs(self, points: Tensor) -> Tensor:
        """Inputs [N, 3 + encoding] of the network at points [N, 3]: place and encoding."""
        return torch.cat([self.place(points), self.encoding(points)], -1)

    def place(self, points: Tensor) -> Tensor:
        """Points in units of the box's longest half side, about its middle."""
        return (points - points.new_tensor(self.middle)) / self.unit

    def layer_input(self, i: int, h: Tensor, inputs: Tensor) -> Tensor:
        """What layer i of the trunk sees: the layer before it, and the inputs again at the skip."""
        return torch.cat([h, inputs], -1) if i and i == self.options.skip else h

    def inside(self, x: Tensor) -> Tensor:
        """Whether points x [..., 3] lie in the box, [...]."""
        return ((x >= self.box[0]) & (x <= self.box[1])).all(-1)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        """s Φ_s(−f) at points x [..., 3]: [...], an attenuation per unit length.

        It is what a ray straight onto the surface meets: its integral is the optical depth.
        """
        s = self.sharpness
        inside = self.inside(x)
        density = s * torch.sigmoid(-s * self.sdf(x)) * inside
        if self.background is None:
            return density
        return torch.where(inside, density, self.background.density(self.contracted(x)))

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        if d is None:
            raise ValueError("the opacity of a surface depends on the direction it is seen along")
        inside = self.inside(x)
        spots = ((dt > 0) & inside).reshape(-1).nonzero()[:, 0]
        points = x.reshape(-1, 3).index_select(0, spots)
        ray = spots.div(max(dt.shape[-1], 1), rounding_mode="floor")
        ahead = d.expand(*dt.shape[:-1], 1, 3).reshape(-1, 3).index_select(0, ray)
        distance, normal, feature = self.at(points)
        self.normals = normal if torch.is_grad_enabled() else None
        slope = annealed((ahead * normal).sum(-1), self.annealing())
        length = dt.reshape(-1).index_select(0, spots)
        found = section_depth(distance, slope, length, self.sharpness)
        tau = found.new_zeros(dt.numel()).index_copy(0, spots, found).view(dt.shape)
        behind: FieldOutput | None = None
        n_evaluated: int | None = len(spots)
        if self.background is not None:
            behind = self.background(self.contracted(x), d, torch.where(inside, 0.0, dt))
            tau = tau + behind.tau
            n_behind = behind.n_evaluated
            n_evaluated = None if n_behind is None else len(spots) + n_behind
        if not self.channels:
            return FieldOutput(tau, n_evaluated=n_evaluated)
        with torch.no_grad():
            w = torch.exp(-exclusive_sum(tau)) * -torch.expm1(-tau)
            kept = (w.reshape(-1).index_select(0, spots) > self.options.faint).nonzero()[:, 0]
        known = [self.place(points), normal, feature]
        features = torch.cat([rows.index_select(0, kept) for rows in known], -1)
        seen = self.head(features, self.head.encoded(ahead.index_select(0, kept)))
        color = seen.new_zeros(dt.numel(), self.channels)
        color = color.index_copy(0, spots.index_select(0, kept), seen)
        color = color.view(*dt.shape, self.channels)
        if behind is not None and behind.color is not None:
            color = color + behind.color
        return FieldOutput(tau, color, n_evaluated)

    def contracted(self, x: Tensor) -> Tensor:
        """Points outside the box as the background sees them (mip-NeRF 360's contraction).

        They are (2 − 1/|u|∞) u/|u|∞, with |u|∞ = 1 on the box.
        """
        u = (x - self.box.mean(0)) / (0.5 * (self.box[1] - self.box[0]))
        size = u.abs().amax(-1, keepdim=True).clamp_min(1)
        return u / size * (2 - 1 / size)

    def annealing(self) -> float:
        """How far the slope is annealed: 0 at the beginning, 1 from ``anneal`` on."""
        anneal = self.options.anneal
        return 1.0 if self.progress >= anneal else self.progress / anneal

    def advance(self, progress: float) -> bool:
        self.progress = progress
        return self.background is not None and self.background.advance(progress)

    def regularisers(self) -> Penalties:
        return Penalties({"eikonal": self.eikonal})

    def eikonal(self) -> Tensor:
        """Mean (|∇f| − 1)² over the last batch and random points of the box (IGR, ICML 2020)."""
        normals = [self.box.new_zeros(0, 3) if self.normals is None else self.normals]
        if self.rng is not None and self.options.scatter:
            shape = (self.options.scatter, 3)
            place = torch.rand(shape, generator=self.rng, device=self.rng.device).to(self.box)
            normals.append(self.at(self.box[0] + place * (self.box[1] - self.box[0]))[1])
        length = torch.cat(normals).norm(dim=-1)
        return (length - 1).square().sum() / max(len(length), 1)

    def groups(self) -> list[dict[str, Any]]:
        grids = list(self.encoding.parameters())
        behind = [] if self.background is None else list(self.background.parameters())
        networks = other_parameters(self, [*grids, *behind])
        groups = parameter_groups((networks, 1.0), (grids, self.options.grid_rate))
        return groups if self.background is None else groups + self.background.groups()


def section_depth(distance: Tensor, slope: Tensor, dt: Tensor, s: Tensor | float) -> Tensor:
    """Optical depth log Φ_s(f⁻) − log Φ_s(f⁺) of sections, f∓ = f ∓ slope · dt/2; all [...].

    The slope is ≤ 0. 1 − exp(−tau) is NeuS's alpha, max(0, (Φ_s(f⁻) − Φ_s(f⁺)) / Φ_s(f⁻)) (eq. 13),
    without the 1e-5 that guards its division. Along sections that meet, tau telescopes: what a ray
    has left is Φ_s(last) / Φ_s(first).

    >>> f = torch.tensor([0.3, 0.1, -0.1])
    >>> tau = section_depth(f, torch.tensor(-1.0), torch.tensor(0.2), 10.0)
    >>> first, last = torch.sigmoid(torch.tensor([4.0, -2.0]))
    >>> bool(torch.isclose(torch.exp(-tau.sum()), last / first))
    True
    """
    half = 0.5 * slope * dt
    return relu(softplus(-s * (distance + half)) - softplus(-s * (distance - half)))


def annealed(cos: Tensor, r: float) -> Tensor:
    """The slope −(relu(½ − ½ cos)(1 − r) + relu(−cos) r) along a ray, for cos = n·d; all [...].

    At r = 0 there is a slope also where the ray leaves the surface. A ray that meets a wrong first
    guess from behind would else give it no slope to follow (NeuS's public code).
    """
    return -(relu(0.5 - 0.5 * cos) * (1 - r) + relu(-cos) * r)


class _RoundedRelu(torch.autograd.Function):
    """Value and slope in one node, each from few passes over memory."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.mul(z, 0.5 / CORNER).add_(0.5).clamp_(0, 1)
        value = torch.add(z, slope, alpha=-CORNER).add_(CORNER).mul_(slope)
        ctx.save_for_backward(slope)
        return value, slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_value: Tensor, to_slope: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return (
            torch.ops.aten.hardtanh_backward(to_slope, slope, 0.0, 1.0)
            .mul_(0.5 / CORNER)
            .addcmul_(to_value, slope)
        )


def rounded_relu(z: Tensor) -> Sequence[Tensor]:
    """A ReLU whose corner is a parabola over ±CORNER, (z + c)²/4c there, and its slope.

    >>> [[round(float(v), 4) for v in out] for out in rounded_relu(torch.tensor([0.0, 0.028, 2.0]))]
    [[0.007, 0.028, 2.0], [0.5, 1.0, 1.0]]
    """
    return _RoundedRelu.apply(z)
