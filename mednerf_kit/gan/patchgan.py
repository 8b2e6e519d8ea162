"""GRAF's discriminator: strided convolutions down to one logit (arXiv 1611.07004, 2007.02442).

Spectral normalisation on every convolution, instance normalisation between them: nothing is shared
across the batch.
"""

from __future__ import annotations

import itertools

from torch import Generator, Tensor, nn

from ..core.errors import UserError
from ..core.types import DiscriminatorOutput
from .dag import Dag
from .discriminator import DISCRIMINATORS
from .selfsup import normalised_conv


@DISCRIMINATORS.register("patchgan")
class PatchGan(nn.Module):
    """GRAF's discriminator: strided convolutions halve a patch to 4 … 7 pixels, then 4×4 logits.

    Each halving doubles the channels, up to eight times ``width``. Head k is its own channel of the
    last layer. Pictures lie in [0, 1].

    Options:
        size: side of the pictures in pixels, at least 16.
        channels: channels of the pictures.
        width: channels after the first halving.
        policy: the transforms of the heads, a name or a list of them.
        heads: how many heads the policy must make; null does not ask.
        dag_weight: weight λ of the later heads together, against 1 of the first.

    >>> import torch
    >>> PatchGan(size=16, channels=1, width=4)(torch.rand(2, 1, 16, 16)).heads.shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        width: int = 64,
        policy: tuple | str = "none",
        heads: int | None = None,
        dag_weight: float = 0.0,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        if size < 16 or min(channels, width) < 1 or dag_weight < 0:
            raise UserError(
                f"got size {size}, channels {channels}, width {width} and dag_weight "
                f"{dag_weight:g}",
                "wanted pictures of at least 16 px, positive widths and a dag_weight of at least 0",
                "correct the discriminator's options",
            )
        self.size, self.channels, self.dag_weight = size, channels, dag_weight
        self.dag = Dag(policy, heads=heads)
        halvings = (size // 4).bit_length() - 1
        widths = [channels, *(width * min(2**k, 8) for k in range(halvings))]
        layers: list[nn.Module] = []
        for k, (i, o) in enumerate(itertools.pairwise(widths)):
            layers.append(normalised_conv(i, o, 4, stride=2, rng=rng))
            layers += [nn.InstanceNorm2d(o)] if k else []
            layers.append(nn.LeakyReLU(0.2))
        self.trunk = nn.Sequential(*layers)
        self.logits = nn.utils.parametrizations.spectral_norm(
            nn.Conv2d(widths[-1], self.dag.count, 4, bias=False)
        )

    def forward(
        self, images: Tensor, angles_deg: Tensor | None = None, *, heads: int | None = None
    ) -> DiscriminatorOutput:
        """Logits of pictures [B, C, size, size]; angles are not used. ``heads`` asks for the first
        few heads only: [B, heads].
        """
        if images.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(
                f"images: expected [B, {self.channels}, {self.size}, {self.size}], "
                f"got {list(images.shape)}"
            )
        count = min(heads or self.dag.count, self.dag.count)
        logits = self.logits(self.trunk(2 * self.dag.stack(images, count) - 1)).mean((2, 3))
        logits = logits.unflatten(0, (count, len(images)))
        return DiscriminatorOutput(logits[..., :count].diagonal(dim1=0, dim2=2))
