"""A small self-supervised discriminator after FastGAN (arXiv 2101.04775), with DAG heads as in
MedNeRF (arXiv 2202.01020).

Beside its logits it must be able to draw what it saw: one decoder repeats the whole picture from
the coarsest map, another a quadrant from the middle map. How far the drawings are off is part of
its loss on real pictures. Group normalisation replaces batch normalisation: a picture's logits do
not depend on which others share its batch or its device.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from ..core.errors import UserError
from ..core.types import DiscriminatorOutput
from .dag import Dag
from .discriminator import DISCRIMINATORS
from .layers import leaky_relu

DECODED_FROM = 8  # pixels of the maps that the decoders enlarge


def normalised_conv(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, rng: Generator | None = None
) -> nn.Module:
    """A convolution with spectral normalisation (arXiv 1802.05957), padded by (kernel − 1) // 2."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)
    nn.init.normal_(conv.weight, std=0.02, generator=rng)
    return spectral_norm(conv)


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation of each picture by itself, in up to eight groups of channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Excitation(nn.Module):
    """Weighs the channels of a coarse map y by what a finer map x saw: y · sigmoid(conv(pool(x)))
    (FastGAN, eq. 1).
    """

    def __init__(self, fine: int, coarse: int, *, rng: Generator | None = None) -> None:
        super().__init__()
        self.squeeze = spectral_norm(nn.Conv2d(fine, coarse, 4, bias=False))
        self.weigh = normalised_conv(coarse, coarse, 1, rng=rng)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        squeezed = leaky_relu(self.squeeze(functional.adaptive_avg_pool2d(fine, 4)))
        return coarse * torch.sigmoid(self.weigh(squeezed))


class Decoder(nn.Module):
    """Draws a picture of 8·2^doublings pixels in [0, 1] from a map, by nearest upsampling and gated
    convolutions.
    """

    def __init__(
        self, inputs: int, channels: int, doublings: int, *, rng: Generator | None = None
    ) -> None:
        super().__init__()
        widths = [max(4, inputs // 2**k) for k in range(doublings + 1)]
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2),
                normalised_conv(i, 2 * o, 3, rng=rng),
                group_norm(2 * o),
                nn.GLU(1),
            )
            for i, o in zip(widths, widths[1:], strict=False)
        )
        self.paint = normalised_conv(widths[-1], channels, 3, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(x, DECODED_FROM)
        for step in self.steps:
            x = step(x)
        return torch.sigmoid(self.paint(x))


def quadrant(x: Tensor, which: int) -> Tensor:
    """Quadrant 0 … 3, in reading order, of maps or pictures [..., H, W] -> [..., H//2, W//2].

    >>> quadrant(torch.arange(16).view(4, 4), 2).tolist()
    [[8, 9], [12, 13]]
    """
    height, width = x.shape[-2:]
    top, left = (which // 2) * (height - height // 2), (which % 2) * (width - width // 2)
    return x[..., top : top + height // 2, left : left + width // 2]


@DISCRIMINATORS.register("selfsup")
class SelfSupervisedDiscriminator(nn.Module):
    """MedNeRF's discriminator: logits of a patch, and drawings of it that are part of its loss.

    Three maps of the patch have full, half and quarter resolution; logits come from the last,
    drawings from the last two. All heads share the trunk and a 1×1 layer; each has its own 4×4
    convolution, whose logits are averaged over the map. Pictures lie in [0, 1].

    Options:
        size: side of the pictures in pixels, at least 16.
        channels: channels of the pictures.
        width: channels of the full-resolution map.
        policy: the transforms of the heads, a name or a list of them.
        heads: how many heads the policy must make; null does not ask.
        dag_weight: weight λ of the later heads together, against 1 of the first.
        doublings: the drawings have 8·2^doublings pixels a side (4: 128, as published).

    >>> model = SelfSupervisedDiscriminator(size=16, channels=1, doublings=1, width=4)
    >>> output = model(torch.rand(2, 1, 16, 16), rng=Generator().manual_seed(0))
    >>> output.heads.shape, output.extras["part"].shape
    (torch.Size([2, 4]), torch.Size([4, 2, 1, 16, 16]))
    """

    decodes = True

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        width: int = 16,
        policy: tuple | str = "fliprot",
        heads: int | None = None,
        dag_weight: float = 0.2,
        doublings: int = 4,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        if size < 16 or min(channels, width) < 1 or not 0 <= doublings <= 6 or dag_weight < 0:
            raise UserError(
                f"got size {size}, channels {channels}, width {width}, doublings {doublings} and "
                f"dag_weight {dag_weight:g}",
                "wanted pictures of at least 16 px, positive widths, 0 to 6 doublings and a "
                "dag_weight of at least 0",
                "correct the discriminator's options",
            )
        self.size, self.channels, self.dag_weight = size, channels, dag_weight
        self.dag = Dag(policy, heads=heads)
        self.fine = normalised_conv(channels, width, 3, rng=rng)
        self.halve, self.quarter = (
            nn.Sequential(normalised_conv(n, 2 * n, 4, stride=2, rng=rng), group_norm(2 * n))
            for n in (width, 2 * width)
        )
        self.excite_half = Excitation(width, 2 * width, rng=rng)
        self.excite_quarter = Excitation(2 * width, 4 * width, rng=rng)
        self.mix = nn.Sequential(
            normalised_conv(4 * width, 16 * width, 1, rng=rng), group_norm(16 * width)
        )
        self.logits = spectral_norm(nn.Conv2d(16 * width, self.dag.count, 4, bias=False))
        self.draw_whole = Decoder(4 * width, channels, doublings, rng=rng)
        self.draw_part = Decoder(2 * width, channels, doublings, rng=rng)

    def forward(
        self,
        images: Tensor,
        angles_deg: Tensor | None = None,
        *,
        heads: int | None = None,
        rng: Generator | None = None,
    ) -> DiscriminatorOutput:
        """Logits of pictures [B, C, size, size]; angles are not used. ``heads`` asks for the first
        few heads only: [B, heads].

        With ``rng``, which chooses a quadrant, ``extras`` holds drawings and what they should show:
        ``whole`` and ``whole_target``, ``part`` and ``part_target``, each [heads, B, C, n, n].
        """
        if images.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(
                f"images: expected [B, {self.channels}, {self.size}, {self.size}], "
                f"got {list(images.shape)}"
            )
        count = min(heads or self.dag.count, self.dag.count)
        stacked = self.dag.stack(images, count)
        fine = leaky_relu(self.fine(2 * stacked - 1))
        half = self.excite_half(fine, leaky_relu(self.halve(fine)))
        quarter = self.excite_quarter(half, leaky_relu(self.quarter(half)))
        logits = self.logits(leaky_relu(self.mix(quarter))).mean((2, 3))
        logits = logits.unflatten(0, (count, len(images)))  # [K, B, heads]
        own_logits = logits[..., :count].diagonal(dim1=0, dim2=2)
        if rng is None:
            return DiscriminatorOutput(own_logits)
        which = int(torch.randint(4, (), generator=rng))
        drawn = {"whole": self.draw_whole(quarter), "part": self.draw_part(quadrant(half, which))}
        wanted = {"whole_target": stacked, "part_target": quadrant(stacked, which)}
        n = drawn["whole"].shape[-1]
        for name, picture in wanted.items():
            drawn[name] = functional.interpolate(
                picture, (n, n), mode="bilinear", align_corners=False
            )
        extras = {k: v.unflatten(0, (count, len(images))) for k, v in drawn.items()}
        return DiscriminatorOutput(own_logits, extras)
