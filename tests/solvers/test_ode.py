"""Runge-Kutta methods against another library, and against the conditions that define their order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torchdiffeq

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.solvers import RK4, Euler, Heun, Midpoint


@pytest.mark.parametrize(
    ("solver", "method"), [(Euler(), "euler"), (Midpoint(), "midpoint"), (Heun(), "heun2")]
)
def test_fixed_steps_are_those_of_torchdiffeq(solver, method):
    field, x = mixture(2).field(pf.CondOT()), randn(4, 2, seed=1)
    times = pf.times.quadratic(9, 0, 0.95)
    reference = torchdiffeq.odeint(lambda t, y: field(y, t), x, times, method=method)
    states = []
    pf.integrate(solver, field, x, times, callback=lambda i, t, x: states.append(x))
    assert torch.allclose(torch.stack(states), reference, rtol=1e-12, atol=1e-12)


def test_the_classical_method_approaches_an_adaptive_solution():
    field, x = mixture(2).field(pf.CondOT()), randn(4, 2, seed=1)
    ends = torch.tensor([0.0, 0.95], dtype=torch.float64)
    reference = torchdiffeq.odeint(
        lambda t, y: field(y, t), x, ends, method="dopri8", rtol=1e-11, atol=1e-12
    )[-1]
    got = pf.integrate(RK4(), field, x, pf.times.uniform(200, 0, 0.95))
    assert float((got - reference).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("solver", "order"), [(Euler(), 1), (Midpoint(), 2), (Heun(), 2), (RK4(), 4)]
)
def test_the_tableau_meets_the_order_conditions(solver, order):
    # Hairer, Norsett, Wanner, "Solving ODEs I", table II.2.1.
    s = len(solver.b)
    a = np.array([list(row) + [0] * (s - len(row)) for row in solver.a], dtype=float)
    b, c = np.array(solver.b, dtype=float), np.array(solver.c, dtype=float)
    assert np.allclose(a.sum(1), c)
    conditions = {
        1: [(b.sum(), 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [
            (b @ c**3, 1 / 4),
            (b @ (c * (a @ c)), 1 / 8),
            (b @ a @ c**2, 1 / 12),
            (b @ a @ a @ c, 1 / 24),
        ],
    }
    for p in range(1, order + 1):
        for got, want in conditions[p]:
            assert got == pytest.approx(want)


def test_the_last_stage_is_asked_at_the_end_of_the_step_and_never_beyond():
    asked = []

    class Field:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            asked.append(t)
            return x

    for n in range(1, 60):
        pf.integrate(
            RK4(),
            Field(),
            torch.ones(1, 1, dtype=torch.float64),
            torch.linspace(1, 0, n + 1).double(),
        )
        pf.integrate(Heun(), Field(), torch.ones(1, 1), pf.times.uniform(n))
    times = torch.cat(asked)
    assert times.min() == 0
    assert times.max() == 1


def test_n_steps_of_euler_reach_the_data_in_n_calls():
    # The slide's loop runs from 1 to n - 1 and stops at t = 1 - h.
    point = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    n, calls = 10, []

    class Straight:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            calls.append(t)
            return (point - x) / (1 - t)[:, None]

    out = pf.integrate(Euler(), Straight(), randn(3, 2, seed=1), pf.times.uniform(n))
    assert len(calls) == n
    assert torch.allclose(out, point.expand(3, 2), atol=1e-12)


class Denoiser(torch.nn.Module):
    """The exact denoiser of a mixture on CondOT, off by `error` everywhere."""

    def __init__(self, law, error):
        super().__init__()
        self.field, self.error = law.field(pf.CondOT()), error

    def forward(self, x, t):
        return self.field(x, t, "data") + self.error


@pytest.mark.parametrize("solver", [pf.solvers.Heun(), pf.solvers.RK4()], ids=repr)
def test_the_last_step_of_a_denoiser_does_not_divide_its_error_by_a_margin(solver):
    law = pf.GaussianMixture([[-1.0, 0.4], [0.9, -0.5]], 0.05)
    x0 = pf.Noise.batch(50).normal((2,), dtype=torch.float64)
    truth = pf.integrate(pf.solvers.RK4(), law.field(pf.CondOT()), x0, pf.times.uniform(400))

    def sampled(error, n, prediction="data"):
        model = pf.Model(Denoiser(law, error), pf.CondOT(), prediction)
        return pf.integrate(solver, model, x0, pf.times.uniform(n))

    # Guided models are asked through a wrapper.
    model = pf.Model(Denoiser(law, 0.01), pf.CondOT(), "data")
    guided = pf.integrate(solver, Around(model), x0, pf.times.uniform(80))
    assert torch.equal(guided, sampled(0.01, 80))
    # An error e of the data makes one of e (1 + ln 1/h) at most along the way, and not e / 1e-6 times half a step.
    assert float((sampled(0.01, 80) - sampled(0.0, 80)).abs().max()) < 0.08
    # The last step keeps the second order.
    errors = [float((sampled(0.0, n) - truth).abs().max()) for n in (80, 160, 320)]
    assert math.log2(errors[0] / errors[1]) > 1.8
    assert math.log2(errors[1] / errors[2]) > 1.8


@dataclass(frozen=True)
class Around:
    """A field around another."""

    field: pf.Model

    @property
    def path(self):
        return self.field.path

    def __call__(self, x, t, want="velocity", **cond):
        return self.field(x, t, want, **cond)
