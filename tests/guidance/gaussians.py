"""A Gaussian law, what is seen of it, and its posterior by closed form."""

from __future__ import annotations

import torch

import pushforward as pf
from contracts.members import randn

STD = 0.3


def gaussian(mean: torch.Tensor, cov: torch.Tensor) -> pf.GaussianMixture:
    return pf.GaussianMixture(mean[None], cov[None])


def conditioned(
    mean: torch.Tensor, cov: torch.Tensor, a: torch.Tensor, y: torch.Tensor
) -> pf.GaussianMixture:
    """p(x | y) of Gaussian x and y = a x + STD z."""
    return gaussian(*moments(mean, cov, a, y))


def moments(
    mean: torch.Tensor, cov: torch.Tensor, a: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of p(x | y), by the formula of conditioning."""
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + STD**2 * torch.eye(len(a)).double())
    return mean + gain @ (y - a @ mean), cov - gain @ a @ cov


ROOT = randn(3, 3, seed=1)
MEAN, COV = randn(3, seed=2), ROOT @ ROOT.T + 0.2 * torch.eye(3).double()
A, Y = randn(2, 3, seed=3), randn(1, 2, seed=4)
