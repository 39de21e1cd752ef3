"""Each path against the paper that it names: their SDEs integrated numerically, their formulas typed here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import PchipInterpolator

import pushforward as pf
from contracts.members import ARBITRARY_BETAS

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
    reference = PchipInterpolator(
        np.arange(steps + 1), np.concatenate([[0], np.cumsum(np.log1p(-betas))])
    )
    k = np.linspace(0, steps, 1237)
    log, d_log = path.log_alpha_bar(path.time_of_step(torch.from_numpy(k)))
    assert np.allclose(log, reference(k), rtol=1e-9, atol=1e-13)
    assert np.allclose(d_log, -steps * reference(k, 1), rtol=1e-7, atol=1e-9)
    back = path.time_of_log_alpha_bar(torch.from_numpy(reference(k)))
    assert np.allclose(path.step_of_time(back), k, atol=1e-7 * steps)


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
