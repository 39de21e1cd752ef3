"""Stochastic sampling: the marginals are kept for any noise level, and by no other drift."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import pushforward as pf
from contracts.members import PATHS, mixture, randn
from pushforward.solvers import Euler, EulerMaruyama

N, STEPS = 3000, 80
LAW = mixture(2, 3, "full", seed=4)


def same_law(a: torch.Tensor, b: torch.Tensor) -> float:
    """p-value of the least likely of 12 projections (Kolmogorov and Smirnov, corrected by Bonferroni)."""
    angles = torch.arange(12, dtype=torch.float64) * math.pi / 12
    axes = torch.stack((angles.cos(), angles.sin()))
    pvalues = [stats.ks_2samp((a @ axis).numpy(), (b @ axis).numpy()).pvalue for axis in axes.T]
    return min(1.0, 12 * min(pvalues))


class WrongDrift(EulerMaruyama):
    """The slide's: u + g/2 score."""

    def _terms(self, path, t, g):
        return tuple(c / g.clamp(min=1e-9) for c in super()._terms(path, t, g))


LEVELS = {
    "constant": lambda path: 0.5,
    "sigma": lambda path: lambda t: 2.0 * path.sigma(t),
    "reverse": lambda path: path.reverse_noise_level,
}
CASES = [
    ("constant", pf.CondOT()), ("sigma", pf.CondOT()), ("constant", pf.VP()), ("sigma", pf.VP()), ("reverse", pf.VP()),
    ("sigma", pf.Cosine()), ("reverse", pf.SubVP()), ("reverse", pf.VE(0.05, 20.0)), ("reverse", pf.EDM()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "path"), CASES, ids=lambda v: v if isinstance(v, str) else type(v).__name__
)
def test_any_noise_level_ends_in_the_law_of_the_data(level, path):
    start, end = 0.0, 0.999
    field = LAW.field(path)
    x0 = path.sample(randn(N, 2, seed=1), LAW.sample(N, seed=11), 0.0)
    times = pf.times.log_snr(STEPS, path, start, end)
    x1 = pf.integrate(EulerMaruyama(LEVELS[level](path)), field, x0, times, seed=2)
    truth = path.sample(randn(N, 2, seed=3), LAW.sample(N, seed=12), end)
    assert same_law(x1, truth) > 1e-3


@pytest.mark.parametrize("g", [2.0, lambda t: 4 * (1 - t)], ids=["constant", "sigma"])
def test_the_drift_of_the_slide_ends_in_another_law(g):
    path, field = pf.CondOT(), LAW.field(pf.CondOT())
    x0 = randn(N, 2, seed=1)
    times = pf.times.uniform(150, 0, 0.95)
    truth = path.sample(randn(N, 2, seed=3), LAW.sample(N, seed=12), 0.95)
    right = pf.integrate(EulerMaruyama(g), field, x0, times, seed=2)
    wrong = pf.integrate(WrongDrift(g), field, x0, times, seed=2)
    assert same_law(right, truth) > 1e-3
    assert same_law(wrong, truth) < 1e-6


@pytest.mark.parametrize(("level", "path"), [("constant", pf.CondOT()), ("reverse", pf.VP()), ("sigma", pf.Cosine())],
                         ids=lambda v: v if isinstance(v, str) else type(v).__name__)  # fmt: skip
def test_backwards_in_time_the_data_are_carried_to_the_law_of_the_source(level, path):
    x1 = path.sample(randn(N, 2, seed=3), LAW.sample(N, seed=12), 0.999)
    times = pf.times.log_snr(STEPS, path, 0.0, 0.999).flip(0)
    x0 = pf.integrate(EulerMaruyama(LEVELS[level](path)), LAW.field(path), x1, times, seed=2)
    truth = path.sample(randn(N, 2, seed=1), LAW.sample(N, seed=11), 0.0)
    assert same_law(x0, truth) > 1e-3


def test_backwards_with_its_own_noise_level_vp_is_its_noising_diffusion_from_the_data_on():
    # dx = -beta/2 x ds + sqrt(beta) dW needs no score: the drift is -beta/2 x, to the last digit, t = 1 included.
    path = pf.VP()
    t = torch.tensor([1.0, 0.999, 0.5, 0.0], dtype=torch.float64)
    x = randn(4, 2, seed=1)
    solver, field = EulerMaruyama(path.reverse_noise_level), LAW.field(path)
    u = field(x, t)
    backward = -(u - solver.correction(x, t, u, field))
    beta = 20.0 + (0.1 - 20.0) * t
    assert torch.allclose(backward, -beta[:, None] / 2 * x, rtol=1e-9, atol=1e-9)
    x0 = pf.integrate(solver, field, LAW.sample(50), pf.times.uniform(100).flip(0))
    assert x0.isfinite().all()


@pytest.mark.parametrize("path", PATHS)
def test_without_noise_it_is_eulers_method_bit_for_bit(path):
    x = path.source_std * randn(5, 2, seed=1)
    for times in (pf.times.uniform(9), pf.times.uniform(9).flip(0)):
        for zero in (0.0, torch.zeros_like):
            got = pf.integrate(EulerMaruyama(zero), LAW.field(path), x, times)
            assert torch.equal(got, pf.integrate(Euler(), LAW.field(path), x, times))
            assert got.isfinite().all()


@pytest.mark.parametrize("path", PATHS)
def test_one_step_is_its_formula(path):
    x, t, s = (
        randn(3, 2, seed=1),
        torch.tensor([0.2, 0.5, 0.8]).double(),
        torch.tensor([0.3, 0.55, 0.9]).double(),
    )
    noise, field = pf.Noise.batch(3, 7), LAW.field(path)
    for g in (0.6, lambda t: 0.5 + t):
        level = torch.full_like(t, 0.6) if isinstance(g, float) else g(t)
        solver = EulerMaruyama(g)
        z = []
        for a, b in ((t, s), (s, t)):
            got, state = solver.step(field, x, a, b, None, noise)
            level = torch.full_like(a, 0.6) if isinstance(g, float) else g(a)
            h, rate = (b - a)[:, None], (level**2 / 2)[:, None]
            drifted = x + h * field(x, a) + h.abs() * rate * field(x, a, "score")
            z.append((got - drifted) / (level * (b - a).abs().sqrt())[:, None])
            assert state is None
        assert torch.allclose(z[0], z[1], atol=1e-7)
        assert torch.allclose(z[0], noise.normal((2,), pf.noise.SOLVER, torch.float64), atol=1e-7)


def test_every_step_draws_noise_of_its_own():
    class Still:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            # A velocity whose noise prediction is 0: only the noise moves the state.
            return x / t.clamp(min=1e-9)[:, None]

    states = []
    pf.integrate(EulerMaruyama(1.0), Still(), torch.zeros(4000, 1).double(), pf.times.uniform(6, 0.3, 0.9),
                 callback=lambda i, t, x: states.append((t, x)))  # fmt: skip
    z = torch.cat(
        [b - (b_t / a_t)[:, None] * a for (a_t, a), (b_t, b) in itertools.pairwise(states)],
        dim=1,
    ) / math.sqrt(0.1)
    off = np.corrcoef(z.T.numpy()) - np.eye(6)
    assert abs(off).max() < 4.5 / math.sqrt(4000)
    assert torch.allclose(z.std(0), torch.ones(6).double(), atol=0.06)


class Fixed:
    """Noise whose normals are given, to read off the affine map of one step."""

    def __init__(self, z: float) -> None:
        self.z = z

    def normal(self, shape, stream, dtype):
        return torch.full((2, *shape), self.z, dtype=dtype)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP()], ids=repr)
@pytest.mark.parametrize("level", ["constant", "sigma"])
def test_the_error_in_law_is_of_first_order_on_a_gaussian(level, path):
    # The steps are affine, x -> A x + b + c z, so mean and variance after n of them follow without sampling.
    mean, variance, start, end = 0.8, 0.6, 0.1, 0.9
    field = pf.GaussianMixture([[mean]], variance).field(path)
    g = LEVELS[level](path)

    def marginal(t):
        t = torch.tensor(t, dtype=torch.float64)
        return float(path.alpha(t) * mean), float(
            path.alpha(t) ** 2 * variance + path.sigma(t) ** 2
        )

    def after(n):
        solver, (m, v) = EulerMaruyama(g), marginal(start)
        grid = pf.times.uniform(n, start, end)
        probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
            ends = [torch.full((2,), value, dtype=torch.float64) for value in (t, s)]
            still = solver.step(field, probe, *ends, None, Fixed(0.0))[0]
            moved = solver.step(field, probe, *ends, None, Fixed(1.0))[0]
            slope, offset, spread = (
                float(still[1] - still[0]),
                float(still[0]),
                float(moved[0] - still[0]),
            )
            m, v = slope * m + offset, slope**2 * v + spread**2
        return m, v

    steps = [40, 80, 160]
    errors = np.abs(np.array([after(n) for n in steps]) - np.array(marginal(end)))
    for column in errors.T:
        if column.max() < 1e-12:  # the mean on a straight path
            continue
        assert abs(-np.polyfit(np.log(steps), np.log(column), 1)[0] - 1) < 0.2, column


def test_the_same_seed_gives_the_same_paths_and_another_seed_others():
    x, times = randn(6, 2, seed=1), pf.times.uniform(5, 0, 0.9)

    def run(**extra):
        return pf.integrate(EulerMaruyama(0.5), LAW.field(pf.CondOT()), x, times, **extra)

    assert torch.equal(run(seed=1), run(seed=1, ids=torch.arange(6)))
    assert not torch.equal(run(seed=1), run(seed=2))
    assert not torch.equal(run(seed=1), run(seed=1, ids=torch.arange(6) + 6))
    # Two samples that start in one place part: each has noise of its own.
    same = pf.integrate(
        EulerMaruyama(0.5), LAW.field(pf.CondOT()), torch.zeros(2, 2).double(), times
    )
    assert not torch.allclose(same[0], same[1])


def test_noise_levels_that_are_none_are_errors():
    for g in (-0.1, float("nan")):
        with pytest.raises(pf.InputError, match="noise level"):
            EulerMaruyama(g)
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        pf.integrate(
            EulerMaruyama(1.0),
            LAW.field(pf.CondOT(gaussian_source=False)),
            randn(2, 2),
            pf.times.uniform(2),
        )


def test_it_states_the_order_of_its_error_in_law_and_its_calls():
    assert EulerMaruyama.order == 1
    assert EulerMaruyama.calls == 1
    assert EulerMaruyama().g == 1.0
    assert EulerMaruyama(0.0).noise_level(torch.zeros(2)).tolist() == [0, 0]
