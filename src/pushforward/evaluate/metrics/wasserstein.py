"""Wasserstein distances between sets of samples, each with its standard error.

    w2 = wasserstein(samples, data)               # Measured: float(w2), w2.interval()

A standard error is that of the sampling: it says how far the value would move with other samples of the same number.
It says nothing of a bias, and W2 between samples has one, upwards: two sets from one law are not at 0. Compare values
from equal numbers of samples, and with that of two sets of data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import ConvergenceError, InputError
from pushforward.core.noise import PROBE, Noise
from pushforward.evaluate.metrics.measured import Measured, flat, root, variance_of_mean

# Rows of a matrix of distances that are handled at a time.
ROWS = 1024
# Largest gap between a plan and the bound of its potentials, relative to the mean cost.
GAP = 1e-9


def library() -> Any:
    """POT. InputError if it is missing."""
    try:
        import ot
    except ImportError as error:
        raise InputError(
            "exact optimal transport needs POT: pip install -e '.[transport]'; or take sliced_wasserstein"
        ) from error
    return ot


def wasserstein(a: Tensor, b: Tensor) -> Measured:
    """The 2-Wasserstein distance of two sets of samples, exactly: the square root of

        W2^2 = min_P sum_ij P_ij |a_i - b_j|^2,   P >= 0,  sum_j P_ij = 1/N,  sum_i P_ij = 1/M

    a: (N, ...), b: (M, ...), flattened. By POT's network simplex in float64; 10 000 of each take about 25 s and 4 GB.
    The plan is checked against the bound `mean phi + mean psi <= W2^2` of its own potentials, phi_i + psi_j <= |a_i -
    b_j|^2: what comes back is the minimum to nine digits. The standard error is that of `Var phi / N + Var psi / M` for
    W2^2 (del Barrio & Loubes 2019, arXiv 1705.01299, thm. 4.1), about the mean of W2 at these N and M, whose distance
    to W2 of the laws, upwards, is of the order N^(-1/D) where the laws are close; of equal laws the error is stated too
    large.

    Raises InputError for sets that cannot be compared or if POT is missing, ConvergenceError if the bound is not met.
    """
    a, b = flat(a, b)
    ot = library()
    # Centred, as |a - b|^2 = |a' - b'|^2 + 2 d.(a' - b') + |d|^2: an offset costs no digits and does not move the plan.
    mean_a, mean_b = a.mean(0), b.mean(0)
    x, y, d = a - mean_a, b - mean_b, mean_a - mean_b
    cost = torch.addmm(x.square().sum(1, keepdim=True) + y.square().sum(1), x, y.T, alpha=-2)
    cost.clamp_(min=0)
    scale = float(cost.mean()) or 1.0
    cost /= scale  # the solver's own tolerances are absolute
    plan, log = ot.emd([], [], cost.numpy(), numItermax=1 << 40, log=True)
    i, j = torch.from_numpy(plan).nonzero().T
    share = torch.from_numpy(plan)[i, j]
    phi = torch.as_tensor(log["u"])
    blocks = zip(cost.split(ROWS), phi.split(ROWS), strict=True)
    psi = torch.stack([(block - p[:, None]).amin(0) for block, p in blocks]).amin(0)
    gap = float((share * cost[i, j]).sum() - phi.mean() - psi.mean())
    if not gap <= GAP:
        raise ConvergenceError(
            f"the plan is above the bound of its potentials by {gap:.1e} of the mean cost "
            f"({log.get('warning') or 'no warning of the solver'}): it may not be optimal"
        )
    squared = float((share * (a[i] - b[j]).square().sum(1)).sum())
    phi, psi = phi * scale + 2 * x @ d, psi * scale - 2 * y @ d
    return root(squared, variance_of_mean(phi) + variance_of_mean(psi))


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> Measured:
    """The 2-Wasserstein distance of one-dimensional projections, in the mean over directions: the square root of

        SW2^2 = E_theta W2^2(theta . a, theta . b),   theta uniform on the unit sphere

    a: (N, ...), b: (M, ...), flattened. Direction i is a function of (seed, i). In one dimension the plan matches
    quantiles. Between laws that differ by a shift m it is |m| / sqrt(D). The standard error holds the samples', by
    potentials as in `wasserstein` (Xi & Niles-Weed 2022), and the directions'.

    Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".
    """
    a, b = flat(a, b)
    if projections < 2:
        raise InputError(f"projections is {projections}; at least two are needed")
    theta = Noise.batch(projections, seed).normal(a.shape[1:], PROBE, torch.float64)
    theta /= theta.norm(dim=1, keepdim=True)
    n, m = len(a), len(b)
    # Levels, in units of 1 / (n m), between which one quantile of a meets one of b.
    levels = torch.cat((torch.arange(n + 1) * m, torch.arange(m + 1) * n)).unique()
    share, i, j = levels.diff().double() / (n * m), levels[:-1] // m, levels[:-1] // n
    phi, psi = torch.zeros(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    squares = []
    for direction in theta:
        (x, row_x), (y, row_y) = (a @ direction).sort(), (b @ direction).sort()
        squares.append((share * (x[i] - y[j]) ** 2).sum())
        to_y = torch.zeros_like(x).index_add_(0, i, n * share * y[j])
        to_x = torch.zeros_like(y).index_add_(0, j, m * share * x[i])
        phi[row_x] += _potential(x, to_y) / projections
        psi[row_y] += _potential(y, to_x) / projections
    square = torch.stack(squares)
    return root(
        float(square.mean()),
        variance_of_mean(phi) + variance_of_mean(psi) + variance_of_mean(square),
    )


def _potential(x: Tensor, there: Tensor) -> Tensor:
    """The integral of `phi' = 2 (x - T(x))` along sorted x, T(x_i) = there_i."""
    slope = 2 * (x - there)
    return torch.cat((x.new_zeros(1), ((slope[1:] + slope[:-1]) / 2 * x.diff()).cumsum(0)))
