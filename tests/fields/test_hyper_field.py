"""What fills space: the encoding against sines and cosines, and a batch of small networks against a
loop over points.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mednerf_kit.fields import hyper
from mednerf_kit.fields.frequency import encoded_width, frequency_encoding
from mednerf_kit.fields.hyper import (
    CanonicalPose,
    HyperField,
    MlpWeights,
    fastest_dtype,
    padded_width,
    rotation_matrix,
)
from mednerf_kit.fields.mlp import TiledMlp

OCTAVES, WIDTH, BATCH = 4, 16, 3
FP32 = torch.float32


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int = 50, batch: int = BATCH, seed: int = 1) -> torch.Tensor:
    return 2 * torch.rand(batch, n, 3, generator=seeded(seed)) - 1


def network(
    *, outputs: int = 1, skip: int = 0, batch: int = BATCH, frame: CanonicalPose | None = None
) -> MlpWeights:
    """Random weights of three layers for each scene."""
    first = padded_width(OCTAVES)
    inputs = [first, WIDTH, WIDTH]
    if skip:
        inputs[skip] += first
    sizes = zip(inputs, [WIDTH, WIDTH, outputs], strict=True)
    return MlpWeights(
        tuple(
            (
                torch.randn(batch, o, i, generator=seeded(10 + k)) * (2 / i) ** 0.5,
                0.5 * torch.randn(batch, o, generator=seeded(20 + k)),
            )
            for k, (i, o) in enumerate(sizes)
        ),
        frame,
    )


def frame_of(
    batch: int = BATCH,
    *,
    shift=(0.0, 0, 0),
    log_scale=(0.0, 0, 0),
    rotation=(0.0, 0, 0),
    extent=(-9.0, 9.0),
) -> CanonicalPose:
    return CanonicalPose(
        *(
            torch.tensor(v, dtype=FP32).expand(batch, -1)
            for v in (shift, log_scale, rotation, extent)
        )
    )


def encoded(x: np.ndarray, octaves: int) -> np.ndarray:
    return np.concatenate([x] + [f(2.0**k * x) for k in range(octaves) for f in (np.sin, np.cos)])


def looped_density(x: torch.Tensor, code: MlpWeights, *, skip: int = 0) -> np.ndarray:
    """One point after another in double precision: the definition, [B, N]."""
    found = np.zeros(x.shape[:2])
    for b in range(x.shape[0]):
        layers = [(w[b].double().numpy(), c[b].double().numpy()) for w, c in code.layers]
        for n in range(x.shape[1]):
            e = np.zeros(padded_width(OCTAVES))
            e[: encoded_width(OCTAVES)] = encoded(x[b, n].double().numpy(), OCTAVES)
            h = e
            for i, (w, c) in enumerate(layers):
                h = w @ (np.concatenate([h, e]) if skip and i == skip else h) + c
                h = np.maximum(h, 0) if i < len(layers) - 1 else h
            found[b, n] = np.log1p(np.exp(h[0] - 1)) * (float((x[b, n, :2] ** 2).sum()) < 1.4**2)
    return found


# Encoding


@pytest.mark.parametrize("octaves", [0, 1, 7, 10])
def test_encoding_is_sines_and_cosines_of_octaves(octaves):
    x = 1.4 * points(200)
    found = frequency_encoding(x, octaves)
    wanted = np.stack([encoded(p, octaves) for p in x.reshape(-1, 3).double().numpy()])
    assert found.shape[-1] == encoded_width(octaves)
    np.testing.assert_allclose(
        found.reshape(-1, found.shape[-1]).numpy(), wanted, atol=2e-3 if octaves > 8 else 5e-5
    )


def test_gradient_of_the_encoding_is_autograds():
    x, weight = points(60).requires_grad_(True), torch.randn(encoded_width(6), generator=seeded(2))
    (ours,) = torch.autograd.grad((frequency_encoding(x, 6) * weight).sum(), x)
    exact = x.detach().double().requires_grad_(True)
    waves = [exact] + [f(2.0**k * exact) for k in range(6) for f in (torch.sin, torch.cos)]
    (theirs,) = torch.autograd.grad((torch.cat(waves, -1) * weight.double()).sum(), exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3)


def test_padding_is_zero_and_has_no_gradient():
    x = points(5).requires_grad_(True)
    features = frequency_encoding(x, 4, width=48)
    assert features.shape[-1] == 48 and features[..., encoded_width(4) :].abs().max() == 0
    (gradient,) = torch.autograd.grad(features[..., encoded_width(4) :].sum(), x)
    assert gradient.abs().max() == 0


def test_half_precision_features_keep_their_phases():
    x = points(100)
    coarse, fine = frequency_encoding(x, 8, torch.bfloat16), frequency_encoding(x, 8)
    assert coarse.dtype == torch.bfloat16 and (coarse.float() - fine).abs().max() < 2**-8, (
        "only rounded at the end"
    )
    (gradient,) = torch.autograd.grad(
        frequency_encoding(x.requires_grad_(True), 8, torch.bfloat16).float().sum(), x
    )
    assert gradient.dtype == FP32 and gradient.isfinite().all()


# Networks


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_the_batch_is_the_loop_over_scenes_and_points(skip):
    x, code = 1.2 * points(40), network(skip=skip)
    found = HyperField(octaves=OCTAVES, skip=skip, precision="fp32").density(x, code)
    np.testing.assert_allclose(
        found.numpy(), looped_density(x, code, skip=skip), rtol=2e-4, atol=2e-5
    )


def test_scenes_do_not_mix():
    x, code, field = points(), network(), HyperField(octaves=OCTAVES, precision="fp32")
    whole = field.density(x, code)
    for b in range(BATCH):
        torch.testing.assert_close(
            field.density(x[b : b + 1], code.one(b)), whole[b : b + 1], rtol=1e-5, atol=1e-6
        )
    order = torch.tensor([2, 0])
    torch.testing.assert_close(
        field.density(x[order], code.take(order)), whole[order], rtol=1e-5, atol=1e-6
    )


def test_taking_scenes_takes_their_frames_and_gains():
    frame = CanonicalPose(
        torch.randn(3, 3), torch.randn(3, 3), torch.randn(3, 3), torch.randn(3, 2), edge=0.07
    )
    taken = MlpWeights(network().layers, frame, torch.arange(3.0)).take(torch.tensor([2, 1]))
    assert taken.batch == 2 and taken.gain.tolist() == [2.0, 1.0] and taken.pose.edge == 0.07
    assert torch.equal(taken.pose.extent, frame.extent[[2, 1]])


def raw_outputs(
    x: torch.Tensor, code: MlpWeights, *, skip: int, tile: int, dtype: torch.dtype = FP32
) -> torch.Tensor:
    return TiledMlp.apply(
        x, OCTAVES, skip, tile, dtype, *(t for layer in code.layers for t in layer)
    )


def plain_outputs(x: torch.Tensor, code: MlpWeights, *, skip: int) -> torch.Tensor:
    """The same arithmetic, left to autograd, in double precision."""
    e = torch.cat(
        [x] + [f(2.0**k * x) for k in range(OCTAVES) for f in (torch.sin, torch.cos)], -1
    ).double()
    e = torch.nn.functional.pad(e, (0, padded_width(OCTAVES) - encoded_width(OCTAVES)))
    h = e
    for i, (w, b) in enumerate(code.layers):
        h = torch.cat([h, e], -1) if skip and i == skip else h
        h = h @ w.double().transpose(1, 2) + b.double()[:, None]
        h = h.relu() if i < len(code.layers) - 1 else h
    return h


def asked_for_gradients(code: MlpWeights) -> list[torch.Tensor]:
    return [t.requires_grad_(True) for layer in code.layers for t in layer]


@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16])
@pytest.mark.parametrize("tile", [1, 7, 49, 1000])
def test_tile_size_never_changes_the_result(tile, dtype):
    x, code = points(), network(skip=1, outputs=4)
    whole, tiled = (raw_outputs(x, code, skip=1, tile=n, dtype=dtype) for n in (50, tile))
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5 if dtype == FP32 else 2e-2)


def test_many_points_are_cut_into_tiles(monkeypatch):
    x, code, field = points(700), network(), HyperField(octaves=OCTAVES, precision="fp32")
    whole = field.density(x, code)
    monkeypatch.setattr(hyper, "TILE_POINTS", 1)
    torch.testing.assert_close(field.density(x, code), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [9, 50])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_gradients_of_the_tiled_network_are_autograds(skip, tile):
    x, code = points().requires_grad_(True), network(skip=skip, outputs=4)
    wanted = [x, *asked_for_gradients(code)]
    pull = torch.randn(BATCH, 50, 4, generator=seeded(5))
    ours = torch.autograd.grad((raw_outputs(x, code, skip=skip, tile=tile) * pull).sum(), wanted)
    theirs = torch.autograd.grad((plain_outputs(x, code, skip=skip) * pull.double()).sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-3, atol=1e-3)


def test_gradients_in_bf16_point_the_same_way():
    x, code = points(400).requires_grad_(True), network(skip=1)
    wanted = [x, *asked_for_gradients(code)]
    fine, coarse = (
        torch.autograd.grad(raw_outputs(x, code, skip=1, tile=64, dtype=d).square().sum(), wanted)
        for d in (FP32, torch.bfloat16)
    )
    for a, b in zip(fine, coarse, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.98


def test_a_second_way_back_is_refused_and_never_zero():
    """What is kept for the way back is let go after it; autograd's own nodes raise then, too."""
    code = network()
    wanted = asked_for_gradients(code)
    total = raw_outputs(points(), code, skip=0, tile=50).sum()
    torch.autograd.grad(total, wanted, retain_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(total, wanted)


def test_a_gradient_of_the_gradient_is_refused():
    """The node is differentiable once; a silent wrong second derivative would be worse than
    none.
    """
    x, code = points().requires_grad_(True), network()
    with pytest.raises(RuntimeError):
        (slope,) = torch.autograd.grad(
            raw_outputs(x, code, skip=0, tile=50).square().sum(), x, create_graph=True
        )
        slope.square().sum().backward()


def test_bf16_agrees_within_its_rounding():
    x, code = points(500), network()
    fine, coarse = (
        HyperField(octaves=OCTAVES, precision=p).density(x, code) for p in ("fp32", "bf16")
    )
    assert coarse.dtype == FP32
    assert (fine - coarse).abs().mean() < 0.01 * fine.mean() and (
        fine - coarse
    ).abs().max() < 0.05 * fine.max()


def test_the_faster_precision_is_chosen_once():
    chosen = fastest_dtype(torch.device("cpu"))
    assert chosen in (FP32, torch.bfloat16) and fastest_dtype(torch.device("cpu")) is chosen


def test_density_is_positive_and_ends_at_the_support():
    field = HyperField(octaves=OCTAVES, support=0.9, precision="fp32")
    x = 1.2 * points(400)
    found, inside = field.density(x, network()), x[..., :2].norm(dim=-1) < 0.9
    assert (found[inside] > 0).all() and (found[~inside] == 0).all()


def test_tau_is_density_times_length_and_colour_comes_with_four_outputs():
    x, dt = points(), torch.rand(BATCH, 50, generator=seeded(3))
    field = HyperField(octaves=OCTAVES, precision="fp32")
    plain, coloured = field(x, None, dt, network()), field(x, None, dt, network(outputs=4))
    torch.testing.assert_close(plain.tau, field.density(x, network()) * dt)
    assert plain.color is None
    assert (
        coloured.color.shape == (BATCH, 50, 3)
        and coloured.color.min() > 0
        and coloured.color.max() < 1
    )


def test_gain_multiplies_density():
    x, code, field = points(), network(), HyperField(octaves=OCTAVES, precision="fp32")
    gain = torch.tensor([0.5, 1.0, 3.0])
    torch.testing.assert_close(
        field.density(x, MlpWeights(code.layers, None, gain)),
        field.density(x, code) * gain[:, None],
    )


@pytest.mark.parametrize("framed", [False, True])
def test_gradients_are_those_of_finite_differences(framed):
    field, x = HyperField(octaves=2, precision="fp32"), 0.6 * points(30, batch=2)
    sizes = [(padded_width(2), 8), (8, 1)]
    layers = tuple(
        (torch.randn(2, o, i, generator=seeded(i)) * 0.4, torch.zeros(2, o)) for i, o in sizes
    )
    shift = torch.tensor([[0.1, -0.05, 0.02]] * 2).requires_grad_(True)
    tuned = layers[0][1].requires_grad_(True)

    def total():
        frame = (
            CanonicalPose(shift, 0.1 * shift, shift, torch.tensor([[-0.3, 0.4]] * 2), edge=0.2)
            if framed
            else None
        )
        return field.density(x, MlpWeights(layers, frame)).sum()

    total().backward()
    for tensor in [tuned, shift] if framed else [tuned]:
        for index in ((0, 0), (1, 2)):
            with torch.no_grad():
                tensor[index] += 3e-3
                above = total()
                tensor[index] -= 6e-3
                below = total()
                tensor[index] += 3e-3
            assert tensor.grad[index].item() == pytest.approx(
                (above - below).item() / 6e-3, rel=0.05, abs=0.05
            )


# Frames


def test_rotation_matrices_are_scipys():
    vectors = torch.randn(6, 3, generator=seeded()) * torch.tensor([0.01, 0.5, 1, 2, 3, 0])[:, None]
    np.testing.assert_allclose(
        rotation_matrix(vectors).numpy(),
        Rotation.from_rotvec(vectors.numpy()).as_matrix(),
        atol=1e-5,
    )


def test_no_motion_is_no_change():
    x, code, field = points(), network(), HyperField(octaves=OCTAVES, precision="fp32")
    torch.testing.assert_close(
        field.density(x, MlpWeights(code.layers, frame_of())),
        field.density(x, code),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_shift_moves_the_patient():
    """Density at x of a patient moved by s is that of the unmoved one at x − s."""
    x, code, field = 0.5 * points(), network(), HyperField(octaves=OCTAVES, precision="fp32")
    shift = (0.2, -0.1, 0.3)
    moved = field.density(x + torch.tensor(shift), MlpWeights(code.layers, frame_of(shift=shift)))
    torch.testing.assert_close(moved, field.density(x, code), rtol=1e-3, atol=1e-4)


def test_a_scale_enlarges_the_patient_along_each_axis():
    x, code, field = 0.5 * points(), network(), HyperField(octaves=OCTAVES, precision="fp32")
    log_scale = (0.3, -0.2, 0.1)
    grown = field.density(
        x * torch.tensor(log_scale).exp(), MlpWeights(code.layers, frame_of(log_scale=log_scale))
    )
    torch.testing.assert_close(grown, field.density(x, code), rtol=1e-3, atol=1e-4)


def test_a_rotation_turns_room_coordinates_into_anatomy():
    vector = (0.1, -0.3, 0.5)
    found = frame_of(rotation=vector, shift=(0.2, 0.1, 0.0)).to_anatomy(points())
    turn = torch.tensor(Rotation.from_rotvec(vector).as_matrix(), dtype=FP32)
    torch.testing.assert_close(
        found, (points() - torch.tensor([0.2, 0.1, 0.0])) @ turn.T, rtol=1e-4, atol=1e-5
    )


def test_a_frame_is_rotation_then_scale():
    """x' = (R (x − shift)) · exp(−log_scale), as documented."""
    vector, log_scale = (0.4, 0.2, -0.6), (0.3, -0.2, 0.5)
    found = frame_of(rotation=vector, log_scale=log_scale).to_anatomy(points())
    turned = points() @ torch.tensor(Rotation.from_rotvec(vector).as_matrix(), dtype=FP32).T
    torch.testing.assert_close(
        found, turned * torch.exp(-torch.tensor(log_scale)), rtol=1e-4, atol=1e-5
    )


def test_the_scan_ends_at_its_extent():
    x = torch.zeros(1, 5, 3)
    x[0, :, 2] = torch.tensor([-0.9, -0.5, 0.0, 0.7, 0.9])
    window = frame_of(1, extent=(-0.5, 0.7)).window(x)[0]
    assert window[2].item() == pytest.approx(1, abs=1e-6)
    assert (
        window[[1, 3]].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
        and window[[0, 4]].max() < 1e-4
    )
    code = network(batch=1)
    field = HyperField(octaves=OCTAVES, precision="fp32")
    density = field.density(x, MlpWeights(code.layers, frame_of(1, extent=(-0.5, 0.7))))
    torch.testing.assert_close(density, field.density(x, code) * window, rtol=1e-4, atol=1e-6)
