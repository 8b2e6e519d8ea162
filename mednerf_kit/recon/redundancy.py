"""How often an orbit measures each ray, and what filtered back-projection makes of that.

A full turn measures every ray of its plane twice, from either end, and each measurement counts
half. On a short arc, or with a detector that is displaced to one side, some rays are measured twice
and others once. Their weights w must rise smoothly from 0 to 1 over the detector and the turn, as
the ramp filter sharpens every edge, and add up to 1 over a ray's two measurements:

- an arc: w = c(t) / Σ c over both, with c(t) a window over the arc that rises and falls like sin²
  (Noo, Defrise, Clackdoyle & Kudo, Phys. Med. Biol. 47, 2002; its two-sided limit is the
  weight of Parker, Med. Phys. 9, 1982);
- a displaced detector: w = ½ + ½ sin(π/2 · γ/Γ) for fan angles |γ| < Γ that both sides of the
  detector see, and 1 beyond (Wang, J. Comput. Assist. Tomogr. 26, 2002).

A ray of fan angle γ, positive towards where the source is going, that is measured at view angle a
is measured again at a + 180° − 2γ, at fan angle −γ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from ..imaging.geometry import Geometry

# a gap between views ends the arc when it is wider than so many times the next widest
ARC_GAP = 2.0
# gaps between other views are refused when wider than this and than so many times the median gap
INNER_GAP_DEG, INNER_GAP = 30.0, 4.0
# by how much an arc may be too short: rays through the detector's very edge
SLACK_DEG = 1.0
# share of the half-width that a detector may be off the centre and still count as centred, on a
# full turn and on an arc, where its outermost columns alone are then counted wrongly
CENTRED, CENTRED_ON_ARC = 0.02, 0.1
# columns of a displaced detector that have to be seen from both sides: with 9 of them water on the
# axis is 22 HU too low, with 6 it is 56
LEAST_COLUMNS = 12


class Turn(NamedTuple):
    """The part of a turn that views cover."""

    first_deg: float  # where it begins, half a step before its first view
    arc_deg: float  # how far it reaches; 360 for a full turn
    gap_deg: float  # the widest between two neighbours
    is_even: bool  # no gap is far wider than the others
    shares: Tensor  # [V] radians that each view stands for


def turn_of(angles_deg: Tensor) -> Turn:
    """The arc that views at these angles [V] cover, and each one's share of it.

    A view stands for half the gap to either neighbour; at the ends of an arc, for as much outwards
    as inwards.

    >>> turn = turn_of(torch.tensor([0.0, 180.0, 90.0]))
    >>> turn.arc_deg, torch.rad2deg(turn.shares).round().tolist()
    (360.0, [135.0, 135.0, 90.0])
    >>> turn_of(torch.arange(0.0, 200.0, 2.0)).arc_deg
    200.0
    """
    turned = angles_deg.double().remainder(360)
    order = turned.argsort()
    around = turned[order]
    gaps = torch.cat([around, around[:1] + 360]).diff()
    widest = int(gaps.argmax())
    inner = gaps.roll(-widest - 1)[:-1]  # in order of the arc that begins after the widest gap
    is_arc = len(inner) > 0 and float(gaps[widest]) > ARC_GAP * float(inner.max())
    if is_arc:
        padded = torch.cat([inner[:1], inner, inner[-1:]])
        order = order.roll(-widest - 1)
        first_deg = float(turned[order[0]] - inner[0] / 2)
    else:
        padded, first_deg = torch.cat([gaps[-1:], gaps]), float(around[0])
    shares = (padded[1:] + padded[:-1]) / 2
    arc_deg, gap_deg = float(shares.sum()) if is_arc else 360.0, float(padded.max())
    is_even = gap_deg <= max(INNER_GAP_DEG, INNER_GAP * float(padded.median()))
    shares = torch.empty_like(shares).scatter_(0, order, shares)
    return Turn(first_deg, arc_deg, gap_deg, is_even, torch.deg2rad(shares).float())


def redundancy(geometry: Geometry, turn: Turn) -> Tensor:
    """Weights [V, cols] of the columns of an orbit's views; ½ for a centred full turn.

    Raises UserError for views, or a displaced detector, that leave rays unmeasured.
    """
    if not turn.is_even:
        raise UserError(
            f"got views with a gap of {turn.gap_deg:.4g}° among closer ones",
            "wanted one arc for filtered back-projection",
            "reconstruct with sart",
        )
    shift = geometry.offset_mm[0] * 2 / (geometry.cols * geometry.pixel_mm)
    u = (torch.arange(geometry.cols) - (geometry.cols - 1) / 2) * 2 / geometry.cols + shift
    gamma = torch.atan(u / geometry.distance)
    fan_deg = 2 * math.degrees(math.atan((1 - abs(shift)) / geometry.distance))
    if abs(shift) >= 1:
        raise UserError(
            f"got a detector displaced by {abs(geometry.offset_mm[0]):g} mm, off the isocentre",
            "wanted one that sees the isocentre, for filtered back-projection",
            "reconstruct with sart",
        )
    both_sides = (1 - abs(shift)) * geometry.cols
    if both_sides < LEAST_COLUMNS < geometry.cols and abs(shift) > CENTRED_ON_ARC:
        raise UserError(
            f"got a displaced detector, of which {both_sides:.1f} columns are seen from both sides",
            f"wanted {LEAST_COLUMNS} or more for filtered back-projection",
            "reconstruct with sart",
        )
    if turn.arc_deg >= 360:
        if abs(shift) <= CENTRED:
            return torch.full((geometry.views, geometry.cols), 0.5)
        both = math.radians(fan_deg / 2)
        rise = torch.sin(math.pi / 2 * (gamma * math.copysign(1, shift) / both).clamp(-1, 1))
        return (0.5 + 0.5 * rise).expand(geometry.views, -1)
    if abs(shift) > CENTRED_ON_ARC:
        raise UserError(
            f"got a displaced detector on an arc of {turn.arc_deg:g}°",
            "wanted a full turn, or a centred detector, for filtered back-projection",
            "reconstruct with sart",
        )
    if turn.arc_deg < 180 + fan_deg - SLACK_DEG:
        raise UserError(
            f"got views over an arc of {turn.arc_deg:.4g}°",
            f"wanted {180 + fan_deg:.4g}° or more for filtered back-projection",
            "reconstruct with sart",
        )
    angles = torch.tensor(geometry.angles_deg)
    along = torch.deg2rad((angles - turn.first_deg) % 360)[:, None]
    onward = gamma if geometry.columns_flipped else -gamma
    arc = math.radians(turn.arc_deg)
    own = _window(along, arc).expand(-1, geometry.cols)
    again = sum(_window(along + side * math.pi - 2 * onward, arc) for side in (1, -1))
    return own / (own + again).clamp_min(1e-6)


def _window(along: Tensor, arc: float) -> Tensor:
    """c(t) of places along an arc, in radians: 0 outside it."""
    rise = (arc - math.pi) / 2
    inside = torch.minimum(along, arc - along) / rise
    return torch.sin(math.pi / 2 * inside.clamp(0, 1)).square()
