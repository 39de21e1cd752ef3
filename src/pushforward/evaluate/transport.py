"""Transport: distances between laws, what a flow costs, how straight it is; each with its standard error.

    w2  = wasserstein(samples, data)               # Measured: float(w2), w2.interval()
    run = follow(model, x0)                        # the flow of x0, its path energy and its straightness
    run.straightness(), transport_costs(run.start, run.end)

A standard error is that of the sampling: it says how far the value would move with other samples of the same number.
It says nothing of a bias, and W2 between samples has one, upwards: two sets from one law are not at 0. Compare values
from equal numbers of samples, and with that of two sets of data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import ConvergenceError, InputError, NonFiniteError
from pushforward.core.fields import Field
from pushforward.core.noise import PROBE, Noise
from pushforward.core.shapes import sum_data
from pushforward.core.times import uniform
from pushforward.sampling.generate import evaluating, home
from pushforward.solvers import RK4, Solver, integrate

# Rows of a matrix of distances that are handled at a time.
ROWS = 1024
# Largest gap between a plan and the bound of its potentials, relative to the mean cost.
GAP = 1e-9


class Measured(NamedTuple):
    """A statistic of samples, and the standard error that their number leaves."""

    value: float
    standard_error: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """value -+ z standard_error, which holds the expectation with probability `level` where N is large."""
        if not 0 < level < 1:
            raise InputError(f"level is {level}; it is a probability, strictly between 0 and 1")
        reach = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.value - reach, self.value + reach

    def __float__(self) -> float:
        return self.value


# Distances between laws.


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
    a, b = _flat(a, b)
    try:
        import ot
    except ImportError as error:
        raise InputError(
            "exact optimal transport needs POT: pip install 'pushforward[transport]'; or take sliced_wasserstein"
        ) from error
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
    return _root(squared, _variance(phi) + _variance(psi))


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> Measured:
    """The 2-Wasserstein distance of one-dimensional projections, in the mean over directions: the square root of

        SW2^2 = E_theta W2^2(theta . a, theta . b),   theta uniform on the unit sphere

    a: (N, ...), b: (M, ...), flattened. Direction i is a function of (seed, i). In one dimension the plan matches
    quantiles. Between laws that differ by a shift m it is |m| / sqrt(D). The standard error holds the samples', by
    potentials as in `wasserstein` (Xi & Niles-Weed 2022), and the directions'.

    Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".
    """
    a, b = _flat(a, b)
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
    return _root(float(square.mean()), _variance(phi) + _variance(psi) + _variance(square))


def _potential(x: Tensor, there: Tensor) -> Tensor:
    """The integral of `phi' = 2 (x - T(x))` along sorted x, T(x_i) = there_i."""
    slope = 2 * (x - there)
    return torch.cat((x.new_zeros(1), ((slope[1:] + slope[:-1]) / 2 * x.diff()).cumsum(0)))


Kernel = Callable[[Tensor], Tensor]


def gaussian_kernel(*bandwidths: float) -> Kernel:
    """`mean_h exp(-|x - y|^2 / 2 h^2)`, as a function of the squared distance."""
    if not bandwidths or min(bandwidths) <= 0:
        raise InputError(f"bandwidths are {bandwidths}; they must be positive")
    return lambda square: torch.stack([(square / (-2 * h**2)).exp() for h in bandwidths]).mean(0)


def distance_kernel(square: Tensor) -> Tensor:
    """`-|x - y|`, with which MMD^2 is the energy distance."""
    return -square.sqrt()


def mmd(a: Tensor, b: Tensor, kernel: Kernel | None = None) -> Measured:
    """The squared maximum mean discrepancy, 0 if and only if the laws are equal, for kernels that tell all apart:

        MMD^2 = E k(A, A') + E k(B, B') - 2 E k(A, B)

    a: (N, ...), b: (M, ...), flattened. Unbiased: pairs of a sample with itself are left out, so that two sets from one
    law give values around 0, of either sign.

    kernel: k as a function of the squared distance: `gaussian_kernel(h, ...)`, or `distance_kernel` for the energy
            distance. None for Gaussians of 1/2, 1 and 2 times the median distance of the samples to each other; the
            bandwidth then depends on the samples, so give one where values are compared.

    Standard error: that of the means over rows of the kernel matrix, the first-order term of the U-statistic; of equal
    laws, where that term is 0, it is stated too large. Gretton et al. 2012 (JMLR 13), eq. 3 and sec. 6.
    """
    a, b = _flat(a, b)
    if kernel is None:
        some = torch.cat((a[:ROWS], b[:ROWS]))
        width = float(torch.pdist(some).median())
        kernel = gaussian_kernel(*(width * c or 1.0 for c in (0.5, 1.0, 2.0)))
    n, m = len(a), len(b)
    itself = kernel(torch.zeros((), dtype=a.dtype))
    in_a, in_b = ((_rows(kernel, x, x)[0] - itself) / (len(x) - 1) for x in (a, b))
    to_b, to_a = _rows(kernel, a, b)
    value = float(in_a.mean() + in_b.mean() - 2 * to_b.sum() / (n * m))
    variance = _variance(2 * (in_a - to_b / m)) + _variance(2 * (in_b - to_a / n))
    return Measured(value, math.sqrt(variance))


def _rows(kernel: Kernel, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the kernel matrix over its columns (N,), and over its rows (M,)."""
    over_b, over_a = [], b.new_zeros(len(b))
    for part in a.split(ROWS):
        k = kernel(torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist").square_())
        over_b.append(k.sum(1))
        over_a += k.sum(0)
    return torch.cat(over_b), over_a


# What a flow costs.

Cost = Callable[[Tensor], Tensor]
# Convex costs c(d) of displacements d = x1 - x0 (N, D): |d|, |d|^2, |d|_1.
COSTS: Mapping[str, Cost] = {
    "l2": lambda d: d.norm(dim=1),
    "l2 squared": lambda d: d.square().sum(1),
    "l1": lambda d: d.abs().sum(1),
}


def transport_costs(
    x0: Tensor, x1: Tensor, costs: Mapping[str, Cost] = COSTS
) -> dict[str, Measured]:
    """`E c(x1 - x0)` of pairs, for each of these costs; none of the convex ones rises by rectifying a flow.

    x0, x1: (N, ...), row by row. costs: from displacements (N, D) to (N,).

    Liu et al. 2022 (arXiv 2209.03003), thm. 3.5.
    """
    if x0.shape != x1.shape:
        raise InputError(f"pairs must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
    x0, x1 = _flat(x0, x1)
    return {name: _mean(cost(x1 - x0)) for name, cost in costs.items()}


@dataclass(frozen=True)
class Flow:
    """Trajectories of a field from t = 0 to 1, by what remains of them.

    start, end: (N, ...) X_0 and X_1. energy: (N,) `int |u|^2 dt`. velocity: (N, ...) `int u dt`. All float64.
    """

    start: Tensor
    end: Tensor
    energy: Tensor
    velocity: Tensor

    def path_energy(self) -> Measured:
        """`PE = E int_0^1 |u(X_t, t)|^2 dt`, at least W2^2 of the laws that it joins (Benamou & Brenier 2000)."""
        return _mean(self.energy)

    def normalised_path_energy(self, w2: Measured | float) -> Measured:
        """`NPE = |PE - W2^2| / W2^2`, 0 for the optimal transport.

        w2: the 2-Wasserstein distance, not squared, of the laws at t = 0 and 1: of samples of the source and of data.
        Tong et al. 2023 (arXiv 2302.00482), sec. 5; [SF]2M (arXiv 2307.03672), table 2.
        """
        squared, energy = float(w2) ** 2, self.path_energy()
        if not squared > 0:
            raise InputError(f"w2 is {float(w2)}; energies are measured in units of its square")
        error = 2 * float(w2) * w2.standard_error if isinstance(w2, Measured) else 0.0
        ratio = energy.value / squared
        spread = math.hypot(energy.standard_error, ratio * error) / squared
        return Measured(abs(ratio - 1), spread)

    def straightness(self, relative: bool = False) -> Measured:
        """`S = E int_0^1 |(X_1 - X_0) - u(X_t, t)|^2 dt`, 0 if and only if every trajectory is a straight line at
        constant speed. relative: over `E |X_1 - X_0|^2`.

        Liu et al. 2022 (arXiv 2209.03003), eq. 4.
        """
        d = self.end - self.start
        square = sum_data(d**2)
        deviation = (self.energy - 2 * sum_data(d * self.velocity) + square).clamp(min=0)
        if not relative:
            return _mean(deviation)
        whole = float(square.mean())
        if whole == 0:
            raise InputError("nothing moves, so there is nothing to be relative to")
        ratio = float(deviation.mean()) / whole
        return Measured(ratio, math.sqrt(_variance(deviation - ratio * square)) / whole)


def follow(
    field: Field,
    x0: Tensor,
    *,
    steps: int = 50,
    solver: Solver | None = None,
    batch_size: int = 4096,
    **cond: Tensor,
) -> Flow:
    """Carry x0 (N, ...) along the velocity of a field and take its integrals on the way, by Simpson's rule.

    steps: equal ones, an even number of them. solver: a deterministic one, RK4 if left out; each step takes one call
    of the field beside the solver's. cond: tensors (N, ...).
    """
    if steps < 2 or steps % 2:
        raise InputError(f"steps is {steps}; Simpson's rule takes an even number of them")
    weights = torch.tensor([1.0, *[4.0, 2.0] * (steps // 2)], dtype=torch.float64)
    weights[-1] = 1.0
    weights /= 3 * steps
    device, dtype = home(field, x0)
    parts = []
    with torch.no_grad(), evaluating(field):
        for rows in torch.arange(len(x0)).split(batch_size):
            start = x0[rows].to(device, dtype)
            here: dict[str, Any] = {name: c[rows].to(device) for name, c in cond.items()}
            energy = torch.zeros(len(rows), dtype=torch.float64, device=device)
            velocity = torch.zeros_like(start, dtype=torch.float64)

            def add(
                i: int,
                t: Tensor,
                x: Tensor,
                energy: Tensor = energy,
                velocity: Tensor = velocity,
                here: dict[str, Any] = here,
            ) -> None:
                u = field(x, t, **here).double()
                energy += weights[i] * sum_data(u**2)
                velocity += weights[i] * u

            end = integrate(solver or RK4(), field, start, uniform(steps), callback=add, **here)
            parts.append((start.double(), end.double(), energy, velocity))
    flow = Flow(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))
    bad = ~(flow.energy.isfinite() & flow.end.flatten(1).isfinite().all(1))
    if bool(bad.any()):
        raise NonFiniteError(
            f"{int(bad.sum())} of {len(bad)} trajectories are not finite: is the velocity at both ends of time?"
        )
    return flow


def path_energy(field: Field, x0: Tensor, **options: Any) -> Measured:
    """`Flow.path_energy` of x0 (N, ...) along a field. options: those of `follow`."""
    return follow(field, x0, **options).path_energy()


def normalised_path_energy(
    field: Field, x0: Tensor, w2: Measured | float, **options: Any
) -> Measured:
    """`Flow.normalised_path_energy` of x0 (N, ...) along a field. options: those of `follow`."""
    return follow(field, x0, **options).normalised_path_energy(w2)


def straightness(field: Field, x0: Tensor, relative: bool = False, **options: Any) -> Measured:
    """`Flow.straightness` of x0 (N, ...) along a field. options: those of `follow`."""
    return follow(field, x0, **options).straightness(relative)


def _flat(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as (N, D) and (M, D) in float64 on the CPU."""
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise InputError(
            f"two sets of at least two samples of one shape are needed, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = (x.detach().flatten(1).cpu().double() for x in (a, b))
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise InputError("the samples hold NaN or infinite values")
    return a, b


def _variance(x: Tensor) -> float:
    """Of the mean of x (N,)."""
    return float(x.var()) / len(x)


def _mean(x: Tensor) -> Measured:
    return Measured(float(x.mean()), math.sqrt(_variance(x)))


def _root(square: float, variance: float) -> Measured:
    """The root of a square that has this variance: `std / (2 root)`, and the root of std where that is smaller."""
    root, spread = math.sqrt(max(square, 0.0)), math.sqrt(variance)
    return Measured(root, min(spread / (2 * root) if root > 0 else math.inf, math.sqrt(spread)))
