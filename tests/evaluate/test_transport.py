"""Distances, energies and straightness against closed forms, brute force, and their own errors against repetition."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.special import ndtri
from torch import Tensor

import pushforward as pf
from pushforward.evaluate import transport
from pushforward.evaluate.energy import energy_distance
from pushforward.evaluate.transport import (
    Measured,
    distance_kernel,
    follow,
    gaussian_kernel,
    mmd,
    normalised_path_energy,
    path_energy,
    sliced_wasserstein,
    straightness,
    transport_costs,
    wasserstein,
)


def normals(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn((n, dim), generator=torch.Generator().manual_seed(seed)).double()


def squares(a: Tensor, b: Tensor) -> np.ndarray:
    return (a[:, None] - b).square().sum(2).numpy()


# Wasserstein.


@pytest.mark.parametrize("n", [2, 5, 6])
def test_w2_is_the_best_of_all_permutations(n: int) -> None:
    for seed in range(5):
        a, b = normals(n, 3, seed), normals(n, 3, 100 + seed) + 1
        cost = squares(a, b)
        best = min(
            sum(cost[i, p[i]] for i in range(n)) / n for p in itertools.permutations(range(n))
        )
        assert float(wasserstein(a, b)) == pytest.approx(math.sqrt(best), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(7, 12), (12, 7), (10, 15), (2, 9)])
def test_w2_of_sets_of_unequal_size_is_the_optimum_of_the_linear_programme(n: int, m: int) -> None:
    a, b = normals(n, 2, n), 2 * normals(m, 2, m) + 1
    cost = squares(a, b)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = linprog(
        cost.ravel(),
        A_eq=np.vstack((rows, columns)),
        b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)],
    )
    assert float(wasserstein(a, b)) == pytest.approx(math.sqrt(found.fun), rel=1e-7)
    assert float(wasserstein(a, b)) == pytest.approx(float(wasserstein(b, a)), rel=1e-12)


def test_w2_in_one_dimension_matches_quantiles() -> None:
    """Skewed laws far apart: the error, too, is that of potentials which follow from quantiles alone."""
    a, b = normals(300, 1, 0).exp(), 0.5 * normals(300, 1, 1).exp() - 4
    gap = a.sort(0).values - b.sort(0).values
    want = float(gap.square().mean().sqrt())
    exact, sliced = wasserstein(a, b), sliced_wasserstein(a, b)
    assert exact.value == pytest.approx(want, rel=1e-12)
    assert sliced.value == pytest.approx(want, rel=1e-12)
    assert exact.standard_error == pytest.approx(sliced.standard_error, rel=0.02)
    assert wasserstein(b, a).standard_error == pytest.approx(exact.standard_error, rel=0.02)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_w2_of_a_translated_set_is_the_length_of_the_shift_at_any_scale(
    offset: float, size: float
) -> None:
    a = size * (normals(150, 4, 2) + offset)
    shift = size * torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    b = (a + shift)[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    tolerance = 1e-9 if offset else 1e-13
    assert float(wasserstein(a, b)) == pytest.approx(float(shift.norm()), rel=tolerance)
    assert float(wasserstein(a, a.flip(0))) == 0


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_w2_and_its_error_scale_with_the_samples(size: float) -> None:
    a, b = normals(120, 2, 0).exp(), normals(90, 2, 1) + 3
    one, other = wasserstein(a, b), wasserstein(size * a, size * b)
    assert other.value == pytest.approx(size * one.value, rel=1e-12)
    assert other.standard_error == pytest.approx(size * one.standard_error, rel=1e-9)


def test_w2_of_equally_spaced_quantiles_of_gaussians_is_that_of_the_gaussians() -> None:
    """|m|^2 + (s - r)^2 in one dimension; samples of products of such quantiles add up over dimensions."""
    z = torch.from_numpy(ndtri((np.arange(40) + 0.5) / 40))
    plane = torch.cartesian_prod(z, z)
    var = float(z.square().mean())
    scale, shift = torch.tensor([2.0, 0.5]).double(), torch.tensor([1.0, -3.0]).double()
    want = 10 + var * (1 + 0.25)
    assert float(wasserstein(plane, plane * scale + shift)) == pytest.approx(
        math.sqrt(want), rel=1e-12
    )


def test_the_interval_of_w2_between_gaussians_holds_the_bures_distance() -> None:
    """|m|^2 + tr(A + B - 2 (A B)^{1/2}) with commuting A, B; a bias of order 1/N beside an error of order N^{-1/2}."""
    scale, shift = torch.tensor([2.0, 0.5]).double(), torch.tensor([4.0, -3.0]).double()
    want = math.sqrt(25 + 1 + 0.25)
    hits = 0
    for seed in range(60):
        a, b = normals(300, 2, 2 * seed), normals(300, 2, 2 * seed + 1) * scale + shift
        low, high = wasserstein(a, b).interval()
        hits += low <= want <= high
    assert hits >= 51  # 57 +- 1.7 of 60


def repeated(statistic, sampler, count: int) -> tuple[list[Measured], float, float]:
    """Values over independent samples, their mean and the share of intervals that hold it."""
    found = [statistic(*sampler(seed)) for seed in range(count)]
    mean = sum(m.value for m in found) / count
    held = sum(m.interval()[0] <= mean <= m.interval()[1] for m in found) / count
    return found, mean, held


def apart(seed: int) -> tuple[Tensor, Tensor]:
    """Laws of unequal shape, and numbers of samples."""
    return normals(80, 2, 2 * seed), (normals(50, 2, 2 * seed + 1) / 2).exp() + 0.5


STATISTICS = {
    "wasserstein": wasserstein,
    "sliced": lambda a, b: sliced_wasserstein(a, b, 32, seed=int(1e6 * abs(float(a[0, 0])))),
    "mmd": lambda a, b: mmd(a, b, gaussian_kernel(1.0, 2.0)),
    "energy": lambda a, b: mmd(a, b, distance_kernel),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_standard_errors_are_the_spread_of_repetitions(name: str) -> None:
    found, mean, held = repeated(STATISTICS[name], apart, 300)
    values = torch.tensor([m.value for m in found])
    errors = torch.tensor([m.standard_error for m in found])
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=0.2)
    assert 0.89 <= held <= 0.99
    assert mean > 0


def test_errors_of_equal_laws_are_stated_too_large_never_too_small() -> None:
    for name, statistic in STATISTICS.items():
        found, _, held = repeated(
            statistic, lambda seed: (normals(60, 2, 2 * seed), normals(60, 2, 2 * seed + 1)), 100
        )
        values = torch.tensor([m.value for m in found])
        assert sum(m.standard_error for m in found) / 100 > float(values.std()), name
        assert held > 0.92


def test_a_plan_that_is_not_optimal_is_an_error(monkeypatch) -> None:
    import ot

    solve = ot.emd
    monkeypatch.setattr(ot, "emd", lambda *args, numItermax, **more: solve(*args, 20, **more))
    with (
        pytest.warns(UserWarning, match="numItermax"),
        pytest.raises(pf.ConvergenceError, match="mean cost"),
    ):
        wasserstein(normals(200, 2, 0), normals(200, 2, 1))


def test_a_plan_with_wrong_potentials_is_an_error(monkeypatch) -> None:
    import ot

    solve = ot.emd

    def worse(*args, **more):
        plan, log = solve(*args, **more)
        return plan[::-1].copy(), log

    monkeypatch.setattr(ot, "emd", worse)
    with pytest.raises(pf.ConvergenceError):
        wasserstein(normals(50, 2, 0), normals(50, 2, 1))


def test_without_pot_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(pf.InputError, match=r"pushforward\[transport\]"):
        wasserstein(normals(5, 2, 0), normals(5, 2, 1))


@pytest.mark.parametrize("distance", [wasserstein, sliced_wasserstein, mmd])
def test_sets_that_cannot_be_compared_are_refused(distance) -> None:
    good = normals(5, 2, 0)
    for bad in (normals(5, 3, 0), good[:1], good.clone().fill_(math.nan)):
        with pytest.raises(pf.InputError):
            distance(good, bad)


def test_distances_take_samples_of_any_shape_and_dtype() -> None:
    a, b = normals(20, 12, 0).float(), normals(30, 12, 1).float()
    for distance in (wasserstein, sliced_wasserstein, mmd):
        assert distance(a.reshape(20, 3, 2, 2), b.reshape(30, 3, 2, 2)) == distance(a, b)
        assert distance(a, b).value == distance(a.double(), b.double()).value


# Sliced Wasserstein.


def test_sliced_w2_of_a_translated_set_is_the_shift_over_the_root_of_the_dimension() -> None:
    a = normals(40, 5, 0)
    shift = torch.tensor([1.0, 2.0, -2.0, 0.0, 4.0], dtype=torch.float64)
    found = sliced_wasserstein(a, (a + shift).flip(0), projections=2000)
    low, high = found.interval(0.9999)
    assert low < 5 / math.sqrt(5) < high


def test_the_error_of_sliced_w2_holds_that_of_the_directions() -> None:
    """Of one pair of sets: with few directions the variance is larger by what the draws of directions scatter."""
    a, b = normals(60, 4, 0), normals(60, 4, 1) + torch.tensor([3.0, 0, 0, 0])
    few = [sliced_wasserstein(a, b, 8, seed) for seed in range(200)]
    stated = torch.tensor([m.standard_error for m in few]).square().mean()
    samples = sliced_wasserstein(a, b, 4000).standard_error ** 2
    scatter = torch.tensor([m.value for m in few]).var()
    assert float((stated - samples) / scatter) == pytest.approx(1, abs=0.25)


def test_sliced_w2_of_unequal_numbers_is_that_of_samples_repeated_to_the_same_number() -> None:
    a, b = normals(6, 3, 0), normals(15, 3, 1) + 1
    want = sliced_wasserstein(a.repeat(5, 1), b.repeat(2, 1), seed=3).value
    assert sliced_wasserstein(a, b, seed=3).value == pytest.approx(want, rel=1e-12)
    assert sliced_wasserstein(b, a, seed=3).value == pytest.approx(want, rel=1e-12)
    assert sliced_wasserstein(a, b, seed=4).value != pytest.approx(want, rel=1e-6)


def test_sliced_w2_is_the_mean_of_exact_ones_over_directions() -> None:
    a, b = normals(30, 2, 0), 2 * normals(30, 2, 1)
    angle = (torch.arange(90) + 0.5) * (math.pi / 90)
    theta = torch.stack((angle.cos(), angle.sin()), 1).double()
    each = [(((a @ d).sort()[0] - (b @ d).sort()[0]) ** 2).mean() for d in theta]
    want = math.sqrt(float(torch.stack(each).mean()))
    assert sliced_wasserstein(a, b, 4000).value == pytest.approx(want, rel=0.02)


# Maximum mean discrepancy and energy distance.


def test_mmd_leaves_out_pairs_of_a_sample_with_itself() -> None:
    a, b = normals(9, 2, 0), normals(7, 2, 1) + 1
    h = 0.7

    def k(x: Tensor, y: Tensor) -> float:
        return math.exp(-float((x - y).square().sum()) / (2 * h**2))

    in_a = sum(k(x, y) for x, y in itertools.permutations(a, 2)) / (9 * 8)
    in_b = sum(k(x, y) for x, y in itertools.permutations(b, 2)) / (7 * 6)
    between = sum(k(x, y) for x in a for y in b) / 63
    assert mmd(a, b, gaussian_kernel(h)).value == pytest.approx(in_a + in_b - 2 * between)


def test_mmd_between_gaussians_is_the_closed_form() -> None:
    """E exp(-|X|^2 / 2h^2) = (1 + v/h^2)^(-D/2) exp(-|m|^2 / 2 (h^2 + v)) for X ~ N(m, v I)."""
    h, dim, var, shift = 1.5, 3, 0.25, 0.8
    a, b = normals(2000, dim, 0), math.sqrt(var) * normals(1500, dim, 1) + shift

    def mean(m2: float, v: float) -> float:
        return (1 + v / h**2) ** (-dim / 2) * math.exp(-m2 / (2 * (h**2 + v)))

    want = mean(0, 2) + mean(0, 2 * var) - 2 * mean(dim * shift**2, 1 + var)
    found = mmd(a, b, gaussian_kernel(h))
    assert abs(found.value - want) < 4 * found.standard_error < 0.2 * want


def test_with_the_distance_as_kernel_mmd_is_the_energy_distance() -> None:
    a, b = normals(1100, 3, 0), 1.3 * normals(900, 3, 1) + 0.5
    assert mmd(a, b, distance_kernel).value == pytest.approx(energy_distance(a, b), rel=1e-10)


def test_bandwidths_follow_the_scale_of_the_samples_unless_given() -> None:
    a, b = normals(200, 2, 0), normals(200, 2, 1) + 1
    assert mmd(1000 * a, 1000 * b).value == pytest.approx(mmd(a, b).value, rel=1e-9)
    width = float(torch.pdist(torch.cat((a, b))).median())
    three = gaussian_kernel(width / 2, width, 2 * width)
    assert mmd(a, b).value == pytest.approx(mmd(a, b, three).value, rel=1e-12)
    same = torch.ones(5, 2)
    assert mmd(same, same).value == pytest.approx(0, abs=1e-12)
    with pytest.raises(pf.InputError, match="bandwidths"):
        gaussian_kernel(1.0, 0.0)


# Flows.


class Linear:
    """u(x, t) = x A^T + b: X_1 = expm(A) X_0 + ..., all in closed form."""

    path = pf.CondOT(gaussian_source=False)

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        self.matrix, self.shift = matrix, shift

    def __call__(self, x: Tensor, t, want="velocity", **cond) -> Tensor:
        scale = cond.get("scale", torch.ones(len(x), dtype=x.dtype))
        return scale[:, None] * (x @ self.matrix.T + self.shift)


TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def test_a_translation_is_straight_and_costs_the_square_of_its_length() -> None:
    field = Linear(torch.zeros(2, 2).double(), torch.tensor([3.0, 4.0]).double())
    x0 = normals(100, 2, 0)
    assert straightness(field, x0).value == pytest.approx(0, abs=1e-12)
    energy = path_energy(field, x0)
    assert energy.value == pytest.approx(25, rel=1e-12)
    assert energy.standard_error == pytest.approx(0, abs=1e-12)
    assert normalised_path_energy(field, x0, 5.0).value == pytest.approx(0, abs=1e-12)
    assert normalised_path_energy(field, x0, 4.0).value == pytest.approx(25 / 16 - 1)
    assert normalised_path_energy(field, x0, 10.0).value == pytest.approx(0.75)


@pytest.mark.parametrize("angle", [0.5, 2.0])
def test_a_rotation_has_the_energy_of_its_arc_and_the_straightness_of_its_chord(
    angle: float,
) -> None:
    """|u| = w r: PE = w^2 E r^2; chord 2 r sin(w/2): S = PE - E |chord|^2, as int u dt is the chord."""
    x0 = normals(200, 2, 1)
    run = follow(Linear(angle * TURN, torch.zeros(2).double()), x0)
    r2 = float(x0.square().sum(1).mean())
    chord = 4 * math.sin(angle / 2) ** 2
    assert run.path_energy().value == pytest.approx(angle**2 * r2, rel=1e-6)
    assert run.straightness().value == pytest.approx((angle**2 - chord) * r2, rel=1e-5)
    relative = run.straightness(relative=True)
    assert relative.value == pytest.approx(angle**2 / chord - 1, rel=1e-5)
    assert relative.standard_error < 1e-6  # the same for every r
    costs = transport_costs(run.start, run.end)
    assert costs["l2 squared"].value == pytest.approx(chord * r2, rel=1e-7)
    # From N(0, I) to itself there is no other way to have NPE than against a W2 given.
    w2 = Measured(2.0, 0.1)
    npe = run.normalised_path_energy(w2)
    assert npe.value == pytest.approx(abs(angle**2 * r2 - 4) / 4, rel=1e-5)
    spread = math.hypot(run.path_energy().standard_error / 4, angle**2 * r2 * 2 * 2 * 0.1 / 16)
    assert npe.standard_error == pytest.approx(spread, rel=1e-5)


def test_growth_along_an_axis_is_straight_but_not_at_constant_speed() -> None:
    """u = k x: |X_t| = r e^(k t): PE = k (e^2k - 1)/2 r^2, displacement (e^k - 1) r, S = PE - its square."""
    k, x0 = 0.8, normals(100, 2, 2)
    run = follow(Linear(k * torch.eye(2).double(), torch.zeros(2).double()), x0)
    r2 = float(x0.square().sum(1).mean())
    energy = k * (math.exp(2 * k) - 1) / 2
    assert run.path_energy().value == pytest.approx(energy * r2, rel=1e-7)
    assert run.straightness().value == pytest.approx(
        (energy - (math.exp(k) - 1) ** 2) * r2, rel=1e-5
    )


class GaussianTransport:
    """The optimal transport between N(0, I) and N(m, diag(s^2)) by displacement: X_t = ((1 - t) + t s) x0 + t m."""

    path = pf.CondOT(gaussian_source=False)
    scale, shift = torch.tensor([2.0, 0.5]).double(), torch.tensor([1.0, -1.0]).double()

    def __call__(self, x: Tensor, t, want="velocity", **cond) -> Tensor:
        t = pf.as_time(t, x)[:, None]
        x0 = (x - t * self.shift) / (1 - t + t * self.scale)
        return (self.scale - 1) * x0 + self.shift


def test_the_optimal_transport_of_gaussians_is_straight_and_has_the_energy_of_w2() -> None:
    run = follow(GaussianTransport(), normals(4000, 2, 3))
    w2 = math.sqrt(2 + 1 + 0.25)
    assert run.straightness().value == pytest.approx(0, abs=1e-10)
    npe = run.normalised_path_energy(w2)
    assert npe.value < 3 * npe.standard_error < 0.1
    # Of its own pairs, exactly, and W2 of its own ends: a monotone map is the optimal one.
    pairs = transport_costs(run.start, run.end)["l2 squared"].value
    assert run.normalised_path_energy(math.sqrt(pairs)).value == pytest.approx(0, abs=1e-10)
    assert wasserstein(run.start[:500], run.end[:500]).value == pytest.approx(
        math.sqrt(transport_costs(run.start[:500], run.end[:500])["l2 squared"].value), rel=1e-9
    )


def test_path_energy_exceeds_the_cost_of_its_pairs_by_the_straightness() -> None:
    law = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.05)
    run = follow(law.field(pf.CondOT()), normals(300, 2, 4), steps=100)
    pairs = transport_costs(run.start, run.end)["l2 squared"].value
    gap = run.path_energy().value - pairs
    assert run.straightness().value == pytest.approx(gap, rel=1e-3)
    assert gap > 0.01
    fine = straightness(law.field(pf.CondOT()), normals(300, 2, 4), steps=400)
    assert run.straightness().value == pytest.approx(fine.value, rel=1e-3)


def test_a_flow_does_not_depend_on_batches_and_conditions_follow_their_rows() -> None:
    field = Linear(TURN, torch.ones(2).double())
    x0, scale = normals(50, 2, 5), torch.linspace(0.1, 2, 50).double()
    whole = follow(field, x0, scale=scale)
    parts = follow(field, x0, batch_size=7, scale=scale)
    assert torch.equal(whole.end, parts.end)
    assert torch.equal(whole.energy, parts.energy)
    alone = follow(field, x0[40:], scale=scale[40:])
    assert torch.equal(alone.energy, whole.energy[40:])


def test_models_keep_their_mode_and_gradients_are_left_alone() -> None:
    model = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT())
    model.train()
    run = follow(model, normals(6, 2, 0), steps=4)
    assert model.training
    assert (run.end.dtype, run.end.requires_grad) == (torch.float64, False)


def test_bad_flows_are_refused() -> None:
    with pytest.raises(pf.InputError, match="even number"):
        follow(GaussianTransport(), normals(4, 2, 0), steps=3)
    with pytest.raises(pf.InputError, match="w2"):
        normalised_path_energy(GaussianTransport(), normals(4, 2, 0), 0.0)
    still = Linear(torch.zeros(2, 2).double(), torch.zeros(2).double())
    with pytest.raises(pf.InputError, match="nothing moves"):
        straightness(still, normals(4, 2, 0), relative=True)
    with pytest.raises(pf.NonFiniteError, match="2 of 2 trajectories"):
        follow(Linear(torch.full((2, 2), math.inf).double(), torch.zeros(2)), normals(2, 2, 0))
    with pytest.raises(pf.InputError, match="one shape"):
        transport_costs(normals(4, 2, 0), normals(3, 2, 0))


def test_costs_are_those_of_the_displacements_and_one_may_bring_ones_own() -> None:
    x0 = torch.zeros(2, 1, 2)
    x1 = torch.tensor([[[3.0, -4.0]], [[0.0, 2.0]]])
    costs = transport_costs(x0, x1)
    assert {name: c.value for name, c in costs.items()} == {
        "l2": 3.5,
        "l2 squared": 14.5,
        "l1": 4.5,
    }
    assert costs["l2"].standard_error == pytest.approx(1.5)
    own = transport_costs(x0, x1, {"first": lambda d: d[:, 0]})
    assert own["first"].value == 1.5


def test_an_interval_is_symmetric_and_as_wide_as_its_level() -> None:
    low, high = Measured(1.0, 0.5).interval()
    assert (low + high) / 2 == pytest.approx(1)
    assert (high - low) / 2 == pytest.approx(1.959964 * 0.5, rel=1e-6)
    assert Measured(0.0, 1.0).interval(0.5)[1] == pytest.approx(0.674490, rel=1e-5)
    with pytest.raises(pf.InputError, match="level"):
        Measured(0.0, 1.0).interval(1.0)


def test_rows_of_a_kernel_do_not_depend_on_their_blocks(monkeypatch) -> None:
    a, b = normals(50, 2, 0), normals(40, 2, 1)
    whole = [mmd(a, b, distance_kernel), wasserstein(a, b)]
    monkeypatch.setattr(transport, "ROWS", 7)
    for one, other in zip(whole, [mmd(a, b, distance_kernel), wasserstein(a, b)], strict=True):
        assert one == pytest.approx(other, rel=1e-12)
