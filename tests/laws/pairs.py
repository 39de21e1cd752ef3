"""Interpolants with noise on the way, pairs of Gaussians, and the joint law of their states by its definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

import pushforward as pf
from contracts.members import randn


@dataclass(frozen=True)
class Curved(pf.Interpolant):
    """What a user writes: alpha, sigma, gamma, and nothing else. No two of them alike, and gamma > 0 at both ends."""

    def alpha(self, t):
        return (t * (math.pi / 2)).sin()

    def sigma(self, t):
        return 1 - t**2

    def gamma(self, t):
        return 0.3 + 0.5 * t * (1.2 - t)


PATHS = [
    pytest.param(path, id=type(path).__name__)
    for path in (pf.Tube(0.2), pf.BrownianBridge(0.8), pf.SmoothBridge(0.6), Curved())
]


def covariance(dim: int, seed: int):
    root = 0.6 * randn(dim, dim, seed=seed)
    return root @ root.mT + 0.2 * torch.eye(dim, dtype=torch.float64)


def correlated(dim: int = 2, seed: int = 3):
    """A pair with nothing special about it: cross neither symmetric nor that of any bridge."""
    joint = covariance(2 * dim, seed)
    return pf.GaussianPair(
        randn(dim, seed=seed + 1), joint[:dim, :dim], randn(dim, seed=seed + 2), joint[dim:, dim:], joint[:dim, dim:]
    )  # fmt: skip


def entropic(dim: int = 2, std: float = 0.8, seed: int = 5):
    return pf.GaussianPair.entropic(
        randn(dim, seed=seed), covariance(dim, seed), 2 * randn(dim, seed=seed + 1), covariance(dim, seed + 1), std
    )  # fmt: skip


def law(pair, path, *times):
    """Mean and covariance of (x_t for t in times), the noise of which is one z: from the definition of x_t."""
    dim = len(pair.mean0)
    one = torch.eye(dim, dtype=torch.float64)
    rows = []
    for t in times:
        t = torch.as_tensor(t, dtype=torch.float64)
        rows.append(
            torch.cat((path.sigma(t) * one, path.alpha(t) * one, path.gamma(t) * one), dim=1)
        )
    rows = torch.cat(rows)
    everything = torch.block_diag(pair.joint, one)
    mean = rows @ torch.cat((pair.mean0, pair.mean1, torch.zeros(dim, dtype=torch.float64)))
    return mean, rows @ everything @ rows.mT
