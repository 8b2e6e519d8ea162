"""A prior is read from a run folder, a snapshot or a prefix; what is none is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_prior
import torch
from tiny import SIZE

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import snapshots
from mednerf_kit.prior import catalogue
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.draws import PatientPlane
from mednerf_kit.recon.field_volume import bake


def test_a_trained_prior_loads_by_folder_snapshot_and_prefix(tiny_run):
    for name in (
        tiny_run,
        snapshots.snapshot_files(tiny_run)[0],
        str(tiny_run)[: -len("-tiny-whole")],
    ):
        prior = prior_load.load_prior(name)
        assert prior.geometry.cols == SIZE and prior.codes.shape == (4, prior.generator.latent_dim)
        assert not any(p.requires_grad for p in prior.generator.parameters())
    assert prior.distance == pytest.approx(prior.geometry.distance, rel=1e-5)


def test_what_is_no_prior_is_named(tmp_path):
    with pytest.raises(UserError, match="snapshot-000001.*does not exist"):
        prior_load.load_prior(tmp_path / "snapshot-000001.safetensors")
    files.save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"step": 1})
    with pytest.raises(UserError, match="other.safetensors.*no prior"):
        prior_load.load_prior(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="bundled prior"):
        prior_load.load_prior("bundled:elbow")


def test_a_recipe_changed_behind_a_snapshot_is_named(tiny_run, tmp_path):
    tensors, meta = files.load_tensors(snapshots.snapshot_files(tiny_run)[-1])
    meta["recipe"]["generator"]["width"] = 32
    files.save_tensors(tmp_path / "bent.safetensors", tensors, meta)
    with pytest.raises(UserError, match="bent.safetensors.*no prior") as caught:
        prior_load.load_prior(tmp_path / "bent.safetensors")
    assert "\n" not in str(caught.value)


def test_phantoms_stand_for_a_body_part_without_a_prior_of_patients(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "BUNDLED", tmp_path)
    of_phantoms = tiny_prior.snapshot(tmp_path / "a")
    of_patients = tiny_prior.snapshot(tmp_path / "b", seed=1)
    of_phantoms.rename(tmp_path / "phantom-knee.safetensors")
    assert prior_load.load_prior("bundled:knee").path.name == "phantom-knee.safetensors"
    of_patients.rename(tmp_path / "knee.safetensors")
    (tmp_path / "knee_conditional.safetensors").touch()
    assert catalogue.bundled_names() == ["knee", "phantom-knee"]
    (tmp_path / "knee_conditional.safetensors").unlink()
    assert prior_load.load_prior("bundled:knee").path.name == "knee.safetensors"


def test_random_patients_are_told_from_known_ones_by_small_pictures(tiny_run):
    prior = prior_load.load_prior(tiny_run)
    known, likeness = prior.known, prior.likeness
    pictures = prior.looks(known).view(4, 8, 16, 16)
    around = prior.geometry.resized(16).at([45.0 * k for k in range(8)])
    code = prior.generator.weights(prior.generator.latent(known))
    seen = bake(prior.generator, code, around, size=32).project(around, prior.distance)
    torch.testing.assert_close(pictures, seen.clamp(0, 1))
    assert likeness.to_nearest(known).max() < 1e-3 * likeness.least
    drawn = prior.numbers(6, torch.Generator().manual_seed(0), PatientPlane(apart=0.4))
    assert likeness.to_nearest(drawn).min() >= 0.4 * likeness.least
    far = PatientPlane(apart=2.0)  # by pictures, which choose other patients than numbers would
    by_pictures, by_numbers = (
        far(known, 6, torch.Generator().manual_seed(0), chosen) for chosen in (likeness, None)
    )
    assert torch.equal(prior.numbers(6, torch.Generator().manual_seed(0), far), by_pictures)
    assert not torch.equal(by_pictures, by_numbers)


def test_what_hides_what_lies_behind_is_told_apart_by_its_codes(tiny_run):
    prior = prior_load.load_prior(tiny_run)
    task = {"name": "prior", "image_model": "transmission"}
    other = replace(prior, meta={**prior.meta, "recipe": {**prior.meta["recipe"], "task": task}})
    torch.testing.assert_close(other.likeness.places, prior.codes, atol=1e-4, rtol=1e-4)
