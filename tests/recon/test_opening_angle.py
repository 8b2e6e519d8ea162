"""The opening angle that explains an orbit, and what a set of orbits agrees on."""

from __future__ import annotations

import pytest
import torch
from balls import GEOMETRY, pictures

from mednerf_kit.recon.opening_angle import FOVS_DEG, agreed_fovs_deg, fov_curve, peak


def test_a_wide_orbit_is_taken_for_wide():
    """Whatever opening angle the geometry came with; 24 views of 40 pixels tell the side, not the
    degree.
    """
    wide = GEOMETRY.with_fov(40.0)
    fov_deg, _ = peak(
        fov_curve(pictures(wide, reach=1.2), wide.with_fov(18.0), size=40, views=24, epochs=3)
    )
    assert 27 < fov_deg < 45


def test_a_set_agrees_on_its_opening_angle():
    def curve(fov_deg, sharpness=0.02):
        return -sharpness * (torch.tensor(FOVS_DEG) - fov_deg).square()

    several = torch.stack([curve(36.0), curve(37.0), curve(38.0)])
    assert agreed_fovs_deg(several, 18.0) == pytest.approx([37.0] * 3, abs=1e-3)  # one scanner
    stranger = torch.cat([several, curve(18.5)[None]])
    assert agreed_fovs_deg(stranger, 20.0)[3] == pytest.approx(18.5, abs=1e-3)  # clearly another's
    # no reason to leave what was given
    assert agreed_fovs_deg(torch.stack([curve(16.0, 1e-3)] * 2), 19.1) == [19.1] * 2
