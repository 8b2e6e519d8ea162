"""Discriminators: one trunk, several DAG heads, logits out. Their losses are in :mod:`.losses`.

``forward(images, angles_deg)`` returns a :class:`~mednerf_kit.core.types.DiscriminatorOutput` with
logits ``heads`` [B, K], where head k has seen transform k of the picture. All heads go through the
trunk in one batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from ..core.config import Registry
from ..core.errors import UserError
from ..core.types import DiscriminatorOutput
from .dag import Dag
from .layers import Conv2d, Linear, blurred, downsample, leaky_gain, leaky_relu, minibatch_stddev

DISCRIMINATORS: Registry[Discriminator] = Registry("discriminator", home=__package__)
GAIN = leaky_gain()


class Discriminator(Protocol):
    """A discriminator of pictures as training needs it: a module that knows the size of its
    pictures and the weight of its later heads.
    """

    size: int  # pixels
    dag_weight: float

    def __call__(
        self, images: Tensor, angles_deg: Tensor | None = None, *, heads: int | None = None
    ) -> DiscriminatorOutput: ...

    def to(self, device: str | torch.device) -> Discriminator: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def requires_grad_(self, requires_grad: bool = True) -> Discriminator: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class ResidualBlock(nn.Module):
    """Halves the resolution: (convolved path + linear path) / sqrt(2),
    [B, C, H, W] -> [B, C', H//2, W//2].

    Both paths are low-passed before a convolution at the lower resolution, so that no convolution
    strides over aliases.
    """

    def __init__(self, inputs: int, outputs: int, *, rng: Generator | None = None) -> None:
        super().__init__()
        # leaky ReLU passes factors through: the sum's 1/sqrt(2) sits in the weights
        half = math.sqrt(0.5)
        self.fine = Conv2d(inputs, inputs, 3, gain=GAIN, rng=rng)
        self.coarse = Conv2d(inputs, outputs, 3, gain=GAIN * half, rng=rng)
        self.skip = Conv2d(inputs, outputs, 1, gain=half, bias=None, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        convolved = leaky_relu(self.coarse(downsample(leaky_relu(self.fine(x)))))
        return convolved + self.skip(downsample(x))


@DISCRIMINATORS.register("residual")
class ResidualDiscriminator(nn.Module):
    """A residual convolutional discriminator with DAG heads (after arXiv 1912.04958, 2006.05338).

    From the picture's size the resolution is halved to 4 … 7 pixels; a layer at resolution r has
    min(32768·fmaps / r, max_channels) channels. Then come the minibatch deviation, one more
    convolution, one dense layer of features φ, and per head the logit w_k·φ + b_k. Pictures lie in
    [0, 1].

    Options:
        size: side of the pictures in pixels, at least 16.
        channels: channels of the pictures.
        fmaps: factor on the number of channels of every layer.
        max_channels: channels of a layer at most.
        mbstd_group: pictures among which the minibatch deviation is taken.
        policy: the transforms of the heads, a name or a list of them.
        heads: how many heads the policy must make; null does not ask.
        dag_weight: weight λ of the later heads together, against 1 of the first.
        detail: factor on the detail of a picture x, x + (detail − 1)·(x − blur(x)), before the
            first layer; blur is the filter [1, 4, 6, 4, 1]/16. Where fakes are known patients, all
            that tells them from their DRRs is their blur, which is small beside anatomy: amplified,
            it is learned within tens of steps.
        condition_angle: add the projection e_k(a)·φ of an embedding of (cos a, sin a) (arXiv
            1802.05637), so that a picture must also fit the view angle it claims.

    >>> model = ResidualDiscriminator(size=16, fmaps=1 / 64, policy=["rotation", "cropping"])
    >>> model(torch.rand(2, 1, 16, 16)).heads.shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        *,
        size: int,
        channels: int = 1,
        fmaps: float = 0.25,
        max_channels: int = 512,
        mbstd_group: int = 4,
        policy: tuple | str = "fliprot",
        heads: int | None = None,
        dag_weight: float = 0.2,
        detail: float = 1.0,
        condition_angle: bool = False,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        if size < 16 or channels < 1:
            raise UserError(
                f"got pictures of {size}×{size} pixels and {channels} channels for the "
                "discriminator",
                "wanted at least 16×16 and 1 channel",
                "choose a larger size",
            )
        if min(fmaps, detail) <= 0 or min(max_channels, mbstd_group) < 1 or dag_weight < 0:
            raise UserError(
                f"got fmaps {fmaps:g}, max_channels {max_channels}, mbstd_group {mbstd_group}, "
                f"detail {detail:g} and dag_weight {dag_weight:g}",
                "wanted positive ones and a dag_weight of at least 0",
                "correct the discriminator's options",
            )
        self.size, self.channels = size, channels
        self.mbstd_group, self.dag_weight, self.detail = mbstd_group, dag_weight, detail
        self.dag = Dag(policy, heads=heads)
        resolutions = [size >> i for i in range(int(math.log2(size / 4)) + 1)]
        widths = [max(1, min(max_channels, int(32768 * fmaps / r))) for r in resolutions]
        last, features = resolutions[-1], widths[-1]
        self.stem = Conv2d(channels, widths[0], 1, gain=GAIN, rng=rng)
        blocks = [ResidualBlock(i, o, rng=rng) for i, o in itertools.pairwise(widths)]
        self.blocks = nn.Sequential(*blocks)
        self.mix = Conv2d(features + 1, features, 3, gain=GAIN, rng=rng)
        self.dense = Linear(features * last**2, features, gain=GAIN, rng=rng)
        self.heads = Linear(features, self.dag.count, rng=rng)
        self.embed = (
            nn.Sequential(
                Linear(2, features, gain=GAIN, rng=rng),
                nn.LeakyReLU(0.2),
                Linear(features, self.dag.count * features, bias=None, rng=rng),
            )
            if condition_angle
            else None
        )

    def forward(
        self, images: Tensor, angles_deg: Tensor | None = None, *, heads: int | None = None
    ) -> DiscriminatorOutput:
        """Logits of pictures [B, C, size, size] in [0, 1], seen at angles [B] (needed, and used,
        only if conditioned on them).

        ``heads`` asks for the first few heads only (a gradient penalty needs head 0): [B, heads].
        """
        if images.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(
                f"images: expected [B, {self.channels}, {self.size}, {self.size}], "
                f"got {list(images.shape)}"
            )
        count = min(heads or self.dag.count, self.dag.count)
        group = math.gcd(len(images), self.mbstd_group)  # divides B: no group mixes two transforms
        # [K, B, features]
        phi = self.trunk(self.dag.stack(images, count), group).unflatten(0, (count, len(images)))
        # each head reads its own transform
        logits = self.heads(phi)[..., :count].diagonal(dim1=0, dim2=2)
        if self.embed is not None:
            if angles_deg is None:
                raise ValueError(
                    "angles_deg: this discriminator is conditioned on the view angle "
                    "and needs one per picture"
                )
            angle = torch.deg2rad(angles_deg.to(phi))
            embedding = self.embed(torch.stack([angle.cos(), angle.sin()], -1))
            embedding = embedding.unflatten(-1, (self.dag.count, -1))[:, :count]
            projection = (phi.movedim(0, 1) * embedding).sum(-1)
            logits = logits + projection / math.sqrt(phi.shape[-1])
        return DiscriminatorOutput(logits)

    def trunk(self, images: Tensor, group: int) -> Tensor:
        """Features of transformed pictures [N, C, size, size] -> [N, features]; pictures of a group
        are compared with each other.
        """
        if self.detail != 1:
            images = images + (self.detail - 1) * (images - blurred(images))
        x = leaky_relu(self.stem(2 * images - 1))
        x = self.blocks(x.contiguous(memory_format=torch.channels_last))
        x = leaky_relu(self.mix(minibatch_stddev(x, group)))
        return leaky_relu(self.dense(x.flatten(1)))
