"""The discriminator: layers against brute force, DAG heads that see their own transform, losses and
R1 against closed forms.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mednerf_kit.core.errors import UserError
from mednerf_kit.gan import layers
from mednerf_kit.gan.dag import POLICIES, Dag, identity
from mednerf_kit.gan.discriminator import DISCRIMINATORS, ResidualDiscriminator
from mednerf_kit.gan.losses import hinge_d, hinge_g, nonsaturating_d, nonsaturating_g, r1_penalty

HEADS = {"none": 1, "tilt": 3}
HEADS |= {"rotation": 4, "fliprot": 4, "cropping": 5, "translation": 5, "cutout": 5}
TINY = {"fmaps": 1 / 256, "max_channels": 8}
SMALL = {"residual": TINY, "selfsup": {"width": 4, "doublings": 1}, "patchgan": {"width": 4}}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(
    batch: int = 4, size: int = 16, channels: int = 1, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=seeded(1), dtype=dtype)


def tiny(**options) -> ResidualDiscriminator:
    return ResidualDiscriminator(**{"size": 16, "rng": seeded(), **TINY, **options})


# Layers


def test_equalised_layers_keep_the_second_moment():
    x = torch.randn(256, 64, 6, 6, generator=seeded())
    gain = layers.leaky_gain()
    convolved = layers.leaky_relu(layers.Conv2d(64, 96, 1, gain=gain, rng=seeded(1))(x))
    dense = layers.leaky_relu(layers.Linear(64, 512, gain=gain, rng=seeded(2))(x[:, :, 0, 0]))
    assert convolved.square().mean().item() == pytest.approx(1, abs=0.1)
    assert dense.square().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: layers.Linear(5, 3, lr_multiplier=m, bias=0.7, rng=seeded()),
        lambda m: layers.Conv2d(5, 3, 1, lr_multiplier=m, bias=0.7, rng=seeded()),
    ],
)
def test_the_multiplier_changes_the_pace_and_not_the_function(make):
    slow, fast = make(0.1), make(1.0)
    x = torch.randn(2, 5, generator=seeded(3)).reshape(2, 5, *(1,) * (slow.weight.ndim - 2))
    torch.testing.assert_close(slow(x), fast(x))
    slow(x).sum().backward()
    fast(x).sum().backward()
    torch.testing.assert_close(slow.weight.grad, 0.1 * fast.weight.grad)
    torch.testing.assert_close(slow.bias.grad, 0.1 * fast.bias.grad)


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (9, 7)])
def test_downsampling_is_the_sum_it_says(size):
    x = torch.randn(2, 3, *size, generator=seeded(), dtype=torch.float64)
    taps = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    padded = functional.pad(x, (1, 2, 1, 2))
    truth = torch.zeros(2, 3, size[0] // 2, size[1] // 2, dtype=torch.float64)
    for i in range(truth.shape[2]):
        for j in range(truth.shape[3]):
            truth[:, :, i, j] = (
                padded[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] * taps[:, None] * taps
            ).sum((2, 3))
    torch.testing.assert_close(layers.downsample(x), truth)


def test_down_and_up_are_adjoint_and_twice_differentiable():
    x = torch.randn(1, 2, 4, 6, generator=seeded(), dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, 2, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close((layers.downsample(x) * y).sum(), (x * layers.upsample(y)).sum() / 4)
    odd = torch.randn(1, 1, 5, 3, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    for function, at in ((layers.downsample, x), (layers.downsample, odd), (layers.upsample, y)):
        assert torch.autograd.gradcheck(function, at)
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v).square(), at)


def test_minibatch_deviation_is_that_of_each_group():
    x = torch.randn(6, 2, 3, 3, generator=seeded())
    answer = layers.minibatch_stddev(x, 3)
    assert torch.equal(answer[:, :2], x)
    for start in (0, 3):
        truth = x[start : start + 3].std(0, unbiased=False).mean()
        torch.testing.assert_close(answer[start : start + 3, 2], truth.expand(3, 3, 3))
    assert torch.equal(layers.minibatch_stddev(x, 4), layers.minibatch_stddev(x, 2))
    still = torch.ones(4, 1, 2, 2, requires_grad=True)
    layers.minibatch_stddev(still, 4).sum().backward()
    assert still.grad.isfinite().all()


# Policies


@pytest.mark.parametrize("name", POLICIES.entries)
def test_policies_start_with_the_identity_keep_the_shape_and_differ(name):
    images = pictures(2, 20, 3)
    transforms = POLICIES.build(name)
    answers = [transform(images) for transform in transforms]
    assert len(transforms) == HEADS[name] and transforms[0] is identity
    for k, answer in enumerate(answers):
        assert answer.shape == images.shape
        torch.testing.assert_close(transforms[k](2 * images), 2 * answer)
        assert not any(torch.equal(answer, other) for other in answers[:k])


def test_policies_do_what_their_names_say():
    x = pictures(1, 16)
    _, up, across, turned = POLICIES.build("fliprot")
    assert torch.equal(up(x), x[:, :, range(15, -1, -1)]) and torch.equal(
        across(x), x[..., range(15, -1, -1)]
    )
    assert torch.equal(turned(x), torch.rot90(x, -1, (2, 3)))
    quarter = POLICIES.build("rotation")[1]
    assert torch.equal(quarter(quarter(quarter(quarter(x)))), x)
    right, left, down, up = POLICIES.build("translation")[1:]
    assert torch.equal(right(x)[..., 4:], x[..., :-4]) and right(x)[..., :4].abs().sum() == 0
    assert torch.equal(left(x)[..., :-4], x[..., 4:]) and torch.equal(
        down(x)[:, :, 4:], x[:, :, :-4]
    )
    assert torch.equal(up(x)[:, :, :-4], x[:, :, 4:])
    holes = [hole(torch.ones(1, 1, 16, 16)) for hole in POLICIES.build("cutout")[1:]]
    assert all(hole.sum() == 192 for hole in holes) and torch.equal(
        sum(holes), torch.full((1, 1, 16, 16), 3.0)
    )
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    corners = [corner(ramp) for corner in POLICIES.build("cropping")[1:]]
    assert [round(c.min().item() * 15) for c in corners] == [0, 4, 0, 4]
    assert [round(c.max().item() * 15) for c in corners] == [11, 15, 11, 15]


def test_detail_is_amplified_before_the_first_layer():
    """The picture and so many times what a blur takes from it; a flat picture stays as it is."""
    plain, sharp = (
        DISCRIMINATORS.build(
            {"name": "residual", "size": 16, "detail": detail, **TINY}, rng=seeded(), channels=1
        )
        for detail in (1.0, 5.0)
    )
    x = pictures(2, 16)
    amplified = 5 * x - 4 * layers.blurred(x)
    torch.testing.assert_close(plain(amplified).heads[:, 0], sharp(x).heads[:, 0])
    assert not torch.allclose(plain(x).heads[:, 0], sharp(x).heads[:, 0])
    flat = torch.full((2, 1, 16, 16), 0.3)
    torch.testing.assert_close(sharp(flat).heads, plain(flat).heads)
    lengths = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1.0
    torch.testing.assert_close(layers.blurred(dot)[0, 0, 2:7, 2:7], lengths[:, None] * lengths)


def test_a_tilt_turns_a_little_to_either_side():
    """A bar from the centre upwards comes to lie along the angle, on the other side by mirror."""
    bar = torch.zeros(1, 1, 33, 33)
    bar[..., 2:16, 16] = 1.0
    one, other = (turn(bar) for turn in POLICIES.build({"name": "tilt", "angle_deg": 20})[1:])
    torch.testing.assert_close(one.flip(-1), other, atol=1e-5, rtol=0)
    top = one[0, 0, 5]
    column = float((top * torch.arange(33)).sum() / top.sum())
    assert abs(column - 16) == pytest.approx(11 * math.tan(math.radians(20)), abs=0.3)


def test_combined_policies_count_on_and_share_the_identity():
    dag, x = Dag(["rotation", {"name": "cropping", "share": 0.5}]), pictures()
    assert dag.count == 8
    assert torch.equal(dag.apply(x, 4), POLICIES.build({"name": "cropping", "share": 0.5})[1](x))
    assert torch.equal(dag.stack(x).unflatten(0, (8, 4))[6], dag.apply(x, 6))
    with pytest.raises(UserError, match="did you mean 'rotation'"):
        Dag("rotations")
    with pytest.raises(UserError, match="between 0 and 1"):
        Dag([{"name": "cutout", "share": 1.5}])


# Discriminators


@pytest.mark.parametrize("name", DISCRIMINATORS.entries)
@pytest.mark.parametrize("size", [16, 50, 64])
@pytest.mark.parametrize("policy", ["none", "fliprot", ["rotation", "cutout"]])
def test_every_discriminator_answers_one_logit_per_head(name, size, policy):
    node = {"name": name, **SMALL.get(name, {}), "policy": policy}
    discriminator = DISCRIMINATORS.build(node, size=size, channels=2, rng=seeded())
    images = pictures(3, size, 2).requires_grad_()
    heads = discriminator(images).heads
    assert heads.shape == (3, Dag(policy).count) and heads.isfinite().all()
    heads.square().sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum(dim=(1, 2, 3)).gt(0).all()
    assert all(
        p.grad.isfinite().all()
        for name, p in discriminator.named_parameters()
        if not name.startswith("draw_")
    )


def test_one_batched_pass_is_a_loop_over_heads():
    discriminator, images = tiny(policy=["fliprot", "translation"], mbstd_group=4), pictures(6)
    heads = discriminator(images).heads
    for k in range(discriminator.dag.count):
        phi = discriminator.trunk(discriminator.dag.apply(images, k), 2)
        torch.testing.assert_close(
            heads[:, k], discriminator.heads(phi)[:, k], atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(
        discriminator(images, heads=2).heads, heads[:, :2], atol=1e-5, rtol=1e-4
    )


def test_each_head_sees_its_own_transform_only():
    discriminator, images = tiny(policy="cutout", mbstd_group=1), pictures(2).requires_grad_()
    corners = (
        (slice(0, 8), slice(0, 8)),
        (slice(0, 8), slice(8, 16)),
        (slice(8, 16), slice(0, 8)),
        (slice(8, 16), slice(8, 16)),
    )
    heads = discriminator(images).heads
    for k, (rows, columns) in enumerate(corners, start=1):
        discriminator.zero_grad()
        (seen,) = torch.autograd.grad(heads[:, k].sum(), images, retain_graph=True)
        assert seen[:, :, rows, columns].abs().sum() == 0 < seen.abs().sum()
        heads[:, k].sum().backward(retain_graph=True)
        assert discriminator.heads.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [k]


def test_the_quick_setting_is_small():
    discriminator = ResidualDiscriminator(size=64, fmaps=1 / 32, max_channels=64, policy="none")
    assert sum(p.numel() for p in discriminator.parameters()) < 300_000


def test_the_generator_of_random_numbers_decides_the_weights():
    first, again, other = tiny(), tiny(), tiny(rng=seeded(1))
    x = pictures()
    assert torch.equal(first(x).heads, again(x).heads) and not torch.equal(
        first(x).heads, other(x).heads
    )


def test_conditioned_on_the_angle():
    discriminator, x = (
        tiny(condition_angle=True, policy="rotation").double(),
        pictures(dtype=torch.float64),
    )
    angle = torch.tensor([0.0, 90, 180, 275], dtype=torch.float64)
    heads = discriminator(x, angle).heads
    torch.testing.assert_close(discriminator(x, angle - 360).heads, heads)
    torch.testing.assert_close(discriminator(x, angle, heads=1).heads, heads[:, :1])
    assert (discriminator(x, angle + 5).heads - heads).abs().amax(1).gt(1e-4).all()
    with pytest.raises(ValueError, match="angles_deg"):
        discriminator(x)
    assert torch.equal(tiny()(x.float(), angle).heads, tiny()(x.float()).heads)


def test_misuse_is_told():
    with pytest.raises(UserError, match="at least 16"):
        tiny(size=8)
    with pytest.raises(UserError, match="positive"):
        tiny(fmaps=-1.0)
    with pytest.raises(UserError, match="did you mean 'policy'"):
        DISCRIMINATORS.build({"name": "residual", "polcy": "none"}, size=16)
    with pytest.raises(ValueError, match=r"expected \[B, 1, 16, 16\]"):
        tiny()(pictures(size=20))


# Losses


def test_losses_are_the_sums_they_say():
    real, fake = torch.randn(5, 4, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    weights = torch.tensor([1, 0.1, 0.1, 0.1])
    pairs = (
        (nonsaturating_d, lambda r, f: (1 + (-r).exp()).log() + (1 + f.exp()).log()),
        (hinge_d, lambda r, f: torch.clamp(1 - r, min=0) + torch.clamp(1 + f, min=0)),
    )
    for loss, truth in pairs:
        torch.testing.assert_close(loss(real, fake, 0.3), (truth(real, fake) * weights).sum(1))
        torch.testing.assert_close(loss(real[:, :1], fake[:, :1], 0.3), truth(real, fake)[:, 0])
        torch.testing.assert_close(loss(real, fake, 0.0), truth(real, fake)[:, 0])
    torch.testing.assert_close(
        nonsaturating_g(fake, 0.3), ((1 + (-fake).exp()).log() * weights).sum(1)
    )
    torch.testing.assert_close(hinge_g(fake, 0.3), -(fake * weights).sum(1))


def test_losses_have_finite_gradients_at_extremes():
    heads = torch.tensor([[-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    total = (
        nonsaturating_d(heads, heads, 0.2)
        + nonsaturating_g(heads, 0.2)
        + hinge_d(heads, heads, 0.2)
    )
    (gradient,) = torch.autograd.grad(total.sum(), heads)
    assert total.isfinite().all() and gradient.isfinite().all()


def test_r1_is_the_squared_finite_difference():
    discriminator = tiny(policy="fliprot", mbstd_group=1).double()
    image = pictures(1, dtype=torch.float64).requires_grad_()
    penalty = r1_penalty(discriminator(image).heads[:, 0], image)
    step = 1e-5 * torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16)
    with torch.no_grad():
        slope = (
            discriminator(image + step, heads=1).heads - discriminator(image - step, heads=1).heads
        )[:, 0] / 2e-5
    assert penalty.shape == (1,)
    assert penalty.item() == pytest.approx(slope.square().sum().item(), rel=1e-4)


def test_r1_can_be_minimised():
    discriminator, images = tiny(policy="none"), pictures(4).requires_grad_()
    r1_penalty(discriminator(images, heads=1).heads[:, 0], images).mean().backward()
    weights = {
        name: p.grad for name, p in discriminator.named_parameters() if name.endswith("weight")
    }
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in weights.values())


def test_it_learns_to_tell_smooth_from_rough():
    discriminator = tiny(policy="fliprot", fmaps=1 / 128, max_channels=16)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=0.003, betas=(0.0, 0.99))
    rng = seeded(5)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        rough = torch.rand(8, 1, 16, 16, generator=rng)
        return layers.upsample(layers.downsample(rough)), rough

    for _ in range(50):
        real, fake = batch()
        loss = nonsaturating_d(discriminator(real).heads, discriminator(fake).heads, 3.0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    real, fake = batch()
    with torch.no_grad():
        right = (
            torch.cat([discriminator(real).heads > 0, discriminator(fake).heads < 0])
            .float()
            .mean(0)
        )
    assert right.min() > 0.9
