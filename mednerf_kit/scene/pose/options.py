"""The options of a pose search, and the conventions of its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...core.errors import UserError

PixelName = Literal["random", "interest", "region"]
PIXELS: tuple[PixelName, ...] = get_args(PixelName)
GOOD_DEG, GOOD_SHIFT = 5.0, 0.05  # a success: within both of the true pose
CONVENTIONS = {
    "pose": "camera to world, columns image right, image up, back, position (OpenGL)",
    "rotation_error_deg": "angle of the rotation between the found and the true pose",
    "shift_error": "distance between the found and the true camera centre, in units of the scene",
    "success": f"rotation error below {GOOD_DEG:g}° and shift error below {GOOD_SHIFT:g} units",
    "start": "true pose turned by an angle even over [0, angle] about a uniformly random axis "
    "through the scene's middle or "
    "through the camera, then shifted by up to shift units along each axis of the world",
}


@dataclass(frozen=True, kw_only=True)
class PoseSearch:
    """How a pose is refined.

    Options:
        pixels: which ones are compared: ``random`` ones, ``interest`` points (corners of the
            photograph), or the ``region`` around them.
        points: whether the corners of the render at the start count too (``both``).
        kernel: side in pixels of the square that a region is dilated by.
        iterations: how often it is dilated.
        rays: number of rays a start in each step.
        steps: number of steps.
        rate: Adam's rate at first, in radians, and for shifts in units of the distance to the
            scene.
        final_rate: share of it that is left at the end of an exponential fall.
        blur: the photograph is blurred during the first half of the steps, by that share of its
            width at first, then by half as much again and again, so that farther starts feel where
            to go; the regions grow with it. (Blurring one of two pictures blurs their correlation
            as blurring both would.)
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
