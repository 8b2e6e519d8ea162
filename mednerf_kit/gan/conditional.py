"""The conditional generator: an X-ray and random numbers become what lies along the X-ray's rays.

A code of some hundred numbers, as :mod:`.generator` has, cannot hold where every rib of a patient
lies; a picture can. This generator is a U-Net (Ronneberger et al. 2015, arXiv 1505.04597) over the
X-ray, whose output channels are the densities of planes of equal depth: behind every pixel a column
of cells (:class:`~mednerf_kit.recon.ray_grid.RayGrid`). Random numbers modulate its coarse half, so
that one X-ray has many answers; it is trained by a proper scoring rule to spread them as far as
they err.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad, silu, softplus

from ..core.config import Registry
from ..core.errors import UserError
from ..fields.hyper import DTYPES, Precision, fastest_dtype

CONDITIONAL_GENERATORS: Registry[ConditionalGenerator] = Registry(
    "conditional generator", home=__package__
)
GROUPS = 8  # of channels that are normalised together
STEM = 4  # inputs: the X-ray, whether a pixel was seen, and its place to the right and up
CONTRAST = 4.0  # by which image values are multiplied first
FIRST_LOGIT = -3.0  # of an empty cell, before the softplus
SLOPE = 0.5  # of the output's softplus
GAIN = 0.3  # how far random numbers move a channel's scale and shift at first


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; random numbers scale and shift the channels."""

    def __init__(self, inputs: int, outputs: int, random: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.first_norm = nn.GroupNorm(GROUPS, outputs)
        self.second_norm = nn.GroupNorm(GROUPS, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.modulation = nn.Linear(random, 2 * outputs) if random else None

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x [B, inputs, H, W] and random numbers z [B, random] -> [B, outputs, H, W]."""
        h = self.first_norm(self.first(x))
        if self.modulation is not None:
            scale, shift = self.modulation(z)[:, :, None, None].chunk(2, 1)
            h = h * (1 + GAIN * scale) + GAIN * shift
        return silu(self.second_norm(self.second(silu(h))) + self.shortcut(x))


@CONDITIONAL_GENERATORS.register("unet")
class ConditionalGenerator(nn.Module):
    """An X-ray [B, pixels, pixels] and random numbers -> densities [B, planes, rays, rays].

    ``rays`` is more than ``pixels``: a body reaches past the detector, and what lies there is
    guessed.

    Options:
        pixels: along a side of the X-ray.
        margin: rays beyond each side of the X-ray.
        planes: of equal depth, through the whole support.
        widths: channels at full size and at each halving.
        code_dim: random numbers that act everywhere.
        local_dim: random channels of the coarsest picture.
        precision: what the convolutions are computed in, ``fp32`` or ``bf16``; ``auto`` takes the
            faster.
    """

    def __init__(
        self,
        *,
        pixels: int = 64,
        margin: int = 12,
        planes: int = 64,
        widths: tuple = (48, 64, 80, 112, 144),
        code_dim: int = 32,
        local_dim: int = 8,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        wrong = [w for w in widths if w < GROUPS or w % GROUPS]
        if wrong or len(widths) < 2 or min(pixels, planes, code_dim, local_dim) < 1 or margin < 0:
            raise UserError(
                f"got widths {list(widths)}, pixels {pixels}, margin {margin}, planes {planes}",
                f"wanted two widths or more, multiples of {GROUPS}, and positive counts",
                "correct the generator's options",
            )
        self.pixels, self.margin, self.planes = pixels, margin, planes
        self.code_dim, self.local_dim, self.precision = code_dim, local_dim, precision
        self.stem = Block(STEM, widths[0])
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(Block(fine, coarse) for fine, coarse in pairs)
        self.middle = Block(widths[-1] + local_dim, widths[-1], code_dim)
        self.everywhere = nn.Linear(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            Block(fine + coarse, fine, code_dim) for fine, coarse in reversed(pairs)
        )
        self.head = nn.Conv2d(widths[0], planes, 1)
        coarse = self.rays // 4
        self.mean_logit = nn.Parameter(torch.full((1, planes, coarse, coarse), FIRST_LOGIT))

    @property
    def rays(self) -> int:
        """Along a side of the output."""
        return self.pixels + 2 * self.margin

    @property
    def half_width(self) -> float:
        """Of the output at the isocentre, in field units: the X-ray's is 1."""
        return self.rays / self.pixels

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.mean_logit.device

    def forward(
        self,
        xray: Tensor,
        seen: Tensor,
        rng: Generator,
        *,
        samples: int = 1,
        antithetic: bool = False,
        spread: float = 1.0,
    ) -> Tensor:
        """Densities per field unit of ``samples`` answers to each X-ray.

        ``xray`` [B, pixels, pixels] in image values, ``seen`` of the same shape: 1 where a pixel
        tells of the patient, 0 elsewhere. The answers [samples · B, planes, rays, rays] come sample
        by sample; ``rng`` draws their random numbers. ``antithetic`` makes the second half of the
        samples from the first half's numbers, negated: what is odd in them cancels in the mean
        (Hammersley and Morton 1956), and each sample alone is distributed as before. ``spread``
        multiplies all random numbers: with 0 the answer is the best single guess.
        """
        n = (samples + 1) // 2 if antithetic else samples
        z = torch.randn(n, len(xray), self.code_dim, generator=rng)
        coarsest = self.rays >> len(self.down)
        local = torch.randn(n, len(xray), self.local_dim, coarsest, coarsest, generator=rng)
        if antithetic:
            z, local = (torch.cat([t, -t])[:samples] for t in (z, local))
        drawn = [(spread * t).flatten(0, 1).to(self.device) for t in (z, local)]
        dtype = DTYPES.get(self.precision) or fastest_dtype(self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = self._logits(xray, seen, *drawn)
        mean = interpolate(self.mean_logit, size=(self.rays,) * 2, mode="bilinear")
        return SLOPE * softplus(SLOPE * logits.float() + mean)

    def _logits(self, xray: Tensor, seen: Tensor, z: Tensor, local: Tensor) -> Tensor:
        picture = torch.stack([CONTRAST * xray * seen, seen], 1)
        picture = pad(picture, (self.margin,) * 4)
        place = torch.linspace(-1, 1, self.rays, device=self.device) * self.half_width
        up, right = torch.meshgrid(-place, place, indexing="ij")
        at = torch.stack([up, right]).expand(len(xray), -1, -1, -1)
        scales = [self.stem(torch.cat([picture, at], 1))]
        for block in self.down:
            scales.append(block(adaptive_avg_pool2d(scales[-1], scales[-1].shape[-1] // 2)))
        scales = [h.repeat(len(z) // len(xray), 1, 1, 1) for h in scales]
        h = scales.pop()
        h = self.middle(torch.cat([h, local.to(h)], 1), z)
        h = h + self.everywhere(h.mean((2, 3)))[:, :, None, None]
        for block in self.up:
            fine = scales.pop()
            h = interpolate(h, size=fine.shape[2:], mode="bilinear")
            h = block(torch.cat([h, fine], 1), z)
        return self.head(h)
