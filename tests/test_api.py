"""The names of the package: there when asked for, and free until then."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_prior import QUICK, orbit_of, snapshot

import mednerf_kit as mk

ROOT = Path(__file__).resolve().parent.parent


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, mednerf_kit as mk; dir(mk); mk.DISCLAIMER; "
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", mk.PUBLIC)
def test_every_public_name_is_there_and_explains_itself(name):
    assert name in dir(mk) and name in mk.__all__
    assert (getattr(mk, name).__doc__ or "").strip()


def test_no_public_name_hides_a_module():
    taken = {path.stem for path in (ROOT / "mednerf_kit").iterdir()}
    assert not taken & set(mk.PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'projekt'"):
        mk.projekt  # noqa: B018
    with pytest.raises(ImportError):
        from mednerf_kit import projekt  # noqa: F401


def test_a_star_import_brings_the_public_names():
    names: dict = {}
    exec("from mednerf_kit import *", names)
    assert set(mk.PUBLIC) <= set(names)


def test_the_projector_is_differentiable_and_its_own_transpose():
    geometry = mk.Geometry(
        source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=4, cols=4, pixel_mm=9
    ).orbit(3)
    volume = mk.Volume.centred(torch.rand(6, 6, 6), 5.0, "mu_per_mm")
    values = volume.values.requires_grad_(True)
    mk.project_volume(values, volume.spacing_mm, geometry).sum().backward()
    assert torch.allclose(
        values.grad,
        mk.Projector(volume.shape, volume.spacing_mm, geometry).adjoint(torch.ones(3, 4, 4)),
    )


def test_a_prior_is_loaded_inverted_and_asked_in_memory(tmp_path):
    prior = mk.load_prior(snapshot(tmp_path))
    assert isinstance(prior, mk.Prior) and issubclass(QUICK.func, mk.Inversion)
    truth = orbit_of(prior, 0, prior.geometry.angles_deg)
    posterior = QUICK(samples=1)(
        prior, truth[6:7], torch.tensor([270.0]), torch.Generator().manual_seed(0)
    )
    orbit = mk.predict(prior, posterior, prior.geometry)
    assert orbit.views.shape == orbit.spread.shape == truth.shape
    assert float((orbit.views[6] - truth[6]).square().mean()) < 1e-3
