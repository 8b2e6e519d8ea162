"""From X-rays back to scenes of a posed prior, by several codes at once.

The mean of the codes' scenes is the answer, and their spread says how much it is worth.

1. Best of N: random and trained codes are rendered at the input's angles; the closest start the
   search; without a guide half a step on by a linear model of all of them (:mod:`.linear_pixels`).
2. Codes: the prior's standard normal numbers eps minimise  Σ (g·p(eps) − y)² / σ² + |eps − eps_k|².
   The first member has eps_k = 0 (the maximum a posteriori); the others draw eps_k ~ N(0, 1), which
   for a linear model makes each an exact posterior sample ("randomise, then optimise", Bardsley et
   al. 2014): what the X-ray does not determine keeps the prior's variance.
3. Pivot: the style itself and low-rank additions to every layer's factors are tuned, held near by a
   locality penalty (after pivotal tuning, Roich et al. 2022), together with each view's angle, the
   source distance and each view's gain.
A film whose tone curve is unknown has, in place of a gain, a monotone curve and a share of scatter,
fitted with the codes from the start (:mod:`.film_response`); σ then follows the error that is left.
Where the prior has a conditional generator that answers an X-ray of line integrals
(:mod:`.conditional`), it guides codes and pivot from views that were not taken: the best guess is
drawn to its best guess, and each other member to an answer of its own, once more so that members
differ by what the X-ray leaves open.
One tenth of the input's pixels is held out; the state with the lowest held-out error is kept, never
the one that fits best (:mod:`.descent`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..core.adam import Adam
from ..core.types import Rays
from ..fields.hyper import SHARP_EDGE
from ..gan.generator import HyperGenerator, Latent
from ..imaging.orbit_of_frames import turned
from ..imaging.view_frames import ViewFrame
from ..prior.load import INVERSIONS, Prior, Search
from ..prior.rendering import as_batch
from ..rays.render import Level, render
from ..rays.samplers.stratified import Stratified
from .conditional import Guide, answered_view, guide_of
from .descent import descend, split_pixels
from .film_response import FIELD_PX, SIGMA_FLOOR, FilmResponse, sampled
from .linear_pixels import LinearPixels, fitted_gain
from .members import Posterior
from .posterior_state import State
from .progress import Watch, coarse_pixels
from .xray_views import XrayViews

# Field units over which a scan ends, above and below, while codes are searched: a soft end lets a
# patient be moved along the axis. It sharpens linearly over the first two thirds of the steps.
SOFT_EDGE = 0.08
SHARPENING = 1.5
START_PIXELS = 160  # that candidates are compared at
FILM_START_PIXELS = 320  # where each candidate's tone curve is fitted as well
START_BATCH = 16  # candidates rendered at once
START_SHRINK = 0.8  # of trained codes towards the prior's mean
LEAP = 0.5  # of the step that a linear model of the candidates takes: it is no more than that

# Adam's learning rates, at their peak: each in the unit of what it moves, per step
BETAS = (0.9, 0.95)
WARM_UP_STEPS = 5
LOG_GAIN_RATE = 0.01
PIVOT_CODE_SHARE = 0.3  # of ``code_rate``
STYLE_RATE = 0.01
DELTA_RATE = 0.003
TURN_RATE_DEG = 0.2
LOG_DISTANCE_RATE = 0.005
TONE_RATE = 0.05
SCATTER_STEPS = 20  # between two looks at the scatter of the members' own pictures

# standard deviations of what the set-up may deviate by, and the most that the locality may cost
TURN_SIGMA_DEG = 2.0
LOG_DISTANCE_SIGMA = 0.05
MOST_LOCALITY = 1e6


@INVERSIONS.register("posterior")
@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Inversion through a prior of line integrals whose generator is ``hyper``.

    Options:
        samples: members K beside the best guess; their spread is the uncertainty.
        candidates: random codes that are tried first, beside the trained ones.
        code_steps: steps on the codes; twice as many for several X-rays.
        pivot_steps: steps on style, layers and set-up.
        film_code_steps: steps on the codes where a tone curve is fitted as well.
        film_pivot_steps: steps on style, layers and set-up where a tone curve is fitted as well.
        guided_steps: steps on the codes where there is a guide.
        guided_pivot_steps: steps on style, layers and set-up where there is a guide.
        rays: pixels a step.
        guide_rays: pixels a step where there is a guide, of its views and again of the X-rays.
        nodes: samples along a ray.
        sigma: what a pixel is trusted to, in image values, model error included.
        pixels: independent pixels that a view is worth.
        code_rate: learning rate of the codes, standard deviations a step.
        locality: variance of style and layers around the codes' own, in the pivot's penalty.
        guided_locality: the same where there is a guide, which says more of the patient.
        gain_sigma: standard deviation of the logarithm of a view's gain.
        max_seconds: of the whole search, in s; the state found so far is then the answer.
    """

    samples: int = 6
    candidates: int = 96
    code_steps: int = 40
    pivot_steps: int = 30
    film_code_steps: int = 140
    film_pivot_steps: int = 50
    guided_steps: int = 40
    guided_pivot_steps: int = 60
    rays: int = 224
    guide_rays: int = 160
    nodes: int = 32
    sigma: float = 0.05
    pixels: float = 256.0
    code_rate: float = 0.08
    locality: float = 1e-2
    guided_locality: float = 0.1
    gain_sigma: float = 0.05
    max_seconds: float = math.inf

    def __call__(
        self,
        prior: Prior,
        images: Tensor,
        angles_deg: Tensor,
        rng: Generator,
        *,
        mask: Tensor | None = None,
        films: Sequence[bool] = (),
        view_frames: tuple[ViewFrame, ...] = (),
        watch: Watch | None = None,
    ) -> Posterior:
        """Invert views [n, rows, cols] of one patient taken at ``angles_deg`` [n].

        ``mask`` [n, rows, cols] is below one half where a pixel says nothing of the patient;
        ``films`` says of each view whether its tone curve is unknown. ``view_frames`` are of views
        that stand on no orbit of the prior's, with the pixels of its geometry. ``watch`` is told.
        """
        started = time.perf_counter()
        deadline = started + self.max_seconds
        problem = Problem(prior, images, angles_deg, self, rng, mask, films, view_frames)
        view = None if view_frames else answered_view(prior, angles_deg)
        if view is not None and view not in problem.films:
            problem.follow(images[view], view)
        code_steps, pivot_steps = self._steps(problem)
        state = problem.start()
        state, mse = problem.descend(state, code_steps, deadline=deadline, watch=watch)
        state, mse = problem.descend(state, pivot_steps, deadline=deadline, pivot=True, watch=watch)
        return problem.result(state, mse, time.perf_counter() - started)

    def _steps(self, problem: Problem) -> tuple[int, int]:
        """Steps on the codes, and on everything."""
        if problem.guide is not None:
            return self.guided_steps, self.guided_pivot_steps
        if problem.films:
            return self.film_code_steps, self.film_pivot_steps
        more = 2 if len(problem.images) > 1 else 1  # several X-rays leave less to an early end
        return more * self.code_steps, self.pivot_steps


def inversion_of(prior: Prior, default: Callable[..., Search], **options: Any) -> Search:
    """The inversion that the prior's recipe names, else ``default``.

    ``options`` are the caller's and go before the recipe's.
    """
    node = prior.meta.get("recipe", {}).get("inversion")
    return default(**options) if node is None else INVERSIONS.build({**node, **options})


class Problem:
    """One patient's views against one prior."""

    def __init__(
        self,
        prior: Prior,
        images: Tensor,
        angles_deg: Tensor,
        options: Inversion,
        rng: Generator,
        mask: Tensor | None = None,
        films: Sequence[bool] = (),
        view_frames: tuple[ViewFrame, ...] = (),
    ) -> None:
        assert isinstance(prior.generator, HyperGenerator)
        self.prior, self.g, self.options, self.rng = prior, prior.generator, options, rng
        self.device = prior.device
        self.images = images.float().to(self.device)
        self.angles_deg = angles_deg.to(self.device)
        cols, support = images.shape[-1], self.g.field.support
        self.views = XrayViews.of(prior, angles_deg, view_frames, cols=cols, support=support)
        self.pixels = split_pixels(images.shape, rng, mask)
        self.films = [k for k, is_film in enumerate(films) if is_film]
        self.response = FilmResponse.of(prior.geometry, self.device) if self.films else None
        self.levels = [Level(Stratified(n=options.nodes))]
        self.guide: Guide | None = None
        self.expected_gain = prior.expected_gain(self.angles_deg)
        # eps_k of each member: [1 + K, latent_dim] once the members are chosen
        self.centres = torch.zeros(1, self.g.latent_dim, device=self.device)
        # the same of the films' responses, and their scatter [1 + K, n, rows, cols] as last seen
        self.tone_centres = self._no_tone(1)
        self.scatter = torch.zeros(0)

    def follow(self, xray: Tensor, view: int) -> None:
        """Take the conditional generator's answers to line integrals ``xray`` as a guide."""
        mask = (~self.pixels.unseen[view]).to(xray)
        angle_deg = float(self.angles_deg[view])
        self.guide = guide_of(
            self.prior,
            xray.float().to(self.device),
            mask.to(self.device),
            angle_deg,
            self.rng,
            samples=self.options.samples,
        )

    def start(self) -> State:
        """Best of N codes."""
        g, o = self.g, self.options
        drawn = torch.randn(o.candidates, g.latent_dim, generator=self.rng).to(self.device)
        trained = START_SHRINK * g.whiten(self.prior.codes.to(self.device))[: o.candidates]
        eps = torch.cat([torch.zeros_like(self.centres), trained, drawn])
        pixels = self.pixels.draw(FILM_START_PIXELS if self.films else START_PIXELS, self.rng)
        seen, wanted, tone = self._candidates(eps, pixels), self._truth(pixels)[None], None
        if self.films:
            tone, cost = self._toned(eps, seen, pixels)
        else:
            cost = (fitted_gain(seen, wanted) * seen - wanted).square().mean(1)
        if self.guide is not None:
            pixels = self.guide.draw(START_PIXELS, self.rng)
            guided, answers = self._candidates(eps, pixels, guided=True), self._answers(pixels)
            cost = cost + (guided - answers[0]).square().mean(1)
        order = cost.argsort()[: 1 + o.samples]
        others = torch.randn(o.samples, g.latent_dim, generator=self.rng).to(self.device)
        self.centres = torch.cat([torch.zeros_like(eps[:1]), others])
        if tone is not None:
            others = torch.randn(o.samples, *tone.shape[1:], generator=self.rng).to(self.device)
            self.tone_centres = torch.cat([torch.zeros_like(tone[:1]), others])
            return replace(self._fresh(eps[order]), tone=tone[order])
        if self.guide is not None:  # which leads further than the linear model can
            return self._fresh(eps[order])
        model = LinearPixels.fit(eps, seen)
        variance = START_PIXELS * self._unit * (1 + model.error / o.sigma**2)
        step = model.step(eps[order], wanted - seen[order], self.centres, variance)
        return self._fresh(eps[order] + LEAP * step)

    @torch.no_grad()
    def _candidates(self, eps: Tensor, pixels: Tensor, *, guided: bool = False) -> Tensor:
        """What candidates show at pixels [R, 3] of X-rays, without gain, or of the guide [C, R]."""
        show, pixels = self._guided if guided else self._seen, pixels.to(self.device)
        states = [self._fresh(some) for some in eps.split(START_BATCH)]
        return torch.cat([show(state, pixels, edge=SOFT_EDGE) for state in states])

    def _toned(self, eps: Tensor, seen: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The response [C, n, Q] that fits each candidate best, and what is left over [C].

        ``seen`` [C, R] is what the candidates show at pixels [R, 3].
        """
        assert self.response is not None
        truth = self._truth(pixels)
        view, y, x = pixels.to(self.device).unbind(1)
        batches = (self._fresh(some) for some in eps.split(START_BATCH))
        scatter = torch.cat([self._scatter(state) for state in batches])[:, view, y, x]
        tone = self._no_tone(len(eps))
        gain = fitted_gain(seen, truth)
        squared = (gain * seen - truth).square()
        for k in self.films:
            own = view == k
            unit = self.options.sigma**2 / self.options.pixels
            tone[:, k], cost = self.response.start(seen[:, own], scatter[:, own], truth[own], unit)
            squared[:, own] = cost[:, None]
        return tone, squared.mean(1)

    def _no_tone(self, members: int) -> Tensor:
        """The response in the middle of the prior: [M, n, Q]."""
        parameters = self.response.parameters if self.response else 0
        return torch.zeros(members, len(self.images), parameters, device=self.device)

    def _fresh(self, eps: Tensor) -> State:
        """The state of codes [M, latent_dim] in the set-up as stated."""
        return State.of(eps, self._no_tone(len(eps)), self.g)

    def latent(self, state: State) -> Latent:
        """The scenes a state stands for."""
        base = self.g.latent(state.eps)
        return Latent(base.w + state.style, base.pose, state.deltas)

    def _guided(
        self, state: State, pixels: Tensor, *, edge: float, rng: Generator | None = None
    ) -> Tensor:
        """What each member shows at pixels [R, 3] of the guide's views: [M, R]."""
        assert self.guide is not None
        views = self.views.at(self.guide.angles_deg)
        rays = views.rays(pixels.to(self.device), state.log_distance)
        return self._rendered(state, rays, edge=edge, rng=rng)

    def _answers(self, pixels: Tensor) -> Tensor:
        """Each member's own guide at pixels [R, 3] of its views: [M, R]."""
        assert self.guide is not None
        view, y, x = pixels.to(self.device).unbind(1)
        return self.guide.images[:, view, y, x]

    def _truth(self, pixels: Tensor) -> Tensor:
        """The X-rays at pixels [R, 3]: [R]."""
        view, y, x = pixels.to(self.device).unbind(1)
        return self.images[view, y, x]

    def _seen(
        self, state: State, pixels: Tensor, *, edge: float, rng: Generator | None = None
    ) -> Tensor:
        """What each member shows at pixels [R, 3] (view, row, column), without gain: [M, R]."""
        rays = self.views.rays(pixels, state.log_distance, state.turn_deg)
        seen = self._rendered(state, rays, edge=edge, rng=rng)
        return seen * self.expected_gain[pixels[:, 0]]

    def _rendered(
        self, state: State, rays: Rays, *, edge: float, rng: Generator | None = None
    ) -> Tensor:
        """Line integrals [M, R] of each member along rays [R]."""
        code = self.g.weights(self.latent(state), edge=edge)
        batch = as_batch(rays, len(state.eps))
        (level,) = render(batch, self.g.field, self.levels, code=code, rng=rng)
        return level.rendering.image[..., 0]

    def _mse(self, state: State, pixels: Tensor, **how: Any) -> Tensor:
        """Mean squared error of each member at pixels [R, 3]: [M]; ``how`` as :meth:`_shown`."""
        shown, truth = self._shown(state, pixels, **how)
        return (shown - truth).square().mean(1)

    def _shown(
        self,
        state: State,
        pixels: Tensor,
        *,
        edge: float = SHARP_EDGE,
        rng: Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What each member and what the X-rays show at pixels [R, 3] (view, row, column).

        They are [M, R] and [R]. The members may be the first of those whose scatter is known.
        """
        view, y, x = (pixels := pixels.to(self.device)).unbind(1)
        seen, truth = self._seen(state, pixels, edge=edge, rng=rng), self._truth(pixels)
        gain = state.log_gain.exp()[:, view]
        shown = gain * seen
        for k in self.films:
            assert self.response is not None
            own = view == k
            scatter = self.scatter[: len(shown), k, y[own], x[own]]
            shown[:, own] = self.response(state.tone[:, k], seen[:, own], scatter)
        return shown, truth

    @torch.no_grad()
    def pictures(self, state: State) -> Tensor:
        """The X-rays and the best guess at them: [2, n, rows, cols], coarser than they are."""
        grid = coarse_pixels(self.images.shape)
        shown, truth = self._shown(state.best(), grid.flatten(0, 2))
        return torch.stack([truth, shown[0]]).unflatten(1, grid.shape[:3]).cpu()

    @torch.no_grad()
    def _scatter(self, state: State) -> Tensor:
        """The scatter of each member's own pictures [M, n, rows, cols]."""
        assert self.response is not None
        n, rows, cols = self.images.shape
        y, x = (
            ((torch.arange(FIELD_PX) + 0.5) * size / FIELD_PX - 0.5).round()
            for size in (rows, cols)
        )
        pixels = torch.cartesian_prod(torch.arange(n), y.long(), x.long()).to(self.device)
        seen = self._seen(state, pixels, edge=SHARP_EDGE).view(-1, n, FIELD_PX, FIELD_PX)
        return sampled(self.response.scatter(seen), rows, cols)

    def descend(
        self,
        state: State,
        steps: int,
        *,
        deadline: float,
        pivot: bool = False,
        watch: Watch | None = None,
    ) -> tuple[State, float]:
        """Adam on codes and gains, or on everything when ``pivot``.

        Returns the state with the lowest held-out error, and that error.
        """
        state = state.copied()
        code_rate = self.options.code_rate * (PIVOT_CODE_SHARE if pivot else 1.0)
        groups: list[dict[str, Any]] = [
            {"params": [state.eps], "lr": code_rate},
            {"params": [state.log_gain], "lr": LOG_GAIN_RATE},
            {"params": [state.tone], "lr": TONE_RATE},
        ]
        if pivot:
            groups += [
                {"params": [state.style], "lr": STYLE_RATE},
                {"params": list(state.deltas), "lr": DELTA_RATE},
                {"params": [state.turn_deg], "lr": TURN_RATE_DEG},
                {"params": [state.log_distance], "lr": LOG_DISTANCE_RATE},
            ]
        adam = Adam(groups, betas=BETAS)

        def rate(i: int) -> float:
            cosine = 0.5 + 0.5 * math.cos(math.pi * i / max(1, steps))
            return min(1, (i + 1) / WARM_UP_STEPS) * cosine

        def loss(i: int) -> Tensor:
            edge = max(SHARP_EDGE, 0 if pivot else SOFT_EDGE * (1 - SHARPENING * i / steps))
            if self.films and i % SCATTER_STEPS == 0:
                self.scatter = self._scatter(state)
            count = self.options.rays if self.guide is None else self.options.guide_rays
            pixels = self.pixels.draw(count, self.rng)
            mse = self._mse(state, pixels, edge=edge, rng=self.rng)
            total = mse + self._trust(mse) * self._penalty(state, pivot)
            if self.guide is not None:
                pixels = self.guide.draw(count, self.rng)
                shown = self._guided(state, pixels, edge=edge, rng=self.rng)
                total = total + (shown - self._answers(pixels)).square().mean(1)
            return total

        if self.films:
            self.scatter = self._scatter(state)
        return descend(
            state,
            loss=loss,
            held_out_mse=self._held_out_mse,
            optimisers=[adam],
            schedule=rate,
            steps=steps,
            deadline=deadline,
            label="pivot" if pivot else "codes",
            watch=watch,
            pictures=self.pictures,
        )

    @torch.no_grad()
    def _held_out_mse(self, state: State) -> float:
        """Mean squared error over members, at the pixels kept aside, of the sharp-edged scenes."""
        return float(self._mse(state, self.pixels.held_out).mean())

    def _trust(self, mse: Tensor) -> Tensor | float:
        """What multiplies the penalty of each member: 1, or σ² of a film over the option's [M].

        A tone curve can hide an error as large as the option's σ, so that σ follows what is left.
        """
        if not self.films:
            return 1.0
        sigma = self.options.sigma
        return mse.detach().clamp(min(SIGMA_FLOOR, sigma) ** 2, sigma**2) / sigma**2

    @property
    def _unit(self) -> float:
        """Of a negative log prior, in mean squared errors."""
        views = len(self.images) + (0 if self.guide is None else len(self.guide.angles_deg))
        return self.options.sigma**2 / (self.options.pixels * views)

    def _penalty(self, state: State, pivot: bool) -> Tensor:
        """Negative log prior of each member, in units of the mean squared error: [M]."""
        o = self.options
        cost = (state.eps - self.centres).square().sum(1)
        cost = cost + (state.log_gain / o.gain_sigma).square().sum(1)
        cost = cost + (state.tone - self.tone_centres).square().sum((1, 2))
        if pivot:
            locality = o.locality if self.guide is None else o.guided_locality
            local = state.style.square().mean(1) + sum(d.square().mean(1) for d in state.deltas)
            cost = (
                cost
                + (local / locality).clamp_max(MOST_LOCALITY)
                + (state.turn_deg / TURN_SIGMA_DEG).square().sum()
                + (state.log_distance / LOG_DISTANCE_SIGMA).square()
            )
        return self._unit * cost

    @torch.no_grad()
    def result(self, state: State, held_out_mse: float, seconds: float) -> Posterior:
        """The finished scenes."""
        fitted = self.views.geometry.resized(self.prior.geometry.cols)
        latent = self.latent(state)
        return Posterior(
            latent=latent,
            code=self.g.weights(latent),
            gains=state.log_gain.exp(),
            angles_deg=self.angles_deg + state.turn_deg,
            distance=self.prior.distance * float(state.log_distance.exp()),
            held_out_mse=held_out_mse,
            seconds=seconds,
            tone=state.tone if self.films else None,
            view_frames=turned(fitted, state.turn_deg.tolist()).view_frames,
        )
