"""Where a photograph was taken from: poses refined against a fitted scene (iNeRF, Yen-Chen et al.
2021, arXiv 2012.05877).

The field stays as it is. :func:`refine` fits one twist per start, in the axes of the start's
camera, to the colours of rays; all starts share every batch. Which pixels are compared is iNeRF's
choice of three: any, those at interest points, those in regions around them. :func:`approach`
brings far starts near first, by carrying what is seen from the start into the photograph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn.functional import max_pool2d, normalize

from ...core.errors import UserError
from ...core.types import Pixels
from ...imaging.cameras import Cameras, box_span
from ...imaging.motion import about, exp_se3, square
from ...rays.selectors.base import sample_bilinear
from ..model import Model, on_device, render_cameras

PixelName = Literal["random", "interest", "region"]
PIXELS: tuple[PixelName, ...] = get_args(PixelName)
CORNER_SHARE = 0.02  # of the strongest corner's response: what still counts as a corner
CORNER_FLOOR = 1e-4  # response of a corner that an eye can see, at contrast 1
RAYS_AT_ONCE = 16384  # of all starts together: bounds the memory
SEEN_COLS = 48  # of the small picture seen from a start
POINTS = 512  # of what it shows that are carried into the photograph
# turns of the start that are tried, those followed, and how far they go
TRIES, KEPT, REACH_DEG = 192, 6, 45.0
# of the approach: steps under each blur, and Adam's rate under the first
STEPS_A_BLUR, FAST = 30, 0.02


@dataclass(frozen=True, kw_only=True)
class PoseSearch:
    """How a pose is refined.

    ``pixels`` are those compared: ``random`` ones, ``interest`` points (corners of the photograph),
    or the ``region`` around them, dilated ``iterations`` times by a square of ``kernel`` pixels;
    ``points`` says whether the corners of the render at the start count too. Each of ``steps``
    renders ``rays`` a start; Adam's rate falls exponentially from ``rate`` to ``final_rate`` of it,
    in radians, and for shifts in units of the distance to the scene. With ``blur`` the photograph
    is blurred during the first half of the steps, by that share of its width at first, then by half
    as much again and again, so that farther starts feel where to go; the regions grow with it.
    (Blurring one of two pictures blurs their correlation as blurring both would.)
    """

    pixels: PixelName = "region"
    points: Literal["photo", "both"] = "photo"
    kernel: int = 5
    iterations: int = 3
    rays: int = 512
    steps: int = 200
    rate: float = 0.01
    final_rate: float = 0.05
    blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rays", "steps", "kernel", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"got {name} {getattr(self, name)}",
                    "wanted a whole number from 1 on",
                    f"correct --{name}",
                )
        if self.kernel % 2 == 0:
            raise UserError(
                f"got a kernel of {self.kernel} pixels", "wanted an odd number", "correct --kernel"
            )
        if self.rate <= 0 or not 0 < self.final_rate <= 1 or not 0 <= self.blur < 0.5:
            raise UserError(
                f"got rate {self.rate:g}, final rate {self.final_rate:g}, blur {self.blur:g}",
                "wanted a positive rate, a share and a blur below half the picture",
                "correct them",
            )

    def stage(self, step: int, stages: int) -> int:
        """Which stage a step belongs to: the blurred ones share the first half of the steps.

        >>> [PoseSearch(steps=8).stage(k, 3) for k in range(8)]
        [0, 0, 1, 1, 2, 2, 2, 2]
        """
        return min(stages - 1, 2 * step * (stages - 1) // self.steps)


@dataclass(frozen=True)
class Refined:
    """P starts, refined."""

    c2w: Tensor  # [P, 3, 4]
    path: Tensor  # [K, P, 3, 4] poses on the way, the start first and the end last
    # [K, P] mean squared error of the rays there; of the end, over the last tenth of the steps
    loss: Tensor
    step: list[int]  # [K]


def refine(
    model: Model,
    cameras: Cameras,
    photos: Tensor,
    starts: Tensor,
    which: Tensor,
    search: PoseSearch,
    *,
    rng: Generator,
    device: str | torch.device = "cpu",
    keep_every: int = 20,
) -> Refined:
    """Refine poses ``starts`` [P, 3, 4] of photos [V, H, W, C], of which start p is to explain
    ``photos[which[p]]``.

    ``cameras`` are those of the photos (V; their poses are not used) and ``model`` has frozen
    fields. Start p's pose is start · exp(ξ_p), rotations about the middle of the scene, and ξ_p
    lowers the mean squared error of its rays by Adam; each start has an error of its own, so that
    batching changes nothing but the time.
    """
    rows, cols = photos.shape[1:3]
    if (cameras.rows, cameras.cols) != (rows, cols):
        raise UserError(
            f"got photos of {cols}×{rows} pixels for cameras of {cameras.cols}×{cameras.rows}",
            "wanted one size",
            "resize the photos, or give the cameras of their size",
        )
    if search.rays > rows * cols:
        raise UserError(
            f"got {search.rays} rays of a picture of {rows * cols} pixels",
            "wanted at most one a pixel",
            "lower --rays",
        )
    points = None if search.pixels == "random" else corners(photos)
    sets = PixelSets(photos, points, search)
    parts = []
    for some in torch.arange(len(starts)).split(max(1, RAYS_AT_ONCE // search.rays)):
        own, photo = cameras.take(which[some]), which[some]
        if points is not None and search.points == "both":
            seen = render_cameras(
                model, replace(own, c2w=starts[some]), device=device, progress=False
            ).image
            sets = PixelSets(photos[photo], points[photo] | corners(seen, needed=False), search)
            photo = torch.arange(len(some))
        parts.append(
            _descend(
                model,
                model.narrowed(own),
                sets,
                starts[some],
                photo,
                search,
                rng,
                device,
                keep_every,
            )
        )
    path, loss = torch.cat([p.path for p in parts], 1), torch.cat([p.loss for p in parts], 1)
    return Refined(path[-1], path, loss, parts[0].step)


def aligned(
    model: Model,
    cameras: Cameras,
    photos: Tensor,
    *,
    steps: int = 100,
    rate: float = 2e-3,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Cameras:
    """The cameras of photos [V, H, W, C] with poses refined from where they are: how views are
    scored that a scene with refined training poses has not seen (BARF, Lin et al. 2021, §4.1: what
    is measured is the scene, not the files' error)."""
    search = PoseSearch(
        pixels="random", rays=min(512, photos[0, ..., 0].numel()), steps=steps, rate=rate
    )
    views, rng = torch.arange(len(photos)), Generator().manual_seed(seed)
    found = refine(model, cameras, photos, cameras.c2w, views, search, rng=rng, device=device)
    return replace(cameras, c2w=found.c2w)


def _descend(
    model: Model,
    cameras: Cameras,
    sets: PixelSets,
    starts: Tensor,
    photo: Tensor,
    search: PoseSearch,
    rng: Generator,
    device: str | torch.device,
    keep_every: int,
) -> Refined:
    """Adam on the twists of some starts, each with a camera of ``cameras`` and the pixels of the
    ``photo`` it explains.
    """
    count = len(starts)
    pivot, unit = pivots(cameras, starts)
    twist = torch.zeros(count, 6, requires_grad=True)
    optimiser = torch.optim.Adam([twist], betas=(0.9, 0.99))
    view = torch.arange(count)[:, None].expand(-1, search.rays)
    poses, losses = [], []
    for step in range(search.steps):
        optimiser.param_groups[0]["lr"] = search.rate * search.final_rate ** (step / search.steps)
        yx, truth = sets.draw(search.stage(step, len(sets.photos)), photo, rng)
        pose = posed(starts, twist, pivot, unit)
        rays = replace(cameras, c2w=pose).rays(view.reshape(-1), yx.reshape(-1, 2))
        image = (
            model.render(on_device(rays, device), rng)[-1]
            .rendering.image.cpu()
            .view(count, search.rays, -1)
        )
        loss = (image - truth).square().mean((1, 2))
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimiser.step()
        poses.append(pose.detach())
        losses.append(loss.detach())
    kept = [*range(0, search.steps, keep_every), search.steps]
    poses.append(posed(starts, twist, pivot, unit).detach())
    losses.append(torch.stack(losses[-max(1, search.steps // 10) :]).mean(0))
    return Refined(
        poses[-1],
        torch.stack([poses[k] for k in kept]),
        torch.stack([losses[k] for k in kept]),
        kept,
    )


def posed(starts: Tensor, twist: Tensor, pivot: Tensor, unit: Tensor) -> Tensor:
    """start · exp(ξ) [P, 3, 4]: twists [P, 6] in the start camera's axes about ``pivot`` [P, 3],
    shifts in ``unit`` [P].
    """
    scaled = torch.cat([twist[:, :3], twist[:, 3:] * unit[:, None]], -1)
    return (square(starts) @ about(exp_se3(scaled), pivot))[:, :3]


def pivots(cameras: Cameras, starts: Tensor) -> tuple[Tensor, Tensor]:
    """What the starts turn about, the scene's middle in their cameras' axes [P, 3], and their
    distance from it [P].

    About that point a rotation leaves the object where it is in the picture and a shift moves it:
    the two hardly trade. Without a box in the scene's own space the pivot is the camera, and the
    unit of length is the scene's.
    """
    if cameras.box is None or cameras.ndc:
        return torch.zeros(len(starts), 3), torch.ones(len(starts))
    away = cameras.box.mean(0).to(starts) - starts[:, :, 3]
    return (starts[:, :, :3].mT @ away[..., None])[..., 0], away.norm(dim=-1).clamp_min(1e-6)


def sees_scene(cameras: Cameras, box: Tensor) -> Tensor:
    """Whether any of a lattice of each camera's pixels has a ray that meets the box [2, 3], bool
    [V]; a warped space is met.
    """
    if cameras.ndc:
        return torch.ones(cameras.count, dtype=torch.bool)
    step = max(1, min(cameras.rows, cameras.cols) // 32)
    lines = (torch.arange(0, cameras.rows, step), torch.arange(0, cameras.cols, step))
    yx = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(1, -1, 2).float()
    view = torch.arange(cameras.count)[:, None].expand(-1, yx.shape[1])
    enter, leave = box_span(*cameras.world_rays(view, yx.expand(cameras.count, -1, -1)), box)
    return (leave > enter).any(1)


# Pixels


def corners(images: Tensor, *, needed: bool = True) -> Tensor:
    """Interest points of images [V, H, W, C]: where Shi and Tomasi's corner response is the largest
    of its 5×5 neighbourhood and above a share of the picture's best; bool [V, H, W]. An image
    without any is refused where they are ``needed``."""
    from kornia.feature import gftt_response

    found = torch.zeros(images.shape[:3], dtype=torch.bool)
    for v, gray in enumerate(images.float().mean(-1)):
        response = gftt_response(gray[None, None])
        best = float(response.max())
        if best < CORNER_FLOOR:
            if needed:
                raise UserError(
                    "got a photograph without a single corner",
                    "wanted interest points to compare",
                    "choose --pixels random, or another photograph",
                )
            continue
        peak = (response == max_pool2d(response, 5, stride=1, padding=2)) & (
            response > CORNER_SHARE * best
        )
        found[v] = peak[0, 0]
    return found


class PixelSets:
    """Which pixels of each photograph may be drawn at each stage, and the photographs as blurred as
    they are then.
    """

    def __init__(self, photos: Tensor, points: Tensor | None, search: PoseSearch) -> None:
        self.rays, self.cols = search.rays, photos.shape[2]
        sharp = photos.float()
        sigmas = [*sigmas_px(search.blur, self.cols), 0.0]
        self.photos = [blurred(sharp, sigma) for sigma in sigmas]
        self.spots: list[Tensor] = []
        self.first: list[Tensor] = []
        self.count: list[Tensor] = []
        for sigma in sigmas:
            allowed = torch.ones(sharp.shape[:3], dtype=torch.bool) if points is None else points
            if search.pixels == "region":
                allowed = dilated(allowed, search.kernel, search.iterations, 2 * round(sigma))
            flat = allowed.flatten(1)
            count = flat.sum(1)
            self.spots.append(flat.nonzero()[:, 1])
            self.first.append(count.cumsum(0) - count)
            self.count.append(count)

    def draw(self, stage: int, photo: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Pixels [P, R, 2] of photos ``photo`` [P] and their colours [P, R, C]: one in each of R
        equal strata of a photo's allowed pixels in reading order."""
        u = (torch.arange(self.rays) + torch.rand(len(photo), self.rays, generator=rng)) / self.rays
        count = self.count[stage][photo][:, None]
        spot = self.spots[stage][
            self.first[stage][photo][:, None] + (u * count).long().minimum(count - 1)
        ]
        y, x = spot // self.cols, spot % self.cols
        return torch.stack([y, x], -1).float(), self.photos[stage][photo[:, None], y, x]


def dilated(points: Tensor, kernel: int, iterations: int, more_px: int = 0) -> Tensor:
    """A mask [V, H, W] grown ``iterations`` times by a square of ``kernel`` pixels, and once by
    ``more_px`` on each side.

    >>> dilated(torch.arange(7)[None, None] == 3, 3, 2).int().tolist()
    [[[0, 1, 1, 1, 1, 1, 0]]]
    """
    grown = points[:, None].float()
    for size in [kernel] * iterations + [2 * more_px + 1]:
        grown = max_pool2d(grown, size, stride=1, padding=size // 2)
    return grown[:, 0] > 0


def sigmas_px(blur: float, cols: int) -> list[float]:
    """A share of the picture's width in pixels, then halves of it while they are at least one.

    >>> sigmas_px(0.04, 100), sigmas_px(0.0, 100)
    ([4.0, 2.0, 1.0], [])
    """
    widest = blur * cols
    return [widest / 2**k for k in range(int(math.log2(widest)) + 1)] if widest >= 1 else []


def blurred(images: Tensor, sigma_px: float) -> Tensor:
    """Images [V, H, W, C] under a Gaussian, borders repeated."""
    if sigma_px <= 0:
        return images
    from kornia.filters import gaussian_blur2d

    size = min(2 * math.ceil(3 * sigma_px) + 1, 2 * min(images.shape[1:3]) - 1)
    return gaussian_blur2d(
        images.movedim(-1, 1), (size, size), (sigma_px, sigma_px), "replicate"
    ).movedim(1, -1)


# The approach


def approach(
    model: Model,
    cameras: Cameras,
    photos: Tensor,
    starts: Tensor,
    which: Tensor,
    *,
    rng: Generator,
    blur: float = 0.08,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Poses [P, 3, 4] nearer to the photos than the starts, by direct alignment; arguments as those
    of :func:`refine`.

    What is seen from a start, colour and depth, is points in space; a pose is good where the photo
    has their colours at the pixels they project to, under the same blur. That costs a look-up a
    point and no question to the field, so that many turns of the start can be tried and the best of
    them followed from blur to blur. Then once more with what is seen from there. What hides what is
    not asked, which leaves an error that :func:`refine` is there for.
    """
    cameras = model.narrowed(cameras).take(which)
    sigmas = sigmas_px(blur, cameras.cols) or [1.0]
    soft = [blurred(photos.float(), sigma) for sigma in sigmas]
    for tries in (TRIES, 1):
        points, colours, known = seen_points(model, cameras, starts, sigmas, rng, device)
        poses = turned(cameras, starts, tries, rng)
        with torch.no_grad():
            losses = torch.cat(
                [
                    _carried(cameras, soft[0], p, points, colours[0], which)
                    for p in poses.split(16, 1)
                ],
                1,
            )
        best = losses.topk(min(KEPT, tries), largest=False).indices
        poses = poses.gather(1, best[..., None, None].expand(-1, -1, 3, 4))
        ends, loss = _follow(cameras, soft, poses, points, colours, which)
        best = loss.argmin(1)[:, None, None, None].expand(-1, 1, 3, 4)
        starts = torch.where(known[:, None, None], ends.gather(1, best)[:, 0], starts)
    return starts


@torch.no_grad()
def seen_points(
    model: Model,
    cameras: Cameras,
    starts: Tensor,
    sigmas: list[float],
    rng: Generator,
    device: str | torch.device,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Surface points [P, N, 3] seen from the starts, within twice the photo's width and height;
    their colours [P, N, C] under each blur (in pixels of the photo); and which starts see any, bool
    [P]."""
    cols = min(SEEN_COLS, cameras.cols)
    rows = max(1, round(cameras.rows * cols / cameras.cols))
    wide = replace(cameras.resized(rows, cols), c2w=starts)
    if not cameras.ndc:  # a warped space ends where the picture does
        wide = replace(
            wide,
            rows=2 * rows,
            cols=2 * cols,
            centre_px=wide.centre_px + torch.tensor([cols, rows]) / 2,
        )
    seen = render_cameras(model, wide, device=device, progress=False)
    solid = (seen.opacity > 0.5).flatten(1)
    order = (solid + torch.rand(solid.shape, generator=rng)).argsort(1, descending=True)
    spot = order.gather(1, torch.arange(POINTS) % solid.sum(1, keepdim=True).clamp_min(1))
    yx = torch.stack([spot // wide.cols, spot % wide.cols], -1).float()
    view = torch.arange(len(starts))[:, None].expand(-1, POINTS)
    origin, direction = wide.world_rays(view, yx)
    distance = wide.from_ray(view, yx, seen.median_depth.flatten(1).gather(1, spot).nan_to_num(1.0))
    soft = [blurred(seen.image, sigma * cols / cameras.cols).flatten(1, 2) for sigma in sigmas]
    colours = [s.gather(1, spot[..., None].expand(-1, -1, s.shape[-1])) for s in soft]
    return origin + distance[..., None] * direction, colours, solid.sum(1) >= 16


def turned(cameras: Cameras, starts: Tensor, tries: int, rng: Generator) -> Tensor:
    """The starts [P, 3, 4] and random turns of them, [P, tries, 3, 4]: two in three on the spot,
    one in three about the scene.
    """
    axis = normalize(torch.randn(len(starts), tries, 3, generator=rng), dim=-1)
    # The cube root spreads the turns evenly over the ball of rotation vectors.
    angle = math.radians(REACH_DEG) * torch.rand(len(starts), tries, 1, generator=rng) ** (1 / 3)
    angle[:, 0] = 0.0
    motion = exp_se3(torch.cat([axis * angle, torch.zeros_like(axis)], -1))
    pivot = torch.where(
        (torch.arange(tries) % 3 == 2)[:, None], pivots(cameras, starts)[0][:, None], 0.0
    )
    return (square(starts)[:, None] @ about(motion, pivot))[..., :3, :]


def _follow(
    cameras: Cameras,
    soft: list[Tensor],
    poses: Tensor,
    points: Tensor,
    colours: list[Tensor],
    which: Tensor,
) -> tuple[Tensor, Tensor]:
    """Adam on poses [P, K, 3, 4] from blur to blur: where it ends, and the losses [P, K] there
    under the narrowest.
    """
    flat = poses.flatten(0, 1)
    pivot, unit = pivots(cameras, flat)
    twist = torch.zeros(len(flat), 6, requires_grad=True)
    optimiser = torch.optim.Adam([twist], betas=(0.9, 0.9))
    for k, photo in enumerate(soft):
        optimiser.param_groups[0]["lr"] = FAST * 0.5**k
        for _ in range(STEPS_A_BLUR):
            loss = _carried(
                cameras,
                photo,
                posed(flat, twist, pivot, unit).view(poses.shape),
                points,
                colours[k],
                which,
            )
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimiser.step()
    with torch.no_grad():
        ends = posed(flat, twist, pivot, unit).view(poses.shape)
        return ends, _carried(cameras, soft[-1], ends, points, colours[-1], which)


def _carried(
    cameras: Cameras, photos: Tensor, poses: Tensor, points: Tensor, colours: Tensor, which: Tensor
) -> Tensor:
    """Mean squared difference [P, K] between colours [P, N, C] of points [P, N, 3] and the photo
    where poses [P, K, 3, 4] put them; what falls outside the photo meets its border, what lies
    behind the camera counts fully."""
    count, tries, n = *poses.shape[:2], points.shape[1]
    owner = torch.arange(count).repeat_interleave(tries)
    view = torch.arange(len(owner))[:, None].expand(-1, n)
    yx, depth = replace(cameras.take(owner), c2w=poses.flatten(0, 1)).to_pixels(view, points[owner])
    ahead = (depth > 1e-3) & yx.isfinite().all(-1)
    at = Pixels(
        which[owner][:, None].expand(-1, n), torch.where(ahead[..., None], yx, 0.0), torch.ones(())
    )
    error = (sample_bilinear(photos, at) - colours[owner]).square().mean(-1)
    return torch.where(ahead, error, 1.0).mean(-1).view(count, tries)
