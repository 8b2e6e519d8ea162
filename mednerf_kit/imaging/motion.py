"""Rigid motions: six numbers to a 4×4 matrix and back, and how far apart two poses are.

A twist (w, v) [..., 6] is a rotation vector in radians and a velocity; its motion is that of a
screw through unit time. Both maps are smooth at zero, gradients included, which is where a search
for a pose begins. Matrices act on columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

SERIES = 0.25  # squared angle below which power series replace quotients that lose digits


def exp_se3(twist: Tensor) -> Tensor:
    """The motion [..., 4, 4] of a twist (w, v) [..., 6].

    R = I + A W + B W² and t = (I + B W + C W²) v, with W = [w]×, θ = |w|, A = sin θ/θ,
    B = (1 − cos θ)/θ² and C = (θ − sin θ)/θ³ (Lynch and Park 2017, eq. 3.51 and 3.88; iNeRF's screw
    parameters, Yen-Chen et al. 2021 §III-B, with the angle multiplied into both halves).

    >>> quarter = torch.tensor([0.0, 0.0, torch.pi / 2, torch.pi, 0.0, 0.0])  # a circle's, radius 2
    >>> exp_se3(quarter)[:3, 3]
    tensor([2.0000, 2.0000, 0.0000])
    >>> zero = torch.zeros(6, requires_grad=True)
    >>> exp_se3(zero)[0, 3].backward()
    >>> zero.grad
    tensor([0., 0., 0., 1., 0., 0.])
    """
    w, v = twist[..., :3], twist[..., 3:]
    a, b, c = (k[..., None, None] for k in _coefficients(w.square().sum(-1)))
    cross = skew(w)
    twice = cross @ cross
    eye = torch.eye(3).to(twist)
    return matrix(
        eye + a * cross + b * twice, ((eye + b * cross + c * twice) @ v[..., None])[..., 0]
    )


def log_se3(motion: Tensor) -> Tensor:
    """The twist (w, v) [..., 6] of a motion [..., 4, 4]: the inverse of :func:`exp_se3`.

    Its angle lies in [0, π].

    v = t − w × t/2 + D w × (w × t), D = (1 − A/(2B))/θ². At π exactly both senses of the axis are
    right and one is chosen.

    >>> twist = torch.tensor([0.3, -0.2, 0.5, 1.0, 2.0, 3.0])
    >>> torch.allclose(log_se3(exp_se3(twist)), twist, atol=1e-5)
    True
    """
    w, t = log_so3(motion[..., :3, :3]), motion[..., :3, 3]
    square = w.square().sum(-1)
    small, safe = _split(square)
    a, b, _ = _coefficients(safe)
    series = 1 / 12 + square / 720 + square.square() / 30240
    d = torch.where(small, series, (1 - a / (2 * b)) / safe)[..., None]
    across = torch.linalg.cross(w, t)
    return torch.cat([w, t - across / 2 + d * torch.linalg.cross(w, across)], -1)


def log_so3(rotation: Tensor) -> Tensor:
    """The rotation vector [..., 3] in radians of rotations [..., 3, 3].

    >>> log_so3(torch.diag(torch.tensor([-1.0, 1.0, -1.0]))).abs()
    tensor([0.0000, 3.1416, 0.0000])
    """
    odd = 0.5 * (rotation - rotation.mT)  # sin θ times the axis
    sine_axis = torch.stack([odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]], -1)
    cosine = 0.5 * (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    square = sine_axis.square().sum(-1)
    small = (square < 0.01) & (cosine > 0)
    sine = torch.where(small, torch.full_like(square, 0.5), square).clamp_min(1e-24).sqrt()
    angle = torch.atan2(sine, cosine)
    series = 1 + square * (1 / 6 + square * (3 / 40 + square * (5 / 112)))
    usual = torch.where(small, series, angle / sine)[..., None] * sine_axis
    flat = cosine < -0.9
    if not bool(flat.any()):
        return usual
    # Near a half-turn the sine vanishes and the even part (1 − cos θ) a aᵀ + cos θ I tells the
    # axis.
    eye = torch.eye(3).to(rotation)
    outer = 0.5 * (rotation + rotation.mT) - cosine[..., None, None] * eye
    largest = (
        outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*outer.shape[:-1], 1)
    )
    axis = torch.nn.functional.normalize(outer.gather(-1, largest)[..., 0], dim=-1)
    sense = torch.where((axis * sine_axis).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.where(flat[..., None], angle[..., None] * sense * axis, usual)


def skew(w: Tensor) -> Tensor:
    """[w]×, the matrix [..., 3, 3] of the cross product with w [..., 3].

    >>> skew(torch.tensor([1.0, 2.0, 3.0])) @ torch.tensor([1.0, 2.0, 3.0])
    tensor([0., 0., 0.])
    """
    x, y, z = w.unbind(-1)
    nothing = torch.zeros_like(x)
    return torch.stack([nothing, -z, y, z, nothing, -x, -y, x, nothing], -1).unflatten(-1, (3, 3))


def matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """A rotation [..., 3, 3] and a translation [..., 3] as one matrix [..., 4, 4]."""
    upper = torch.cat([rotation, translation[..., None]], -1)
    last = torch.tensor([0.0, 0, 0, 1]).to(upper).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, last], -2)


def square(pose: Tensor) -> Tensor:
    """Poses [..., 3, 4] with their last row, [..., 4, 4]."""
    return matrix(pose[..., :3], pose[..., 3])


def about(motion: Tensor, pivot: Tensor) -> Tensor:
    """A motion [..., 4, 4] whose rotation is about ``pivot`` [..., 3] instead of the origin.

    >>> half_turn = exp_se3(torch.tensor([0.0, 0.0, torch.pi, 0.0, 0.0, 0.0]))
    >>> about(half_turn, torch.tensor([1.0, 0.0, 0.0]))[:3, 3].round().tolist()
    [2.0, 0.0, 0.0]
    """
    rotation = motion[..., :3, :3]
    return matrix(rotation, pivot + motion[..., :3, 3] - (rotation @ pivot[..., None])[..., 0])


def angle_deg(rotation: Tensor) -> Tensor:
    """The angle by which rotations [..., 3, 3] turn, in degrees, [...].

    >>> angle_deg(exp_se3(torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, 0.0]))[:3, :3])
    tensor(28.6479)
    """
    odd = 0.5 * (rotation - rotation.mT)
    sine = torch.stack([odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]], -1).norm(dim=-1)
    return torch.rad2deg(torch.atan2(sine, 0.5 * (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)))


def apart(pose: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How far two camera-to-world poses [..., 3 or 4, 4] are apart.

    Returns the rotation between them in degrees and the distance between their centres, each [...].
    """
    turned = pose[..., :3, :3].mT @ other[..., :3, :3]
    return angle_deg(turned), (pose[..., :3, 3] - other[..., :3, 3]).norm(dim=-1)


def _split(square: Tensor) -> tuple[Tensor, Tensor]:
    """Which squared angles are small, and the angles with these replaced by 1.

    So no gradient meets a division by zero.
    """
    small = square < SERIES
    return small, torch.where(small, torch.ones_like(square), square)


def _coefficients(square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin θ/θ, (1 − cos θ)/θ², (θ − sin θ)/θ³ of squared angles."""
    small, safe = _split(square)
    angle = safe.sqrt()
    exact = angle.sin() / angle, (1 - angle.cos()) / safe, (angle - angle.sin()) / (safe * angle)
    series = [
        first * _horner(square, ratios)
        for first, ratios in (
            (1.0, (6, 20, 42, 72)),
            (0.5, (12, 30, 56, 90)),
            (1 / 6, (20, 42, 72, 110)),
        )
    ]
    a, b, c = (torch.where(small, s, e) for s, e in zip(series, exact, strict=True))
    return a, b, c


def _horner(x: Tensor, ratios: tuple[int, ...]) -> Tensor:
    """1 − x/r₁ (1 − x/r₂ (1 − …))."""
    value = torch.ones_like(x)
    for ratio in reversed(ratios):
        value = 1 - x / ratio * value
    return value
