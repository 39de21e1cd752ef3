"""Interpolants: paths with noise on the way."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import rand, randn
from laws.pairs import PATHS, entropic
from pushforward.core.predictions import check_defined

NAMED = [pf.Tube, pf.BrownianBridge, pf.SmoothBridge]


def test_the_width_of_each_named_interpolant_is_the_published_one():
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    tables = {
        pf.Tube(0.5): [0.25, 0.25, 0.25, 0.25, 0.25],
        pf.BrownianBridge(0.5): [0.0, 0.04, 0.0625, 0.0225, 0.0],
        # sin^2 of 36 and 18 degrees are (5 - sqrt 5)/8 and (3 - sqrt 5)/8.
        pf.SmoothBridge(0.5): [0, ((5 - 5**0.5) / 16) ** 2, 0.25, ((3 - 5**0.5) / 16) ** 2, 0],
    }
    for path, variances in tables.items():
        got = path.gamma(t) ** 2
        assert torch.allclose(got, torch.tensor(variances, dtype=torch.float64), atol=1e-12), path
        assert torch.equal(path.alpha(t), t)
        assert torch.equal(path.sigma(t), 1 - t)
    assert pf.Tube().std == 0.01


@pytest.mark.parametrize("path", PATHS)
def test_the_conditional_velocity_is_the_time_derivative_of_the_state(path):
    x0, x1, z = (randn(7, 2, 3, seed=k) for k in range(3))
    t = 0.02 + 0.96 * rand(7)
    x, velocity = path.mix(x0, x1, z, t)
    again, derivative = torch.func.jvp(
        lambda t: path.mix(x0, x1, z, t)[0], (t,), (torch.ones_like(t),)
    )
    assert torch.equal(x, again)
    assert torch.allclose(velocity, derivative, rtol=1e-10, atol=1e-12)
    for k in range(7):
        alone, _ = path.mix(x0[k : k + 1], x1[k : k + 1], z[k : k + 1], float(t[k]))
        assert torch.allclose(x[k], alone[0], rtol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_growth_is_half_the_derivative_of_the_variance(path):
    t, h = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-5
    slope = (path.gamma(t + h) ** 2 - path.gamma(t - h) ** 2) / (4 * h)
    assert torch.allclose(path.growth(t), slope, rtol=1e-8, atol=1e-9)
    gamma, d_gamma = path.latent(t)
    assert torch.allclose(gamma, path.gamma(t))
    assert torch.allclose(d_gamma, (path.gamma(t + h) - path.gamma(t - h)) / (2 * h), atol=1e-8)


def test_a_brownian_bridge_is_pinned_at_its_ends_where_its_velocity_is_infinite():
    path, ends = pf.BrownianBridge(0.8), torch.tensor([0.0, 1.0], dtype=torch.float64)
    gamma, d_gamma = path.latent(ends)
    assert gamma.tolist() == [0.0, 0.0]
    assert d_gamma.tolist() == [math.inf, -math.inf]
    assert torch.allclose(path.growth(ends), torch.tensor([0.32, -0.32], dtype=torch.float64))
    x0, x1, z = (randn(4, 2, seed=k) for k in range(3))
    for t, end in ((0.0, x0), (1.0, x1)):
        x, velocity = path.mix(x0, x1, z, t)
        assert torch.equal(x, end)
        assert velocity.isinf().all()
    single = path.mix(x0.float(), x1.float(), z.float(), 0.3)
    assert all(value.dtype == torch.float32 for value in single)


@pytest.mark.parametrize("path", PATHS)
def test_only_the_velocity_is_defined_by_a_velocity(path):
    check_defined("velocity", path)
    for name in ("data", "noise", "score", "v"):
        with pytest.raises(pf.UndefinedError):
            check_defined(name, path)
        with pytest.raises(pf.UndefinedError):
            pf.Model(torch.nn.Identity(), path, name)
    for name in ("data", "v"):
        with pytest.raises(pf.UndefinedError, match="adds noise on the way"):
            entropic().field(path)(randn(3, 2), 0.5, name)
    with pytest.raises(pf.UndefinedError, match="noising diffusion"):
        path.reverse_noise_level(torch.tensor(0.5))
    with pytest.raises(pf.InputError, match="no prediction 'flow'"):
        entropic().field(path)(randn(3, 2), 0.5, "flow")


@pytest.mark.parametrize("kind", NAMED)
def test_arguments_of_an_interpolant_are_checked(kind):
    for std in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(pf.InputError, match="positive and finite"):
            kind(std)
    with pytest.raises(pf.InputError, match="gaussian_source=False"):
        kind(0.5, gaussian_source=True)
    path = kind(0.5)
    with pytest.raises(pf.InputError, match="shapes must agree"):
        path.mix(randn(3, 2), randn(4, 2), randn(4, 2), 0.5)
    with pytest.raises(pf.InputError, match="z is noise for x1"):
        path.mix(randn(3, 2), randn(3, 2), randn(3, 1), 0.5)
