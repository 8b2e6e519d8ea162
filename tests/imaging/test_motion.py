"""Motions against matrix exponentials, and moved cameras."""

from __future__ import annotations

import math

import pytest
import torch
from ball_scene import cameras
from blob_scene import random_twists, seeded
from torch import nn

from mednerf_kit.imaging.motion import angle_deg, exp_se3, log_se3, skew


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.1, 0.49, 0.51, 2.0, 3.14])
def test_a_motion_is_the_matrix_exponential_of_its_twist(angle):
    twist = random_twists(20, angle)
    generators = torch.zeros(20, 4, 4, dtype=torch.float64)
    generators[:, :3, :3], generators[:, :3, 3] = skew(twist[:, :3]), twist[:, 3:]
    torch.testing.assert_close(exp_se3(twist), torch.matrix_exp(generators), atol=1e-9, rtol=0)
    torch.testing.assert_close(log_se3(exp_se3(twist)), twist, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        angle_deg(exp_se3(twist)[:, :3, :3]),
        torch.rad2deg(twist[:, :3].norm(dim=-1)),
        atol=1e-6,
        rtol=0,
    )


def test_single_precision_suffices():
    for angle in (1e-4, 0.3, 0.6, 3.1):
        twist = random_twists(50, angle)
        torch.testing.assert_close(
            log_se3(exp_se3(twist.float())), twist.float(), atol=2e-5, rtol=1e-4
        )


def test_gradients_are_right_at_zero_and_elsewhere():
    for twist in (
        torch.zeros(6, dtype=torch.float64),
        random_twists(1, 0.3)[0],
        random_twists(1, 2.5)[0],
    ):
        assert torch.autograd.gradcheck(exp_se3, twist.requires_grad_(True))
        assert torch.autograd.gradcheck(lambda t: log_se3(exp_se3(t)), twist)


def test_a_half_turn_keeps_its_axis():
    axis = nn.functional.normalize(torch.randn(30, 3, generator=seeded()), dim=-1)
    found = log_se3(exp_se3(torch.cat([math.pi * axis, torch.zeros(30, 3)], -1)))[:, :3]
    torch.testing.assert_close(
        (found * axis).sum(-1).abs(), torch.full((30,), math.pi), atol=1e-3, rtol=0
    )


def test_moving_cameras_moves_their_rays():
    like = cameras(2, 8)
    motion = exp_se3(torch.tensor([0.1, 0.2, -0.3, 0.5, 0.6, 0.7]))
    view, yx = torch.tensor([0, 1]), torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    before, after = like.rays(view, yx), like.moved(motion).rays(view, yx)
    torch.testing.assert_close(after.direction, before.direction @ motion[:3, :3].T)
    torch.testing.assert_close(after.origin, before.origin @ motion[:3, :3].T + motion[:3, 3])
