"""Augmentation drawn: which transforms happen to each picture of a batch, and how strongly.

The groups and their order follow StyleGAN2-ADA (arXiv 2006.06676, appendix B): exact pixel moves
and geometry (one 3×3 matrix), colour, spectral bands, noise, cutout. Each transform has a
probability multiplier that is 0 until asked for, so that the default is the identity. Pictures lie
in [0, 1] (a deviation here is half of one for [−1, 1]); reals and fakes are treated alike.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ...core.errors import UserError

# expected share of a picture's power in each band, coarse to fine (ADA)
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
QUARTER_TURNS = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 0.0, -1.0))  # their cosines and sines


class AugmentParameters(NamedTuple):
    """What happens to each picture of a batch: plain tensors, one row per picture."""

    # [B, 3, 3] pixel of the result -> pixel of the source; x right, y down, from the centre
    matrix: Tensor
    color: Tensor  # [B, 4, 4] affine map of (r, g, b, 1)
    bands: Tensor  # [B, 4] gain of each spectral band, coarse to fine
    noise: Tensor  # [B] standard deviation
    seed: Tensor  # [B] int64, of the noise
    hole: Tensor  # [B, 4] top, bottom, left, right in pixels; blackened

    def rows(self, chosen: slice | Tensor) -> AugmentParameters:
        """The parameters of some of the pictures."""
        return AugmentParameters(*(tensor[chosen] for tensor in self))

    def to_json(self) -> dict[str, Any]:
        """Plain lists by name."""
        return {name: tensor.tolist() for name, tensor in self._asdict().items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AugmentParameters:
        """What :meth:`to_json` gave."""
        return cls(**{name: torch.tensor(value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Which transforms happen how often (multipliers of a probability p), and how strongly.

    >>> augment = Augment(xint=1.0, rotate=0.5, rotate_max_deg=10.0)
    >>> augment.draw(2, (1, 8, 8), 0.3, torch.Generator().manual_seed(0)).matrix.shape
    torch.Size([2, 3, 3])

    Options:
        xflip: how often a picture is mirrored, or left as it is.
        rotate90: how often it is turned by 0, 90, 180 or 270 degrees.
        xint: how often it is moved by whole pixels.
        scale: how often it is scaled.
        rotate: how often it is rotated.
        aniso: how often it is stretched one way and shrunk the other, along an axis that is random
            where ``rotate`` is on.
        xfrac: how often it is moved by fractions of a pixel.
        crop: how often a window of it is enlarged to full size.
        brightness: how often a value is added.
        contrast: how often values are stretched about ``contrast_pivot``.
        lumaflip: how often it becomes its negative, or stays as it is.
        hue: how often the hue of a picture with three channels turns.
        saturation: how often the saturation of a picture with three channels changes.
        filter: how often spectral bands are amplified and weakened.
        noise: how often white noise is added.
        cutout: how often a square is blackened.
        xint_share: the longest whole-pixel move, as a share of the side.
        scale_octaves: standard deviation of log2 of the scale.
        rotate_max_deg: the largest rotation, in degrees.
        aniso_octaves: standard deviation of log2 of the stretch.
        xfrac_share: standard deviation of the fractional move, as a share of the side.
        crop_share: side of the smallest window, as a share of the picture's, in (0, 1].
        brightness_std: standard deviation of what is added.
        contrast_octaves: standard deviation of log2 of the gain.
        contrast_pivot: the value that contrast leaves alone; 0 keeps air black, like an exposure's
            gain.
        hue_max_deg: the largest turn of the hue, in degrees.
        saturation_octaves: standard deviation of log2 of the saturation's factor.
        filter_octaves: standard deviation of log2 of a band's gain.
        noise_std: scale of the noise's standard deviation, which is half-normal.
        cutout_share: side of the blackened square, as a share of the picture's.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    filter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    xint_share: float = 0.125
    scale_octaves: float = 0.2
    rotate_max_deg: float = 180.0
    aniso_octaves: float = 0.2
    xfrac_share: float = 0.125
    crop_share: float = 0.75
    brightness_std: float = 0.1
    contrast_octaves: float = 0.5
    contrast_pivot: float = 0.5
    hue_max_deg: float = 180.0
    saturation_octaves: float = 1.0
    filter_octaves: float = 1.0
    noise_std: float = 0.05
    cutout_share: float = 0.5

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(
                    f"got {option.name} {value:g} for the augmentation",
                    "wanted a number of at least 0",
                    "correct it",
                )
        if not 0 < self.crop_share <= 1:
            raise UserError(
                f"got crop_share {self.crop_share:g}",
                "wanted a share of the side in (0, 1]",
                "correct it",
            )

    def draw(
        self, batch: int, shape: tuple[int, int, int], p: float, rng: Generator
    ) -> AugmentParameters:
        """Parameters for ``batch`` pictures of shape (C, H, W); each transform happens with
        probability multiplier · p.

        Flips, quarter turns and negatives that happen are a uniform choice that includes doing
        nothing. Tensors lie on the generator's device (a host generator keeps the choices free of
        device waits).
        """
        dice = _Dice(batch, p, rng)
        channels, height, width = shape
        centre = dice.uniform(2) * torch.tensor([height, width], device=rng.device)
        size = dice.when(self.cutout, torch.full_like(centre[:, 0], self.cutout_share), 0.0)
        dy, dx = size * height / 2, size * width / 2
        y, x = centre.unbind(1)
        # the order of the fields is the order in which they are drawn
        return AugmentParameters(
            matrix=self._draw_matrix(dice, height, width),
            color=self._draw_color(dice, channels),
            bands=self._draw_bands(dice),
            noise=dice.when(self.noise, dice.normal().abs() * self.noise_std, 0.0),
            seed=torch.randint(2**31, (batch,), generator=rng, device=rng.device),
            hole=torch.stack([y - dy, y + dy, x - dx, x + dx], 1),
        )

    def _draw_matrix(self, dice: _Dice, height: int, width: int) -> Tensor:
        """Product of the inverses, in the order in which the transforms happen: result(x) =
        source(M x).
        """
        side = torch.tensor([width, height], device=dice.device)
        steps = [torch.eye(3, device=dice.device).expand(dice.batch, 3, 3)]
        if self.xflip:
            flip = 1 - 2 * dice.when(self.xflip, dice.below(2), 0)
            steps.append(scaling(flip, torch.ones_like(flip)))
        if self.rotate90:
            turns = dice.when(self.rotate90, dice.below(4), 0).long()
            cos, sin = (torch.tensor(t, device=dice.device)[turns] for t in QUARTER_TURNS)
            steps.append(rotation(cos, sin))
        if self.xint:
            shift = ((2 * dice.uniform(2) - 1) * self.xint_share * side).round()
            steps.append(translation(-dice.when(self.xint, shift, 0.0)))
        if self.scale:
            scale = dice.when(self.scale, torch.exp2(-dice.normal() * self.scale_octaves), 1.0)
            steps.append(scaling(scale, scale))
        steps += self._draw_stretch(dice)
        if self.xfrac:
            shift = dice.normal(2) * self.xfrac_share * side
            steps.append(translation(-dice.when(self.xfrac, shift, 0.0)))
        if self.crop:
            share = self.crop_share + (1 - self.crop_share) * dice.uniform()
            share = dice.when(self.crop, share, 1.0)
            steps.append(translation((dice.uniform(2) - 0.5) * (1 - share[:, None]) * side))
            steps.append(scaling(share, share))
        return functools.reduce(torch.matmul, steps)

    def _draw_stretch(self, dice: _Dice) -> list[Tensor]:
        """A stretch along a turned axis. Two turns, before and after it, together happen with the
        probability asked for.
        """
        once = 1 - math.sqrt(1 - min(1.0, self.rotate * dice.p))

        def turn() -> list[Tensor]:
            if not self.rotate:
                return []
            angle = (2 * dice.uniform() - 1) * math.radians(self.rotate_max_deg)
            angle = dice.when(once, angle, 0.0, p=1.0)
            return [rotation(angle.cos(), angle.sin())]

        steps = turn()
        if self.aniso:
            stretch = dice.when(self.aniso, torch.exp2(-dice.normal() * self.aniso_octaves), 1.0)
            steps.append(scaling(stretch, 1 / stretch))
        return steps + turn()

    def _draw_color(self, dice: _Dice, channels: int) -> Tensor:
        """Product of affine maps of (r, g, b, 1), the last one leftmost."""
        grey = torch.full((3, 3), 1 / 3, device=dice.device)  # projects on the grey axis
        identity = torch.eye(3, device=dice.device).expand(dice.batch, 3, 3)
        steps = [torch.eye(4, device=dice.device).expand(dice.batch, 4, 4)]
        if self.brightness or self.contrast:
            shift = dice.when(self.brightness, dice.normal() * self.brightness_std, 0.0)
            gain = dice.when(self.contrast, torch.exp2(dice.normal() * self.contrast_octaves), 1.0)
            pivot = (gain * shift + (1 - gain) * self.contrast_pivot)[:, None]
            steps.append(affine(gain[:, None, None] * identity, pivot))
        if self.lumaflip:
            sign = 1 - 2 * dice.when(self.lumaflip, dice.below(2), 0)
            linear = identity + (sign - 1)[:, None, None] * grey
            steps.append(affine(linear, ((1 - sign) / 2)[:, None]))
        # one channel lies on the grey axis, which neither of them moves
        if channels == 3 and (self.hue or self.saturation):
            steps.append(self._draw_chroma(dice, grey, identity))
        return functools.reduce(torch.matmul, reversed(steps))

    def _draw_chroma(self, dice: _Dice, grey: Tensor, identity: Tensor) -> Tensor:
        """A turn about the grey axis (Rodrigues' formula), and a factor on the distance from it."""
        rest = torch.eye(3, device=dice.device) - grey
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=dice.device)
        cross = cross / math.sqrt(3)
        angle = (2 * dice.uniform() - 1) * math.radians(self.hue_max_deg)
        angle = dice.when(self.hue, angle, 0.0)[:, None, None]
        factor = torch.exp2(dice.normal() * self.saturation_octaves)
        factor = dice.when(self.saturation, factor, 1.0)[:, None, None]
        turned = grey + factor * (rest * angle.cos() + cross * angle.sin())
        moved = (angle != 0) | (factor != 1)
        no_shift = torch.zeros(dice.batch, 1, device=dice.device)
        return affine(torch.where(moved, turned, identity), no_shift)

    def _draw_bands(self, dice: _Dice) -> Tensor:
        """Gains [B, 4]: one band after the other is amplified, and each time the expected power is
        restored.
        """
        power = torch.tensor(BAND_POWER, device=dice.device)
        bands = torch.ones(dice.batch, 4, device=dice.device)
        for i in range(4 if self.filter else 0):
            gain = torch.exp2(dice.normal() * self.filter_octaves)
            one = torch.ones_like(bands)
            one[:, i] = gain
            one = one / (power * one.square()).sum(1, keepdim=True).sqrt()
            bands = bands * dice.when(self.filter, one, 1.0)
        return bands


class _Dice:
    """Random numbers for a batch."""

    def __init__(self, batch: int, p: float, rng: Generator) -> None:
        self.batch, self.p = batch, p
        self.rng, self.device = rng, rng.device

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, generator=self.rng, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.rng, device=self.device)

    def below(self, n: int) -> Tensor:
        return torch.randint(n, (self.batch,), generator=self.rng, device=self.device).float()

    def when(
        self, multiplier: float, value: Tensor, otherwise: float, *, p: float | None = None
    ) -> Tensor:
        """``value`` [B, ...] with probability multiplier · p per picture, else ``otherwise``."""
        probability = multiplier * (self.p if p is None else p)
        happens = self.uniform(*(1,) * (value.ndim - 1)) < probability
        return torch.where(happens, value, torch.full_like(value, otherwise))


def affine(linear: Tensor, shift: Tensor) -> Tensor:
    """Homogeneous matrices [B, n + 1, n + 1] from [B, n, n] and [B, n] (or [B, 1])."""
    n = linear.shape[-1]
    result = torch.zeros(len(linear), n + 1, n + 1, dtype=linear.dtype, device=linear.device)
    result[:, :n, :n], result[:, :n, n], result[:, n, n] = linear, shift, 1
    return result


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Homogeneous matrices [B, 3, 3] that scale by x [B] and y [B]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], -1))


def rotation(cos: Tensor, sin: Tensor) -> Tensor:
    """Homogeneous matrices [B, 3, 3] that turn by an angle of this cosine [B] and sine [B]."""
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return affine(linear, torch.zeros_like(linear[:, 0]))


def translation(shift: Tensor) -> Tensor:
    """Homogeneous matrices [B, 3, 3] that move by (x, y) [B, 2]."""
    return affine(torch.eye(2, device=shift.device).expand(len(shift), 2, 2), shift)
