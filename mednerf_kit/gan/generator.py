"""The generator: a random code becomes the weights of a NeRF MLP.

HyperNeRFGAN's idea (arXiv 2301.11631; factorised multiplicative modulation from INR-GAN, arXiv
2011.12026): every layer has one shared weight S; a patient's weight is W = S ⊙ (1 + act(L R / √r))
with low-rank factors L, R read from the patient's style w. Beside the style a *pose* code says
where the patient lies and how far the scan reaches, so that the style need only explain anatomy.

A sample of a generator is called a patient here, whatever the pictures show that it learned from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator as Random
from torch import Tensor, nn

from ..core.config import Registry
from ..core.errors import UserError
from ..core.types import SUPPORT
from ..fields.hyper import (
    SHARP_EDGE,
    CanonicalPose,
    HyperField,
    MlpWeights,
    Precision,
    padded_width,
)

GENERATORS: Registry[PatientGenerator] = Registry("generator", home=__package__)
POSE_DIM = 11  # shift 3, log-scale 3, rotation 3, scan extent 2


@dataclass(frozen=True)
class Latent:
    """A batch of patients as codes."""

    w: Tensor  # [B, code_dim] style
    pose: Tensor  # [B, POSE_DIM] standardised: prior N(0, 1)
    # per layer [B, (in + out)·rank]: pivotal tuning's additions to the factors
    deltas: tuple[Tensor, ...] | None = None


class PatientGenerator(nn.Module):
    """What every generator is to training, inversion and rendering: standard normal numbers in, the
    weights of a field out.

    Where a latent's ``pose`` has three numbers it is a rotation vector that turns the patient, zero
    as drawn.
    """

    field: Any  # a field over the codes that ``weights`` makes, with its ``support``
    field_outputs: int  # 1 for density alone, 4 with colour

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The precision of its fields on the device where it is now: what ``auto`` has come to."""
        return "bf16" if self.field.dtype(self.device) is torch.bfloat16 else "fp32"

    @property
    def latent_dim(self) -> int:
        """How many numbers make a patient."""
        raise NotImplementedError

    def latent(self, eps: Tensor) -> Latent:
        """Patients from standard normal numbers [B, latent_dim]."""
        raise NotImplementedError

    def draw(self, n: int, rng: Random, *, truncation: float = 1.0) -> Latent:
        """n random patients; ``truncation`` below 1 draws nearer to the mean."""
        eps = torch.randn((n, self.latent_dim), generator=rng, device=rng.device)
        return self.latent(truncation * eps.to(next(self.parameters())))

    def weights(self, latent: Latent) -> MlpWeights:
        """The field's weights of each patient."""
        raise NotImplementedError

    def no_deltas(self, n: int) -> tuple[Tensor, ...]:
        """Zero additions for n patients, ready to be tuned."""
        raise NotImplementedError


def turned(rotation: Tensor) -> CanonicalPose:
    """The pose of patients that are only turned, by rotation vectors [B, 3] in radians."""
    still = torch.zeros_like(rotation)
    return CanonicalPose(still, still, rotation, still[:, :2])


@GENERATORS.register("hyper")
class HyperGenerator(PatientGenerator):
    """A style and a pose modulate every layer of a small NeRF, in low rank.

    z [code_dim] becomes the style w by a mapping of three layers.

    Options:
        code_dim: numbers of z, and of w.
        width: units of each hidden layer of the field.
        depth: hidden layers of the field.
        octaves: frequencies of the encoding of points.
        rank: rank of the factors L and R of a layer.
        skip: the layer that gets the encoded point again; 0 means none.
        modulation: ``demod`` scales each output row of W to unit length; ``tanh`` and ``sigmoid``
            bound the factor 1 + act(·) instead.
        mapping_width: units of the mapping's hidden layers.
        outputs: 1 for density alone, 4 for density and colour.
        support: radius of the cylinder outside of which there is nothing, in field units.
        pose_spread: factor on how far random patients lie from the mean pose at first; a small one
            for a single patient, whom random poses only blur.
        precision: what the field is computed in, ``fp32`` or ``bf16``; ``auto`` takes the faster.
    """

    prior_mean: Tensor  # [latent_dim]
    prior_factor: Tensor  # [latent_dim, latent_dim] lower triangular

    def __init__(
        self,
        *,
        code_dim: int = 96,
        width: int = 96,
        depth: int = 4,
        octaves: int = 7,
        rank: int = 10,
        skip: int = 0,
        modulation: Literal["demod", "tanh", "sigmoid"] = "tanh",
        mapping_width: int = 128,
        outputs: Literal[1, 4] = 1,
        support: float = SUPPORT,
        pose_spread: float = 1.0,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        least = min(code_dim, width, depth, octaves, rank, mapping_width)
        if least < 1 or not 0 <= skip <= depth or min(support, pose_spread) <= 0:
            raise UserError(
                f"got code_dim {code_dim}, width {width}, depth {depth}, octaves {octaves}, rank "
                f"{rank}, skip {skip}, support {support:g}, pose_spread {pose_spread:g}",
                "wanted positive ones and a skip of 0 (none) to depth",
                "correct the generator's options",
            )
        self.field_outputs = outputs
        self.code_dim, self.rank, self.modulation = code_dim, rank, modulation
        self.field = HyperField(octaves=octaves, skip=skip, support=support, precision=precision)
        self.mapping = nn.Sequential(
            nn.Linear(code_dim, mapping_width),
            nn.LeakyReLU(0.2),
            nn.Linear(mapping_width, code_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(code_dim, code_dim),
        )
        first = padded_width(octaves)
        inputs = [first] + [width] * depth
        if skip:
            inputs[skip] += first
        sizes = list(zip(inputs, [width] * depth + [outputs], strict=True))
        self.shared = nn.ParameterList(torch.randn(o, i) * math.sqrt(2 / i) for i, o in sizes)
        self.bias = nn.ParameterList(torch.zeros(o) for _, o in sizes)
        affine = [nn.Linear(code_dim, (i + o) * rank + o) for i, o in sizes]
        self.affine = nn.ModuleList(affine)
        for layer, (_, o) in zip(affine, sizes, strict=True):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(code_dim))
            nn.init.normal_(layer.bias, std=0.5)
            with torch.no_grad():
                layer.weight[-o:] *= 0.1
                layer.bias[-o:] = 0
        with torch.no_grad():
            self.shared[-1] *= 0.3
        self.pose_mean = nn.Parameter(torch.tensor([0.0] * 9 + [-1.0, 1.0]))
        pose_std = torch.tensor([0.15] * 3 + [0.15] * 3 + [0.1] * 3 + [0.2] * 2)
        self.pose_log_std = nn.Parameter((pose_spread * pose_std).log())
        n = code_dim + POSE_DIM
        self.register_buffer("prior_mean", torch.zeros(n))
        self.register_buffer("prior_factor", torch.eye(n))

    @property
    def latent_dim(self) -> int:
        """How many numbers make a patient: the style's code and the pose."""
        return self.code_dim + POSE_DIM

    @torch.no_grad()
    def fit_prior(self, table: Tensor, *, shrink: float = 0.2) -> None:
        """Describe trained codes [P, latent_dim] by one Gaussian, u = mean + factor·eps.

        Its covariance is shrunk to the diagonal, (1 − shrink)·C + shrink·diag(C) (Ledoit & Wolf
        2004 in spirit): directions along which no patient varies stay small.
        """
        mean = table.mean(0)
        c = (table - mean).T @ (table - mean) / max(len(table) - 1, 1)
        c = (1 - shrink) * c + torch.diag(shrink * c.diagonal() + 1e-4)
        self.prior_mean.copy_(mean)
        self.prior_factor.copy_(torch.linalg.cholesky(c))

    def latent(self, eps: Tensor) -> Latent:
        """Patients from standard normal numbers [B, latent_dim]."""
        return self.coded(self.unwhiten(eps))

    def coded(self, u: Tensor) -> Latent:
        """Patients from codes [B, latent_dim]: z and the pose."""
        return Latent(self.map(u[:, : self.code_dim]), u[:, self.code_dim :])

    def whiten(self, table: Tensor) -> Tensor:
        """The eps of known codes [P, latent_dim]: the inverse of :meth:`unwhiten`."""
        centred = (table - self.prior_mean).T
        return torch.linalg.solve_triangular(self.prior_factor, centred, upper=False).T

    def unwhiten(self, eps: Tensor) -> Tensor:
        """The codes of numbers eps [B, latent_dim], by the prior's affine map."""
        return self.prior_mean + eps @ self.prior_factor.T

    def map(self, z: Tensor) -> Tensor:
        """z [B, code_dim] -> w [B, code_dim]."""
        return self.mapping(z)

    def canonical_pose(self, pose: Tensor, *, edge: float = SHARP_EDGE) -> CanonicalPose:
        """Standardised pose codes [B, POSE_DIM] as shift, scale, rotation and scan extent; ``edge``
        (field units) is how softly the scan ends.
        """
        p = self.pose_mean + self.pose_log_std.exp() * pose
        return CanonicalPose(p[:, :3], p[:, 3:6], p[:, 6:9], p[:, 9:11], edge)

    def weights(self, latent: Latent, *, edge: float = SHARP_EDGE) -> MlpWeights:
        """The weights of every layer of each patient's NeRF, made once for the whole batch;
        ``edge`` as in :meth:`canonical_pose`.
        """
        layers = []
        parts = zip(self.shared, self.bias, self.affine, strict=True)
        for k, (shared, bias, affine) in enumerate(parts):
            o, i = shared.shape
            numbers = affine(latent.w)
            factors, shift = numbers[:, : (i + o) * self.rank], numbers[:, (i + o) * self.rank :]
            if latent.deltas is not None:
                factors = factors + latent.deltas[k]
            left = factors[:, : o * self.rank].unflatten(1, (o, self.rank))
            right = factors[:, o * self.rank :].unflatten(1, (self.rank, i))
            weight = self.modulate(shared, left @ right / math.sqrt(self.rank))
            layers.append((weight, bias + shift))
        return MlpWeights(tuple(layers), self.canonical_pose(latent.pose, edge=edge))

    def modulate(self, shared: Tensor, m: Tensor) -> Tensor:
        """W = S ⊙ (1 + act(M)), [B, out, in]."""
        if self.modulation == "tanh":
            return shared * (1 + torch.tanh(m))
        if self.modulation == "sigmoid":
            return shared * (0.5 + torch.sigmoid(m))
        w = shared * (1 + m)
        return w * math.sqrt(2) / (w.norm(dim=-1, keepdim=True) + 1e-8)

    def no_deltas(self, n: int) -> tuple[Tensor, ...]:
        """Zero additions to every layer's factors, ready to be tuned."""
        return tuple(torch.zeros(n, sum(s.shape) * self.rank, device=s.device) for s in self.shared)
