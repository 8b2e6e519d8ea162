"""Adam is torch's, bit for bit on a CPU, whatever the rates do between steps."""

from __future__ import annotations

import pytest
import torch

from mednerf_kit.core.adam import Adam


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.9)])
def test_every_step_is_that_of_torch(betas):
    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 4, generator=rng), torch.randn(5, generator=rng)]
    ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))

    def groups(tensors):
        return [{"params": [t], "lr": rate} for t, rate in zip(tensors, (0.1, 0.02), strict=True)]

    adam, reference = Adam(groups(ours), betas=betas), torch.optim.Adam(groups(theirs), betas=betas)
    for step in range(20):
        for optimiser, (a, b) in ((adam, ours), (reference, theirs)):
            for group, rate in zip(optimiser.param_groups, (0.1, 0.02), strict=True):
                group["lr"] = rate / (1 + step)
            optimiser.zero_grad()
            loss = (a.sin().sum() * 3).square()
            if step % 3:  # a tensor without a gradient stays as it is, and so do its moments
                loss = loss + (b - 2).pow(4).sum()
            loss.backward()
            optimiser.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other), step
