"""What detail a generator lacks: measured on known patients, and given back to others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import random_prior

from mednerf_kit.fields.hyper import CanonicalPose, MlpWeights
from mednerf_kit.prior.detail import detail_gains, picture_bands, spread_over, with_detail
from mednerf_kit.prior.training_volumes import TrainingVolumes
from mednerf_kit.recon.field_volume import DETAIL_BAND, HALF_EXTENT, FieldVolume, bake, voxel_axis

GAINS = [1.0, 1.2, 1.6, 2.0]


def patients(prior, images) -> TrainingVolumes:
    count, views = images.shape[:2]
    far = torch.full((count,), prior.geometry.distance)
    return TrainingVolumes(images, torch.zeros(0), torch.zeros(count, views), far, False)


def test_what_drrs_have_more_of_is_measured():
    prior = random_prior()
    code = prior.generator.weights(prior.generator.coded(prior.codes))
    size = round(1.5 * prior.geometry.cols)
    baked = bake(prior.generator, code, prior.geometry, size=size)
    own, sharper = (
        detail_gains(
            prior.generator,
            code,
            patients(prior, volumes.unblurred().project(prior.geometry).clamp(0, 1)),
            prior.geometry,
        )
        for volumes in (baked, with_detail(baked, code, GAINS))
    )
    assert len(own) == len(picture_bands(prior.geometry.cols)) == 4
    assert own == pytest.approx([1.0] * 4, abs=0.05)
    assert sharper[0] == pytest.approx(1.0, abs=0.1)
    assert sharper == sorted(sharper) and sharper[-1] > 1.3


def test_pictures_without_anything_ask_for_nothing():
    prior = random_prior()
    code = prior.generator.weights(prior.generator.coded(prior.codes[:1]))
    silent = replace(code, gain=torch.zeros(1))
    black = patients(prior, torch.zeros(1, prior.geometry.views, 32, 32))
    assert detail_gains(prior.generator, silent, black, prior.geometry) == [1.0] * 4


def slab(bottom: float, top: float, size: int = 48) -> tuple[FieldVolume, MlpWeights]:
    """A patient [1, size, size, size] of density 1 all through a scan, and its pose."""
    zero = torch.zeros(1, 3)
    pose = CanonicalPose(zero, zero, zero, torch.tensor([[bottom, top]]))
    z = voxel_axis(size)
    column = pose.window(torch.stack([0 * z, 0 * z, z], -1)[None])[0]
    values = column[:, None, None].expand(1, size, size, size)
    return FieldVolume(values, unit_mm=100.0), MlpWeights(((zero, zero),), pose)


def test_a_scan_ends_as_it_did():
    volume, code = slab(-0.63, 0.48)
    kept = with_detail(volume, code, [1.0, 3.0, 4.0, 4.0]).values
    assert float(volume.with_detail([1.0, 3.0, 4.0, 4.0]).values.max()) > 1.1
    torch.testing.assert_close(kept, volume.values, atol=0.02, rtol=0)


@pytest.mark.parametrize(("bottom", "top"), [(-3.0, 3.0), (0.1, 0.12), (0.5, -0.5)])
def test_scans_beyond_the_cube_or_of_no_slice_stay_finite(bottom, top):
    volume, code = slab(bottom, top)
    assert with_detail(volume, code, GAINS).values.isfinite().all()


def test_a_wave_gets_the_gain_of_its_band():
    size, cycles = 56, 7
    place = (torch.arange(size) + 0.5) / size
    wave = 1 + 0.1 * torch.cos(2 * torch.pi * cycles * place)
    volume = FieldVolume(wave.expand(size, size, size), unit_mm=100.0)
    band = cycles / (2 * HALF_EXTENT) / DETAIL_BAND - 0.5  # 0.75: between the middles of two
    filtered = volume.with_detail(GAINS).values[0, 0]
    gain = GAINS[0] + band * (GAINS[1] - GAINS[0])
    torch.testing.assert_close(filtered, 1 + gain * (wave - 1), atol=1e-5, rtol=0)
    assert volume.with_detail([]) is volume
    doubled = volume.with_detail([20.0, 20.0]).values
    assert float(doubled.min()) == 0 and float(doubled.max()) > 2


def test_every_patient_is_compared_at_other_views():
    chosen = [spread_over(72, patient=i, patients=8) for i in range(8)]
    assert sorted(sum(chosen, [])) == [k for k in range(72) if k % 9 < 8]
