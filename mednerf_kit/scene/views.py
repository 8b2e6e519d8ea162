"""Whole pictures of a scene's model, rendered in chunks of rays that fit into memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.errors import RunError, is_out_of_memory
from ..core.types import Rays
from ..imaging.cameras import Cameras
from ..rays.render import LevelRendering
from .model import Model

T = TypeVar("T")


@dataclass(frozen=True)
class SeenRays:
    """What the finest level shows of R rays, on the CPU."""

    image: Tensor  # [R, C]
    depth: Tensor  # [R] Σ w t / Σ w, distance along the unit ray; nan where hardly anything is hit
    median_depth: Tensor  # [R] where half of what a ray sees lies behind it
    opacity: Tensor  # [R]
    # [R] standard deviation of the distance under the weights: how sharp the surface is
    spread: Tensor
    n_evaluated: int  # samples that fields evaluated, all levels together


@dataclass(frozen=True)
class RenderedViews:
    """Whole rendered views: the fields of :class:`SeenRays`, view by view."""

    image: Tensor  # [V, H, W, C]
    depth: Tensor  # [V, H, W]
    median_depth: Tensor  # [V, H, W]
    opacity: Tensor  # [V, H, W]
    spread: Tensor  # [V, H, W]
    evals_per_ray: float  # samples that fields evaluated, all levels together
    seconds: float
    peak_mib: float  # of the process, or of the device


def rays_at_once(device: str | torch.device) -> int:
    """How many rays are rendered together.

    On a CPU it is what its cache holds: larger blocks are also mapped anew for every layer.
    """
    return 512 if torch.device(device).type == "cpu" else 4096


class Chunks:
    """Work on many rows, ``size`` at a time; the size is halved for good when memory runs out.

    >>> Chunks(2)(5, lambda rows: list(range(10))[rows])
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """``work`` of one slice of range(count) after the other; of no rows too, once."""
        done: list[T] = []
        start = 0
        while start < count or not done:
            end = min(start + self.size, count)
            try:
                done.append(work(slice(start, end)))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                self.size = smaller_chunk(self.size, error)
            else:
                start = end
        return done


@torch.no_grad()
def render_cameras(
    model: Model,
    cameras: Cameras,
    *,
    depth: Tensor | None = None,
    chunk: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> RenderedViews:
    """Every camera's picture, rendered ``chunk`` rays at a time (None: as many as suit the device).

    A chunk that does not fit into memory is halved, which a line on stderr says. ``depth``
    [V, H, W], along the cameras' rays, is given to samplers that look around a known depth.
    """
    started = time.perf_counter()
    chunks = Chunks(chunk or rays_at_once(device))
    cameras = model.narrowed(cameras)
    rows, cols = cameras.rows, cameras.cols
    lattice = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    yx = torch.stack(lattice, -1).reshape(-1, 2).float()

    def seen_by(v: int, part: slice) -> SeenRays:
        some = yx[part]
        rays = on_device(cameras.rays(torch.full((len(some),), v), some), device)
        if depth is not None:
            rays = replace(rays, depth=depth[v].reshape(-1)[part].to(device))
        return finest(model, rays)

    seen: list[SeenRays] = []
    hidden = None if progress and cameras.count > 1 else True
    for v in tqdm(range(cameras.count), desc="views", leave=False, disable=hidden):
        seen.append(joined(chunks(len(yx), partial(seen_by, v))))
    whole = joined(seen)
    shape = (cameras.count, rows, cols)
    return RenderedViews(
        image=whole.image.view(*shape, -1),
        depth=whole.depth.view(shape),
        median_depth=whole.median_depth.view(shape),
        opacity=whole.opacity.view(shape),
        spread=whole.spread.view(shape),
        evals_per_ray=whole.n_evaluated / (cameras.count * len(yx)),
        seconds=time.perf_counter() - started,
        peak_mib=peak_mib(device),
    )


def joined(parts: Sequence[SeenRays]) -> SeenRays:
    """The rays of all parts, one part after the other."""
    names = [field.name for field in fields(SeenRays) if field.name != "n_evaluated"]
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return SeenRays(**columns, n_evaluated=sum(part.n_evaluated for part in parts))


def finest(model: Model, rays: Rays) -> SeenRays:
    """What the finest level shows of rays [R]."""
    rendered = model.render(rays)
    last = rendered[-1]
    w, t = last.rendering.w, last.samples.t
    opacity = w.sum(-1)
    share = w / opacity.clamp_min(1e-6)[:, None]
    mean = (share * t).sum(-1)
    spread = (share * (t - mean[:, None]).square()).sum(-1).sqrt()
    before_half = (w.cumsum(-1) < 0.5 * opacity[:, None]).sum(-1, keepdim=True)
    median = t.gather(-1, before_half.clamp_max(w.shape[-1] - 1))[:, 0]

    def where_hit(values: Tensor) -> Tensor:
        return torch.where(opacity > 0.01, values, torch.nan).cpu()

    return SeenRays(
        image=last.rendering.image.cpu(),
        depth=where_hit(mean),
        median_depth=where_hit(median),
        opacity=opacity.cpu(),
        spread=where_hit(spread),
        n_evaluated=int(sum(evaluations(level) for level in rendered)),
    )


def evaluations(rendered: LevelRendering) -> Tensor:
    """How many samples a level's field evaluated: a whole number on its device, not waited for."""
    dt, n = rendered.samples.dt, rendered.output.n_evaluated
    return (dt > 0).sum() if n is None else torch.full((), n, device=dt.device)


def on_device(rays: Rays, device: str | torch.device) -> Rays:
    """The same rays on another device."""
    moved = {k: v.to(device) for k, v in vars(rays).items() if v is not None}
    return replace(rays, **moved)


def peak_mib(device: str | torch.device) -> float:
    """Most memory used so far: of the device where there is one, else of the process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def smaller_chunk(chunk: int, error: Exception) -> int:
    """Half the chunk after an out-of-memory error, with a line on stderr; else the error itself."""
    if not is_out_of_memory(error):
        raise error
    if chunk <= 64:
        raise RunError(
            "got no memory for 64 rays",
            "wanted a little",
            "use fewer samples or close other programs",
        ) from None
    tqdm.write(f"out of memory: going on with chunks of {chunk // 2} rays", file=sys.stderr)
    return chunk // 2
