"""What detail a generator lacks: measured on known patients, and given back to others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import random_prior

from mednerf_kit.prior.detail import detail_gains, picture_bands, spread_over
from mednerf_kit.prior.training_volumes import TrainingVolumes
from mednerf_kit.recon.field_volume import DETAIL_BAND, HALF_EXTENT, FieldVolume, bake, voxel_axis

GAINS = [1.0, 0.85, 0.7, 0.6]  # none above 1, which would be held back at edges


def patients(prior, images) -> TrainingVolumes:
    count, views = images.shape[:2]
    far = torch.full((count,), prior.geometry.distance)
    return TrainingVolumes(images, torch.zeros(0), torch.zeros(count, views), far, False)


def test_what_drrs_have_of_each_band_is_measured():
    prior = random_prior()
    code = prior.generator.weights(prior.generator.coded(prior.codes))
    size = round(1.5 * prior.geometry.cols)
    baked = bake(prior.generator, code, prior.geometry, size=size)
    own, blurred = (
        detail_gains(
            prior.generator,
            code,
            patients(prior, volumes.unblurred().project(prior.geometry).clamp(0, 1)),
            prior.geometry,
        )
        for volumes in (baked, baked.with_detail(GAINS))
    )
    assert len(own) == len(picture_bands(prior.geometry.cols)) == 4
    assert own == pytest.approx([1.0] * 4, abs=0.05)
    assert blurred == pytest.approx(GAINS, abs=0.1)


def test_pictures_without_anything_ask_for_nothing():
    prior = random_prior()
    code = prior.generator.weights(prior.generator.coded(prior.codes[:1]))
    silent = replace(code, gain=torch.zeros(1))
    black = patients(prior, torch.zeros(1, prior.geometry.views, 32, 32))
    assert detail_gains(prior.generator, silent, black, prior.geometry) == [1.0] * 4


def test_a_wave_gets_the_gain_of_its_band():
    size, cycles = 56, 7
    place = (torch.arange(size) + 0.5) / size
    wave = 1 + 0.1 * torch.cos(2 * torch.pi * cycles * place)
    volume = FieldVolume(wave.expand(size, size, size), unit_mm=100.0)
    gains = [1.0, 0.8, 0.5]
    band = cycles / (2 * HALF_EXTENT) / DETAIL_BAND - 0.5  # 0.75: between the middles of two
    filtered = volume.with_detail(gains).values[0, 0]
    gain = gains[0] + band * (gains[1] - gains[0])
    torch.testing.assert_close(filtered, 1 + gain * (wave - 1), atol=1e-5, rtol=0)
    assert volume.with_detail([]) is volume


def test_edges_get_steeper_and_no_halo():
    size = 56
    z = voxel_axis(size)
    soft = torch.sigmoid((z + 0.63) / 0.08) * torch.sigmoid((0.48 - z) / 0.08)
    values = soft[:, None, None].expand(2, size, size, size)
    filtered = FieldVolume(values, unit_mm=100.0).with_detail([1.0, 3.0, 4.0]).values
    assert filtered.shape == values.shape
    assert float(filtered.max()) <= float(soft.max()) and float(filtered.min()) >= 0
    profile = filtered[1, :, size // 2, size // 2]
    assert float(profile.diff().abs().max()) > 1.3 * float(soft.diff().abs().max())


def test_every_patient_is_compared_at_other_views():
    chosen = [spread_over(72, patient=i, patients=8) for i in range(8)]
    assert sorted(sum(chosen, [])) == [k for k in range(72) if k % 9 < 8]
