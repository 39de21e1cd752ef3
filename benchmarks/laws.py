"""Laws that solvers are measured on: unlike each other, and new instances of each for every seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import pushforward as pf


def laws(seed: int = 0) -> dict[str, pf.GaussianMixture]:
    """Eight mixtures of Gaussians, their parameters drawn by `seed`; seed 0 holds the published eight Gaussians.

    8gaussians:   2-D, on a circle of radius 4, std 0.3, not scaled; turned by a random angle but for seed 0.
    checkerboard: 2-D, 8 squares of 5 x 5 narrow Gaussians each.
    spiral:       2-D, two arms of 60 narrow Gaussians.
    moons:        2-D, two half circles of 40 Gaussians of std 0.05.
    scales:       3-D, 12 components whose standard deviations go from 0.02 to 1.
    gaussian:     8-D, one Gaussian, standard deviations from 0.05 to 2, rotated.
    correlated:   16-D, 6 components of full covariance, eigenvalues over two decades.
    digits:       64-D, 50 of scikit-learn's digits in [-1, 1], std 0.05 around each: a finite data set, blurred.

    All but the first have a standard deviation near 1, as users scale their data.
    """
    g = torch.Generator().manual_seed(1000 + seed)
    return {
        "8gaussians": _eight(g, seed),
        "checkerboard": _checkerboard(g),
        "spiral": _spiral(g),
        "moons": _moons(g),
        "scales": _scales(g),
        "gaussian": _gaussian(g),
        "correlated": _correlated(g),
        "digits": _digits(g),
    }


def _uniform(g: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64)


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def _direction(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), -1)


def _rotation(g: torch.Generator, dim: int) -> Tensor:
    return torch.linalg.qr(_normal(g, dim, dim))[0]


def _turned(points: Tensor, std: float, g: torch.Generator) -> pf.GaussianMixture:
    """Points of the plane at random weights, centred, of unit variance with their noise, turned by a random angle."""
    points = points - points.mean(0)
    scale = (points.square().mean() + std**2).sqrt()
    weights = 0.5 + _uniform(g, len(points))
    points = points @ _rotation(g, 2) / scale
    return pf.GaussianMixture(points, float((std / scale) ** 2), weights / weights.sum())


def _eight(g: torch.Generator, seed: int) -> pf.GaussianMixture:
    turn = 2 * math.pi * float(_uniform(g, 1)) if seed else 0.0
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4) + turn
    return pf.GaussianMixture(4 * _direction(angle), 0.3**2)


def _checkerboard(g: torch.Generator) -> pf.GaussianMixture:
    inner = (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    square = torch.cartesian_prod(inner, inner)
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    points = torch.cat([square + torch.tensor(corner) for corner in corners])
    return _turned(points, 0.08, g)


def _spiral(g: torch.Generator) -> pf.GaussianMixture:
    v = torch.linspace(0.1, 1, 60, dtype=torch.float64).sqrt()
    arm = v[:, None] * _direction(2 * math.pi * (1 + 0.5 * float(_uniform(g, 1))) * v)
    return _turned(torch.cat((arm, -arm)), 0.03, g)


def _moons(g: torch.Generator) -> pf.GaussianMixture:
    upper = _direction(torch.linspace(0, math.pi, 40, dtype=torch.float64))
    lower = torch.tensor([1.0, 0.5]) - upper
    return _turned(torch.cat((upper, lower)), 0.05, g)


def _scales(g: torch.Generator) -> pf.GaussianMixture:
    std = torch.logspace(math.log10(0.02), 0, 12, dtype=torch.float64)
    means, weights = 0.8 * _normal(g, 12, 3), 0.5 + _uniform(g, 12)
    return pf.GaussianMixture(means, std**2, weights / weights.sum())


def _gaussian(g: torch.Generator) -> pf.GaussianMixture:
    std = torch.logspace(math.log10(0.05), math.log10(2), 8, dtype=torch.float64)
    turn = _rotation(g, 8)
    return pf.GaussianMixture(0.5 * _normal(g, 1, 8), ((turn * std**2) @ turn.T)[None])


def _correlated(g: torch.Generator) -> pf.GaussianMixture:
    covariances = []
    for _ in range(6):
        turn, variance = _rotation(g, 16), 10 ** (-2 * _uniform(g, 16))
        covariances.append((turn * variance) @ turn.T)
    return pf.GaussianMixture(0.8 * _normal(g, 6, 16), torch.stack(covariances))


def _digits(g: torch.Generator) -> pf.GaussianMixture:
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().data) / 8 - 1
    return pf.GaussianMixture(images[torch.randperm(len(images), generator=g)[:50]], 0.05**2)
