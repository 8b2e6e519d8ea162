"""From a scene recipe to what it names: fields, levels, the picture, and pictures of whole
views.
"""

from __future__ import annotations

import inspect
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..core.errors import RunError, UserError, unknown_name
from ..core.types import FieldOutput, Rays, Rendering
from ..engine.checkpoint import strip_prefix, with_prefix
from ..engine.recipe_checks import check_first_sampler
from ..fields.base import FIELDS, SceneField
from ..imaging.cameras import Cameras
from ..rays.render import IMAGE_MODELS, Level, LevelRendering, render
from ..rays.samplers.base import SAMPLERS

T = TypeVar("T")
LEVEL_KEYS = ("sampler", "field", "weight")


@dataclass(frozen=True)
class Model:
    """A recipe's fields and the levels that ask them."""

    fields: nn.ModuleDict  # by the recipe's names
    samplers: nn.ModuleDict  # those with a state, by the level's index
    levels: list[Level]
    image_model: Callable[[FieldOutput], Rendering]

    def render(self, rays: Rays, rng: torch.Generator | None = None) -> list[LevelRendering]:
        """Render rays [R] level by level."""
        return render(rays, None, self.levels, image_model=self.image_model, rng=rng)

    def scene_fields(self) -> list[SceneField]:
        """The fields, each once."""
        return [field for field in self.fields.values() if isinstance(field, SceneField)]

    def narrowed(self, cameras: Cameras) -> Cameras:
        """Cameras whose rays end where the fields do: a field may shrink its box while it learns
        what is empty.
        """
        boxes = [getattr(field, "box", None) for field in self.scene_fields()]
        known = [box.cpu() for box in boxes if isinstance(box, Tensor)]
        if cameras.box is None or len(known) < len(boxes):
            return cameras
        corners = torch.stack(
            [torch.stack([b[0] for b in known]).amin(0), torch.stack([b[1] for b in known]).amax(0)]
        )
        return replace(cameras, box=corners)

    def advance(self, progress: float) -> bool:
        """Tell fields and samplers how far the training is; True when parameters were replaced."""
        for level in self.levels:
            level.sampler.advance(progress)
        replaced = [field.advance(progress) for field in self.scene_fields()]
        return any(replaced)

    def observe(self, step: int) -> None:
        """Let samplers that keep a map of space look at their level's field."""
        for level in self.levels:
            if level.field is not None:
                level.sampler.observe(step, level.field)

    def state(self) -> dict[str, Tensor]:
        """Everything learned, as named tensors."""
        fields, samplers = self.fields.state_dict(), self.samplers.state_dict()
        return with_prefix("field", fields) | with_prefix("sampler", samplers)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state`; fields first grow to the shapes they were saved with."""
        for name, field in self.fields.items():
            assert isinstance(field, SceneField)
            field.shape_like(strip_prefix(f"field.{name}", tensors))
        self.fields.load_state_dict(strip_prefix("field", tensors))
        self.samplers.load_state_dict(strip_prefix("sampler", tensors))


def build_model(
    recipe: Mapping[str, Any],
    *,
    box: Tensor,
    channels: int,
    background: float,
    device: torch.device,
) -> Model:
    """What a recipe names, for a scene within ``box`` [2, 3]."""
    fields = nn.ModuleDict()
    for name, node in recipe["fields"].items():
        field = FIELDS.build(node, box=box, channels=channels)
        assert isinstance(field, SceneField)
        fields[name] = field
    levels = [read_level(node, fields, box) for node in recipe["levels"]]
    check_first_sampler(levels[0].sampler)
    samplers = nn.ModuleDict(
        {str(i): lv.sampler for i, lv in enumerate(levels) if isinstance(lv.sampler, nn.Module)}
    )
    fields.to(device)
    samplers.to(device)
    image_model = IMAGE_MODELS[recipe["image_model"]]
    if "background" in inspect.signature(image_model).parameters:
        image_model = partial(image_model, background=background)
    return Model(fields, samplers, levels, image_model)


def read_level(node: Mapping[str, Any], fields: nn.ModuleDict, box: Tensor) -> Level:
    """A level of a recipe: ``{sampler: {...}, field: NAME, weight: 1.0}``."""
    for key in node:
        if key not in LEVEL_KEYS:
            raise unknown_name("key of a level", str(key), LEVEL_KEYS)
    if "sampler" not in node:
        raise UserError(
            "got a level without a sampler",
            "wanted {sampler: {name: …}, field: NAME}",
            "correct the recipe",
        )
    name = node.get("field", next(iter(fields)))
    if name not in fields:
        raise unknown_name("field of a level", str(name), fields)
    field = fields[name]
    assert isinstance(field, SceneField)
    return Level(
        SAMPLERS.build(node["sampler"], box=box, field=field), field, float(node.get("weight", 1.0))
    )


@dataclass(frozen=True)
class Views:
    """Whole rendered views."""

    image: Tensor  # [V, H, W, C]
    # [V, H, W] Σ w t / Σ w, distance along the unit ray; nan where hardly anything is hit
    depth: Tensor
    median_depth: Tensor  # [V, H, W] where half of what a ray sees lies behind it
    opacity: Tensor  # [V, H, W]
    # [V, H, W] standard deviation of the distance under the weights: how sharp the surface is
    spread: Tensor
    evals_per_ray: float  # samples that fields evaluated, all levels together
    seconds: float
    peak_mib: float  # of the process, or of the device


def rays_at_once(device: str | torch.device) -> int:
    """How many rays are rendered together: on a CPU what its cache holds (larger blocks are also
    mapped anew for every layer).
    """
    return 512 if torch.device(device).type == "cpu" else 4096


class Chunks:
    """Work on many rows, ``size`` at a time; what does not fit into memory is halved, for good, and
    it says so.

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
) -> Views:
    """Render every camera's picture in chunks of rays (by default as many as suit the device); a
    chunk that does not fit into memory is halved, and says so.

    ``depth`` [V, H, W], along the cameras' rays, is handed to samplers that look around a known
    depth.
    """
    started = time.perf_counter()
    chunks = Chunks(chunk or rays_at_once(device))
    cameras = model.narrowed(cameras)
    rows, cols = cameras.rows, cameras.cols
    yx = (
        torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), -1)
        .reshape(-1, 2)
        .float()
    )

    def seen_by(v: int, rows: slice) -> tuple[list[Tensor], int]:
        some = yx[rows]
        rays = on_device(cameras.rays(torch.full((len(some),), v), some), device)
        if depth is not None:
            rays = replace(rays, depth=depth[v].reshape(-1)[rows].to(device))
        return finest(model, rays)

    out: list[list[Tensor]] = []
    evaluated = 0
    for v in tqdm(
        range(cameras.count),
        desc="views",
        leave=False,
        disable=None if progress and cameras.count > 1 else True,
    ):
        parts = chunks(len(yx), partial(seen_by, v))
        evaluated += sum(n for _, n in parts)
        out.append([torch.cat(column) for column in zip(*(seen for seen, _ in parts), strict=True)])
    shape = (cameras.count, rows, cols)
    image, mean, median, opacity, spread = (
        torch.stack(column).view(*shape, -1) for column in zip(*out, strict=True)
    )
    return Views(
        image,
        mean[..., 0],
        median[..., 0],
        opacity[..., 0],
        spread[..., 0],
        evaluated / (cameras.count * len(yx)),
        time.perf_counter() - started,
        peak_mib(device),
    )


def peak_mib(device: str | torch.device) -> float:
    """Most memory used so far: of the device where there is one, else of the process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def finest(model: Model, rays: Rays) -> tuple[list[Tensor], int]:
    """Colour, mean depth, median depth, opacity and spread of rays [R] on the CPU, and how many
    samples were evaluated.
    """
    rendered = model.render(rays)
    last = rendered[-1]
    w, t = last.rendering.w, last.samples.t
    opacity = w.sum(-1)
    share = w / opacity.clamp_min(1e-6)[:, None]
    mean = (share * t).sum(-1)
    spread = (share * (t - mean[:, None]).square()).sum(-1).sqrt()
    half = (w.cumsum(-1) < 0.5 * opacity[:, None]).sum(-1, keepdim=True).clamp_max(w.shape[-1] - 1)
    hit = [
        torch.where(opacity > 0.01, v, torch.nan) for v in (mean, t.gather(-1, half)[:, 0], spread)
    ]
    return [v.cpu() for v in (last.rendering.image, *hit[:2], opacity, hit[2])], int(
        sum(evaluations(r) for r in rendered)
    )


def evaluations(rendered: LevelRendering) -> Tensor:
    """How many samples a level's field evaluated, a whole number on their device, which is not
    waited for.
    """
    dt = rendered.samples.dt
    n = rendered.output.n_evaluated
    return (dt > 0).sum() if n is None else torch.full((), n, device=dt.device)


def on_device(rays: Rays, device: str | torch.device) -> Rays:
    """The same rays on another device."""
    moved = {k: v.to(device) for k, v in vars(rays).items() if v is not None}
    return replace(rays, **moved)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: on a CPU torch raises a plain RuntimeError
    then.
    """
    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in text
        or "can't allocate" in text
    )


def smaller_chunk(chunk: int, error: Exception) -> int:
    """Half the chunk after an out-of-memory error, said aloud; anything else is raised again."""
    if not out_of_memory(error):
        raise error
    if chunk <= 64:
        raise RunError(
            "got no memory for 64 rays",
            "wanted a little",
            "use fewer samples or close other programs",
        ) from None
    tqdm.write(f"out of memory: going on with chunks of {chunk // 2} rays", file=sys.stderr)
    return chunk // 2


def needs(levels: Sequence[Level], losses: Mapping[str, Any]) -> list[str]:
    """Names of what cannot work without depth."""
    found = [SAMPLERS.name_of(level.sampler) for level in levels if level.sampler.needs_depth]
    return found + [name for name, loss in losses.items() if getattr(loss, "needs_depth", False)]
