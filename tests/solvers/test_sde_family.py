"""Stochastic Heun, the family between ODE and SDE, churned Heun, ancestral Euler: against closed forms and papers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

import pushforward as pf
from contracts.members import PATHS, THREE_PATHS, Counted, mixture, randn
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.solvers import (
    DDIM,
    DDPM,
    ChurnedHeun,
    EulerMaruyama,
    Heun,
    Reversal,
    StochasticHeun,
)

LAW = mixture(2, 3, "full", seed=4)
LEVELS = {
    "constant": lambda path: 0.8,
    "sigma": lambda path: lambda t: 2.0 * path.sigma(t),
    "reverse": lambda path: Reversal(path),
    "half": lambda path: Reversal(path, 0.5),
}


class Fixed:
    """Noise whose normals are given, to read off the affine map of one step."""

    def __init__(self, z) -> None:
        self.z = torch.as_tensor(z, dtype=torch.float64)

    def normal(self, shape, stream, dtype):
        return self.z.to(dtype)


def step(solver, field, x, t, s, z, state=None):
    ends = [torch.full((len(x),), float(v), dtype=torch.float64) for v in (t, s)]
    return solver.step(field, x, *ends, state, Fixed(z))[0]


def after(solver, field, grid, mean, variance):
    """Mean and variance that the affine steps x -> A x + b + c z on a one-dimensional Gaussian law lead to."""
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    state = solver.init(probe, grid[:, None].expand(-1, 2), field.path)
    for t, s in itertools.pairwise(grid):
        still, moved = (
            step(solver, field, probe, t, s, torch.full((2, 1), z), state) for z in (0.0, 1.0)
        )
        slope, offset = float(still[1] - still[0]), float(still[0])
        mean = slope * mean + offset
        variance = slope**2 * variance + float(moved[0] - still[0]) ** 2
    return mean, variance


def order(errors, steps):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("path", PATHS)
def test_stochastic_heun_without_noise_is_heun_bit_for_bit(path):
    x = path.source_std * randn(5, 2, seed=1)
    for times in (pf.times.uniform(5), pf.times.uniform(5).flip(0)):
        for zero in (0.0, Reversal(path, 1.0)):
            got = pf.integrate(StochasticHeun(zero), LAW.field(path), x, times)
            assert torch.equal(got, pf.integrate(Heun(), LAW.field(path), x, times))


@pytest.mark.parametrize(("level", "path"), [
    ("constant", pf.CondOT()), ("sigma", pf.Cosine()), ("reverse", pf.VP()), ("half", pf.CondOT()),
], ids=lambda v: v if isinstance(v, str) else type(v).__name__)  # fmt: skip
@pytest.mark.parametrize("backwards", [False, True])
def test_stochastic_heun_has_order_two_in_mean_and_variance(level, path, backwards):
    field, g = pf.GaussianMixture([[0.8]], 0.6).field(path), LEVELS[level](path)
    ends = torch.tensor([0.1, 0.9], dtype=torch.float64)
    ends = ends.flip(0) if backwards else ends
    means, variances = 0.8 * path.alpha(ends), 0.6 * path.alpha(ends) ** 2 + path.sigma(ends) ** 2
    steps = [16, 32, 64]
    errors = []
    for n in steps:
        grid = torch.linspace(*ends.tolist(), n + 1, dtype=torch.float64)
        m, v = after(StochasticHeun(g), field, grid, float(means[0]), float(variances[0]))
        errors.append((abs(m - float(means[1])), abs(v - float(variances[1]))))
    for column in np.array(errors).T:
        assert column.max() < 1e-12 or order(column, steps) > 1.75, column
    assert errors[-1][1] < 4e-3


def test_stochastic_heun_has_order_two_in_law_on_a_mixture_and_euler_maruyama_order_one():
    # E[f(X_n)] without sampling: v_i(x) = E_z v_{i+1}(step(x, z)), by Gauss and Hermite in z and splines in x.
    path = pf.Cosine()
    field = pf.GaussianMixture([[-1.0], [1.2]], [0.15, 0.3], [0.4, 0.6]).field(path)
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    weights = weights / weights.sum()
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    fine = torch.linspace(-7, 7, 2001, dtype=torch.float64)
    points = x.repeat_interleave(16)[:, None]
    z = torch.from_numpy(np.tile(nodes, 241))[:, None]

    def mean_of(f, t):
        p = field.log_prob(fine[:, None], t).exp().numpy()
        return np.trapezoid(p * f(fine.numpy()), fine.numpy())

    def target(x):
        return np.cos(1.3 * x) + np.tanh(2 * x)

    truth = mean_of(target, 0.9)

    def error(solver, n):
        grid, value = pf.times.uniform(n, 0.2, 0.9), target
        for t, s in reversed(list(itertools.pairwise(grid))):
            y = step(solver, field, points, t, s, z).numpy().reshape(241, 16)
            spline = CubicSpline(x.numpy(), (value(y.clip(-6, 6)) * weights).sum(1))
            value = spline
        return abs(mean_of(lambda x: value(x.clip(-6, 6)), 0.2) - truth)

    steps = [8, 16, 32]
    for g in (0.9, lambda t: 1.5 * path.sigma(t)):
        heun = [error(StochasticHeun(g), n) for n in steps]
        euler = [error(EulerMaruyama(g), n) for n in steps]
        assert 1.7 < order(heun, steps) < 2.6, heun
        assert 0.7 < order(euler, steps) < 1.4, euler
        assert heun[-1] < euler[-1] / 5


def test_the_step_of_stochastic_heun_to_the_data_takes_the_score_at_its_start():
    for path in (pf.CondOT(), pf.Cosine(), pf.CondOT(sigma_min=0.05)):
        field, x, z = LAW.field(path), randn(5, 2, seed=1), randn(5, 2, seed=2)
        u, score = (field(x, 0.7, want) for want in ("velocity", "score"))
        there = x + 0.3 * (u + 0.5 * score) + math.sqrt(0.3) * z
        last = field(there, 1.0, "score") if float(path.sigma(torch.ones(1))) > 0 else score
        want = x + 0.15 * (u + field(there, 1.0) + 0.5 * (score + last)) + math.sqrt(0.3) * z
        got = step(StochasticHeun(1.0), field, x, 0.7, 1.0, z)
        assert torch.allclose(got, want, atol=1e-9)


SAMPLERS = [
    (lambda path: StochasticHeun(path.sigma), 40), (lambda path: StochasticHeun(Reversal(path, 0.3)), 60),
    (lambda path: EulerMaruyama(Reversal(path, 0.6)), 120),
    (lambda path: ChurnedHeun(20, 0.05, 20), 60), (lambda path: DDIM(1.0), 120),
]  # fmt: skip


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM(0.01, 20.0)], ids=repr)
@pytest.mark.parametrize(("sampler", "steps"), SAMPLERS, ids=range(len(SAMPLERS)))
def test_sampling_ends_in_the_law_of_the_data(sampler, steps, path):
    n = 1000
    times = pf.times.straight(steps, path, 0.0 if path.alpha(torch.zeros(1)) > 0 else 0.01, 1.0)
    x0 = path.sample(randn(n, 2, seed=1), LAW.sample(n, seed=11), times[0])
    x1 = pf.integrate(sampler(path), LAW.field(path), x0, times, seed=2)
    # Three sets of the law itself show what distance chance makes.
    sets = [LAW.sample(n, seed=20 + i) for i in range(4)]
    chance = max(abs(energy_distance(a, b)) for a, b in itertools.combinations(sets, 2))
    assert energy_distance(x1, sets[0]) < 2 * chance + 2e-3
    wrong = pf.integrate(sampler(path), LAW.field(path), x0, times[:: len(times) - 1], seed=2)
    assert energy_distance(wrong, sets[0]) > 2 * chance + 2e-3


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_family_of_the_lecture_term_by_term(lam):
    # dx = [f - (1 - lam/2) g^2 score] ds + sqrt(1 - lam) g dw in noise time s, f and g as published for each SDE.
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    s, x = 1 - t, randn(3, 2, seed=1)
    beta, integral = 0.1 + 19.9 * s, 0.1 * s + 9.95 * s**2
    ratio = 50 / 0.01
    published = {
        pf.VP(): (-beta / 2, beta),
        pf.SubVP(): (-beta / 2, beta * (1 - (-2 * integral).exp())),
        pf.VE(): (0 * s, (0.01 * ratio**s) ** 2 * 2 * math.log(ratio)),
    }
    for path, (f, g2) in published.items():
        field = LAW.field(path)
        score = field(x, t, "score")
        forward = f[:, None] * x - (1 - lam / 2) * g2[:, None] * score
        for solver in (EulerMaruyama(Reversal(path, lam)), StochasticHeun(Reversal(path, lam))):
            got = -solver.drift(field, x, t)
            assert torch.allclose(got, forward, rtol=1e-7, atol=1e-7), (path, solver)
            assert torch.allclose(solver.noise_level(t), ((1 - lam) * g2).sqrt(), rtol=1e-7)


def two_points(y, level):
    """E[x1 | y] for x1 = +-1 and y = x1 + level noise."""
    return torch.tanh(y / level**2)


def edm(y, levels, z, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Algorithm 2 of Karras et al. 2022, line by line; z holds the noise of each step."""
    n = len(levels) - 1
    for i in range(n):
        t = levels[i]
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_tmin <= t <= s_tmax else 0.0
        t_hat = t + gamma * t
        y = y + math.sqrt(t_hat**2 - t**2) * s_noise * z[i]
        d = (y - two_points(y, t_hat)) / t_hat
        there = y + (levels[i + 1] - t_hat) * d
        if levels[i + 1] != 0:
            after = (there - two_points(there, levels[i + 1])) / levels[i + 1]
            there = y + (levels[i + 1] - t_hat) * (d / 2 + after / 2)
        y = there
    return y


INF = math.inf
CHURN = [(0.0, 0.0, INF, 1.0), (3.0, 0.0, INF, 1.0), (3.0, 0.1, 1.0, 1.007), (40.0, 0.05, 2.0, 1.2)]  # fmt: skip


@pytest.mark.parametrize("path", [pf.EDM(), pf.CondOT(), pf.VP(), pf.Cosine(), pf.SubVP()], ids=repr)  # fmt: skip
@pytest.mark.parametrize("settings", CHURN)
def test_churned_heun_is_algorithm_2_of_karras_et_al(settings, path):
    law = pf.Empirical(torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    grid = pf.times.straight(9, path, 0.1, 1.0)
    if float(path.sigma(grid[-1])) > 0:
        grid = torch.linspace(0.15, 1.0, 10, dtype=torch.float64)
    levels = (path.sigma(grid) / path.alpha(grid)).tolist()
    y, noise = levels[0] * randn(40, 1, seed=3), pf.Noise.batch(40, seed=6)
    z = [noise.at(i).normal((1,), pf.noise.SOLVER, torch.float64) for i in range(9)]
    want = edm(y, levels, z, *settings)
    alpha = path.alpha(grid)
    field = Counted(law.field(path))
    got = pf.integrate(ChurnedHeun(*settings), field, alpha[0] * y, grid, seed=6)
    assert torch.allclose(got / alpha[-1], want, rtol=1e-6, atol=1e-6)
    assert field.calls == (17 if levels[-1] == 0 else 18)
    if settings[0] > 0:
        plain = pf.integrate(ChurnedHeun(), field, alpha[0] * y, grid, seed=6)
        assert not torch.allclose(got, plain, rtol=0, atol=1e-4)


def test_the_step_of_churned_heun_from_infinite_noise_is_ddim():
    field, x, z = LAW.field(pf.CondOT()), randn(5, 2, seed=1), torch.zeros(5, 2)
    for solver in (ChurnedHeun(), ChurnedHeun(2.0)):
        got = step(solver, field, x, 0.0, 0.3, z, 7)
        assert torch.allclose(got, step(DDIM(), field, x, 0.0, 0.3, z), atol=1e-14)
    # Otherwise it is not: it is of second order.
    got = step(ChurnedHeun(), field, x, 0.2, 0.3, z, 7)
    assert not torch.allclose(got, step(DDIM(), field, x, 0.2, 0.3, z), atol=1e-4)


def test_noise_is_raised_to_the_first_level_of_the_path_at_most():
    path, x = pf.EDM(), 80 * randn(4000, 1, seed=1)
    seen = Counted(LAW.field(path))
    pf.integrate(ChurnedHeun(1000.0), seen, x.view(-1, 2), pf.times.uniform(3), seed=2)
    assert seen.times[0].max() == 0
    y, t = ChurnedHeun(1000.0)._churn(
        x, torch.full((4000,), 0.02, dtype=torch.float64), path, 0.4, pf.Noise.batch(4000)
    )
    assert float(t.max()) == 0
    level = float(path.sigma(torch.tensor(0.02, dtype=torch.float64)))
    assert float((y - x).std()) == pytest.approx(math.sqrt(80**2 - level**2), rel=0.05)


def test_times_with_and_without_an_end_in_the_data_do_not_depend_on_each_other():
    # Two atoms: asking for anything but the data at sigma = 0 would raise.
    field = pf.Empirical(torch.tensor([[1.0, 0.0], [-1.0, 2.0]])).field(pf.CondOT())
    x = randn(3, 2, seed=1)
    times = torch.stack(
        (pf.times.uniform(5), pf.times.uniform(5, 0.1, 0.7), pf.times.uniform(5, 0.2, 1.0))
    )
    for solver in (ChurnedHeun(), ChurnedHeun(3.0), DDIM(0.7)):
        together = pf.integrate(solver, field, x, times, seed=3)
        assert together.isfinite().all()
        for i in range(3):
            alone = pf.integrate(solver, field, x[i : i + 1], times[i], seed=3, ids=torch.tensor([i]))  # fmt: skip
            assert torch.allclose(together[i : i + 1], alone, atol=1e-12)


@pytest.mark.parametrize("path", [pf.EDM(), pf.VP(), pf.CondOT()], ids=repr)
@pytest.mark.parametrize(("eta", "s_noise"), [(0.0, 1.0), (0.6, 1.0), (1.0, 1.0), (1.0, 1.1)])
def test_ddim_is_the_ancestral_euler_method_of_k_diffusion(eta, s_noise, path):
    grid = pf.times.straight(8, path, 0.1, 1.0)
    levels, alpha = (path.sigma(grid) / path.alpha(grid)).tolist(), path.alpha(grid)
    law = pf.GaussianMixture([[1.0], [-1.0]], 1e-12)
    noise = pf.Noise.batch(30, seed=6)
    y = start = levels[0] * randn(30, 1, seed=3)
    for i, (old, new) in enumerate(itertools.pairwise(levels)):
        up = min(new, eta * (new**2 * (old**2 - new**2) / old**2) ** 0.5)
        down = (new**2 - up**2) ** 0.5
        y = y + (y - two_points(y, old)) / old * (down - old)
        if new > 0:
            y = y + noise.at(i).normal((1,), pf.noise.SOLVER, torch.float64) * s_noise * up
    got = pf.integrate(DDIM(eta, s_noise), law.field(path), alpha[0] * start, grid, seed=6)
    assert torch.allclose(got / alpha[-1], y, rtol=1e-6, atol=1e-6)
    if (eta, s_noise) == (1.0, 1.0):
        twin = pf.integrate(DDPM(), law.field(path), alpha[0] * start, grid, seed=6)
        assert torch.allclose(got, twin, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_every_sampler_is_finite_from_the_first_time_to_the_last(path):
    x = path.source_std * randn(4, 2, seed=1)
    for solver in (
        StochasticHeun(path.sigma),
        StochasticHeun(0.5),
        EulerMaruyama(0.5),
        ChurnedHeun(),
        ChurnedHeun(5),
    ):
        for n in (1, 5):
            out = pf.integrate(solver, LAW.field(path), x, pf.times.straight(n, path))
            assert out.isfinite().all(), solver
    back = pf.integrate(ChurnedHeun(), LAW.field(path), LAW.sample(4), pf.times.straight(5, path).flip(0))  # fmt: skip
    assert back.isfinite().all()


def test_what_is_not_defined_is_an_error():
    x, times = randn(3, 2), pf.times.uniform(3)
    other = LAW.field(pf.CondOT(gaussian_source=False))
    for solver in (StochasticHeun(), EulerMaruyama(), ChurnedHeun(), ChurnedHeun(1.0)):
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            pf.integrate(solver, other, x, times)
    field = LAW.field(pf.CondOT())
    for cls in (EulerMaruyama, StochasticHeun):
        with pytest.raises(pf.UndefinedError, match="not finite at t = 0"):
            pf.integrate(cls(Reversal(pf.CondOT())), field, x, times)
        with pytest.raises(pf.UndefinedError, match="not finite at t = 1"):
            pf.integrate(cls(0.5), field, x, times.flip(0))
        later = pf.integrate(cls(Reversal(pf.CondOT())), field, x, pf.times.uniform(3, 0.1))
        assert later.isfinite().all()
    with pytest.raises(pf.InputError, match="increasing times"):
        pf.integrate(ChurnedHeun(1.0), field, x, times.flip(0))
    for bad in ((-1.0,), (float("nan"),), (1.0, 2.0, 1.0), (1.0, 0.0, 1.0, -1.0), (1.0, -1.0)):
        with pytest.raises(pf.InputError, match="s_churn"):
            ChurnedHeun(*bad)
    for lam in (-0.1, 1.1, float("nan")):
        with pytest.raises(pf.InputError, match="lam"):
            Reversal(pf.VP(), lam)
    with pytest.raises(pf.InputError, match="s_noise"):
        DDIM(1.0, -0.1)


@pytest.mark.parametrize("path", THREE_PATHS)
def test_one_step_of_the_reversal_of_a_diffusion_is_that_of_the_ddpm_as_steps_shrink(path):
    # Between neighbouring times both are draws from the same kernel: mean and spread agree to second order.
    field, x = LAW.field(path), randn(4, 2, seed=1)
    gaps = []
    for h in (0.02, 0.01):
        pairs = [
            [step(v, field, x, 0.5, 0.5 + h, torch.full((4, 2), z)) for z in (0.0, 1.0)]
            for v in (EulerMaruyama(Reversal(path)), DDPM())
        ]
        mean = (pairs[0][0] - pairs[1][0]).norm() / h
        spread = (pairs[0][1] - pairs[0][0] - pairs[1][1] + pairs[1][0]).norm() / h**0.5
        gaps.append((float(mean), float(spread)))
    for coarse, fine in zip(*gaps, strict=True):
        assert 1.6 < coarse / fine < 2.6
