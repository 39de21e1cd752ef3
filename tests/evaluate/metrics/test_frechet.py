"""The Frechet distance against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

import pushforward as pf
from pushforward.evaluate.metrics.frechet import centred, frechet_distance


def normals(n: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed)).double()


def test_the_frechet_distance_is_that_of_scipys_matrix_root() -> None:
    mix = normals(6, (6,), 0)
    a, b = normals(50, (6,), 1) @ mix + 1, normals(80, (6,), 2) @ mix.T
    cov_a, cov_b = (np.cov(x.numpy().T) for x in (a, b))
    root = sqrtm(cov_a @ cov_b)
    gap = a.mean(0).numpy() - b.mean(0).numpy()
    want = gap @ gap + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-9)


def test_the_frechet_distance_of_samples_with_given_moments_is_that_of_their_gaussians() -> None:
    """Commuting covariances diag(s^2), diag(r^2): |m_a - m_b|^2 + sum (s - r)^2."""
    white = normals(40, (3,), 3)
    white -= white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    s, r = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.1]).double()
    shift = torch.tensor([0.5, 0.0, -2.0]).double()
    want = float(shift.square().sum() + (s - r).square().sum())
    assert frechet_distance(white * s, white * r + shift) == pytest.approx(want, rel=1e-10)


def test_the_frechet_distance_of_a_set_to_itself_is_0_even_when_it_spans_less_than_the_space() -> None:  # fmt: skip
    few = normals(5, (1, 4, 4), 4)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 0.5) == pytest.approx(16 * 0.25, rel=1e-6)
    assert frechet_distance(torch.ones(4, 3), torch.ones(5, 3)) == 0


@pytest.mark.parametrize(("n", "m"), [(7, 80), (80, 7), (5, 9), (11, 12), (12, 12)])
def test_the_frechet_distance_of_few_samples_is_that_of_their_moments(n: int, m: int) -> None:
    """Beside the definition, with roots of the eigenvalues of C_a C_b, which are those of C_a^{1/2} C_b C_a^{1/2}."""
    mix = normals(12, (12,), 0)
    a, b = normals(n, (3, 4), 1) * 2 + 1, (normals(m, (12,), 2) @ mix).reshape(m, 3, 4)
    cov_a, cov_b = (np.cov(x.flatten(1).numpy().T) for x in (a, b))
    values = np.linalg.eigvals(cov_a @ cov_b).real
    gap = (a.mean(0) - b.mean(0)).numpy().ravel()
    want = gap @ gap + np.trace(cov_a + cov_b) - 2 * np.sqrt(values.clip(0)).sum()
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-6)


def test_centred_samples_have_the_unbiased_covariance_in_float64() -> None:
    x = normals(30, (2, 3), 5).float()
    mean, rows = centred(x)
    assert (mean.dtype, rows.shape) == (torch.float64, (30, 6))
    flat = x.double().flatten(1).numpy()
    np.testing.assert_allclose(mean, flat.mean(0))
    np.testing.assert_allclose(rows.T @ rows, np.cov(flat, rowvar=False))
    with pytest.raises(pf.InputError, match="two samples"):
        centred(x[:1])
