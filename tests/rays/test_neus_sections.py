"""NeuS's sections: where rounds put them, and which are left out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ball_scene import BOX
from neus_ball import ExactField, exact, parallel_rays, seeded
from torch import nn

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.rays.samplers.neus import Sections


def test_rounds_close_in_on_the_surface():
    rays, field = parallel_rays(reach=0.5), exact()
    true = 3 - (ExactField.ball**2 - rays.origin[:, 1].square()).sqrt()
    off = []
    for rounds in (0, 1, 2, 4):
        found = Sections(n=16, refine=4 * rounds, rounds=rounds, faint=0.0, box=BOX, field=field)(
            rays
        )
        assert found.t.shape[-1] == 16 + 4 * rounds
        torch.testing.assert_close(found.dt.sum(-1), rays.far - rays.near)
        here = (found.t - true[:, None]).abs().argmin(-1, keepdim=True)
        off.append(float(found.dt.gather(-1, here).mean()))
    assert (
        off[0] == pytest.approx(2 / 16)
        and off[1] < 0.5 * off[0]
        and off[2] < 0.5 * off[1]
        and off[3] < 0.25 * off[2]
    )


def test_sections_left_out_cannot_be_seen():
    rays, field = parallel_rays(), exact(sharpness=100.0)

    def look(faint: float):
        found = Sections(n=48, refine=32, rounds=2, faint=faint, box=BOX, field=field)(
            rays, None, seeded()
        )
        x = rays.origin[:, None] + found.t[..., None] * rays.direction[:, None]
        answer = field(x, rays.direction[:, None], found.dt)
        return emission_absorption(answer.tau.detach(), answer.color.detach()), (
            found.dt > 0
        ).float().mean()

    (all_of_it, everything), (some, few) = look(0.0), look(1e-3)
    assert everything == 1.0 and few < 0.45
    torch.testing.assert_close(some.image, all_of_it.image, atol=5e-3, rtol=0)
    assert float(some.w.sum(-1)[20]) > 0.999 and float(some.w.sum(-1)[0]) < 1e-2


def test_a_ray_that_misses_is_not_asked():
    asked = []
    field = SimpleNamespace(
        sharpness=torch.tensor(50.0), sdf=lambda x: (asked.append(len(x)), x.norm(dim=-1) - 0.6)[1]
    )
    rays = parallel_rays(5)
    rays = replace(rays, far=torch.where(torch.arange(5) < 2, rays.near, rays.far))
    found = Sections(n=8, refine=4, rounds=1, box=BOX, field=field)(rays)
    assert asked == [3, 3] and not found.dt[:2].any() and bool(found.t.isfinite().all())


def test_nodes_follow_behind_the_box():
    rays = replace(parallel_rays(5), far=torch.full((5,), 40.0))
    found = Sections(n=8, refine=4, rounds=1, faint=0.0, outside=6, box=BOX, field=exact())(rays)
    assert found.t.shape == (5, 18)
    torch.testing.assert_close(found.dt[:, :12].sum(-1), torch.full((5,), 2.0))
    torch.testing.assert_close(found.dt[:, 12:].sum(-1), torch.full((5,), 36.0))
    ends = 4 + found.dt[0, 12:].cumsum(-1)
    torch.testing.assert_close(
        (1 / ends).diff(), torch.full((5,), -(1 / 4 - 1 / 40) / 6), rtol=1e-3, atol=1e-6
    )


def test_a_sampler_refuses_what_has_no_distance():
    with pytest.raises(UserError, match="without signed distances"):
        SAMPLERS.build("neus", box=BOX, field=nn.Linear(1, 1))
    for options in (
        {"refine": 2, "rounds": 3},
        {"outside": 3, "box": None},
        {"sharpness": 0.0},
        {"faint": 2.0},
    ):
        with pytest.raises(UserError):
            Sections(**{"box": BOX, **options})
