"""Features of pictures: the hand-made ones, and those of InceptionV3."""

import sys
import types

import pytest
import torch
from random_priors import seeded

from mednerf_kit.core.errors import UserError
from mednerf_kit.metrics import features
from mednerf_kit.study.generation import score as scoring


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (17, 17)])
def test_pyramid_features_are_finite_for_any_size(shape):
    found = features.PyramidFeatures()(torch.rand(3, *shape, generator=seeded()).half())
    assert found.shape[0] == 3 and bool(found.isfinite().all())
    assert bool(features.PyramidFeatures()(torch.zeros(1, *shape)).isfinite().all())


def test_pyramid_features_notice_brightness_and_blur():
    images = torch.rand(8, 64, 64, generator=seeded())
    blurred = torch.nn.functional.avg_pool2d(images[:, None], 3, 1, 1)[:, 0]
    extract = features.PyramidFeatures()
    apart = [
        float((extract(x) - extract(images)).norm(dim=1).mean())
        for x in (images, 0.9 * images, blurred)
    ]
    assert apart[0] == 0 and apart[1] > 0.1 and apart[2] > 1


def test_features_are_read_in_batches(monkeypatch):
    images = torch.rand(7, 16, 16, generator=seeded())
    whole = features.read(features.PyramidFeatures(), images)
    monkeypatch.setattr(features, "BATCH", 3)
    assert (
        torch.equal(features.read(features.PyramidFeatures(), images), whole)
        and whole.dtype == torch.float64
    )


@pytest.fixture
def empty_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_inception_without_weights_or_network_is_one_sentence(empty_hub, monkeypatch):
    def offline(url, *args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert features.inception_path() is None
    with pytest.raises(
        UserError, match=r"got no InceptionV3 weights.*no route to host.*--extractor pyramid"
    ):
        features.EXTRACTORS.build("inception")
    chosen, why = scoring.extractors("auto", None)
    assert list(chosen) == ["pyramid"] and features.INCEPTION_FILE in why and "\n" not in why


@pytest.fixture
def stand_in_network(monkeypatch):
    """torchvision is replaced by a network that reports its input."""

    class Network(torch.nn.Module):
        def forward(self, x):
            return torch.cat(
                [x.mean((2, 3)), x.amax((2, 3)), torch.full((len(x), 1), float(x.shape[-1]))], 1
            )

    models = types.ModuleType("torchvision.models")
    models.inception_v3 = lambda **options: Network()
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_inception_weights_that_were_named_must_be_there_and_whole(
    empty_hub, stand_in_network, monkeypatch, tmp_path
):
    with pytest.raises(UserError, match="which is no file"):
        scoring.extractors("auto", tmp_path / "nowhere.pth")
    broken = tmp_path / features.INCEPTION_FILE
    broken.write_bytes(b"no archive")
    monkeypatch.setenv("MEDNERF_KIT_INCEPTION", str(tmp_path))  # a folder that holds it
    assert features.inception_path() == broken
    with pytest.raises(UserError, match="InceptionV3 weights .* that cannot be used"):
        scoring.extractors("auto", None)


def test_inception_sees_what_it_should(stand_in_network, monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setattr(torch, "load", lambda *args, **options: {})
    found = features.Inception(weights=str(path))(torch.full((2, 16, 24), 0.75))
    assert found[0].tolist() == pytest.approx([0.5] * 6 + [299])
