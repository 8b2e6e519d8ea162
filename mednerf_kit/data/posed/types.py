"""The record of a scene: posed pictures, with what is known of the space they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ...imaging.cameras import Cameras

SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True)
class Scene:
    """V posed pictures of one scene."""

    name: str
    format: str
    split: str
    stems: tuple[str, ...]  # one per view
    # [V, H, W, C] float16 in [0, 1], composited on ``background``; C is 3, or 1 for line integrals
    images: Tensor
    alpha: Tensor | None  # [V, H, W] coverage, where the pictures have it
    # [V, H, W] float32 distance along the ray of ``cameras.rays``, nan where unknown and in the
    # background
    depth: Tensor | None
    confidence: Tensor | None  # [V, H, W] in [0, 1], of ``depth``
    cameras: Cameras
    box: Tensor  # [2, 3] corners of what is to be fitted, in the space of the rays
    background: float  # 1 white, 0 black
    quantity: Literal["colour", "line_integral"] = "colour"
    # what only this format knows: see its docstring
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was assumed or looks wrong, a sentence each
    shared: frozenset[str] = frozenset()  # stems that views of other splits have too
    valid: Tensor | None = None  # [V, H, W] bool: masked pixels are neither supervised nor scored
    # [4, 4] float64 from the scene's own space to the world of its files; None where they are one
    to_world: Tensor | None = None

    @property
    def count(self) -> int:
        """How many views."""
        return len(self.stems)

    def take(self, index: Sequence[int]) -> Scene:
        """The same scene with these views only, in this order."""
        chosen = torch.as_tensor(index, dtype=torch.long)

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[chosen]

        return replace(
            self,
            stems=tuple(self.stems[i] for i in chosen.tolist()),
            images=self.images[chosen],
            alpha=some(self.alpha),
            depth=some(self.depth),
            confidence=some(self.confidence),
            valid=some(self.valid),
            cameras=self.cameras.take(chosen),
        )
