"""The model of a scene: the fields, levels and image model that a recipe names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError, unknown_name
from ..core.types import FieldOutput, Rays, Rendering
from ..engine.recipe_checks import check_first_sampler
from ..engine.snapshots import strip_prefix, with_prefix
from ..fields.base import FIELDS, SceneField
from ..imaging.cameras import Cameras
from ..rays.render import IMAGE_MODELS, Level, LevelRendering, render
from ..rays.samplers.base import SAMPLERS

LEVEL_KEYS = ("sampler", "field", "weight")


@dataclass(frozen=True)
class Model:
    """A recipe's fields and the levels that evaluate them."""

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
        """Cameras whose rays end where the fields do.

        A field may shrink its box while it learns what is empty.
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
        """Tell fields and samplers the training's progress; True when parameters were replaced."""
        for level in self.levels:
            level.sampler.advance(progress)
        replaced = [field.advance(progress) for field in self.scene_fields()]
        return any(replaced)

    def observe(self, step: int) -> None:
        """Let samplers that keep a map of occupied space look at their level's field."""
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
    faint_color: float = 0.0,
) -> Model:
    """The model that a recipe names, for a scene within ``box`` [2, 3].

    ``faint_color`` is that of samples whose own is not asked for.
    """
    fields = nn.ModuleDict()
    for name, node in recipe["fields"].items():
        field = FIELDS.build(node, box=box, channels=channels)
        assert isinstance(field, SceneField)
        field.faint_color = faint_color
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


def needs(levels: Sequence[Level], losses: Mapping[str, Any]) -> list[str]:
    """Names of what cannot work without depth."""
    found = [SAMPLERS.name_of(level.sampler) for level in levels if level.sampler.needs_depth]
    return found + [name for name, loss in losses.items() if getattr(loss, "needs_depth", False)]
