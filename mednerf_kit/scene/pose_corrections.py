"""Poses of training views corrected while the scene is fitted."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.posed.types import Scene
from ..engine.snapshots import optimiser_tensors, restore_optimiser, strip_prefix, with_prefix
from ..imaging.cameras import Cameras
from ..imaging.motion import about, apart, exp_se3


class PoseCorrections:
    """One twist ξ_v per training view, learned with the scene; exp(ξ_v) moves view v's camera.

    As in BARF (Lin et al. 2021). Motions are of the world about the middle of the scene, shifts
    counted in the cameras' mean distance from it. A motion common to all views would only move the
    scene: the mean twist is taken away after each step, which to first order leaves the files'
    frame in place.
    """

    def __init__(self, scene: Scene, *, rate: float = 0.0, twist: Tensor | None = None) -> None:
        cameras = scene.cameras
        self.middle = torch.zeros(3) if cameras.ndc else scene.box.mean(0)
        self.unit = (
            1.0 if cameras.ndc else float((cameras.position - self.middle).norm(dim=-1).mean())
        )
        self.rate = rate
        self.twist = (
            torch.zeros(cameras.count, 6) if twist is None else twist.clone()
        ).requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.twist])

    def applied(self, cameras: Cameras) -> Cameras:
        """The training cameras, corrected; differentiable in the twists."""
        scale = self.twist.new_tensor([1.0] * 3 + [self.unit] * 3)
        return cameras.moved(about(exp_se3(self.twist * scale), self.middle))

    def step(self, share: float) -> None:
        """One step at a share of the rate."""
        self.optimiser.param_groups[0]["lr"] = self.rate * share
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.twist -= self.twist.mean(0)

    @torch.no_grad()
    def change(self, cameras: Cameras) -> dict[str, float]:
        """Mean rotation in degrees and mean shift of the centres in scene units by corrections."""
        turn, shift = apart(self.applied(cameras).c2w, cameras.c2w)
        return {"pose_rotation_deg": float(turn.mean()), "pose_shift": float(shift.mean())}

    def state(self) -> dict[str, Tensor]:
        """The twists, and their optimiser's memory."""
        memory = with_prefix("pose.optim", optimiser_tensors(self.optimiser))
        return {"pose.twist": self.twist} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.twist.data.copy_(tensors["pose.twist"])
        restore_optimiser(self.optimiser, strip_prefix("pose.optim", tensors))
