"""The pretend accelerator: right values, and the refusals that a real one would give."""

from __future__ import annotations

import copy

import pytest
import torch
from pretend import Pretend, pretend_device
from torch import nn

REFUSED = "same device|index|generator|on cpu|convert"


def on(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, device="cuda")


def test_values_are_those_of_the_cpu():
    x = torch.linspace(-1, 1, 12).view(4, 3)
    with pretend_device() as device:
        y = x.to(device)
        assert (
            y.device == torch.device("cuda:0")
            and y.is_cuda
            and torch.zeros(2, device=device).is_cuda
        )
        found = (y @ y.T).exp().cumsum(0)[torch.tensor([0, 2])].cpu()
        assert y.to(device) is y and float(y[0, 0]) == -1 and y.tolist() == x.tolist()
        z = y.clone()
        z[:, 1] = 5.0
        z[y > 0.5] += 1
        assert type(y.new_tensor([1.0])) is Pretend and y.new_zeros(3).is_cuda
    assert torch.equal(found, (x @ x.T).exp().cumsum(0)[[0, 2]])
    expected = x.clone()
    expected[:, 1] = 5.0
    expected[x > 0.5] += 1
    assert torch.equal(z.held, expected) and not torch.cuda.is_available()


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}])
def test_training_on_it_is_training(options):
    x, y = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)

    def trained(device: str) -> torch.Tensor:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)).to(device).to(device)
        net = copy.deepcopy(net)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.1, **options)
        for _ in range(3):
            optimiser.zero_grad()
            (net(x.to(device)) - y.to(device)).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
            optimiser.step()
        assert isinstance(net[0].weight, nn.Parameter)
        return net.cpu()[2].weight.detach()

    expected = trained("cpu")
    with pretend_device():
        found = trained("cuda")
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: on([1.0, 2.0]) + torch.ones(2),
        lambda: torch.cat([on([1.0]), torch.ones(1)]),
        lambda: torch.stack([on([1.0]), torch.ones(1)]),
        lambda: torch.arange(3)[torch.tensor([0], device="cuda")],
        lambda: torch.zeros(3).index_put_((torch.tensor([0], device="cuda"),), torch.ones(1)),
        lambda: on([1.0, 2.0]).index_put_((torch.tensor([0]),), torch.ones(1)),
        lambda: on([1.0, 2.0]).gather(0, torch.tensor([0])),
        lambda: torch.zeros(3).add_(on([1.0, 2.0, 3.0])),
        lambda: nn.functional.grid_sample(
            torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, device="cuda"), align_corners=False
        ),
        lambda: nn.Linear(2, 2)(on([1.0, 2.0])),
        lambda: on([1.0]).numpy(),
        lambda: torch.rand(2, generator=torch.Generator(), device="cuda"),
        lambda: torch.rand(2, generator=torch.Generator("cuda")),
        lambda: torch.randperm(2, generator=torch.Generator("cuda")),
        lambda: on([1.0]).uniform_(generator=torch.Generator()),
    ],
)
def test_mistakes_are_refused(mistake):
    with pretend_device(), pytest.raises((RuntimeError, TypeError), match=REFUSED):
        mistake()


def test_what_a_device_allows():
    with pretend_device():
        x = on([1.0, 2.0])
        x[1] = torch.tensor(5.0)
        x[torch.tensor([0])] = torch.tensor(3.0)
        assert (x + torch.tensor(1.0)).tolist() == [4.0, 6.0]
        assert torch.where(x > 4, x, torch.tensor(0.0)).tolist() == [0.0, 5.0]
        x.copy_(torch.ones(2))
        assert x.sum().item() == 2 and torch.zeros_like(x, device="cpu").numpy().shape == (2,)


def test_its_random_numbers_repeat_and_have_a_small_state():
    with pretend_device():
        g = torch.Generator(device="cuda").manual_seed(3)
        assert isinstance(g, torch.Generator) and isinstance(torch.Generator(), torch.Generator)
        torch.rand(2, generator=g, device="cuda")
        state = g.get_state()
        first = torch.randn(4, generator=g, device=g.device)
        again = torch.randn(4, generator=torch.Generator("cuda").set_state(state), device="cuda")
        assert len(state) == 16 and torch.equal(first, again)
        with pytest.raises(RuntimeError, match="size"):
            g.set_state(torch.Generator().get_state())
    assert torch.Generator().device.type == "cpu"
