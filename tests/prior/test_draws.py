"""Random patients' numbers: where they lie, how much they vary, and what they need."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from mednerf_kit.core.errors import UserError
from mednerf_kit.prior.draws import DRAWS, Likeness, Normal, PatientPlane, SmoothedBootstrap


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def known_patients(count: int = 6, dims: int = 8) -> torch.Tensor:
    return 1.5 * torch.randn(count, dims, generator=seeded(9)) + 0.3


@pytest.mark.parametrize("name", DRAWS.entries)
def test_draws_repeat_and_scale_about_the_mean(name):
    known = known_patients()
    free = {"name": name} | ({"apart": 0.0} if name == "plane" else {})
    one, again, wide = (
        DRAWS.build(free | {"spread": spread})(known, 5, seeded(3)) for spread in (1, 1, 2.0)
    )
    assert one.shape == (5, 8) and torch.equal(one, again)
    centre = torch.zeros(8) if name == "normal" else known.mean(0)
    torch.testing.assert_close(wide - centre, 2 * (one - centre))


@pytest.mark.parametrize("patients", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.7, None])
def test_the_bootstrap_has_the_patients_mean_and_covariance(patients, noise):
    """Up to what drawing without a repetition takes, 1 / (P − 1) of the cross terms."""
    known = known_patients(40, 3)
    drawn = SmoothedBootstrap(patients=patients, noise=noise, spread=1.0)(known, 40_000, seeded())
    torch.testing.assert_close(drawn.mean(0), known.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), known.T.cov(), rtol=0.12, atol=0.12)


def test_the_bootstrap_stays_among_its_patients():
    """Numbers lie in the plane through the patients; without noise one alone is a patient."""
    known = known_patients(5, 9)
    plane = (known - known.mean(0)).T
    drawn = SmoothedBootstrap()(known, 20, seeded()) - known.mean(0)
    inside = plane @ torch.linalg.lstsq(plane, drawn.T, driver="gelsd").solution
    torch.testing.assert_close(inside, drawn.T, atol=1e-4, rtol=1e-4)
    copies = SmoothedBootstrap(patients=1, noise=0.0, spread=1.0)(known, 20, seeded())
    assert torch.cdist(copies, known).min(1).values.max() < 1e-5
    assert len(torch.cdist(copies, known).argmin(1).unique()) > 2


def test_the_plane_has_the_patients_mean_and_covariance():
    known = known_patients(40, 3)
    drawn = PatientPlane(spread=1.0, apart=0.0)(known, 20_000, seeded())
    torch.testing.assert_close(drawn.mean(0), known.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), known.T.cov(), rtol=0.08, atol=0.08)


def test_no_draw_is_nearer_to_a_patient_than_two_patients_are_to_each_other():
    """By their codes, which stretch the numbers; what cannot be reached is come near to."""
    known = known_patients(6, 4)
    stretch = torch.tensor([3.0, 1.0, 0.3, 0.1])

    def codes(eps: torch.Tensor) -> torch.Tensor:
        return eps * stretch

    likeness = Likeness(codes, known)
    least = torch.pdist(codes(known)).min()
    drawn = PatientPlane(spread=1.0)(known, 50, seeded(), likeness)
    assert torch.cdist(codes(drawn), codes(known)).min() >= least
    anywhere = PatientPlane(spread=1.0, apart=0.0)(known, 50, seeded(), likeness)
    assert torch.cdist(codes(anywhere), codes(known)).min() < least
    never = PatientPlane(spread=1.0, apart=1e6)(known, 5, seeded(), likeness)
    far = torch.cdist(codes(never), codes(known)).min(1).values
    assert far.min() > torch.cdist(codes(anywhere), codes(known)).min(1).values.median()


def test_who_is_drawn_again_is_drawn_wider():
    """Nobody is far enough away: the farthest of 64 tries is kept, the last 1.02⁶³ as wide."""
    known = known_patients(8)
    wide, narrow = (
        PatientPlane(wider=wider, apart=1e6)(known, 100, seeded()) - known.mean(0)
        for wider in (0.02, 0.0)
    )
    assert 1.3 < float(wide.norm(dim=1).median() / narrow.norm(dim=1).median()) < 1.02**63


@pytest.mark.parametrize("count", [0, 1, 3])
def test_with_few_patients_the_plane_is_the_gaussian(count):
    known = known_patients(count)
    assert torch.equal(PatientPlane()(known, 4, seeded()), Normal()(known, 4, seeded()))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_with_few_patients_the_gaussian_is_drawn_from(count):
    known = known_patients(count)
    one = SmoothedBootstrap(spread=1.0)(known, 4, seeded())
    assert torch.equal(one, Normal()(known, 4, seeded()))


def test_more_patients_bring_more_noise():
    """√(P / latent_dim) of it where none is said."""
    known = known_patients(32, 8)
    by_rule = SmoothedBootstrap()(known, 4, seeded())
    assert torch.equal(by_rule, SmoothedBootstrap(noise=2.0)(known, 4, seeded()))


@pytest.mark.parametrize(
    "node",
    [
        {"name": "bootstrap", "patients": 0},
        {"name": "bootstrap", "noise": -1.0},
        {"name": "bootstrap", "spread": 0.0},
        {"name": "normal", "spread": -1.0},
        {"name": "plane", "spread": 0.0},
        {"name": "plane", "apart": -1.0},
        {"name": "plane", "wider": -0.1},
    ],
)
def test_what_no_patient_can_be_drawn_with_is_one_sentence(node):
    with pytest.raises(UserError, match="draw"):
        DRAWS.build(node)
