"""What every probability path keeps to: its derivatives, its ends, its log-SNR, and one prediction under five names."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pushforward as pf
from contracts.members import PATHS, PATHS_WITH_ENDS, mixture, rand, randn, relative
from pushforward.core.predictions import target

INSIDE = torch.linspace(0.03, 0.97, 48, dtype=torch.float64)
PAIRS = list(itertools.product(pf.PREDICTIONS, repeat=2))
# Samples of several shapes; the batch is as large as the width, the channels, or the height.
SHAPES = [(5, 3), (3, 3), (4, 4, 2, 4), (2, 1, 3), (6,)]


def lift(c: Tensor, x: Tensor) -> Tensor:
    return c.view(-1, *[1] * (x.ndim - 1))


def truth(path: pf.Path, x0: Tensor, x1: Tensor, t: Tensor) -> dict[str, Tensor]:
    """All five predictions of the pair (x0, x1), from alpha and sigma alone.

    The velocity is d x_t / dt by automatic differentiation, the score is grad_x ln N(x; alpha x1, sigma^2) by the same.
    """

    def position(t: Tensor) -> Tensor:
        return lift(path.alpha(t), x1) * x1 + lift(path.sigma(t), x0) * x0

    x_t, velocity = torch.func.jvp(position, (t,), (torch.ones_like(t),))
    alpha, sigma = lift(path.alpha(t), x1), lift(path.sigma(t), x0)
    x = x_t.detach().requires_grad_()
    log_density = -((x - alpha * x1) ** 2 / (2 * sigma**2)).sum()
    return {
        "x": x_t,
        "velocity": velocity,
        "data": x1,
        "noise": x0,
        "score": torch.autograd.grad(log_density, x)[0],
        "v": alpha * x0 - sigma * x1,
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_prediction_gives_every_other_for_any_pair_of_noise_and_data(path, shape):
    x0, x1, t = randn(*shape, seed=1), randn(*shape, seed=2), 0.1 + 0.8 * rand(shape[0], seed=3)
    known = truth(path, x0, x1, t)
    for have, want in PAIRS:
        got = pf.convert(known[have], known["x"], t, path, have, want)
        assert relative(got, known[want]) < 1e-10, (have, want)


@given(st.floats(0.05, 0.95), st.integers(0, 2**31), st.sampled_from(PATHS))
def test_conversions_are_inverse_to_each_other_at_any_time(time, seed, path):
    path = path.values[0]
    x0, x1 = randn(3, 2, seed=seed), randn(3, 2, seed=seed + 1)
    known = truth(path, x0, x1, torch.full((3,), time, dtype=torch.float64))
    for have, want in PAIRS:
        there = pf.convert(known[have], known["x"], time, path, have, want)
        back = pf.convert(there, known["x"], time, path, want, have)
        assert relative(back, known[have]) < 1e-10, (have, want)


@pytest.mark.parametrize("path", PATHS)
def test_the_target_of_a_pair_is_its_prediction(path):
    x0, x1, t = randn(4, 4, seed=1), randn(4, 4, seed=2), 0.1 + 0.8 * rand(4, seed=3)
    known = truth(path, x0, x1, t)
    assert relative(path.sample(x0, x1, t), known["x"]) < 1e-14
    assert relative(path.velocity(x0, x1, t), known["velocity"]) < 1e-12
    for name in pf.PREDICTIONS:
        assert relative(target(name, x0, x1, t, path), known[name]) < 1e-12, name


@pytest.mark.parametrize("path", PATHS)
def test_one_time_for_all_is_the_same_as_one_time_for_each(path):
    x0, x1 = randn(4, 4, seed=1), randn(4, 4, seed=2)
    each = torch.full((4,), 0.37, dtype=torch.float64)
    for time in (0.37, torch.tensor(0.37, dtype=torch.float64)):
        assert torch.equal(path.sample(x0, x1, time), path.sample(x0, x1, each))
        assert torch.equal(path.velocity(x0, x1, time), path.velocity(x0, x1, each))
        for have, want in PAIRS:
            assert torch.equal(
                pf.convert(x0, x1, time, path, have, want),
                pf.convert(x0, x1, each, path, have, want),
            )


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_law_converts_like_a_pair(path):
    field = mixture().field(path)
    x, t = path.sample(randn(6, 2, seed=4), randn(6, 2, seed=5), INSIDE[::8]), INSIDE[::8]
    known = {name: field(x, t, name) for name in pf.PREDICTIONS}
    for have, want in PAIRS:
        got = pf.convert(known[have], x, t, path, have, want)
        scale = known[want].norm(dim=1).max() + x.norm(dim=1).max() * 1e-3
        assert float((got - known[want]).norm(dim=1).max() / scale) < 1e-10, (have, want)


@pytest.mark.parametrize("path", PATHS)
def test_the_velocity_is_the_drift_of_the_lecture_plus_its_multiple_of_the_score(path):
    # velocity = (alpha'/alpha) x + (sigma^2 alpha'/alpha - sigma sigma') score, Holderrieth & Erives 2025, prop. 1.
    t = INSIDE
    alpha, d_alpha = torch.func.jvp(path.alpha, (t,), (torch.ones_like(t),))
    sigma, d_sigma = torch.func.jvp(path.sigma, (t,), (torch.ones_like(t),))
    x, score = randn(len(t), 2, seed=1), randn(len(t), 2, seed=2)
    f = d_alpha / alpha
    velocity = lift(f, x) * x + lift(sigma**2 * f - sigma * d_sigma, x) * score
    assert relative(pf.convert(score, x, t, path, "score", "velocity"), velocity) < 1e-10
    got_f, got_g2 = path.forward_sde(t)
    assert relative(got_f + 1, f + 1) < 1e-10
    assert torch.allclose(got_g2, 2 * (sigma**2 * f - sigma * d_sigma), rtol=1e-9, atol=1e-12)
    assert torch.allclose(path.reverse_noise_level(t) ** 2, got_g2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_coefficients_are_alpha_and_sigma_and_their_derivatives(path):
    t, h = INSIDE, 1e-6
    one = torch.ones_like(t)
    alpha, d_alpha = torch.func.jvp(path.alpha, (t,), (one,))
    sigma, d_sigma = torch.func.jvp(path.sigma, (t,), (one,))
    c = path.coefficients(t)
    for got, want in zip(c, (alpha, sigma, d_alpha, d_sigma), strict=True):
        assert got.shape == t.shape
        assert torch.allclose(got, want, rtol=1e-11, atol=1e-13)
    # Where the second derivative of an interpolated schedule jumps, a difference across the jump has order one.
    loose = 1e-3 if isinstance(path, pf.DDPMPath) else 1e-6
    for f, got in ((path.alpha, c.d_alpha), (path.sigma, c.d_sigma)):
        central = (f(t + h) - f(t - h)) / (2 * h)
        assert torch.allclose(got, central, rtol=loose, atol=1e-7)


@pytest.mark.parametrize("path", PATHS)
def test_the_general_derivatives_agree_with_the_closed_ones(path):
    general, closed = pf.Path.coefficients(path, INSIDE), path.coefficients(INSIDE)
    for a, b in zip(general, closed, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)
    for a, b in zip(pf.Path.forward_sde(path, INSIDE), path.forward_sde(INSIDE), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_alpha_never_falls_and_sigma_never_rises(path):
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    assert (alpha.diff() >= 0).all()
    assert (sigma.diff() <= 0).all()
    assert (alpha >= 0).all()
    assert (sigma >= 0).all()


@pytest.mark.parametrize(("path", "first", "last"), PATHS_WITH_ENDS)
def test_the_ends_of_the_path_are_those_of_its_docstring(path, first, last):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = path.alpha(ends).tolist(), path.sigma(ends).tolist()
    for got, want in zip((alpha[0], sigma[0], alpha[1], sigma[1]), first + last, strict=True):
        assert got == pytest.approx(want, rel=1e-4 if want < 1e-4 else 1e-9, abs=0)
    assert path.source_std == sigma[0]


@pytest.mark.parametrize("path", PATHS)
def test_the_log_snr_is_strictly_increasing_and_inverted(path):
    t = torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=torch.float64)
    level = path.log_snr(t)
    assert (level.diff() > 0).all()
    assert torch.allclose(
        level, (path.alpha(t) ** 2 / path.sigma(t) ** 2).log(), rtol=1e-9, atol=1e-9
    )
    assert float((path.time_of_log_snr(level) - t).abs().max()) < 1e-9
    assert float((pf.Path._time_of_log_snr(path, level[::40]) - t[::40]).abs().max()) < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_beyond_its_range_of_log_snr_a_path_gives_its_nearer_end(path):
    ends = path.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    for beyond in (1.0, 1e3, math.inf):
        low, high = path.time_of_log_snr(ends + torch.tensor([-beyond, beyond])).tolist()
        assert abs(low) < 1e-12
        assert abs(high - 1) < 1e-12
    far = torch.tensor([-math.inf, -200.0, 200.0, math.inf])
    assert ((path.time_of_log_snr(far) - torch.tensor([0.0, 0.0, 1.0, 1.0])).abs() < 1e-6).all()


@pytest.mark.parametrize("path", PATHS)
def test_the_noise_level_of_edm_is_sigma_over_alpha_and_is_inverted(path):
    level = path.edm_sigma(INSIDE)
    assert torch.allclose(level, path.sigma(INSIDE) / path.alpha(INSIDE), rtol=1e-14)
    assert float((path.time_of_edm_sigma(level) - INSIDE).abs().max()) < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_diffusion_time_runs_from_the_data_and_is_its_own_inverse(path):
    assert path.diffusion_time(torch.tensor(1.0)) == 0
    assert path.diffusion_time(torch.tensor(0.25)) == 0.75
    assert torch.equal(
        path.diffusion_time(path.diffusion_time(torch.tensor(0.25))), torch.tensor(0.25)
    )


@pytest.mark.parametrize("path", PATHS)
def test_single_precision_follows_double(path):
    t = torch.linspace(0.05, 0.95, 31, dtype=torch.float64)
    for single, double in zip(path.coefficients(t.float()), path.coefficients(t), strict=True):
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_a_scalar_time_has_scalar_coefficients(path):
    for value in path.coefficients(torch.tensor(0.3, dtype=torch.float64)):
        assert value.shape == ()


@pytest.mark.parametrize("path", PATHS)
def test_score_and_noise_do_not_exist_without_an_independent_gaussian_source(path):
    if isinstance(path, pf.DDPMPath):
        path = pf.DDPMPath(path.betas, gaussian_source=False)
    else:
        path = dataclasses.replace(path, gaussian_source=False)
    x0, x1, t = randn(3, 3, seed=1), randn(3, 3, seed=2), torch.full((3,), 0.4, dtype=torch.float64)
    field = mixture(3).field(path)
    for name in ("score", "noise"):
        with pytest.raises(pf.UndefinedError, match=rf"{name}.*gaussian_source"):
            pf.convert(x0, x1, t, path, "velocity", name)
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            pf.convert(x0, x1, t, path, name, "velocity")
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            target(name, x0, x1, t, path)
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            field(x1, t, name)
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        pf.solvers.EulerMaruyama(0.5).drift(field, x1, 0.4)
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        pf.ScheduleTransfer(field, pf.CondOT())
    known = truth(path, x0, x1, t)
    for have, want in itertools.product(("velocity", "data", "v"), repeat=2):
        got = pf.convert(known[have], known["x"], t, path, have, want)
        assert relative(got, known[want]) < 1e-10


def test_a_prediction_that_does_not_exist_is_an_error_that_names_those_that_do():
    x = randn(2, 2)
    with pytest.raises(pf.InputError, match="velocity, data, noise, score, v"):
        pf.convert(x, x, 0.5, pf.CondOT(), "epsilon", "velocity")
    with pytest.raises(pf.InputError, match="velocity, data, noise, score, v"):
        pf.convert(x, x, 0.5, pf.CondOT(), "velocity", "epsilon")


def test_pairs_and_times_that_do_not_fit_are_errors():
    x = randn(3, 3)
    with pytest.raises(pf.InputError, match="shapes must agree"):
        pf.CondOT().sample(x, x[:2], 0.5)
    with pytest.raises(pf.InputError, match="shapes must agree"):
        pf.CondOT().velocity(x, x[:, :2], 0.5)
    for t in (torch.rand(2), torch.rand(0), torch.rand(3, 1)):
        with pytest.raises(pf.InputError, match="t has shape"):
            pf.CondOT().sample(x, x, t)
    one = pf.CondOT().sample(x, 2 * x, torch.tensor([0.25]))
    assert torch.equal(one, pf.CondOT().sample(x, 2 * x, 0.25))
