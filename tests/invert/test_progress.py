"""What a search tells on the way, and that telling changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_prior
import torch
from torch import Generator

from mednerf_kit.invert.descent import CHECK_STEPS
from mednerf_kit.invert.progress import Progress, coarse_pixels
from mednerf_kit.metrics.image import psnr_from_mse_db
from mednerf_kit.prior.load import Prior, load_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    path = tiny_prior.snapshot(tmp_path_factory.mktemp("prior") / "run")
    return load_prior(path, precision="fp32")


def test_a_watched_search_finds_the_same(prior: Prior) -> None:
    search = tiny_prior.QUICK(samples=0)
    image = tiny_prior.orbit_of(prior, 0, (270.0,))
    given = (prior, image, torch.tensor([270.0]))
    told: list[Progress] = []
    shown: list[torch.Tensor] = []

    def watch(progress: Progress) -> None:
        told.append(progress)
        assert progress.pictures is not None
        shown.append(progress.pictures())

    alone = search(*given, Generator().manual_seed(1))
    watched = search(*given, Generator().manual_seed(1), watch=watch)
    assert torch.equal(alone.latent.w, watched.latent.w)
    first = [p.step for p in told if p.text == told[0].text]
    assert first == [0, CHECK_STEPS, 12] and told[0].steps == 12
    assert [p.step for p in told][len(first) :] == [0, 4] and told[-1].steps == 4
    errors = [p.held_out_mse for p in told]
    assert errors[:3] == sorted(errors[:3], reverse=True)  # that of the best so far
    assert told[-1].held_out_mse == watched.held_out_mse
    assert all(picture.shape == (2, 1, 32, 32) for picture in shown)
    assert torch.equal(shown[0][0], image)
    # without other members the picture has the held-out error, but for the pixels it is of
    last = float((shown[-1][0] - shown[-1][1]).square().mean())
    assert abs(psnr_from_mse_db(last) - psnr_from_mse_db(watched.held_out_mse)) < 4


def test_a_film_is_shown_through_its_own_tone_curve(prior: Prior) -> None:
    """A negative of a curve that no line integral has is met by the fitted curve alone."""
    image = tiny_prior.orbit_of(prior, 0, (270.0,)).clamp(0, 1) ** 0.4
    shown: list[torch.Tensor] = []
    search = tiny_prior.QUICK(samples=1, film_code_steps=20, film_pivot_steps=0)
    search(
        prior,
        image,
        torch.tensor([270.0]),
        Generator().manual_seed(1),
        films=[True],
        watch=lambda progress: shown.append(progress.pictures()),
    )
    error = (shown[-1][0] - shown[-1][1]).square().mean().sqrt()
    assert float(error) < 0.15


def test_coarse_pixels_are_even_and_few() -> None:
    grid = coarse_pixels((2, 130, 64))
    assert grid.shape == (2, 44, 22, 3)
    assert grid[1, 43, 21].tolist() == [1, 129, 63]


def test_project_tells_every_stage_in_order(prior: Prior, tmp_path: Path) -> None:
    import numpy as np

    from mednerf_kit.invert.reconstruct import project

    image = tiny_prior.orbit_of(prior, 0, (270.0,))[0].clamp(0, 1)
    np.save(tmp_path / "xray.npy", image.numpy())
    told: list[Progress] = []
    project(
        xray=[tmp_path / "xray.npy"],
        input_kind="line-integral",
        run=str(prior.path),
        outdir=tmp_path / "out",
        samples=1,
        size=16,
        max_minutes=1e-3,
        watch=told.append,
    )
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["read", "invert", "predict", "write"]


def test_a_fast_projection_takes_a_third_of_the_steps_and_a_coarser_cube(
    prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from mednerf_kit.imaging.scans.read import read_volume
    from mednerf_kit.invert import reconstruct

    monkeypatch.setattr(reconstruct, "Inversion", tiny_prior.QUICK)
    image = tiny_prior.orbit_of(prior, 0, (270.0,))[0].clamp(0, 1)
    np.save(tmp_path / "xray.npy", image.numpy())
    steps, shapes = {}, {}
    for fast in (False, True):
        told: list[Progress] = []
        reconstruct.project(
            xray=[tmp_path / "xray.npy"],
            input_kind="line-integral",
            run=str(prior.path),
            outdir=tmp_path / str(fast),
            samples=1,
            size=64,
            fast=fast,
            watch=told.append,
        )
        steps[fast] = [one.steps for one in told if one.stage == "invert" and one.step == 0]
        shapes[fast] = tuple(read_volume(tmp_path / str(fast) / "volume.nii.gz").shape)
        said = json.loads((tmp_path / str(fast) / "metrics.json").read_text())
        assert said["fast"] is fast
        assert any("first look with --fast" in text for text in said["warnings"]) is fast
    assert steps[False][-2:] == [12, 4] and steps[True][-2:] == [4, 1]
    assert shapes == {False: (58, 58, 58), True: (48, 48, 48)}
