"""A NeRF MLP whose weights are given: one set per patient of the batch, made by a generator.

Points [B, N, 3] in field units meet weights [B, out, in]: every layer is one batched matrix
product, in bf16 where the device is faster with it. Phases of the encoding, densities and
everything along the ray stay fp32.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..core.types import SUPPORT, FieldOutput
from .frequency import encoded_width
from .mlp import TiledMlp

# Of a tile, over all patients: its activations stay in a CPU core's cache; larger products run at
# half the speed.
TILE_POINTS = 8_192
Precision = Literal["auto", "fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARP_EDGE = 0.02  # field units over which a finished scan ends, above and below


@dataclass(frozen=True)
class CanonicalPose:
    """Where a patient lies: the similarity from room to anatomy, and how far the scan reaches.

    x' = (R (x − shift)) · exp(−log_scale) and density is zero outside bottom < z < top, softened
    over ``edge``. Field units.
    """

    shift: Tensor  # [B, 3]
    log_scale: Tensor  # [B, 3]
    rotation: Tensor  # [B, 3] rotation vector, radians
    extent: Tensor  # [B, 2] bottom and top of the scan
    edge: float = SHARP_EDGE

    def take(self, index: slice | Tensor) -> CanonicalPose:
        """The poses of some of the patients."""
        per_patient = ("shift", "log_scale", "rotation", "extent")
        return replace(self, **{name: getattr(self, name)[index] for name in per_patient})

    def to_anatomy(self, x: Tensor) -> Tensor:
        """Room coordinates [B, N, 3] to anatomical ones, in field units."""
        matrix = rotation_matrix(self.rotation) * torch.exp(-self.log_scale)[:, :, None]
        if x.device.type == "cpu":
            offset = -(matrix @ self.shift[..., None]).transpose(1, 2)
            return torch.baddbmm(offset, x, matrix.transpose(1, 2))
        # Sums, not a product of matrices: a GPU may round those to ten bits, and a place is no
        # activation.
        moved = x - self.shift[:, None]
        return sum(moved[..., i : i + 1] * matrix[:, None, :, i] for i in range(3))  # type: ignore[return-value]

    def window(self, x: Tensor) -> Tensor:
        """How much of the scan is there at x [B, N, 3]: 1 inside the slab, 0 outside, [B, N]."""
        z = x[..., 2]
        above_bottom = torch.sigmoid((z - self.extent[:, :1]) / self.edge)
        return above_bottom * torch.sigmoid((self.extent[:, 1:] - z) / self.edge)


@dataclass(frozen=True)
class MlpWeights:
    """The weights of one NeRF MLP per patient: what a generator makes of latents."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # (W [B, out, in], b [B, out]) per layer
    pose: CanonicalPose | None = None
    gain: Tensor | None = None  # [B] factor on density

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0]

    def one(self, i: int) -> MlpWeights:
        """The i-th patient alone, still batched."""
        return self.take(slice(i, i + 1))

    def take(self, index: slice | Tensor) -> MlpWeights:
        """The weights of some of the patients."""
        return MlpWeights(
            tuple((w[index], b[index]) for w, b in self.layers),
            None if self.pose is None else self.pose.take(index),
            None if self.gain is None else self.gain[index],
        )


def rotation_matrix(vector: Tensor) -> Tensor:
    """Rotation matrices [B, 3, 3] of rotation vectors [B, 3] in radians.

    This is Rodrigues' formula, through the matrix exponential.
    """
    zero = torch.zeros_like(vector[:, 0])
    x, y, z = vector.unbind(-1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.matrix_exp(cross)


class HyperField:
    """A field over given :class:`MlpWeights`: density, and colour where there are four outputs.

    density = softplus(h − 1) · gain per field unit, inside the support cylinder |xy| < ``support``.
    A skip connection feeds the encoded point again into layer ``skip`` (0: none). The layers are
    computed in ``precision``; ``auto`` takes what is faster on the device.
    """

    def __init__(
        self,
        *,
        octaves: int = 7,
        skip: int = 0,
        support: float = SUPPORT,
        precision: Precision = "auto",
    ) -> None:
        self.octaves = octaves
        self.skip = skip
        self.support = support
        self.precision = precision

    def dtype(self, device: torch.device) -> torch.dtype:
        """The type of number in which the layers are computed on a device."""
        return DTYPES.get(self.precision) or fastest_dtype(device)

    def heads(self, x: Tensor, code: MlpWeights) -> Tensor:
        """Raw outputs of the MLP at anatomical points: [B, N, 3] -> [B, N, outputs], fp32."""
        tile = max(256, TILE_POINTS // code.batch) if x.device.type == "cpu" else x.shape[1]
        return TiledMlp.apply(
            x,
            self.octaves,
            self.skip,
            tile,
            self.dtype(x.device),
            *(t for layer in code.layers for t in layer),
        )

    def density(self, x: Tensor, code: MlpWeights) -> Tensor:
        """Attenuation per field unit: x [B, N, 3] -> [B, N]."""
        return self._evaluate(x, code)[0]

    def _evaluate(self, x: Tensor, code: MlpWeights) -> tuple[Tensor, Tensor]:
        """Density [B, N] and the other raw outputs [B, N, outputs − 1] at points x [B, N, 3]."""
        anatomy = x if code.pose is None else code.pose.to_anatomy(x)
        raw = self.heads(anatomy, code)
        density = softplus(raw[..., 0] - 1)
        if code.pose is not None:
            density = density * code.pose.window(x)
        if code.gain is not None:
            density = density * code.gain[:, None]
        return density * (x[..., :2].square().sum(-1) < self.support**2), raw[..., 1:]

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: MlpWeights) -> FieldOutput:
        """Samples x [B, R, S, 3] of lengths dt [B, R, S]; seen alike from everywhere."""
        density, rest = self._evaluate(x.flatten(1, -2), code)
        color = torch.sigmoid(rest).view(*dt.shape, -1) if rest.shape[-1] else None
        return FieldOutput(density.view_as(dt) * dt, color)


def padded_width(octaves: int) -> int:
    """Inputs of the first layer: the encoding's features, padded to a multiple of 16."""
    return -(-encoded_width(octaves) // 16) * 16


@functools.cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """bf16 where a small matrix product is faster in it than in fp32, fp32 elsewhere.

    On a CPU this is measured, once per process.
    """
    if device.type != "cpu":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(4, 4096, 96, dtype=dtype)
        b = torch.ones(4, 96, 96, dtype=dtype)
        torch.bmm(a, b)
        start = time.perf_counter()
        for _ in range(3):
            torch.bmm(a, b)
        seconds[dtype] = time.perf_counter() - start
    much_faster = seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]
    return torch.bfloat16 if much_faster else torch.float32
