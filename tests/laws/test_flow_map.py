"""The exact flow maps: against a Runge-Kutta method of order 8, and the three laws of flow maps."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import pushforward as pf
from contracts.members import UserPath, mixture, rand, randn
from pushforward.core.derivatives import jvp

FIVE_PATHS = [
    pytest.param(path, id=name)
    for name, path in {
        "CondOT": pf.CondOT(), "Cosine": pf.Cosine(), "VP": pf.VP(), "EDM": pf.EDM(), "user-made": UserPath(),
    }.items()
]  # fmt: skip
LINE = mixture(1, 3)
LAWS = [
    pytest.param(mixture(3, 1), id="full"),
    pytest.param(mixture(3, 1, "diagonal"), id="diagonal"),
    pytest.param(LINE, id="line"),
]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def states(law: pf.GaussianMixture, path: pf.Path, t: Tensor, seed: int = 0) -> Tensor:
    """States at the times t (B,), every other one twice as far out."""
    n = len(t)
    x0, x1 = randn(n, *law.shape, seed=seed), law.sample(n, seed=seed)
    x = path.sample(x0, x1, t)
    x[::2] = 2 * x[::2] + 0.1
    return x


def followed(field: pf.ExactField, x: Tensor, t: float, s: float) -> Tensor:
    """x_s by DOP853."""

    def slope(at: float, y: object) -> object:
        return field(torch.as_tensor(y).reshape(x.shape), at).numpy().ravel()

    run = solve_ivp(slope, (t, s), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    assert run.success
    return torch.from_numpy(run.y[:, -1]).reshape(x.shape)


@pytest.mark.parametrize(("t", "s"), [(0.0, 1.0), (0.85, 0.1)])
@pytest.mark.parametrize("path", FIVE_PATHS)
@pytest.mark.parametrize("kind", ["full", "line"])
def test_the_exact_map_ends_where_dop853_does(kind, path, t, s):
    if isinstance(path, UserPath):  # whose derivatives are computed at every call
        t, s = 0.6 * t + 0.2, 0.6 * s + 0.2
    law = mixture(3, 1) if kind == "full" else LINE
    times = torch.full((6,), t, dtype=torch.float64)
    x = states(law, path, times, seed=3)[:3]
    if kind == "line":  # both tails, 7 standard deviations from the outermost components
        alpha, sigma = float(path.alpha(times[:1])), float(path.sigma(times[:1]))
        width = (alpha**2 * law.components.eigenvalues.max() + sigma**2).sqrt()
        far = alpha * law.components.means[:, 0]
        tails = torch.stack((far.min() - 7 * width, far.max() + 7 * width))[:, None]
        x = torch.cat((x[:2], tails))
    truth = followed(law.field(path), x, t, s)
    got = law.flow_map(path)(x, t, s)
    assert float((got - truth).abs().max()) < 1e-8 * (1 + float(x.abs().max()))
    assert float((got - x).abs().min()) > 1e-3


@pytest.mark.parametrize("path", FIVE_PATHS)
@pytest.mark.parametrize("law", LAWS)
def test_an_exact_map_stays_composes_and_goes_back(law, path):
    flow = law.flow_map(path)
    t, r, s = rand(12, seed=1), rand(12, seed=2), rand(12, seed=3)
    x = states(law, path, t)
    scale = 1 + float(x.abs().max())
    assert float((flow(x, t, t) - x).abs().max()) < 1e-12 * scale
    whole = flow(x, t, s)
    assert float((flow(flow(x, t, r), r, s) - whole).abs().max()) < 1e-9 * scale
    assert float((flow(whole, s, t) - x).abs().max()) < 1e-9 * scale
    assert float((whole - x).abs().max()) > 0.1


@pytest.mark.parametrize("path", FIVE_PATHS)
@pytest.mark.parametrize("law", LAWS)
def test_the_end_stays_where_it_is_while_the_start_moves_along_its_trajectory(law, path):
    flow, field = law.flow_map(path), law.field(path)
    t, s = 0.05 + 0.85 * rand(12, seed=4), rand(12, seed=5)
    x = states(law, path, t)
    u, one = field(x, t), torch.ones_like(t)
    _, still = jvp(lambda y, at: flow(y, at, s), (x, t), (u, one))
    _, moved = jvp(lambda y: flow(y, t, s), (x,), (u,))
    assert float(still.abs().max()) < 1e-8 * float(moved.abs().max())
    # And not because nothing depends on the start: against the flow it would move twice as much.
    _, against = jvp(lambda y, at: flow(y, at, s), (x, t), (-u, one))
    torch.testing.assert_close(against, -2 * moved, rtol=1e-6, atol=1e-8 * float(u.abs().max()))


@pytest.mark.parametrize("path", FIVE_PATHS)
@pytest.mark.parametrize("law", LAWS)
def test_the_instant_of_an_exact_map_is_the_exact_field(law, path):
    t = column(0.02, 0.2, 0.5, 0.8, 0.97, 0.6)
    x = states(law, path, t)
    # Bisection takes its time: on the line, two of the five.
    for want in ("velocity", "score") if law is LINE else pf.PREDICTIONS:
        truth = law.field(path)(x, t, want)
        got = pf.InstantaneousField(law.flow_map(path))(x, t, want)
        assert float((got - truth).abs().max()) < 1e-8 * (1 + float(truth.abs().max()))


@pytest.mark.parametrize("path", [pf.CondOT(), UserPath()], ids=["CondOT", "user"])
@pytest.mark.parametrize("law", LAWS)
def test_forward_derivatives_of_an_exact_map_are_quotients_of_differences(law, path):
    flow = law.flow_map(path)
    t, s = 0.1 + 0.8 * rand(6, seed=6), 0.1 + 0.8 * rand(6, seed=7)
    x, v = states(law, path, t), randn(6, *law.shape, seed=8)
    one, h = torch.ones_like(t), 1e-5
    for move in (
        lambda e: (x + e * v, t, s), lambda e: (x, t + e, s), lambda e: (x, t, s + e),
    ):  # fmt: skip
        quotient = (flow(*move(h)) - flow(*move(-h))) / (2 * h)
        tangents = tuple(torch.func.jvp(move, (torch.zeros(()).double(),), (one[0],))[1])
        _, got = jvp(flow, (x, t, s), tangents)
        torch.testing.assert_close(got, quotient, rtol=1e-6, atol=1e-6)
    # Forward and backward are transposes of each other.
    w = randn(6, *law.shape, seed=9)
    inputs = tuple(z.clone().requires_grad_() for z in (x, t, s))
    back = torch.autograd.grad(flow(*inputs), inputs, w)
    _, ahead = jvp(flow, (x, t, s), (v, one, 0.5 * one))
    pulled = (back[0] * v).sum() + back[1].sum() + 0.5 * back[2].sum()
    torch.testing.assert_close(pulled, (ahead * w).sum())


def test_the_map_of_a_point_leads_to_the_point_and_keeps_the_shape_of_pictures():
    point = randn(1, 2, 3, seed=1)
    path = pf.Cosine()
    x = randn(4, 2, 3, seed=2)
    got = pf.Empirical(point).flow_map(path)(x, 0.3, 1.0)
    torch.testing.assert_close(got, point.expand(4, 2, 3))
    # On the way there, the noise that x holds is what stays of it.
    alpha, sigma = path.alpha(column(0.3)), path.sigma(column(0.3))
    noise = (x - alpha * point) / sigma
    half = pf.Empirical(point).flow_map(path)(x, 0.3, 0.5)
    torch.testing.assert_close(half, math.sin(math.pi / 4) * (point + noise))


def test_other_laws_and_other_states_have_no_exact_map():
    with pytest.raises(pf.UndefinedError, match="3 components in 2 dimensions has no closed form"):
        mixture(2, 3).flow_map(pf.CondOT())
    flow = LINE.flow_map(pf.CondOT())
    with pytest.raises(pf.InputError, match=r"samples of shape \(1,\)"):
        flow(randn(4, 2), 0.1, 0.9)
    with pytest.raises(pf.InputError, match=r"no condition.*label"):
        flow(randn(4, 1), 0.1, 0.9, label=torch.zeros(4).long())
