"""Ridge regression over training patients, against its primal closed form and exact cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mednerf_kit.recon.ridge import mixture, ridge_orbit, ridge_weights


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lam", [0.03, 0.3, 3.0])
def test_the_dual_form_is_the_primal_one(lam):
    """B = (DᵀD + c I)⁻¹ Dᵀ Y, solved over pixels instead of over patients."""
    views, answers = drawn(7, 3, 5), drawn(7, 11, seed=1)
    wanted = drawn(3, 5, seed=2)
    d, y = views.flatten(1).double().numpy(), answers.double().numpy()
    centre, middle = d.mean(0), y.mean(0)
    d, y = d - centre, y - middle
    damping = lam * (d**2).sum() / len(d)
    coefficients = np.linalg.solve(d.T @ d + damping * np.eye(d.shape[1]), d.T @ y)
    primal = middle + (wanted.flatten().double().numpy() - centre) @ coefficients
    found = mixture(ridge_weights(views, wanted, lam), answers)
    np.testing.assert_allclose(found, primal, rtol=1e-5, atol=1e-6)


def test_without_a_penalty_a_mixture_is_found_again_and_with_a_large_one_the_mean():
    training = drawn(5, 4, 9)
    shares = torch.tensor([0.1, 0.5, -0.2, 0.4, 0.2])
    views = mixture(shares, training)
    torch.testing.assert_close(
        ridge_weights(training, views, 1e-9), shares.double(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        ridge_weights(training, views, 1e9), torch.full((5,), 0.2).double(), rtol=0, atol=1e-6
    )
    assert float(ridge_weights(training, drawn(4, 9, seed=3)).sum()) == pytest.approx(1)


def test_one_patient_or_equal_patients_are_their_own_mean():
    one = drawn(1, 6)
    assert ridge_weights(one, drawn(6, seed=1)).tolist() == [1.0]
    equal = ridge_weights(one.expand(3, 6), drawn(6, seed=1))
    torch.testing.assert_close(equal, torch.full((3,), 1 / 3).double())


def test_an_orbit_linear_in_a_patients_size_is_predicted_from_all_its_inputs():
    """Orbits a + s·b: any patient's s can be read off one view, or off two."""
    a, b = torch.rand(2, 6, 16, 16, generator=torch.Generator().manual_seed(4))
    size = torch.tensor([0.2, 0.5, 0.9, 1.0])
    training = (a + size[:, None, None, None] * b).half()
    truth = a + 0.7 * b
    for inputs in ([2], [0, 3]):
        found = ridge_orbit(training, truth[inputs], inputs, lam=1e-6)
        torch.testing.assert_close(found, truth, rtol=0, atol=2e-3)
