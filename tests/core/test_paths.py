"""Each path against the paper that it names: their SDEs integrated numerically, their formulas typed here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

import pushforward as pf
from contracts.members import ARBITRARY_BETAS, UserRescaled, randn
from pushforward.core.paths import VariancePreserving

S = np.linspace(0, 1, 21)
T = torch.from_numpy(1 - S)
SDES = [(0.1, 20.0), (0.5, 8.0), (3.0, 3.0)]


def moments(drift, diffusion2):
    """(m, v)(s) of dx = drift(s) x ds + sqrt(diffusion2(s)) dW from the point 1: m' = f m, v' = 2 f v + g^2."""

    def rhs(s, y):
        return [drift(s) * y[0], 2 * drift(s) * y[1] + diffusion2(s)]

    solution = solve_ivp(rhs, (0, 1), [1.0, 0.0], t_eval=S, rtol=1e-11, atol=1e-13, method="DOP853")
    return solution.y


@pytest.mark.parametrize(("low", "high"), SDES)
def test_vp_is_the_solution_of_the_variance_preserving_sde(low, high):
    # Song et al. 2021, eq. 11: dx = -beta/2 x ds + sqrt(beta) dW, beta(s) = low + s (high - low).
    def beta(s):
        return low + s * (high - low)

    mean, variance = moments(lambda s: -beta(s) / 2, beta)
    path = pf.VP(low, high)
    assert np.allclose(path.alpha(T), mean, rtol=1e-8, atol=1e-11)
    assert np.allclose(path.sigma(T) ** 2, variance, rtol=1e-8, atol=1e-11)
    assert np.allclose(path.reverse_noise_level(T) ** 2, beta(S), rtol=1e-12)
    assert np.allclose(path.forward_sde(T)[0], beta(S) / 2, rtol=1e-12)
    assert np.allclose(pf.Path.forward_sde(path, T[1:])[1], beta(S)[1:], rtol=1e-10)


@pytest.mark.parametrize(("low", "high"), SDES)
def test_subvp_is_the_solution_of_the_sub_variance_preserving_sde(low, high):
    # Song et al. 2021, eq. 12: dx = -beta/2 x ds + sqrt(beta (1 - exp(-2 int beta))) dW.
    def beta(s):
        return low + s * (high - low)

    def diffusion2(s):
        return beta(s) * (1 - np.exp(-2 * (low * s + (high - low) * s**2 / 2)))

    mean, variance = moments(lambda s: -beta(s) / 2, diffusion2)
    path = pf.SubVP(low, high)
    assert np.allclose(path.alpha(T), mean, rtol=1e-8, atol=1e-11)
    assert np.allclose(path.sigma(T) ** 2, variance, rtol=1e-7, atol=1e-11)
    assert np.allclose(path.reverse_noise_level(T) ** 2, diffusion2(S), rtol=1e-9, atol=1e-12)


def test_ve_adds_noise_at_the_rate_at_which_its_variance_grows():
    # Song et al. 2021, eq. 9 and 31: sigma(s) = sigma_min (sigma_max/sigma_min)^s, g = sigma sqrt(2 ln(ratio)).
    path, ratio = pf.VE(0.02, 30.0), 1500.0
    assert np.allclose(path.sigma(T), 0.02 * ratio**S, rtol=1e-12)
    assert np.allclose(
        path.reverse_noise_level(T), 0.02 * ratio**S * math.sqrt(2 * math.log(ratio)), rtol=1e-12
    )
    growth = moments(lambda s: 0.0, lambda s: (0.02 * ratio**s) ** 2 * 2 * math.log(ratio))[1]
    assert np.allclose(path.sigma(T) ** 2 - 0.02**2, growth, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sigmas", [(0.002, 80.0, 7.0), (0.01, 10.0, 3.0), (0.5, 2.0, 1.0)])
def test_uniform_times_on_edm_are_the_grid_of_karras(sigmas):
    low, high, rho = sigmas
    n = 18
    i = np.arange(n)
    published = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    path = pf.EDM(low, high, rho)
    assert np.allclose(path.sigma(pf.times.uniform(n - 1)), published, rtol=1e-12)
    assert np.allclose(path.edm_sigma(pf.times.uniform(n - 1)), published, rtol=1e-12)


def test_cosine_is_a_quarter_circle_and_condot_a_straight_line():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert np.allclose(pf.Cosine().alpha(t), np.sin(np.pi / 2 * t.numpy()), rtol=1e-14)
    assert np.allclose(pf.Cosine().sigma(t), np.cos(np.pi / 2 * t.numpy()), atol=1e-15)
    assert torch.equal(pf.CondOT().alpha(t), t)
    assert torch.allclose(pf.CondOT(sigma_min=0.1).sigma(t), 1 - 0.9 * t)


DISCRETE = [
    pytest.param(np.linspace(1e-4, 0.02, 1000), id="linear"),
    pytest.param(np.array(ARBITRARY_BETAS), id="arbitrary"),
    pytest.param(np.array([0.3]), id="one"),
    pytest.param(np.array([0.1, 0.9]), id="two"),
    pytest.param(np.array([0.9, 0.1, 0.1]), id="three"),
    pytest.param(np.array([0.01, 0.9, 0.02, 0.5]), id="jagged"),
]


@pytest.mark.parametrize("betas", DISCRETE)
def test_a_discrete_schedule_is_met_at_its_steps(betas):
    path, steps = pf.DDPMPath(betas), len(betas)
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    alpha_bar = np.cumprod(1 - betas)
    t = path.time_of_step(k)
    assert np.allclose(path.alpha(t) ** 2, alpha_bar, rtol=1e-11)
    assert np.allclose(path.sigma(t) ** 2, 1 - alpha_bar, rtol=1e-9)
    assert float(path.alpha(torch.ones(1))) == 1
    assert float(path.sigma(torch.ones(1))) == 0


@pytest.mark.parametrize("betas", DISCRETE[:2] + DISCRETE[3:])
def test_a_discrete_schedule_is_interpolated_by_the_monotone_cubic_of_fritsch_and_butland(betas):
    path, steps = pf.DDPMPath(betas), len(betas)
    knots, values = np.arange(steps + 1), np.concatenate([[0], np.cumsum(np.log1p(-betas))])
    # SciPy has the same slopes but at the ends, where these are those of the first and of the last step.
    slopes = PchipInterpolator(knots, values)(knots, 1)
    slopes[[0, -1]] = np.log1p(-betas[[0, -1]])
    reference = CubicHermiteSpline(knots, values, slopes)
    k = np.linspace(0, steps, 1237)
    log, d_log = path.log_alpha_bar(path.time_of_step(torch.from_numpy(k)))
    assert np.allclose(log, reference(k), rtol=1e-9, atol=1e-13)
    assert np.allclose(d_log, -steps * reference(k, 1), rtol=1e-7, atol=1e-9)
    assert (d_log > 0).all()
    back = path.time_of_log_alpha_bar(torch.from_numpy(reference(k)))
    assert np.allclose(path.step_of_time(back), k, atol=1e-7 * steps)


@pytest.mark.parametrize("steps", [2, 10, 99, 1000])
def test_noise_enters_at_the_data_at_the_rate_of_the_first_beta(steps):
    # g^2 = beta_1 T at t = 1 to the order of beta_1, however steeply the betas rise.
    path = pf.DDPMPath.linear(steps)
    g2 = path.forward_sde(torch.ones(1, dtype=torch.float64))[1]
    assert float(g2) == pytest.approx(1e-4 * steps, rel=1e-4)
    near = path.forward_sde(torch.tensor([1 - 1e-6 / steps], dtype=torch.float64))[1]
    assert float(near) == pytest.approx(float(g2), rel=1e-3)


def test_a_single_step_is_a_straight_line_of_log_alpha_bar():
    k = torch.linspace(0, 1, 11, dtype=torch.float64)
    log, d_log = pf.DDPMPath([0.3]).log_alpha_bar(1 - k)
    assert torch.allclose(log, k * math.log(0.7))
    assert torch.allclose(d_log, torch.full_like(k, -math.log(0.7)))


def test_the_linear_schedule_has_the_constants_of_ddpm():
    path = pf.DDPMPath.linear()
    assert path.steps == 1000
    assert path.betas[0] == 1e-4
    assert path.betas[-1] == 0.02
    assert path.betas[500] == pytest.approx(1e-4 + 500 / 999 * (0.02 - 1e-4), rel=1e-12)
    assert float(path.alpha(torch.zeros(1, dtype=torch.float64)) ** 2) == pytest.approx(
        4.0358298e-5, rel=1e-7
    )
    assert pf.DDPMPath.linear(10, 0.1, 0.4).betas == pytest.approx(np.linspace(0.1, 0.4, 10))


def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal():
    # arXiv 2102.09672, eq. 17: f(k) = cos^2(((k/T + s)/(1 + s)) pi/2), alpha-bar = f(k)/f(0), beta <= 0.999.
    steps, s = 1000, 0.008
    path = pf.DDPMPath.cosine(steps)
    f = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    assert path.betas == pytest.approx(betas, rel=1e-9)
    assert path.betas[-1] == 0.999
    k = torch.arange(1, steps, dtype=torch.float64)
    assert np.allclose(path.alpha(path.time_of_step(k)) ** 2, (f / f[0])[1:-1], rtol=1e-8)
    assert pf.DDPMPath.cosine(20, offset=0.1, max_beta=0.5).betas[-1] == 0.5


def test_the_scaled_linear_schedule_is_that_of_stable_diffusion():
    # Its published configuration: 1000 steps from 0.00085 to 0.012, linear in sqrt(beta), and with it noise levels
    # sigma/alpha from 14.6146 to 0.0291672, the constants of samplers made for it.
    path = pf.DDPMPath.scaled_linear()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert path.betas == pytest.approx(betas, rel=1e-12)
    ends = path.edm_sigma(path.time_of_step(torch.tensor([1000.0, 1.0], dtype=torch.float64)))
    assert ends.tolist() == pytest.approx([14.6146, 0.0291672], rel=1e-5)
    assert pf.DDPMPath.scaled_linear(3, 0.01, 0.09).betas == pytest.approx([0.01, 0.04, 0.09])


def test_the_sigmoid_schedule_is_that_of_geodiff():
    path = pf.DDPMPath.sigmoid()
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.02 - 1e-4) + 1e-4
    assert path.betas == pytest.approx(betas, rel=1e-9)
    middle = pf.DDPMPath.sigmoid(5, 0.1, 0.3).betas
    assert middle[2] == pytest.approx(0.2)
    assert middle[0] + middle[4] == pytest.approx(0.4)


def published_rescaling(betas):
    """Lin et al. 2023, algorithm 1, as printed."""
    alphas = 1 - betas
    alphas_bar = np.cumprod(alphas)
    alphas_bar_sqrt = np.sqrt(alphas_bar)
    alphas_bar_sqrt_0, alphas_bar_sqrt_t = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    alphas_bar_sqrt = alphas_bar_sqrt - alphas_bar_sqrt_t
    alphas_bar_sqrt = alphas_bar_sqrt * alphas_bar_sqrt_0 / (alphas_bar_sqrt_0 - alphas_bar_sqrt_t)
    alphas_bar = alphas_bar_sqrt**2
    return 1 - np.concatenate([alphas_bar[0:1], alphas_bar[1:] / alphas_bar[:-1]])


RESCALED = [
    pytest.param(pf.DDPMPath.scaled_linear(), id="scaled-linear"),
    pytest.param(pf.DDPMPath.linear(20), id="linear-20"),
    pytest.param(pf.DDPMPath.cosine(), id="cosine"),
    pytest.param(pf.DDPMPath([0.1, 0.3]), id="two"),
    pytest.param(pf.DDPMPath(ARBITRARY_BETAS), id="arbitrary"),
]


@pytest.mark.parametrize("path", RESCALED)
def test_a_rescaled_schedule_is_that_of_lin_and_ends_in_pure_noise(path):
    rescaled = path.rescaled()
    assert rescaled.betas == pytest.approx(published_rescaling(np.array(path.betas)), rel=1e-7)
    assert rescaled.betas[-1] == 1
    k = torch.arange(1, path.steps + 1, dtype=torch.float64)
    alpha_bar = np.cumprod(1 - np.array(rescaled.betas))
    assert np.allclose(
        rescaled.alpha(rescaled.time_of_step(k)) ** 2, alpha_bar, rtol=1e-9, atol=1e-20
    )
    assert float(rescaled.alpha(torch.zeros(1))) == 0
    assert float(rescaled.sigma(torch.zeros(1))) == 1
    assert not pf.DDPMPath(path.betas, gaussian_source=False).rescaled().gaussian_source


@pytest.mark.parametrize("path", RESCALED)
def test_the_last_step_to_pure_noise_continues_the_path_smoothly_and_ends_with_its_own_slope(path):
    path, h = path.rescaled(), 1e-9
    join = torch.tensor([1 / path.steps - h, 1 / path.steps + h], dtype=torch.float64)
    for value in path.coefficients(join):
        assert float(value[0]) == pytest.approx(float(value[1]), rel=1e-4)
    start = torch.tensor([0.0, 1 / path.steps], dtype=torch.float64)
    chord = float(path.alpha(start).diff()) * path.steps
    assert float(path.coefficients(start).d_alpha[0]) == pytest.approx(chord, rel=1e-12)
    assert float(path.coefficients(start).d_sigma[0]) == 0
    # Within the step the SNR falls to 0 without a jump, and is inverted.
    t = torch.logspace(-12, math.log10(1 / path.steps), 200, dtype=torch.float64)
    assert (path.log_snr(t).diff() > 0).all()
    assert torch.allclose(path.time_of_log_snr(path.log_snr(t)), t, rtol=1e-2, atol=1e-14)
    clock = torch.cat((t, start)).requires_grad_()
    path.alpha(clock).sum().backward()
    assert torch.allclose(clock.grad, path.coefficients(clock.detach()).d_alpha, rtol=1e-9)


def test_a_schedule_that_is_none_names_the_betas_that_are_wrong():
    betas = list(pf.DDPMPath.linear(10).betas)
    betas[3], betas[7] = 1.0, -0.5
    with pytest.raises(pf.InputError, match=r"betas\[3\] = 1, betas\[7\] = -0.5: of 10 betas, 2"):
        pf.DDPMPath(betas)
    with pytest.raises(pf.InputError, match="one step"):
        pf.DDPMPath([0.1]).rescaled()


def test_steps_and_times_are_inverse_and_run_against_each_other():
    path = pf.DDPMPath.linear(50)
    k = torch.arange(51.0)
    assert path.step_of_time(torch.tensor(0.0)) == 50
    assert path.step_of_time(torch.tensor(1.0)) == 0
    assert torch.allclose(path.step_of_time(path.time_of_step(k)), k, atol=1e-4)
    assert path.time_of_step(torch.tensor(10.0)) == pytest.approx(0.8)


def test_a_smooth_discrete_schedule_approaches_its_diffusion():
    # beta_k = beta(k/T)/T with T large is VP: Song et al. 2021, app. B.
    steps = 4000
    s = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    path, limit = pf.DDPMPath((0.1 + 19.9 * s) / steps), pf.VP()
    t = torch.linspace(0.1, 1, 30, dtype=torch.float64)
    assert float((path.alpha(t) - limit.alpha(t)).abs().max()) < 5e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: pf.CondOT(sigma_min=1.0), lambda: pf.CondOT(sigma_min=-0.1), lambda: pf.VP(0.0, 20.0),
        lambda: pf.VP(5.0, 1.0), lambda: pf.SubVP(-1.0, 1.0), lambda: pf.VE(0.0, 1.0), lambda: pf.VE(2.0, 1.0),
        lambda: pf.EDM(0.002, 80.0, 0.0), lambda: pf.EDM(1.0, 1.0), lambda: pf.DDPMPath([]),
        lambda: pf.DDPMPath([0.0, 0.1]), lambda: pf.DDPMPath([1.0]), lambda: pf.DDPMPath([float("nan")]),
    ],
)  # fmt: skip
def test_parameters_that_give_no_path_are_errors(make):
    with pytest.raises(pf.InputError):
        make()


class Bent(pf.Path):
    """alpha = t^p, sigma^2 = (1 - t)^q (1 + t): whatever is 0/0 at an end has a limit known in closed form."""

    def __init__(self, p: float, q: float) -> None:
        super().__init__()
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "q", q)

    def alpha(self, t):
        return (t ** (2 * self.p)).sqrt()

    def sigma(self, t):
        return ((1 - t) ** self.q * (1 + t)).sqrt()


@pytest.mark.parametrize(
    ("p", "start", "q", "end", "growth"),
    [
        # alpha'(0), sigma'(1) and (sigma sigma')(1).
        (1.0, 1.0, 2.0, -math.sqrt(2), 0.0),
        (1.5, 0.0, 1.0, -math.inf, -1.0),
        (0.5, math.inf, 3.0, 0.0, 0.0),
    ],
)
def test_derivatives_at_the_ends_are_the_limits_from_inside(p, start, q, end, growth):
    path, ends = Bent(p, q), torch.tensor([0.0, 1.0], dtype=torch.float64)
    c = path.coefficients(ends)
    assert float(c.d_alpha[0]) == pytest.approx(start, abs=3e-8)
    assert float(c.d_sigma[1]) == pytest.approx(end, abs=3e-8)
    f, g2 = path.forward_sde(ends)
    assert float(f[0]) == math.inf
    assert float(g2[0]) == math.inf
    assert float(f[1]) == pytest.approx(p, abs=1e-9)
    assert float(g2[1]) == pytest.approx(-2 * growth, abs=1e-7)
    inside = torch.tensor([0.2, 0.7], dtype=torch.float64)
    mixed = path.coefficients(torch.cat((ends, inside))).d_alpha
    assert torch.allclose(mixed[2:], p * inside ** (p - 1), rtol=1e-12)


class WithoutData(VariancePreserving):
    """ln alpha-bar = 3 ln t: what a user writes who knows alpha-bar."""

    def log_alpha_bar(self, t):
        return 3 * t.log(), 3 / t

    def time_of_log_alpha_bar(self, log_alpha_bar):
        return (log_alpha_bar / 3).exp()


LAW = pf.GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], [0.1, 0.3], [0.3, 0.7])


@pytest.mark.parametrize(
    "path",
    [WithoutData(), UserRescaled(), pf.DDPMPath.linear(20).rescaled(), Bent(1.0, 1.0)],
    ids=["log-alpha-bar", "alpha-and-sigma", "betas", "bent"],
)
def test_a_path_that_starts_without_data_has_samples_and_the_exact_log_density(path):
    field, x = LAW.field(path), LAW.sample(6, seed=2)
    # alpha(0) = 0: nothing of the data is left in the source, and both laws are the same.
    error = pf.log_prob(field, x, solver=pf.solvers.DormandPrince(1e-9, 1e-10)) - LAW.log_prob(x)
    assert float(error.abs().max()) < 2e-6
    there = pf.integrate(pf.solvers.Multistep(), field, randn(6, 2), pf.times.uniform(20))
    assert there.isfinite().all()


def test_the_extreme_parameters_that_do_give_a_path_are_allowed():
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    for path in (pf.CondOT(sigma_min=0.0), pf.VP(2.0, 2.0), pf.SubVP(2.0, 2.0)):
        assert path.sigma(t).isfinite().all()


def test_a_path_is_a_value():
    assert pf.VP() == pf.VP(0.1, 20.0)
    assert hash(pf.VP()) == hash(pf.VP(0.1, 20.0))
    assert pf.VP() != pf.VP(0.1, 19.0)
    assert pf.CondOT() != pf.CondOT(gaussian_source=False)
    assert "1000 betas" in repr(pf.DDPMPath.linear())
    assert "gaussian_source=False" in repr(pf.DDPMPath([0.1], gaussian_source=False))
    assert "gaussian_source" not in repr(pf.DDPMPath([0.1]))
