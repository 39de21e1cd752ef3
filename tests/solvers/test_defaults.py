"""What the default values of solvers do: published figures, closed forms, how often a field is asked."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import pushforward as pf
from contracts.members import Counted, has_share, mixture, randn
from pushforward.core.noise import CORRECTOR, SOLVER
from pushforward.solvers import (
    DDIM,
    DDPM,
    AnnealedLangevin,
    ChurnedHeun,
    DormandPrince,
    DPMSolver,
    Euler,
    EulerMaruyama,
    FlowMapSampler,
    Heun,
    Inverse,
    Langevin,
    Multistep,
    Reversal,
    SignalToNoise,
    SolverFlowMap,
    StochasticHeun,
    langevin,
)

FIELD = mixture(2, 3).field(pf.CondOT())
X = randn(6, 2, seed=1)


def at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Given:
    """A field with the same answer, `value`, to whatever it is asked: at most a function of time."""

    def __init__(self, value, path: pf.Path | None = None) -> None:
        self.value, self.path, self.times = value, path or pf.CondOT(), []

    def __call__(self, x: Tensor, t: Tensor, want: str = "velocity") -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        self.times.append(t)
        return self.value(t)[:, None].expand_as(x)


# Solvers without noise.


@pytest.mark.parametrize("start", [0.0, 1e4])
def test_dormand_prince_holds_its_error_to_a_millionth_and_a_hundred_thousandth_of_the_state(start):
    # The error estimate of a velocity c t^4 is the same multiple of h^5 in every step. From step to step h changes by
    # 0.9 (tolerance/estimate)^(1/5), Hairer, Norsett and Wanner's rule, which tells the tolerance.
    weights = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
    nodes = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    unit = abs(sum(w * c**4 for w, c in zip(weights, nodes, strict=True)))
    scale = 1e-6 + 1e-5 * start
    size = 0.5 * scale / (0.1**5 * unit)
    field = Given(lambda t: size * t**4)
    pf.integrate(DormandPrince(), field, torch.full((1, 1), start).double(), at(0.0, 1.0))
    # The last stage of each step, at its end, is the first of the next.
    ends = torch.cat(field.times)[0::6]
    steps = ends.diff()
    checked = 0
    for end, h, after in zip(
        ends[1:-2].tolist(), steps[:-2].tolist(), steps[1:-1].tolist(), strict=True
    ):
        if 0.3 < after / h < 9:
            tolerance = 1e-6 + 1e-5 * (start + size * end**5 / 5)
            assert after / h == pytest.approx(
                0.9 * (tolerance / (size * h**5 * unit)) ** 0.2, rel=1e-3
            )
            checked += 1
    assert checked >= 2


def test_dormand_prince_gives_up_after_ten_thousand_trial_steps():
    field = Given(lambda t: torch.full_like(t, math.nan))
    start = torch.zeros(1, 1)
    with pytest.raises(pf.NonFiniteError, match="in 10000 steps"):
        pf.integrate(DormandPrince(), field, start, at(0.0, 1.0))
    assert len(field.times) == 1 + 6 * 10_000


def test_the_default_dpm_solver_is_the_second_of_its_paper():
    # Lu et al. 2022 (arXiv 2206.00927), algorithm 1, line by line, on the predicted noise.
    path, (t, s) = pf.VP(), at(0.4, 0.6)
    field = mixture(2, 3).field(path)
    lam = path.log_snr(at(0.4, 0.6)) / 2
    h = float(lam[1] - lam[0])
    middle = path.time_of_log_snr(lam.sum())
    (a_t, a_m, a_s), (_, sigma_m, sigma_s) = (
        f(torch.stack((t, middle, s))) for f in (path.alpha, path.sigma)
    )
    u = a_m / a_t * X - sigma_m * math.expm1(h / 2) * field(X, t, "noise")
    truth = a_s / a_t * X - sigma_s * math.expm1(h) * field(u, middle, "noise")
    got = pf.integrate(DPMSolver(), field, X, at(0.4, 0.6))
    assert torch.allclose(got, truth, rtol=1e-9)
    assert DPMSolver().calls == 2


@pytest.mark.parametrize("degree", [0, 1])
def test_the_default_multistep_integrates_lines_of_the_data_in_log_snr_exactly(degree):
    path, times = pf.VP(), pf.times.log_snr(4, pf.VP(), 0.2, 0.8)

    def data(t: Tensor) -> Tensor:
        return 0.7 - 0.4 * (path.log_snr(t) / 2) ** degree

    states: list[Tensor] = []
    field = Given(data, path)
    pf.integrate(Multistep(), field, X, times, callback=lambda i, t, x: states.append(x))
    assert len(field.times) == 4

    def level(t: float) -> tuple[float, float]:
        return float(path.alpha(at(t))), float(path.sigma(at(t)))

    for (x, t), (y, s) in itertools.pairwise(zip(states[-4:], times[-4:].tolist(), strict=True)):
        (a_t, s_t), (a_s, s_s) = level(t), level(s)
        low, high = math.log(a_t / s_t), math.log(a_s / s_s)
        integral = quad(lambda z: math.exp(z) * (0.7 - 0.4 * z**degree), low, high, epsabs=1e-13)[0]
        assert torch.allclose(y, s_s / s_t * x + s_s * integral, rtol=1e-9, atol=1e-10)


def test_the_default_multistep_uses_two_points():
    # A parabola is not integrated exactly, and the error of what two points miss is of third order.
    path = pf.VP()
    field = mixture(2, 3).field(path)
    fine = pf.integrate(Multistep(points=4), field, X, pf.times.log_snr(600, path, 0.2, 0.8))
    errors = [
        float(
            (pf.integrate(Multistep(), field, X, pf.times.log_snr(n, path, 0.2, 0.8)) - fine).norm()
        )
        for n in (40, 80)
    ]
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.2


def test_without_a_word_solvers_add_no_noise():
    times = pf.times.uniform(4, 0.1, 0.9)
    for solver in (DDIM(), DPMSolver(), Multistep(), ChurnedHeun()):
        a, b = (pf.integrate(solver, FIELD, X, times, seed=k) for k in (0, 1))
        assert torch.equal(a, b), solver
    flow = mixture(2, 1).flow_map(pf.CondOT())
    a, b = (pf.integrate(FlowMapSampler(), flow, X, times, seed=k) for k in (0, 1))
    assert torch.equal(a, b)
    assert torch.allclose(a, flow(X, 0.1, 0.9), rtol=1e-9)


def test_a_flow_maps_steps_are_random_where_noise_is_put_back():
    assert not FlowMapSampler().stochastic
    assert FlowMapSampler(0.3).stochastic


def test_an_error_shows_the_first_eight_times_of_a_grid():
    many = torch.tensor([1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.25, 0.125, 0.0])
    for grid, end in ((many, r", \.\.\.\]$"), (many[4:], r"0\.0\]$")):
        with pytest.raises(pf.InputError, match=r"must increase strictly.*" + end):
            pf.integrate(Euler(), FIELD, X, grid)


def test_a_field_becomes_a_flow_map_by_one_step_of_heun():
    field = Counted(FIELD)
    got = SolverFlowMap(field)(X, 0.3, 0.6)
    assert field.calls == 2
    u = FIELD(X, 0.3)
    truth = X + 0.15 * (u + FIELD(X + 0.3 * u, 0.6))
    assert torch.allclose(got, truth, rtol=1e-12)


@pytest.mark.parametrize(
    "solver", [DPMSolver(2), DPMSolver(2, "data"), DPMSolver(3), DDIM(), Heun()], ids=repr
)
def test_samples_that_stay_have_the_gradient_of_the_identity_and_the_others_their_own(solver):
    t, s = at(0.0, 0.2, 0.5, 0.7, 1.0, 0.3), at(0.0, 0.6, 0.5, 0.4, 1.0, 0.3)
    flow = SolverFlowMap(FIELD, solver)
    x = X.clone().requires_grad_()
    y = flow(x, t, s)
    weight = randn(6, 2, seed=4)
    (gradient,) = torch.autograd.grad((weight * y).sum(), x)
    still = t == s
    assert torch.equal(y[still], X[still])
    assert torch.equal(gradient[still], weight[still])
    for k in (1, 3):
        alone = X[k : k + 1].clone().requires_grad_()
        out = flow(alone, t[k], s[k])
        assert torch.allclose(out[0], y[k], rtol=1e-12)
        (own,) = torch.autograd.grad((weight[k] * out).sum(), alone)
        assert torch.allclose(own[0], gradient[k], rtol=1e-9)


class Linear:
    """The step x + A x of Euler's method from 0 to 1, A diagonal."""

    def __init__(self, rates: Tensor) -> None:
        self.rates, self.path, self.calls = rates, pf.CondOT(), 0

    def __call__(self, x: Tensor, t: Tensor, want: str = "velocity") -> Tensor:
        self.calls += 1
        return x * self.rates


@pytest.mark.parametrize(("dim", "quick"), [(3, True), (5, True), (6, False), (8, False)])
def test_the_memory_of_an_inverse_solves_five_directions_at_once(dim, quick):
    # With as many changes as there are rates Anderson's iteration is exact, which takes that many calls and two more.
    field = Linear(0.9 * torch.linspace(-1, 1, dim + 2, dtype=torch.float64)[1:-1])
    x = torch.ones(1, dim, dtype=torch.float64)
    pf.integrate(Inverse(Euler(), 1e-9), field, x, at(1.0, 0.0))
    assert (field.calls <= dim + 3) == quick, field.calls


def test_an_inverse_gives_up_after_a_hundred_calls():
    # x - 2 x has the inverse -x; x + r(x) with a jump where it is asked for has none.
    class Jumps(Linear):
        def __call__(self, x: Tensor, t: Tensor, want: str = "velocity") -> Tensor:
            self.calls += 1
            return torch.where(x < 0, 1.0, 3.0)

    field = Jumps(at(0.0))
    with pytest.raises(pf.ConvergenceError, match="in 100 calls"):
        pf.integrate(Inverse(Euler()), field, torch.full((1, 1), 2.0).double(), at(1.0, 0.0))
    assert field.calls == 1 + 100


# Solvers with noise.


@pytest.mark.parametrize("make", [EulerMaruyama, StochasticHeun])
def test_at_the_start_the_score_pulls_towards_the_origin(make):
    # Where alpha = 0 the score is -x/sigma^2, and not what the velocity says.
    law = mixture(2, 3)
    for path in (pf.CondOT(), pf.Cosine(), pf.CondOT(sigma_min=0.05)):
        field, g = law.field(path), 0.8
        truth = field(X, 0.0) - g**2 / 2 * X
        assert torch.allclose(make(g).drift(field, X, 0.0), truth, rtol=1e-9)
        noise, h = pf.Noise.batch(6, seed=3), 1e-3
        z = noise.normal((2,), SOLVER, torch.float64)
        times = at(0.0, h)[:, None].expand(-1, 6)
        got = make(g).step(field, X, times[0], times[1], None, noise)[0]
        # A step less its noise, up to what is of second order in h.
        assert torch.allclose((got - X - g * math.sqrt(h) * z) / h, truth, atol=0.2)
        away = (got - X - g * math.sqrt(h) * z) / h - field(X, 0.0)
        assert float((away * X).sum() / (X**2).sum()) == pytest.approx(-(g**2) / 2, abs=0.1)


def test_the_diffusions_noise_level_is_one_by_default_and_reversal_is_andersons():
    z = pf.Noise.batch(6).normal((2,), SOLVER, torch.float64)
    for solver in (EulerMaruyama(), StochasticHeun()):
        a, b = (
            solver.step(
                FIELD, X, at(*[0.5] * 6), at(*[0.5 + 1e-8] * 6), None, pf.Noise.batch(6, step=k)
            )[0]
            for k in (0, 1)
        )
        other = pf.Noise.batch(6, step=1).normal((2,), SOLVER, torch.float64)
        assert torch.allclose((a - b) / 1e-4, z - other, atol=1e-3)
    path = pf.VP()
    t = at(0.2, 0.7)
    assert torch.allclose(Reversal(path)(t) ** 2, path.forward_sde(t)[1], rtol=1e-12)


def test_ancestral_steps_keep_the_law_of_a_single_point_exactly():
    # DDPM with beta-tilde, and DDIM of eta = 1: x_s is of variance sigma_s^2 about alpha_s m, whatever t and s.
    path, n = pf.VP(), 20_000
    field = pf.Empirical(torch.tensor([[1.5]], dtype=torch.float64)).field(path)
    t, s = 0.3, 0.5
    x = path.sample(randn(n, 1, seed=2), torch.full((n, 1), 1.5).double(), t)
    for solver in (DDPM(), DDIM(eta=1.0)):
        y = pf.integrate(solver, field, x, at(t, s), seed=5)
        error = (y - path.alpha(at(s)) * 1.5) / path.sigma(at(s))
        assert abs(float(error.mean())) < 4.5 / math.sqrt(n)
        assert abs(float(error.var()) - 1) < 4.5 * math.sqrt(2 / n)


@pytest.mark.parametrize("level", [1e-3, 0.1, 1.0, 50.0])
def test_churn_is_at_all_levels_and_of_the_size_that_keeps_the_law(level):
    # Of a single point Heun's step in the noise level is exact: y/k stays, of variance 1 after any churn that is right.
    path, n = pf.EDM(1e-4, 200.0), 20_000
    field = pf.Empirical(torch.tensor([[0.0]], dtype=torch.float64)).field(path)
    t = path.time_of_edm_sigma(at(level))
    s = path.time_of_edm_sigma(at(level * 0.7))
    x = level * randn(n, 1, seed=2)
    y = pf.integrate(ChurnedHeun(s_churn=1.0), field, x, torch.cat((t, s)), seed=5)
    scaled = y / (0.7 * level)
    assert not torch.allclose(scaled, x / level, atol=0.1)
    assert abs(float(scaled.var()) - 1) < 4.5 * math.sqrt(2 / n)


def test_langevins_step_is_a_fifth_of_the_variance_of_the_noise():
    # eps = 2e-5 and sigma_L = 0.01 of Song & Ermon 2019, sec. 5: eps/sigma_L^2 = 0.2.
    field, t, noise = Counted(Given(torch.ones_like)), at(*[0.4] * 6), pf.Noise.batch(6)
    got = Langevin().correct(field, X, t, noise)
    assert field.calls == 1
    z = noise.normal((1, 2), CORRECTOR, torch.float64)[:, 0]
    eps = 2e-5 / 0.01**2 * 0.6**2
    assert torch.allclose(got, X + eps / 2 + math.sqrt(eps) * z, rtol=1e-12)


def test_the_signal_to_noise_ratio_is_sixteen_hundredths():
    # Song et al. 2021, app. G: r = 0.16, one step. Where |score| = sqrt(D)/sigma, eps = 4 r^2 sigma^2 = 0.1024 sigma^2.
    sigma = 0.6
    field, t, noise = (
        Counted(Given(lambda t: torch.ones_like(t) / sigma)),
        at(*[0.4] * 6),
        pf.Noise.batch(6),
    )
    got = SignalToNoise().correct(field, X, t, noise)
    assert field.calls == 1
    z = noise.normal((1, 2), CORRECTOR, torch.float64)[:, 0]
    eps = 0.1024 * sigma**2
    assert torch.allclose(got, X + eps / 2 / sigma + math.sqrt(eps) * z, rtol=1e-12)


def test_annealed_langevin_takes_five_steps_at_each_level_and_does_not_denoise_the_last():
    path, n = pf.VE(0.1, 10.0), 4000
    field = Counted(Given(torch.zeros_like, path))
    x = torch.zeros(n, 1, dtype=torch.float64)
    grid = at(0.0, 0.5, 1.0)
    y = pf.integrate(AnnealedLangevin(), field, x, grid, seed=1)
    assert field.calls == 2 * 5
    # Without a score only noise is added: 5 times 0.2 sigma^2 at the levels 1 and 0.1, in units of which
    # the variances are 1 and 0.01.
    variance = 5 * 0.2 * (path.sigma(grid[1:]) ** 2).sum()
    assert abs(float(y.var() / variance) - 1) < 4.5 * math.sqrt(2 / n)
    # Denoised, all would be at 0, what the field says of the data.
    assert has_share(y > 0, 0.5)


def test_the_default_corrector_is_langevins():
    a = langevin(FIELD, X, 0.4, 3)
    b = langevin(FIELD, X, 0.4, 3, corrector=Langevin(0.2, 1))
    assert torch.equal(a, b)
