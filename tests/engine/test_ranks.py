"""One of several processes: its part of a batch, what it replays, and what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Generator

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Rays
from mednerf_kit.engine import session
from mednerf_kit.engine.distributed import (
    BatchShard,
    Ranks,
    RngSnapshot,
    ShardedSampler,
    init_process_group,
)
from mednerf_kit.prior import posed_setup
from mednerf_kit.rays.render import Level
from mednerf_kit.rays.samplers.base import SAMPLERS


@pytest.mark.parametrize("name", ["stratified", "importance", "local"])
def test_a_share_is_sampled_where_the_whole_batch_is(name):
    sampler, coarse = SAMPLERS.build(name), SAMPLERS.build({"name": "stratified", "n": 8})
    origin, near = torch.randn(4, 3, 3, generator=Generator().manual_seed(1)), torch.rand(4, 3)
    rays = Rays(origin, torch.nn.functional.normalize(-origin, dim=-1), near, near + 2)
    before = None if name == "stratified" else coarse(rays, None, Generator().manual_seed(2))
    weight = torch.rand(4, 3, 8, generator=Generator().manual_seed(3))

    def seen(sampler, share: BatchShard):
        rng = Generator().manual_seed(0)
        mine = Rays(*(share.take(t) for t in (rays.origin, rays.direction, rays.near, rays.far)))
        previous = before and (
            replace(before, t=share.take(before.t), dt=share.take(before.dt)),
            share.take(weight),
        )
        return sampler(mine, previous, rng), rng.get_state()

    whole, state = seen(sampler, BatchShard())
    parts = [seen(ShardedSampler(sampler, BatchShard(i, 2)), BatchShard(i, 2)) for i in (0, 1)]
    for field in ("t", "dt"):
        torch.testing.assert_close(
            torch.cat([getattr(part, field) for part, _ in parts]), getattr(whole, field)
        )
    assert all(torch.equal(after, state) for _, after in parts)


def test_one_part_is_the_batch_itself():
    (share,) = Ranks().shards(1)
    levels = [Level(SAMPLERS.build("stratified"))]
    whole = torch.rand(4, 2)
    assert share.levels(levels) is levels and torch.equal(share.take(whole), whole)
    assert [s.rows(12) for s in Ranks(1, 2).shards(3)] == [slice(6, 8), slice(8, 10), slice(10, 12)]


def test_noise_of_parts_is_the_noise_of_the_whole():
    whole = torch.randn(4, 3, 5, generator=Generator().manual_seed(0))
    parts = [BatchShard(i, 2).randn((2, 3, 5), Generator().manual_seed(0)) for i in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_state_of_random_numbers_and_buffers_comes_back():
    rng, norm = (
        Generator().manual_seed(0),
        torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 4)),
    )
    kept = RngSnapshot(rng, norm)
    first = torch.rand(3, generator=rng), norm(torch.eye(4)).detach()
    later = rng.get_state()
    with kept.replayed():
        again = torch.rand(3, generator=rng), norm(torch.eye(4)).detach()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and torch.equal(
        rng.get_state(), later
    )


def test_gradients_and_numbers_of_one_process_are_its_own():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    before = parameter.grad
    Ranks().average_gradients([parameter])
    assert (
        parameter.grad is before
        and Ranks().mean_metrics({"a": math.nan}, 1.0, True)[1:] == (1.0, True)
        and Ranks().claims_report()
    )


@pytest.mark.parametrize(
    "size, world, accumulate, said",
    [
        (16, 3, 1, "task.batch 16 for 3 processes; wanted a multiple of 3: set task.batch=18"),
        (16, 2, 3, "for 2 processes with accumulate 3; wanted a multiple of 6"),
        (16, 1, 5, "for accumulate 5; wanted a multiple of 5: set task.batch=20"),
    ],
)
def test_what_cannot_be_dealt_is_refused(size, world, accumulate, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Ranks(0, world).check_divisible({"task.batch": size}, accumulate)


def test_an_environment_that_is_not_torchruns_is_one_sentence():
    assert init_process_group({}) == Ranks() == init_process_group({"WORLD_SIZE": "1", "RANK": "0"})
    for environment in ({"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "0"}):
        with pytest.raises(UserError, match="torchrun --nproc-per-node"):
            init_process_group(environment)


def test_a_task_that_cannot_be_shared_wants_one_process(monkeypatch):
    monkeypatch.setattr(
        session, "task_type_of", lambda recipe: replace(posed_setup.TASK_TYPE, batches=None)
    )
    assert session.batch_per_process({"task": {"name": "lonely"}}, Ranks()) == {}
    with pytest.raises(UserError, match="2 processes for task 'lonely'; wanted one"):
        session.batch_per_process({"task": {"name": "lonely"}}, Ranks(0, 2))


def test_a_state_travels_whole():
    tensors = {
        "weight": torch.rand(3, 2, dtype=torch.float16),
        "view": torch.arange(6.0).view(2, 3).T,
        "count": torch.tensor(7),
        "rng": Generator().get_state(),
        "none": torch.zeros(0, 8),
        "flags": torch.tensor([True, False]),
    }
    found, facts = Ranks().broadcast_state(tensors, {"step": 3, "task_state": None})
    assert facts == {"step": 3, "task_state": None} and set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
