"""Single-step exponential integrators: the papers' formulas, their orders, both ends of time, noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import pushforward as pf
from contracts.members import THREE_PATHS, Counted, mixture, relative
from pushforward.solvers import DDIM, DPMSolver
from solvers.test_multistep import X, end_to_end, law_after, truth

FORMS = ["data", "noise"]


def observed(solver, path, steps=(32, 64), backward=False) -> float:
    start, end = (X, truth(path, 0.1, 0.9)) if not backward else (truth(path, 0.1, 0.9), X)
    errors = []
    for n in steps:
        times = pf.times.log_snr(n, path, 0.1, 0.9)
        times = times.flip(0) if backward else times
        errors.append(relative(pf.integrate(solver, mixture(2).field(path), start, times), end))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_is_seen_between_finite_log_snrs_in_both_directions(order, form, path):
    for backward in (False, True):
        assert abs(observed(DPMSolver(order, form), path, backward=backward) - order) < 0.15


@pytest.mark.parametrize("form", FORMS)
def test_any_r1_keeps_the_order_and_another_r2_than_two_thirds_loses_it(form):
    path = pf.VP()
    for r1 in (0.3, 1.0):
        assert abs(observed(DPMSolver(2, form, r1), path) - 2) < 0.15
    for r1 in (0.5,):
        assert abs(observed(DPMSolver(3, form, r1), path) - 3) < 0.15
    for r2 in (0.5,):
        assert observed(DPMSolver(3, form, r2=r2), path) < 2.3


def parts(path, t):
    """(alpha, sigma, lambda) at t."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return alpha, sigma, (alpha / sigma).log()


T, S = torch.tensor([0.3, 0.62]).double()


@pytest.mark.parametrize("path", THREE_PATHS)
def test_dpm_solver_2_and_3_are_their_algorithms(path):
    # Lu et al. 2022 (2206.00927), algorithms 4 (any r1) and 5 (any r1, r2).
    field = mixture(2).field(path)
    for t, s in ((T, S), (S, T)):
        (a_t, _, l_t), (a_s, s_s, l_s) = parts(path, t), parts(path, s)
        h = l_s - l_t
        e0 = field(X, t, "noise")
        r1, r2 = 0.35, 0.8
        t1, t2 = (path.time_of_log_snr(2 * (l_t + r * h)) for r in (r1, r2))
        (a_1, s_1, _), (a_2, s_2, _) = parts(path, t1), parts(path, t2)
        u1 = a_1 / a_t * X - s_1 * (r1 * h).expm1() * e0
        e1 = field(u1, t1, "noise")
        want = a_s / a_t * X - s_s * h.expm1() * e0 - s_s / (2 * r1) * h.expm1() * (e1 - e0)
        got = pf.integrate(DPMSolver(2, "noise", r1), field, X, torch.stack((t, s)))
        assert torch.allclose(got, want, atol=1e-12)
        bend = (r2 * h).expm1() / (r2 * h) - 1
        u2 = a_2 / a_t * X - s_2 * (r2 * h).expm1() * e0 - s_2 * r2 / r1 * bend * (e1 - e0)
        e2 = field(u2, t2, "noise")
        want = a_s / a_t * X - s_s * h.expm1() * e0 - s_s / r2 * (h.expm1() / h - 1) * (e2 - e0)
        got = pf.integrate(DPMSolver(3, "noise", r1, r2), field, X, torch.stack((t, s)))
        assert torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("path", THREE_PATHS)
def test_dpm_solver_plus_plus_2s_is_its_algorithm(path):
    # Lu et al. 2022 (2211.01095), algorithm 1.
    field = mixture(2).field(path)
    for t, s in ((T, S), (S, T)):
        (_, s_t, l_t), (a_s, s_s, l_s) = parts(path, t), parts(path, s)
        h, r = l_s - l_t, 0.35
        t1 = path.time_of_log_snr(2 * (l_t + r * h))
        a_1, s_1, _ = parts(path, t1)
        d0 = field(X, t, "data")
        u = s_1 / s_t * X - a_1 * (-r * h).expm1() * d0
        d = (1 - 1 / (2 * r)) * d0 + 1 / (2 * r) * field(u, t1, "data")
        got = pf.integrate(DPMSolver(2, "data", r), field, X, torch.stack((t, s)))
        assert torch.allclose(got, s_s / s_t * X - a_s * (-h).expm1() * d, atol=1e-12)


def test_the_field_is_asked_at_fractions_of_the_log_snr():
    path = pf.Cosine()
    for solver, fractions in (
        (DPMSolver(2), [0, 1 / 2]), (DPMSolver(3), [0, 1 / 3, 2 / 3]), (DPMSolver(3, r1=0.2, r2=0.9), [0, 0.2, 0.9]),
    ):  # fmt: skip
        field = Counted(mixture(2).field(path))
        pf.integrate(solver, field, X, torch.stack((T, S)))
        l_t, l_s = path.log_snr(torch.stack((T, S)))
        for at, r in zip(field.times, fractions, strict=True):
            assert torch.allclose(path.log_snr(at), (l_t + r * (l_s - l_t)).expand(5), atol=1e-12)


@pytest.mark.parametrize("path", THREE_PATHS)
def test_order_one_is_ddim_with_any_noise(path):
    field, times = mixture(2).field(path), pf.times.quadratic(6)
    for form in FORMS:
        for grid in (times, times.flip(0)):
            got = pf.integrate(DPMSolver(1, form), field, X, grid)
            assert torch.allclose(got, pf.integrate(DDIM(), field, X, grid), atol=1e-13)
        for eta in (0.4, 1.0):
            got = pf.integrate(DPMSolver(1, form, eta=eta), field, X, times, seed=2)
            want = pf.integrate(DDIM(eta), field, X, times, seed=2)
            assert torch.allclose(got, want, atol=1e-13)


# Both ends of time.


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [2, 3])
def test_from_end_to_end_the_error_falls_faster_than_at_order_one(order, form, path):
    for backward in (False, True):
        errors = []
        for n in (12, 48):
            times = pf.times.straight(n, path)
            out = pf.integrate(
                DPMSolver(order, form),
                mixture(2).field(path),
                X,
                times.flip(0) if backward else times,
            )
            errors.append(relative(out, end_to_end(path, backward)))
        assert errors[1] < (3e-3 if order == 2 else 3e-4), errors
        assert errors[0] / errors[1] > 4**1.4, errors


class InRatio:
    """A prediction that is a polynomial in w: sigma/alpha for noise, alpha/sigma for data."""

    def __init__(self, path, form, coefficients):
        self.path, self.form, self.coefficients = path, form, coefficients

    def __call__(self, x, t, want="velocity", **cond):
        alpha, sigma = (c(t.reshape(-1, 1)) for c in (self.path.alpha, self.path.sigma))
        w = alpha / sigma if self.form == "data" else sigma / alpha
        value = sum(c * w**k for k, c in enumerate(self.coefficients)).expand_as(x)
        return pf.predictions.convert(value, x, t, self.path, self.form, want)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine()], ids=repr)
@pytest.mark.parametrize("asked", FORMS)
def test_to_and_from_an_infinite_log_snr_a_step_integrates_polynomials_of_its_order(asked, path):
    # From and to alpha = 0 the data, from and to sigma = 0 the noise, whatever the method's form.
    t, w_of = torch.tensor(0.7).double(), {"data": "noise", "noise": "data"}
    for form, order in itertools.product(FORMS, (1, 2, 3)):
        coefficients = (0.7, -0.4, 0.3)[:order]
        field = InRatio(path, asked, coefficients)
        end = torch.tensor(0.0 if asked == "data" else 1.0).double()
        for start, stop in ((t, end), (end, t)):
            first = {"data": path.alpha, "noise": path.sigma}
            top, low = first[asked], first[w_of[asked]]
            w0, w1 = (top(u) / low(u) for u in (start, stop))
            integral = sum(
                c * (w1 ** (k + 1) - w0 ** (k + 1)) / (k + 1) for k, c in enumerate(coefficients)
            )
            want = low(stop) / low(start) * X + low(stop) * integral
            got = pf.integrate(DPMSolver(order, form), field, X, torch.stack((start, stop)))
            assert torch.allclose(got, want, atol=1e-12), (form, order, start)


@pytest.mark.parametrize("path", [*THREE_PATHS, pf.EDM(), pf.SubVP()], ids=repr)
def test_few_steps_between_the_ends_are_finite(path):
    path = path.values[0] if hasattr(path, "values") else path
    field = mixture(2).field(path)
    for n, eta in itertools.product((1, 2, 3), (0.5, 1.0)):
        inside = DPMSolver(2, "data", eta=eta, sde=True)
        out = pf.integrate(inside, field, path.source_std * X, pf.times.uniform(n))
        assert out.isfinite().all(), (n, eta)
    for n, form, order in itertools.product((1, 2, 3), FORMS, (1, 2, 3)):
        for times in (pf.times.uniform(n), pf.times.uniform(n).flip(0)):
            out = pf.integrate(DPMSolver(order, form), field, path.source_std * X, times)
            assert out.isfinite().all(), (n, form, order)
        if order < 3:
            noisy = DPMSolver(order, form, eta=1.0)
            out = pf.integrate(noisy, field, path.source_std * X, pf.times.uniform(n))
            assert out.isfinite().all(), (n, form, order)


def test_a_single_step_from_noise_to_data_is_the_data_extrapolated_in_time():
    path, law = pf.CondOT(), mixture(2)
    field, ends = law.field(path), pf.times.uniform(1)
    mean = law.log_weights.exp() @ law.components.means
    assert torch.allclose(pf.integrate(DPMSolver(1), field, X, ends), mean.expand_as(X), atol=1e-12)
    half = torch.tensor(0.5).double()
    u = 0.5 * X + 0.5 * mean
    want = 2 * field(u, half, "data") - mean
    assert torch.allclose(pf.integrate(DPMSolver(2), field, X, ends), want, atol=1e-12)


# Batches.


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("form", FORMS)
def test_a_sample_that_ends_or_starts_elsewhere_is_not_touched_by_its_batch(form, path):
    grids = [(0.0, 1.0), (0.0, 0.6), (0.2, 1.0), (0.1, 0.7), (0.0, 1.0)]
    times = torch.stack([pf.times.uniform(4, *ends) for ends in grids])
    for order, backward, eta in ((2, 0, 0.0), (3, 0, 0.0), (3, 1, 0.0), (2, 0, 0.8)):
        inside = eta > 0 and form == "data"
        solver, grid = (
            DPMSolver(order, form, eta=eta, sde=inside),
            times.flip(1) if backward else times,
        )
        together = pf.integrate(solver, mixture(2).field(path), X, grid, seed=3)
        for i in range(5):
            alone = pf.integrate(
                solver, mixture(2).field(path), X[i : i + 1], grid[i], seed=3, ids=torch.tensor([i])
            )
            assert torch.allclose(together[i : i + 1], alone, rtol=1e-11, atol=1e-11), i


def test_one_grid_for_all_and_the_same_for_each_give_the_same_states():
    field, times = mixture(2).field(pf.VP()), pf.times.quadratic(5)
    for solver in (DPMSolver(2), DPMSolver(3, "data"), DPMSolver(2, "data", eta=0.7)):
        shared = pf.integrate(solver, field, X, times, seed=1)
        own = pf.integrate(solver, field, X, times.repeat(5, 1), seed=1)
        assert torch.allclose(shared, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_not_rounded_to_half_precision(dtype):
    # On a constant prediction one step is exact, and so the state is rounded once for a stage.
    field = InRatio(pf.VP(), "data", (0.7,))
    x, ends = X.to(dtype), torch.stack((T, S))
    for own in (ends, ends.repeat(5, 1)):
        got = pf.integrate(DPMSolver(1, "data"), field, x, own)
        exact = pf.integrate(DPMSolver(1, "data"), field, x.double(), ends)
        d = torch.tensor(0.7, dtype=dtype).double() - 0.7  # the prediction, in half precision
        assert got.dtype == dtype
        bound = torch.finfo(dtype).eps * (exact.abs() / 2 + 1e-4) + d.abs()
        assert ((got.double() - exact).abs() <= bound).all()


# Noise.


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("solver", [
    DPMSolver(1, eta=1.0), DPMSolver(2, "data", eta=1.0), DPMSolver(2, "data", eta=0.5), DPMSolver(2, eta=1.0),
], ids=repr)  # fmt: skip
def test_with_noise_the_law_converges_to_that_of_the_path(solver, path):
    t = torch.tensor(0.9, dtype=torch.float64)
    exact = float(path.alpha(t) * 0.8), float(path.alpha(t) ** 2 * 0.6 + path.sigma(t) ** 2)
    errors = np.array([
        np.abs(np.subtract(law_after(solver, path, 0.8, 0.6, pf.times.log_snr(n, path, 0.1, 0.9)), exact))
        for n in (50, 100)
    ])  # fmt: skip
    assert (errors[1] < 0.03).all(), errors
    for before, after in errors.T:
        assert after < 1e-6 or before / after > 1.8, errors


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_law_of_a_single_point_is_kept_by_steps_of_any_length(eta, path):
    # For one point m, x_t = alpha m + sigma z, and the data predicted is m: mean and variance are exact.
    times = torch.tensor([0.0, 0.3, 0.5, 0.9]).double()
    for solver, n in itertools.product(
        (DPMSolver(1, "data", eta=eta), DPMSolver(2, "data", eta=eta)), (2, 3, 4)
    ):
        mean, variance = law_after(solver, path, 0.8, 1e-18, times[:n])
        alpha, sigma = path.alpha(times[n - 1]), path.sigma(times[n - 1])
        assert mean == pytest.approx(float(alpha * 0.8), abs=1e-9)
        assert variance == pytest.approx(float(sigma**2), rel=1e-9)


class TwoNormals:
    """Two normal numbers for each step, given beforehand: z (n, B, 2, 1)."""

    def __init__(self, z, step=0):
        self.z, self.step = z, step

    def normal(self, shape, stream, dtype):
        assert shape == self.z.shape[2:]
        return self.z[self.step]


def sde_law(solver, path, mean, variance, times):
    """`law_after` for two normal numbers a step."""
    n = len(times) - 1
    field = pf.GaussianMixture([[mean]], variance).field(path)
    x = torch.zeros(2 + 2 * n, 1).double()
    x[1] = 1
    z = torch.zeros(n, 2 + 2 * n, 2, 1).double()
    for i in range(n):
        z[i, 2 + 2 * i, 0] = z[i, 3 + 2 * i, 1] = 1
    grid = times[:, None].expand(-1, len(x))
    state = solver.init(x, grid, path)
    for i in range(n):
        x, state = solver.step(field, x, grid[i], grid[i + 1], state, TwoNormals(z, i))
    a, b = path.alpha(times[0]), path.sigma(times[0])
    slopes = (x[1:] - x[0])[:, 0]
    m = x[0, 0] + slopes[0] * a * mean
    return float(m), float(slopes[0] ** 2 * (a**2 * variance + b**2) + (slopes[1:] ** 2).sum())


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize(("solver", "law"), [
    (DPMSolver(2, "data", eta=1.0), law_after), (DPMSolver(2, "noise", eta=0.5), law_after),
    (DPMSolver(2, "data", eta=1.0, sde=True), sde_law), (DPMSolver(2, "data", 0.3, eta=0.6, sde=True), sde_law),
], ids=["data-after", "noise-after", "data-inside", "data-inside-other"])  # fmt: skip
def test_order_two_is_of_second_order_in_law_with_noise_after_or_inside_the_step(solver, law, path):
    t, grids = torch.tensor(0.9).double(), (pf.times.log_snr(n, path, 0.1, 0.9) for n in (40, 80))
    exact = float(path.alpha(t) ** 2 * 0.6 + path.sigma(t) ** 2)
    before, after = (abs(law(solver, path, 0.8, 0.6, grid)[1] - exact) for grid in grids)
    assert after < 1e-6 or before / after > 3.5, (before, after)


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_noise_inside_keeps_the_law_of_a_single_point_from_end_to_end(eta, path):
    times = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0]).double()
    solver = DPMSolver(2, "data", eta=eta, sde=True)
    for n in (2, 3, 4, 5):
        mean, variance = sde_law(solver, path, 0.8, 1e-18, times[:n])
        alpha, sigma = path.alpha(times[n - 1]), path.sigma(times[n - 1])
        assert mean == pytest.approx(float(alpha * 0.8), abs=1e-9)
        assert variance == pytest.approx(float(sigma**2), rel=1e-9, abs=1e-15)


def test_methods_that_are_none_are_errors():
    for bad in (
        {"sde": True}, {"sde": True, "form": "data", "order": 3}, {"sde": True, "form": "data", "order": 1},
        {"order": 0}, {"order": 4}, {"form": "velocity"}, {"r1": 0.0}, {"r1": 1.2}, {"order": 1, "r1": 0.5},
        {"r2": 0.5}, {"order": 3, "r2": -1.0}, {"eta": -0.1}, {"eta": 1.1}, {"order": 3, "eta": 0.5},
    ):  # fmt: skip
        with pytest.raises(pf.InputError):
            DPMSolver(**bad)
    field, times = mixture(2).field(pf.CondOT()), pf.times.uniform(3)
    with pytest.raises(pf.InputError, match="increasing"):
        pf.integrate(DPMSolver(eta=1.0), field, X, times.flip(0))
    other = mixture(2).field(pf.CondOT(gaussian_source=False))
    inner = pf.times.uniform(3, 0.0, 0.9)
    for solver in (DPMSolver(2), DPMSolver(2, "data", eta=0.5)):
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            pf.integrate(solver, other, X, inner)
    # The data need no Gaussian source.
    assert pf.integrate(DPMSolver(2, "data"), other, X, inner).isfinite().all()
    assert [DPMSolver(k).calls for k in (1, 2, 3)] == [1, 2, 3]


def test_a_sample_has_noise_of_its_own_at_every_step():
    field, times = mixture(2).field(pf.CondOT()), pf.times.uniform(4, 0.1, 0.9)
    solver, same = DPMSolver(2, "data", eta=1.0), torch.zeros(3, 2).double()
    out = pf.integrate(solver, field, same, times, seed=1)
    assert not torch.allclose(out[0], out[1])
    assert torch.equal(
        out[1:], pf.integrate(solver, field, same[1:], times, seed=1, ids=torch.tensor([1, 2]))
    )
    assert not torch.allclose(out, pf.integrate(solver, field, same, times, seed=2))
