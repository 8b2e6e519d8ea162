"""Poses of photographs, refined against a fitted scene (iNeRF, Yen-Chen et al. 2021).

The paper is arXiv 2012.05877.

The field stays as it is. :func:`refine` fits one twist per start, in the axes of the start's
camera, to the colours of rays; all starts share every batch. Which pixels are compared is iNeRF's
choice of three: any, those at interest points, those in regions around them. Far starts are first
brought near by ``approach.py``, which carries what is seen from the start into the photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras, box_span
from ...imaging.motion import about, exp_se3, square
from ..model import Model
from ..views import on_device, render_cameras
from .options import PoseSearch
from .pixels import PixelSets, corners

RAYS_AT_ONCE = 16384  # of all starts together: bounds the memory


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
    """Refine poses ``starts`` [P, 3, 4] of photos [V, H, W, C].

    Start p is to explain ``photos[which[p]]``.

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


def align_cameras(
    model: Model,
    cameras: Cameras,
    photos: Tensor,
    *,
    steps: int = 100,
    rate: float = 2e-3,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Cameras:
    """The cameras of photos [V, H, W, C] with poses refined from where they are.

    So are views scored that a scene with refined training poses has not seen: what is measured
    is the scene, not the files' error (BARF, Lin et al. 2021, §4.1).
    """
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
    """Adam on the twists of some starts, each with its camera and the photo it explains."""
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
    """start · exp(ξ) [P, 3, 4]: twists [P, 6] in the start camera's axes.

    They turn about ``pivot`` [P, 3]; shifts are in ``unit`` [P].
    """
    scaled = torch.cat([twist[:, :3], twist[:, 3:] * unit[:, None]], -1)
    return (square(starts) @ about(exp_se3(scaled), pivot))[:, :3]


def pivots(cameras: Cameras, starts: Tensor) -> tuple[Tensor, Tensor]:
    """What the starts turn about [P, 3], in their cameras' axes, and the distance from it [P].

    It is the scene's middle.

    About that point a rotation leaves the object where it is in the picture and a shift moves it:
    the two hardly trade. Without a box in the scene's own space the pivot is the camera, and the
    unit of length is the scene's.
    """
    if cameras.box is None or cameras.ndc:
        return torch.zeros(len(starts), 3), torch.ones(len(starts))
    away = cameras.box.mean(0).to(starts) - starts[:, :, 3]
    return (starts[:, :, :3].mT @ away[..., None])[..., 0], away.norm(dim=-1).clamp_min(1e-6)


def sees_scene(cameras: Cameras, box: Tensor) -> Tensor:
    """Whether any ray of each camera meets the box [2, 3], bool [V].

    A lattice of pixels is tried; a warped space is always met.
    """
    if cameras.ndc:
        return torch.ones(cameras.count, dtype=torch.bool)
    step = max(1, min(cameras.rows, cameras.cols) // 32)
    lines = (torch.arange(0, cameras.rows, step), torch.arange(0, cameras.cols, step))
    yx = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(1, -1, 2).float()
    view = torch.arange(cameras.count)[:, None].expand(-1, yx.shape[1])
    enter, leave = box_span(*cameras.world_rays(view, yx.expand(cameras.count, -1, -1)), box)
    return (leave > enter).any(1)
