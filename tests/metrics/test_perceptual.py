"""LPIPS: where its weights are looked for, and what is said without them."""

import pytest
import torch
from smooth_images import rng, smooth

from mednerf_kit.core.errors import UserError
from mednerf_kit.metrics import perceptual
from mednerf_kit.metrics.perceptual import PyramidDistance


def test_lpips_says_why_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    value, reason = perceptual.lpips_distance(torch.zeros(64, 64), torch.zeros(64, 64))
    assert value is None and str(tmp_path) in reason and reason.endswith(".")
    value, reason = perceptual.lpips_distance(torch.zeros(16, 16), torch.zeros(16, 16))
    assert value is None and "32×32" in reason


def test_lpips_with_a_backbone_from_a_path(tmp_path, monkeypatch):
    shapes = {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    }
    state = {
        f"features.{k}.weight": torch.randn(shape, generator=rng(k)) * 0.05
        for k, shape in shapes.items()
    }
    state |= {f"features.{k}.bias": torch.zeros(shape[0]) for k, shape in shapes.items()}

    truth = smooth(4, 64).reshape(2, 2, 64, 64)
    noisy = (truth + 0.2 * torch.rand(truth.shape, generator=rng())).clamp(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(perceptual, "_backbone", {tmp_path / "alexnet.pth": state}.get)
        value, reason = perceptual.lpips_distance(
            torch.stack([truth, noisy]), truth, tmp_path / "alexnet.pth"
        )
    assert reason is None and value.shape == (2, 2, 2)
    assert value[0].abs().max() < 1e-6 and value[1].min() > 1e-3

    (tmp_path / "broken.pth").write_bytes(b"PK not weights")
    with pytest.raises(UserError, match="broken.pth"):
        perceptual.lpips_distance(truth, truth, tmp_path / "broken.pth")


def test_lpips_of_colours_says_why_it_is_absent_and_where_it_looks(tmp_path, monkeypatch):
    class MeanDifference(torch.nn.Module):
        def forward(self, x, y, normalize):
            return (x - y).abs().mean((1, 2, 3))

    asked = []

    def model(path, net, wanted):
        asked.append((path.name, net))
        return MeanDifference()

    a = torch.rand(2, 3, 40, 40, generator=rng())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for net, name in (("alex", "alexnet"), ("vgg", "vgg16")):
        value, reason = perceptual.lpips_of_colours(a, a, net=net)
        assert (
            value is None
            and name in reason
            and "MEDNERF_KIT_LPIPS" in reason
            and reason.endswith(".")
        )
    monkeypatch.setattr(perceptual, "_cached_lpips", model)
    monkeypatch.setenv("MEDNERF_KIT_LPIPS", str(tmp_path))
    value, reason = perceptual.lpips_of_colours(a, a + 0.1, net="vgg")
    assert reason is None and value.tolist() == pytest.approx([0.1, 0.1])
    perceptual.lpips_of_colours(a, a, tmp_path / "mine.pth", net="alex")
    assert asked == [("vgg16-397923af.pth", "vgg"), ("mine.pth", "alex")]


def test_the_substitute_for_lpips_sees_edges():
    flat, edges = torch.full((1, 1, 16, 16), 0.1), torch.zeros(1, 1, 16, 16)
    edges[..., ::2] = 0.2
    zero = torch.zeros_like(flat)
    assert float(PyramidDistance()(zero, zero)) == 0 and float(
        PyramidDistance()(flat, zero)
    ) == pytest.approx(0.1)
    assert float(PyramidDistance()(edges, zero)) > float(PyramidDistance()(flat, zero))
