"""Augmentation of what a discriminator sees: drawn in one function, applied in another, alike for
reals and fakes.

The groups and their order follow StyleGAN2-ADA (arXiv 2006.06676, appendix B): exact pixel moves
and geometry (one 3×3 matrix, executed once), colour, spectral bands, noise, cutout. Each transform
has a probability multiplier that is 0 until asked for, so that the pipeline is the identity by
default. Pictures lie in [0, 1] (a deviation here is half of one for [−1, 1]). A picture to which
nothing happens comes back bit for bit; gradients flow, twice if need be.
"""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError

AUGMENTATIONS: Registry[Augment] = Registry("augment")
PROBABILITIES: Registry[FixedProbability | AdaptiveProbability] = Registry("augment probability")
# expected share of a picture's power in each band, coarse to fine (ADA)
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


class Drawn(NamedTuple):
    """What happens to each picture of a batch: plain tensors, one row per picture."""

    # [B, 3, 3] pixel of the result -> pixel of the source; x right, y down, from the centre
    matrix: Tensor
    color: Tensor  # [B, 4, 4] affine map of (r, g, b, 1)
    bands: Tensor  # [B, 4] gain of each spectral band, coarse to fine
    noise: Tensor  # [B] standard deviation
    seed: Tensor  # [B] int64, of the noise
    hole: Tensor  # [B, 4] top, bottom, left, right in pixels; blackened

    def rows(self, chosen: slice | Tensor) -> Drawn:
        """The parameters of some of the pictures."""
        return Drawn(*(tensor[chosen] for tensor in self))

    def to_json(self) -> dict[str, Any]:
        """Plain lists by name."""
        return {name: tensor.tolist() for name, tensor in self._asdict().items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Drawn:
        """What :meth:`to_json` gave."""
        return cls(**{name: torch.tensor(value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Which transforms happen how often (multipliers of p) and how strongly.

    >>> augment = Augment(xint=1.0, rotate=0.5, rotate_max_deg=10.0)
    >>> drawn = augment.draw(2, (1, 8, 8), 0.0, torch.Generator().manual_seed(0))
    >>> images = torch.rand(2, 1, 8, 8)
    >>> torch.equal(apply(images, drawn), images)
    True
    """

    xflip: float = 0.0  # mirrored or not
    rotate90: float = 0.0  # turned by 0, 90, 180 or 270 degrees
    xint: float = 0.0  # moved by whole pixels
    scale: float = 0.0
    rotate: float = 0.0
    # stretched one way, shrunk the other, along an axis that is random if ``rotate`` is on
    aniso: float = 0.0
    xfrac: float = 0.0  # moved by fractions of a pixel
    crop: float = 0.0  # a window enlarged to full size
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0  # negative or not
    hue: float = 0.0  # of pictures with three channels
    saturation: float = 0.0  # of pictures with three channels
    filter: float = 0.0  # louder and quieter spectral bands
    noise: float = 0.0
    cutout: float = 0.0
    xint_share: float = 0.125  # at most, of the side
    scale_octaves: float = 0.2  # standard deviation of log2
    rotate_max_deg: float = 180.0
    aniso_octaves: float = 0.2
    xfrac_share: float = 0.125  # standard deviation, of the side
    crop_share: float = 0.75  # the smallest window's side
    brightness_std: float = 0.1
    contrast_octaves: float = 0.5
    # the value that contrast leaves alone; 0 keeps air black, like an exposure's gain
    contrast_pivot: float = 0.5
    hue_max_deg: float = 180.0
    saturation_octaves: float = 1.0
    filter_octaves: float = 1.0
    noise_std: float = 0.05
    cutout_share: float = 0.5  # side of the hole, of the picture's

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

    def draw(self, batch: int, shape: tuple[int, int, int], p: float, rng: Generator) -> Drawn:
        """Parameters for ``batch`` pictures of shape (C, H, W); each transform happens with
        probability multiplier · p.

        Applied flips, quarter turns and negatives are a uniform choice that includes doing nothing.
        Tensors lie on the generator's device (a host generator keeps the choices free of device
        waits).
        """
        dice = _Dice(batch, p, rng)
        channels, height, width = shape
        centre = dice.uniform(2) * torch.tensor([height, width], device=rng.device)
        size = dice.when(self.cutout, torch.full_like(centre[:, 0], self.cutout_share), 0.0)
        dy, dx = size * height / 2, size * width / 2
        return Drawn(
            matrix=self._draw_matrix(dice, height, width),
            color=self._draw_color(dice, channels),
            bands=self._draw_bands(dice),
            noise=dice.when(self.noise, dice.normal().abs() * self.noise_std, 0.0),
            seed=torch.randint(2**31, (batch,), generator=rng, device=rng.device),
            hole=torch.stack(
                [centre[:, 0] - dy, centre[:, 0] + dy, centre[:, 1] - dx, centre[:, 1] + dx], 1
            ),
        )

    def _draw_matrix(self, dice: _Dice, height: int, width: int) -> Tensor:
        """Product of the inverses, in the order in which the transforms happen: result(x) =
        source(M x).
        """
        side = torch.tensor([width, height], device=dice.device)
        steps = [torch.eye(3, device=dice.device).expand(dice.batch, 3, 3)]
        if self.xflip:
            flip = 1 - 2 * dice.when(self.xflip, dice.below(2), 0)
            steps.append(_scaling(flip, torch.ones_like(flip)))
        if self.rotate90:
            turns = dice.when(self.rotate90, dice.below(4), 0).long()
            steps.append(
                _turning(
                    *(
                        torch.tensor(t, device=dice.device)[turns]
                        for t in ((1.0, 0, -1, 0), (0.0, 1, 0, -1))
                    )
                )
            )
        if self.xint:
            steps.append(
                _moving(
                    -dice.when(
                        self.xint, ((2 * dice.uniform(2) - 1) * self.xint_share * side).round(), 0.0
                    )
                )
            )
        if self.scale:
            scale = dice.when(self.scale, torch.exp2(-dice.normal() * self.scale_octaves), 1.0)
            steps.append(_scaling(scale, scale))
        steps += self._draw_stretch(dice)
        if self.xfrac:
            steps.append(
                _moving(-dice.when(self.xfrac, dice.normal(2) * self.xfrac_share * side, 0.0))
            )
        if self.crop:
            share = dice.when(
                self.crop, self.crop_share + (1 - self.crop_share) * dice.uniform(), 1.0
            )
            steps += [
                _moving((dice.uniform(2) - 0.5) * (1 - share[:, None]) * side),
                _scaling(share, share),
            ]
        return functools.reduce(torch.matmul, steps)

    def _draw_stretch(self, dice: _Dice) -> list[Tensor]:
        """A stretch along a turned axis. Two turns, before and after it, together happen with the
        probability asked for.
        """
        once = 1 - math.sqrt(1 - min(1.0, self.rotate * dice.p))

        def turn() -> list[Tensor]:
            angle = dice.when(
                once, (2 * dice.uniform() - 1) * math.radians(self.rotate_max_deg), 0.0, p=1.0
            )
            return [_turning(angle.cos(), angle.sin())]

        steps = turn() if self.rotate else []
        if self.aniso:
            stretch = dice.when(self.aniso, torch.exp2(-dice.normal() * self.aniso_octaves), 1.0)
            steps.append(_scaling(stretch, 1 / stretch))
        return steps + (turn() if self.rotate else [])

    def _draw_color(self, dice: _Dice, channels: int) -> Tensor:
        """Product of affine maps of (r, g, b, 1), the last one leftmost."""
        grey = torch.full((3, 3), 1 / 3, device=dice.device)  # projects on the grey axis
        identity = torch.eye(3, device=dice.device).expand(dice.batch, 3, 3)
        steps = [torch.eye(4, device=dice.device).expand(dice.batch, 4, 4)]
        if self.brightness or self.contrast:
            shift = dice.when(self.brightness, dice.normal() * self.brightness_std, 0.0)
            gain = dice.when(self.contrast, torch.exp2(dice.normal() * self.contrast_octaves), 1.0)
            pivot = (gain * shift + (1 - gain) * self.contrast_pivot)[:, None]
            steps.append(_affine(gain[:, None, None] * identity, pivot))
        if self.lumaflip:
            sign = 1 - 2 * dice.when(self.lumaflip, dice.below(2), 0)
            steps.append(
                _affine(identity + (sign - 1)[:, None, None] * grey, ((1 - sign) / 2)[:, None])
            )
        # one channel lies on the grey axis, which neither of them moves
        if channels == 3 and (self.hue or self.saturation):
            rest = torch.eye(3, device=dice.device) - grey
            cross = torch.tensor(
                [[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=dice.device
            ) / math.sqrt(3)
            angle = dice.when(
                self.hue, (2 * dice.uniform() - 1) * math.radians(self.hue_max_deg), 0.0
            )[:, None, None]
            chroma = dice.when(
                self.saturation, torch.exp2(dice.normal() * self.saturation_octaves), 1.0
            )[:, None, None]
            moved = (angle != 0) | (chroma != 1)
            # Rodrigues' formula
            turned = grey + chroma * (rest * angle.cos() + cross * angle.sin())
            steps.append(
                _affine(
                    torch.where(moved, turned, identity),
                    torch.zeros(dice.batch, 1, device=dice.device),
                )
            )
        return functools.reduce(torch.matmul, reversed(steps))

    def _draw_bands(self, dice: _Dice) -> Tensor:
        """One band after the other is amplified; each time the expected power is restored."""
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
        self.batch, self.p, self.rng, self.device = batch, p, rng, rng.device

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.batch, *shape, generator=self.rng, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.rng, device=self.device)

    def below(self, n: int) -> Tensor:
        return torch.randint(n, (self.batch,), generator=self.rng, device=self.device).float()

    def when(
        self, multiplier: float, value: Tensor, otherwise: float, *, p: float | None = None
    ) -> Tensor:
        """``value`` [B, ...] with probability multiplier · p per picture, else the neutral
        value.
        """
        happens = self.uniform(*(1,) * (value.ndim - 1)) < multiplier * (self.p if p is None else p)
        return torch.where(happens, value, torch.full_like(value, otherwise))


def _affine(linear: Tensor, shift: Tensor) -> Tensor:
    """Homogeneous matrices [B, n + 1, n + 1] from [B, n, n] and [B, n] (or [B, 1])."""
    n = linear.shape[-1]
    result = torch.zeros(len(linear), n + 1, n + 1, dtype=linear.dtype, device=linear.device)
    result[:, :n, :n], result[:, :n, n], result[:, n, n] = linear, shift, 1
    return result


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], -1))


def _turning(cos: Tensor, sin: Tensor) -> Tensor:
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return _affine(linear, torch.zeros_like(linear[:, 0]))


def _moving(shift: Tensor) -> Tensor:
    return _affine(torch.eye(2, device=shift.device).expand(len(shift), 2, 2), shift)


def apply(images: Tensor, drawn: Drawn) -> Tensor:
    """Carry out what was drawn: [B, C, H, W] -> [B, C, H, W]; same parameters, same result; no
    clipping.

    Whole-pixel moves are copies; other geometry is resampled once. Both mirror the picture at its
    border.
    """
    height, width = images.shape[-2:]
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=drawn.matrix.device).expand(
        len(images), 2
    )
    # the same map from row and column numbers
    index = _moving(centre) @ drawn.matrix @ _moving(-centre)
    whole = (index == index.round()).all(-1).all(-1)
    moved = (drawn.matrix != torch.eye(3, device=drawn.matrix.device)).any(-1).any(-1)
    colored = (drawn.color != torch.eye(4, device=drawn.color.device)).any(-1).any(-1)
    images = _where(moved & whole, _picked, images, index)
    images = _where(moved & ~whole, _resampled, images, drawn.matrix)
    images = _where(colored, _recolored, images, drawn.color)
    images = _where((drawn.bands != 1).any(-1), _filtered, images, drawn.bands)
    images = _where(drawn.noise > 0, _noised, images, drawn.noise, drawn.seed)
    return _where(drawn.hole[:, 1] > drawn.hole[:, 0], _punched, images, drawn.hole)


def _where(
    chosen: Tensor, change: Callable[..., Tensor], images: Tensor, *parameters: Tensor
) -> Tensor:
    """Change the chosen pictures only: cheaper at small p, and the others stay bit for bit."""
    rows = chosen.nonzero()[:, 0]
    if len(rows) == 0:
        return images
    here = rows.to(images.device)
    return images.index_copy(
        0, here, change(images[here], *(parameter[rows] for parameter in parameters))
    )


def _mapped(matrix: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Matrices [B, 3, 3] on the grid of rows y [h] and columns x [w] -> [B, h, w, 2]; as sums: a
    matrix product may round.
    """
    m = matrix[:, :2, :, None, None]  # [B, 2, 3, 1, 1]
    return (m[:, :, 0] * x + m[:, :, 1] * y[:, None] + m[:, :, 2]).movedim(1, -1)


def _picked(images: Tensor, index: Tensor) -> Tensor:
    """Copies of pixels: ``index`` [B, 3, 3] maps (column, row, 1) of the result to whole
    numbers.
    """
    height, width = images.shape[-2:]
    y, x = (torch.arange(n, device=images.device) for n in (height, width))
    column, row = _mapped(index.round().long().to(images.device), y, x).unbind(-1)
    flat = _mirrored(row, height) * width + _mirrored(column, width)
    flat = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, flat).view_as(images)


def _mirrored(index: Tensor, n: int) -> Tensor:
    """Fold any whole number into 0 … n − 1 by reflection about the first and the last pixel's
    centre.
    """
    period = max(1, 2 * (n - 1))
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def _bilinear(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )


class _Sampled(torch.autograd.Function):
    """Bilinear sampling as what it is, a linear map of the picture: it and its adjoint are each
    other's gradient.

    Saying so makes it differentiable twice where torch's own is not (2.5 refuses), and spares the
    grid's gradient.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return _bilinear(images, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            blank = dense.new_zeros(shape).requires_grad_()
            return torch.autograd.grad(_bilinear(blank, grid), blank, dense)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sampled.apply(gradient, ctx.saved_tensors[0]), None, None


def _resampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Anti-aliased affine resampling: twice as fine, bilinear at twice the density, low-passed down
    again.
    """
    height, width = images.shape[-2:]
    fine = _finer(_finer(images).transpose(-2, -1)).transpose(-2, -1)
    # The low-pass reaches three half-pixels beyond the picture.
    y, x = (
        torch.arange(-3, 2 * n + 2, device=images.device, dtype=images.dtype) / 2 - (n - 1) / 2
        for n in (height, width)
    )
    source = _mapped(matrix.to(images), y, x)
    half = torch.tensor([max(1, width - 1) / 2, max(1, height - 1) / 2]).to(images)
    dense = _Sampled.apply(fine, source / half)
    taps = torch.tensor([-1.0, 0, 9, 16, 9, 0, -1]).to(images) / 32
    flat = dense.flatten(0, 1)[:, None]
    flat = functional.conv2d(flat, taps[None, None, None], stride=(1, 2))
    return functional.conv2d(flat, taps[None, None, :, None], stride=(2, 1)).reshape_as(images)


def _finer(images: Tensor) -> Tensor:
    """Values between the columns by the four-point rule (−1, 9, 9, −1)/16, pixels kept: [..., W] ->
    [..., 2W − 1].
    """
    width = images.shape[-1]
    wide = functional.pad(images, (1, 1, 0, 0), mode="reflect")
    between = (9 * (images[..., :-1] + images[..., 1:]) - wide[..., :-3] - wide[..., 3:]) / 16
    both = torch.stack([images[..., :-1], between], -1).flatten(-2)
    return torch.cat([both, images[..., width - 1 :]], -1)


def _recolored(images: Tensor, color: Tensor) -> Tensor:
    """Affine map of the channels; a picture without three channels is taken as grey."""
    linear, shift = color[:, :3, :3].to(images), color[:, :3, 3].to(images)
    if images.shape[1] == 3:
        return torch.einsum("bij,bjhw->bihw", linear, images) + shift[:, :, None, None]
    return images * linear.sum((1, 2))[:, None, None, None] / 3 + shift.mean(1)[:, None, None, None]


def _filtered(images: Tensor, bands: Tensor) -> Tensor:
    """Gains on four bands that add up to the picture: differences of ever wider smoothings (à
    trous, spline [1 4 6 4 1]/16).
    """
    taps = torch.tensor([1.0, 4, 6, 4, 1]).to(images) / 16
    levels = [images.flatten(0, 1)[:, None]]
    for step in (1, 2, 4):
        smooth = functional.pad(levels[-1], (2 * step,) * 4, mode="reflect")
        smooth = functional.conv2d(smooth, taps[None, None, None], dilation=(1, step))
        levels.append(functional.conv2d(smooth, taps[None, None, :, None], dilation=(step, 1)))
    coarse_first = [levels[3], levels[2] - levels[3], levels[1] - levels[2], levels[0] - levels[1]]
    pictures = torch.stack([band.view_as(images) for band in coarse_first], 1)
    return (pictures * bands.to(images)[:, :, None, None, None]).sum(1)


def _noised(images: Tensor, std: Tensor, seed: Tensor) -> Tensor:
    """White noise, from the host's generator so that it is the same on every device."""
    grain = torch.stack(
        [torch.randn(images.shape[1:], generator=Generator().manual_seed(s)) for s in seed.tolist()]
    )
    return images + std.to(images)[:, None, None, None] * grain.to(images)


def _punched(images: Tensor, hole: Tensor) -> Tensor:
    """Black where a pixel's centre lies in the hole."""
    y, x = (torch.arange(n, device=images.device) + 0.5 for n in images.shape[-2:])
    top, bottom, left, right = hole.to(images.device)[:, :, None].unbind(1)
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def _preset(name: str, about: str, **changed: float) -> None:
    """Register :class:`Augment` with other defaults; every option stays open to a recipe."""

    def build(**options: float) -> Augment:
        return replace(Augment(**changed), **options)

    build.__doc__ = about
    build.__annotations__ = typing.get_type_hints(Augment.__init__)
    build.__signature__ = inspect.signature(functools.partial(Augment, **changed))  # type: ignore[attr-defined]
    AUGMENTATIONS.register(name)(build)


_BLIT = {"xflip": 1.0, "rotate90": 1.0, "xint": 1.0}
_GEOMETRY = {"scale": 1.0, "rotate": 1.0, "aniso": 1.0, "xfrac": 1.0}
_COLOR = {"brightness": 1.0, "contrast": 1.0, "lumaflip": 1.0, "hue": 1.0, "saturation": 1.0}
_preset("none", "Nothing, until an option asks for it.")
_preset("blit", "Flips, quarter turns and whole-pixel shifts (ADA).", **_BLIT)
_preset("geom", "Scale, rotation, stretch and fractional shifts (ADA).", **_GEOMETRY)
_preset("bgc", "Blit, geometry and colour (ADA's default).", **_BLIT, **_GEOMETRY, **_COLOR)
_preset(
    "bgcfnc",
    "Blit, geometry, colour, filter, noise and cutout (ADA's full set).",
    **_BLIT,
    **_GEOMETRY,
    **_COLOR,
    filter=1.0,
    noise=1.0,
    cutout=1.0,
)
_preset("crop", "Mirroring and enlarged windows (HyperNeRFGAN's pipe).", xflip=1.0, crop=1.0)
_preset(
    "xray",
    "What leaves anatomy its side and its sign: mild shifts, scale, turns, exposure, "
    "filter, noise, cutout.",
    xint=1.0,
    scale=1.0,
    rotate=1.0,
    xfrac=1.0,
    brightness=1.0,
    contrast=1.0,
    filter=1.0,
    noise=1.0,
    cutout=1.0,
    scale_octaves=0.1,
    rotate_max_deg=10.0,
    xfrac_share=0.03,
    brightness_std=0.03,
    contrast_octaves=0.25,
    contrast_pivot=0.0,
    filter_octaves=0.5,
    noise_std=0.03,
    cutout_share=0.35,
)


@PROBABILITIES.register("fixed")
class FixedProbability:
    """p stays what it is.

    >>> FixedProbability(p=0.3).p
    0.3
    """

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = _checked_p("p", p)

    def observe(self, real_logits: Tensor) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        """Nothing to restore."""


@PROBABILITIES.register("adaptive")
class AdaptiveProbability:
    """p follows the discriminator's overfitting (ADA, arXiv 2006.06676, section 3).

    r = E[sign D(real)] over ``interval`` batches; then p += sign(r − target) · pictures / (1000 ·
    kimg), within [0, p_max]: above about 0.8 the augmentations would show in what the generator
    makes.

    >>> ada = AdaptiveProbability(interval=1, kimg=1.0)
    >>> ada.observe(torch.ones(100))
    >>> ada.p
    0.1
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        target: float = 0.6,
        kimg: float = 500.0,
        interval: int = 4,
        p_max: float = 0.8,
    ) -> None:
        if kimg <= 0 or interval < 1:
            raise UserError(
                f"got kimg {kimg:g} and interval {interval} for the adaptive probability",
                "wanted positive ones",
                "correct them",
            )
        self.p_max, self.p = _checked_p("p_max", p_max), min(_checked_p("start", start), p_max)
        self.target, self.kimg, self.interval = target, kimg, interval
        self.signs, self.pictures, self.batches = 0.0, 0, 0

    def observe(self, real_logits: Tensor) -> None:
        """Note head 0's logits of one batch of (augmented) reals, any shape; every ``interval``
        batches p moves.
        """
        self.signs += real_logits.detach().sign().sum().item()
        self.pictures += real_logits.numel()
        self.batches += 1
        if self.batches == self.interval:
            r = self.signs / self.pictures
            way = (r > self.target) - (r < self.target)
            self.p = min(self.p_max, max(0.0, self.p + way * self.pictures / (1000 * self.kimg)))
            self.signs, self.pictures, self.batches = 0.0, 0, 0

    def state(self) -> dict[str, float]:
        """Plain numbers for a snapshot."""
        return {name: getattr(self, name) for name in ("p", "signs", "pictures", "batches")}

    def load(self, state: dict[str, float]) -> None:
        """Continue from :meth:`state`."""
        for name in self.state():
            setattr(self, name, state[name])


def _checked_p(name: str, p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(
            f"got {name} {p:g} for the augmentation",
            "wanted a probability between 0 and 1",
            "correct it",
        )
    return p
