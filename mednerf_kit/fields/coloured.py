"""A NeRF MLP with given weights that has colours too, as photographs need it.

The trunk is the batched MLP of :mod:`.hyper`; its first output is the density, the rest is colour,
or a feature that a small branch turns into colour (NeRF's, Mildenhall et al. 2020, figure 7).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.types import SUPPORT, FieldOutput
from .frequency import frequency_encoding
from .hyper import HyperField, MlpWeights, Precision, rotation_matrix

Layer = tuple[Tensor, Tensor]  # W [B, out, in], b [B, out]


class ColouredField:
    """A field over given :class:`~mednerf_kit.fields.hyper.MlpWeights`: density and colour.

    density = ReLU(h₀) inside the cylinder |xy| < ``support`` and 0 outside, colour = sigmoid(…).
    Without a ``branch`` the last layer's outputs are (density, colour …), or density alone where it
    has one output. With one, the last two layers are the branch: (feature, direction encoded in
    ``view_octaves`` octaves) -> ReLU -> colour; 0 octaves leave the direction out. A canonical pose
    turns the patient. All lengths are in field units.
    """

    def __init__(
        self,
        *,
        octaves: int,
        skip: int = 0,
        support: float = SUPPORT,
        branch: bool = False,
        view_octaves: int = 0,
        precision: Precision = "auto",
    ) -> None:
        self.mlp = HyperField(octaves=octaves, skip=skip, support=support, precision=precision)
        self.support = support
        self.branch = branch
        self.view_octaves = view_octaves

    @property
    def precision(self) -> Precision:
        """What the layers are computed in, or ``auto``."""
        return self.mlp.precision

    @precision.setter
    def precision(self, wanted: Precision) -> None:
        self.mlp.precision = wanted

    def dtype(self, device: torch.device) -> torch.dtype:
        """What the layers are computed in on a device."""
        return self.mlp.dtype(device)

    def density(self, x: Tensor, code: MlpWeights) -> Tensor:
        """Attenuation per field unit: x [B, N, 3] -> [B, N]."""
        return self._inside(x, self._raw(x, code)[..., 0].relu())

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: MlpWeights) -> FieldOutput:
        """Samples x [B, R, S, 3] of lengths dt [B, R, S] seen along d [B, R, 1, 3]."""
        return self.evaluate(x, d, dt, code)

    def evaluate(
        self, x: Tensor, d: Tensor | None, dt: Tensor, code: MlpWeights, noise: Tensor | None = None
    ) -> FieldOutput:
        """As a call, with ``noise`` [B, R, S] added to the density before its ReLU.

        This is NeRF's regulariser while training.
        """
        points = x.flatten(1, -2)
        raw = self._raw(points, code)
        density = raw[..., 0] if noise is None else raw[..., 0] + noise.flatten(1)
        tau = self._inside(points, density.relu()).view_as(dt) * dt
        rest = raw[..., 1:].unflatten(1, dt.shape[1:])
        if self.branch:
            rest = self._branched(rest, d, code)
        return FieldOutput(tau, torch.sigmoid(rest) if rest.shape[-1] else None)

    def _raw(self, points: Tensor, code: MlpWeights) -> Tensor:
        """The trunk's outputs at room coordinates [B, N, 3] -> [B, N, out]."""
        anatomy = points if code.pose is None else code.pose.to_anatomy(points)
        trunk = replace(code, layers=code.layers[:-2]) if self.branch else code
        return self.mlp.heads(anatomy.expand(code.batch, -1, -1), trunk)

    def _inside(self, points: Tensor, density: Tensor) -> Tensor:
        return density * (points[..., :2].square().sum(-1) < self.support**2)

    def _branched(self, feature: Tensor, d: Tensor | None, code: MlpWeights) -> Tensor:
        """Features [B, R, S, F] and directions [B, R, 1, 3] through the branch: [B, R, S, C]."""
        (w, b), (w_out, b_out) = code.layers[-2:]
        n = feature.shape[-1]
        hidden = applied(feature, w[..., :n], b)
        if self.view_octaves:
            if d is None:
                raise ValueError(
                    "d: the colour of this field depends on the viewing direction "
                    "and needs one per ray"
                )
            if code.pose is not None:
                d = d @ rotation_matrix(code.pose.rotation)[:, None].transpose(-2, -1)
            seen = frequency_encoding(d, self.view_octaves)
            hidden = hidden + applied(seen, w[..., n:], torch.zeros_like(b))
        return applied(hidden.relu(), w_out, b_out)


def applied(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """One layer of each patient: x [B, …, in], W [B, out, in], b [B, out] -> [B, …, out]."""
    flat = torch.baddbmm(b[:, None], x.flatten(1, -2), w.transpose(1, 2))
    return flat.unflatten(1, x.shape[1:-1])


def shifted(layers: tuple[Layer, ...], deltas: tuple[Tensor, ...] | None) -> tuple[Layer, ...]:
    """Layers with additions [B, out·in + out] to the weights and biases of each.

    So a network is tuned without the generator that made it.

    >>> layers = ((torch.zeros(1, 2, 3), torch.zeros(1, 2)),)
    >>> w, b = shifted(layers, (torch.arange(8.0)[None],))[0]
    >>> w[0, 1].tolist(), b[0].tolist()
    ([3.0, 4.0, 5.0], [6.0, 7.0])
    """
    if deltas is None:
        return layers
    return tuple(
        (w + delta[:, : w[0].numel()].view(len(delta), *w.shape[1:]), b + delta[:, w[0].numel() :])
        for (w, b), delta in zip(layers, deltas, strict=True)
    )


def no_shift(layers: tuple[Layer, ...], n: int) -> tuple[Tensor, ...]:
    """Zero additions for n patients of this architecture, ready to be tuned."""
    return tuple(torch.zeros(n, w[0].numel() + b[0].numel(), device=w.device) for w, b in layers)
