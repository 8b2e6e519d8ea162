"""What X-rays still say of volumes that nearly explain them: a Kalman update in voxels.

Members x_k [M, D, H, W] of a posterior stand for a belief of mean x̄ and covariance C. Films
y = A x + σ e, with A the projector, turn each member into

    x_k  ←  max(0, x_k + b_k + C Aᵀ (A C Aᵀ + σ²)⁻¹ (y + σ e_k − A (x_k + b_k))),

with e_k standard normal numbers: the ensemble Kalman filter with perturbed observations (Burgers et
al., Mon. Weather Rev. 126, 1998), whose members have the mean and the covariance of the posterior
of a linear Gaussian model. The covariance is

    C = L Lᵀ + D,     L = (x_k − x̄) / √(M − 1),     D = diag(d) G diag(d),

what the members' differences span and, since so few span no detail, a local part of standard
deviation d whose correlation G is a Gaussian about a voxel wide. b_k is a draw from what D
has beyond the members' own differences: before the film speaks, members differ by all that is not
known. Member 0 is the best guess and gets neither
b_k nor e_k; those of the others are centred, so that the members' mean does not depend on them.

The equations have as many unknowns as the films have pixels, and are solved by conjugate gradients
for all members at once. In a film A D Aᵀ is nearly a blur, which Fourier transforms invert: with
this as a preconditioner ten steps are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from ..core.resampling import area_resized
from .field_volume import FieldProjector

#: Voxels over which the members' variance is smoothed, since they are few.
SMOOTH_VOXELS = 2.0
#: Pixels between those whose spread by A D Aᵀ is looked at; it reaches half as far at most.
COMB_PX = 32
#: Of its root mean square, at least: what the preconditioner divides a pixel by.
SCALE_FLOOR = 0.3
#: σ of the null space, image values, and a correlation that leaves voxels alone.
NULL_SIGMA = 1e-3
NULL_LENGTH = 0.1


@dataclass(frozen=True)
class Covariance:
    """C of voxels: the few directions that members span, and a local part.

    >>> c = Covariance(torch.randn(2, 6, 6, 6), torch.rand(6, 6, 6), length_voxels=1.0)
    >>> x, y = torch.rand(2, 1, 6, 6, 6)
    >>> bool(torch.isclose((c.times(x) * y).sum(), (x * c.times(y)).sum()))
    True
    """

    deviations: Tensor  # [K, D, H, W] the columns of L
    spread: Tensor  # [D, H, W] d, standard deviation of the local part
    length_voxels: float  # standard deviation of the Gaussian G
    # [D, H, W] variance that members differ by themselves, which draws need not bring
    own: Tensor | float = 0.0

    @classmethod
    def of(
        cls, members: Tensor, *, floor: float, length_voxels: float, low_rank: float
    ) -> Covariance:
        """Of members [M, D, H, W]; ``low_rank`` is a factor on L.

        d is the members' standard deviation, but at least ``floor`` times their mean and at most
        their mean, all smoothed over SMOOTH_VOXELS: nothing is made where nothing is.
        """
        mean = members.mean(0)
        deviations = (members - mean)[: None if len(members) > 1 else 0]
        deviations = deviations / max(1, len(members) - 1) ** 0.5
        variance, level = smoothed(deviations.square().sum(0)), smoothed(mean)
        spread = torch.minimum(torch.maximum(variance.sqrt(), floor * level), level)
        return cls(low_rank * deviations, spread, length_voxels, variance)

    def inflated(self, factor: Tensor) -> Covariance:
        """The same with the local part's standard deviation times ``factor`` [D, H, W]."""
        return replace(self, spread=factor * self.spread)

    @cached_property
    def taps(self) -> Tensor:
        """Of the blur g along an axis with G = g g; G's diagonal is 1 away from the border."""
        taps = gaussian_taps(self.length_voxels / 2**0.5)
        return taps / taps.square().sum().sqrt()

    def local(self, x: Tensor) -> Tensor:
        """D x of voxels [M, D, H, W]."""
        blurred = correlated(correlated(self.spread * x, self.taps), self.taps)
        return blurred.mul_(self.spread)

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Draws b_k of what d² exceeds the members' own variance by: [count, D, H, W].

        They are centred, and the first of them is zero.
        """
        numbers = centred(count, self.spread.shape, rng).to(self.spread)
        lacking = (self.spread.square() - self.own).clamp_min(0).sqrt()
        return lacking * correlated(numbers, self.taps)

    def times(self, x: Tensor) -> Tensor:
        """C x of voxels [M, D, H, W]."""
        weights = torch.einsum("kdhw,mdhw->mk", self.deviations, x)
        return self.local(x) + torch.einsum("mk,kdhw->mdhw", weights, self.deviations)


@dataclass(frozen=True)
class FilmEquations:
    """H = R A C Aᵀ R + 1 in the films' pixels, with R = 1/σ of each: symmetric, and well scaled.

    A pixel of R = 0 says nothing.
    """

    covariance: Covariance
    projector: FieldProjector
    root_precision: Tensor  # [n, rows, cols] R

    def __call__(self, q: Tensor) -> Tensor:
        """H q of pictures q [M, n, rows, cols]."""
        p = self.root_precision * q
        local = self.projector.forward(self.covariance.local(self.projector.adjoint(p)))
        weights = torch.einsum("knij,mnij->mk", self.seen, q)
        return self.root_precision * local + torch.einsum("mk,knij->mnij", weights, self.seen) + q

    def gain(self, wanted: Tensor, steps: int) -> Tensor:
        """C Aᵀ R H⁻¹ of innovations times R [M, n, rows, cols]: [M, D, H, W]."""
        q = conjugate_gradients(self, wanted, steps=steps, precondition=self.precondition)
        return self.covariance.times(self.projector.adjoint(self.root_precision * q))

    def precondition(self, r: Tensor) -> Tensor:
        """About H⁻¹ r: the local part's inverse by Fourier transforms, L by Woodbury's formula."""
        found = self._local_inverse(r)
        if not len(self.seen):
            return found
        solved, inner = self._low_rank
        weights = torch.linalg.solve(inner, torch.einsum("knij,mnij->km", solved, r))
        return found - torch.einsum("km,knij->mnij", weights, solved)

    def resized(self, projector: FieldProjector, rows: int, cols: int) -> FilmEquations:
        """The same in pixels of another size, which ``projector`` has: precisions add up."""
        ours = self.root_precision.shape[-2:]
        precision = area_resized(self.root_precision.square(), rows, cols)
        pixels = ours[0] * ours[1] / (rows * cols)
        return FilmEquations(self.covariance, projector, (pixels * precision).sqrt())

    @cached_property
    def seen(self) -> Tensor:
        """R A L, the views of the deviations: [K, n, rows, cols]."""
        if not len(self.covariance.deviations):
            return self.root_precision.new_zeros(0, *self.root_precision.shape)
        return self.root_precision * self.projector.forward(self.covariance.deviations)

    @cached_property
    def _low_rank(self) -> tuple[Tensor, Tensor]:
        solved = self._local_inverse(self.seen)
        inner = torch.einsum("knij,lnij->kl", self.seen, solved)
        return solved, inner + torch.eye(len(inner)).to(inner)

    def _local_inverse(self, r: Tensor) -> Tensor:
        scaled = torch.fft.rfft2(r / self._scale) * self._filter
        return torch.fft.irfft2(scaled, s=r.shape[-2:]) / self._scale

    @cached_property
    def _scale(self) -> Tensor:
        """Of each pixel: what D adds to it, up to a factor, [n, rows, cols]."""
        along = self.projector.forward(self.covariance.spread.square()).clamp_min(0).sqrt()
        scale = self.root_precision * along
        rms = scale.square().mean((-2, -1), keepdim=True).sqrt()
        return scale.maximum(SCALE_FLOOR * rms).clamp_min(1e-6)

    @cached_property
    def _filter(self) -> Tensor:
        """1 over the transfer function of R A D Aᵀ R + 1 between scaled pixels, [n, rows, ...]."""
        n, rows, cols = self.root_precision.shape
        comb = torch.zeros_like(self.root_precision)
        middle = min(COMB_PX, rows, cols) // 2
        comb[:, middle::COMB_PX, middle::COMB_PX] = 1
        weights = self.root_precision / self._scale
        back = self.projector.adjoint(weights * comb)[None]
        spread = weights * self.projector.forward(self.covariance.local(back))[0]
        # the mean of what surrounds a tooth, each by its height
        kernel = torch.zeros_like(comb)
        strength = torch.zeros(n, 1, 1).to(comb)
        reach = min(middle, COMB_PX // 2)
        for y in range(middle, rows - reach + 1, COMB_PX):
            for x in range(middle, cols - reach + 1, COMB_PX):
                height = spread[:, y, x, None, None]
                kernel[:, : 2 * reach, : 2 * reach] += (
                    height * spread[:, y - reach : y + reach, x - reach : x + reach]
                )
                strength += height.square()
        unit = spread.flatten(1).amax(1)[:, None, None]
        kernel = (kernel * unit / strength.clamp_min(1e-12)).roll((-reach, -reach), (-2, -1))
        noise = 1 / self._scale.square().mean((-2, -1), keepdim=True)
        return 1 / (torch.fft.rfft2(kernel).real.clamp_min(0) + noise)


def updated(
    members: Tensor,
    innovation: Tensor,
    equations: FilmEquations,
    rng: Generator,
    *,
    steps: int,
    member_steps: int,
    coarse: FilmEquations | None = None,
) -> Tensor:
    """Members [M, D, H, W] after films of which they left ``innovation`` [M, n, rows, cols].

    An innovation is y − A x_k, in line integrals. The mean is solved for in ``steps``; what members
    deviate from it, most of which is noise, in ``member_steps``, and where ``coarse`` equations are
    given (:meth:`FilmEquations.resized`), in their larger pixels.
    """
    count, root = len(members), equations.root_precision
    coarse = coarse or equations
    mean, middle = members.mean(0, keepdim=True), innovation.mean(0, keepdim=True)
    found = mean + equations.gain(root * middle, steps)
    if count > 1:
        drawn = equations.covariance.draw(count, rng)
        noise = centred(count, coarse.root_precision.shape, rng).to(root)
        left = area_resized(innovation - middle, *noise.shape[-2:])
        left = left - coarse.projector.forward(drawn)
        gained = coarse.gain(coarse.root_precision * left + noise, member_steps)
        found = found + (members - mean) + drawn + gained
    return found.clamp_min(0)


def null_space(
    values: Tensor, body: Tensor, projector: FieldProjector, masks: Tensor, *, steps: int
) -> Tensor:
    """x − A⁺ A x of voxels x [D, H, W], where only those of ``body`` [D, H, W] may change.

    A⁺ gives the least change of the body with the same line integrals. It is the limit of the
    update's equations for C = 1 and σ → 0, and is taken from them with σ = NULL_SIGMA. Pixels that
    ``masks`` [n, rows, cols] leaves out are not measured.
    """
    alone = Covariance(values.new_zeros(0, *values.shape), body, NULL_LENGTH)
    equations = FilmEquations(alone, projector, masks / NULL_SIGMA)
    seen = equations.root_precision * projector.forward((body * values)[None])
    return values - equations.gain(seen, steps)[0]


def smoothed(values: Tensor) -> Tensor:
    """Voxels [D, H, W] under a Gaussian of SMOOTH_VOXELS, less near the border."""
    taps = gaussian_taps(SMOOTH_VOXELS)
    return correlated(values[None], taps / taps.sum())[0]


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    steps: int,
    precondition: Callable[[Tensor], Tensor] = torch.clone,
    tolerance: float = 1e-3,
) -> Tensor:
    """x [M, …] with apply(x) ≈ b for M right-hand sides b [M, …] at once.

    ``apply``, and ``precondition``, which is close to its inverse, are linear, symmetric and
    positive definite and do not mix the M. It stops after ``steps``, or when every residual is
    below ``tolerance`` of its b (Hestenes & Stiefel, J. Res. Natl. Bur. Stand. 49, 1952).

    >>> conjugate_gradients(lambda x: 4 * x, torch.ones(1, 2), steps=3)
    tensor([[0.2500, 0.2500]])
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).view(-1, *[1] * (u.ndim - 1))

    x, residual = torch.zeros_like(b), b
    towards = precondition(residual)
    direction, product = towards, dot(residual, towards)
    enough = tolerance**2 * dot(b, b)
    for _ in range(steps):
        if bool((dot(residual, residual) <= enough).all()):
            break
        image = apply(direction)
        length = product / dot(direction, image).clamp_min(1e-30)
        x = x + length * direction
        residual = residual - length * image
        towards = precondition(residual)
        product, before = dot(residual, towards), product
        direction = towards + product / before.clamp_min(1e-30) * direction
    return x


def centred(count: int, shape: torch.Size, rng: Generator) -> Tensor:
    """Standard normal numbers [count, *shape] whose mean is zero and of which the first are zero.

    The others keep variance 1 although their mean was taken out; a pair of members has none.
    """
    numbers = torch.randn(count - 1, *shape, generator=rng)
    left = max(0, count - 2) / (count - 1) if count > 1 else 1.0
    numbers = (numbers - numbers.mean(0)) / max(left, 1e-6) ** 0.5
    return torch.cat([torch.zeros(1, *shape), numbers])


def gaussian_taps(sigma: float) -> Tensor:
    """A sampled Gaussian [2 R + 1] of peak 1, cut at three standard deviations."""
    radius = max(1, round(3 * sigma))
    return (-0.5 * (torch.arange(-radius, radius + 1.0) / sigma).square()).exp()


def correlated(x: Tensor, taps: Tensor) -> Tensor:
    """Voxels [M, D, H, W] correlated with symmetric ``taps`` along each axis; zero outside.

    Sums of shifted volumes, one member at a time so that they stay in the cache: many times as fast
    as a convolution with one channel.
    """
    return torch.stack([_correlated(one, taps.tolist()) for one in x])


def _correlated(x: Tensor, taps: list[float]) -> Tensor:
    middle = len(taps) // 2
    for axis in range(x.ndim):
        total = taps[middle] * x
        for shift in range(1, min(middle, x.shape[axis] - 1) + 1):
            kept, weight = x.shape[axis] - shift, taps[middle + shift]
            total.narrow(axis, shift, kept).add_(x.narrow(axis, 0, kept), alpha=weight)
            total.narrow(axis, 0, kept).add_(x.narrow(axis, shift, kept), alpha=weight)
        x = total
    return x
