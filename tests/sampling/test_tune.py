"""Samplers fitted to one model: what the fit solves, what it gains, how it is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.core.spec import SamplingDefaults
from pushforward.nets import MLP
from pushforward.sampling import tune as tuning
from pushforward.solvers import RK4, Learned
from pushforward.solvers.learned import Weights, universal

RING = pf.GaussianMixture(
    1.4 * torch.tensor([[math.cos(k), math.sin(k)] for k in (0.0, 1.3, 2.4, 3.9, 5.1)]).double(), 0.15**2
)  # fmt: skip


def problem(law, path, nfe, num, seed=0):
    x0 = path.source_std * randn(num, *law.shape, seed=seed)
    return tuning._Problem(law.field(path), path, nfe, x0, {}, 64)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP()], ids=["CondOT", "VP"])
def test_a_fit_by_gradient_gains_on_noise_it_has_not_seen(path):
    field = RING.field(path)
    tuned = pf.tune(
        field, 5, num=256, held_out=256, iterations=60, batch_size=64, learning_rate=1e-2
    )
    assert tuned.after < 0.6 * tuned.before
    assert tuned.reference < 0.02 * tuned.after
    # Both figures are what they are called, on noise of one's own.
    x = path.source_std * randn(512, 2, seed=5)
    exact = pf.integrate(RK4(), field, x, pf.times.straight(200, path))
    for solver, stated in ((Learned(), tuned.before), (tuned.solver, tuned.after)):
        got = pf.integrate(solver, field, x, solver.grid(5, path))
        assert 0.5 < float((got - exact).square().mean().sqrt()) / stated < 2


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM(0.05, 20.0)], ids=repr)
def test_gradients_in_the_times_are_those_of_differences(path):
    case, start = problem(RING, path, 4, 12, seed=2), universal()
    index = torch.arange(12)

    def ends(change):
        return case.solve(Learned(replace(start, density=start.density + change)), 4)

    weight = randn(12, 2, seed=5)
    density = start.density.clone().requires_grad_()
    loss = (weight * tuning._roll_out(case, replace(start, density=density), index)).sum()
    (gradient,) = torch.autograd.grad(loss, density)
    direction, h = 0.3 * randn(*density.shape, seed=6), 1e-5
    slope = (weight * (ends(h * direction) - ends(-h * direction))).sum() / (2 * h)
    assert float(slope.abs()) > 1e-4
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_a_fit_by_least_squares_gains_without_a_gradient():
    law = pf.GaussianMixture(torch.zeros(1, 3), torch.tensor([[0.01, 0.3, 3.0]]))
    exact = law.field(pf.CondOT())

    class Forward:
        path, shape = pf.CondOT(), (3,)

        def __call__(self, x, t, want="velocity"):
            assert not torch.is_grad_enabled()
            return exact(x, t, want)

    tuned = pf.tune(Forward(), 8, num=256, held_out=128, method="least-squares")
    assert tuned.after < 0.7 * tuned.before


def test_gradients_of_a_fit_are_those_of_its_loss():
    # The times of a path follow from angles by an inverse that is not differentiated.
    path, law = pf.VP(), mixture()
    case = problem(law, path, 4, 8)
    rows = torch.arange(8)
    target = randn(8, 2, seed=9)

    def loss(density, out):
        start = universal()
        weights = Weights(density, start.step, start.history, start.bias, out, start.constant)
        return (tuning._roll_out(case, weights, rows) - target).square().mean()

    start = universal()
    inputs = [start.density[:, :3].clone(), start.out[:, :3].clone()]

    def of_few(density, out):
        return loss(
            torch.cat((density, start.density[:, 3:]), 1), torch.cat((out, start.out[:, 3:]), 1)
        )

    assert torch.autograd.gradcheck(of_few, [v.requires_grad_() for v in inputs], atol=1e-6)


def test_the_rolled_out_end_is_that_of_the_sampler():
    path = pf.VP()
    case = problem(mixture(), path, 6, 12)
    ends = tuning._roll_out(case, universal(), torch.arange(12))
    torch.testing.assert_close(ends, case.solve(Learned(), 6))


def test_least_squares_leave_no_error_that_a_step_could_take_away():
    # At the least, the error of a step has no part along any derivative of its end by the last layer.
    path, law = pf.CondOT(), mixture(3, 3)
    case = problem(law, path, 4, 512)
    grid, index = Learned().grid(4, path), torch.arange(512)
    targets = [randn(512, 3, seed=20 + i) for i in range(4)]
    with torch.no_grad():
        weights = tuning._solve_in_turn(case, grid, index, targets, 1e-11)
    out, constant = (v.clone().requires_grad_() for v in (weights.out, weights.constant))
    changed = Weights(weights.density, weights.step, weights.history, weights.bias, out, constant)
    states = []
    pf.integrate(
        Learned(changed), case.field, case.x0, grid, callback=lambda i, t, x: states.append(x)
    )
    for i in range(4):
        # Steps before are taken as they are: only rows i are asked.
        loss = (states[i + 1] - targets[i]).square().sum()
        slopes = torch.autograd.grad(loss, (out, constant), retain_graph=True)
        start = universal()
        plain = Weights(
            weights.density, weights.step, weights.history, weights.bias,
            torch.cat((weights.out[:i], start.out[None].expand(4 - i, -1, -1))),
            torch.cat((weights.constant[:i], start.constant[None].expand(4 - i, -1))),
        )  # fmt: skip
        before = []
        pf.integrate(
            Learned(plain),
            case.field,
            case.x0,
            grid,
            callback=lambda i, t, x: before.append(x),  # noqa: B023
        )
        worst = max(float(g[i].abs().max()) for g in slopes)
        untouched = float((before[i + 1] - targets[i]).square().sum())
        assert worst < 1e-4 * untouched
        assert float(loss.detach()) < untouched


def test_an_attached_sampler_is_saved_and_taken(tmp_path):
    torch.manual_seed(0)
    model = pf.Model(MLP(2, 16, 1, classes=3), pf.CondOT(), shape=(2,), classes=3).eval()
    model.requires_grad_(False)
    options = {"num": 16, "held_out": 8, "iterations": 4, "batch_size": 16}
    plain, guided = pf.tune(model, 4, **options), pf.tune(model, 4, guidance=2.0, **options)
    before = pf.generate(model, 8, nfe=4, label=1)
    for tuned in (plain, guided, plain):
        tuned.attach(model)
    assert [(e["nfe"], e["guidance"]) for e in model.sampling.fitted] == [(4, 2.0), (4, None)]
    pf.save(model, tmp_path)
    again = pf.load(tmp_path)
    for w, tuned in ((None, plain), (2.0, guided)):
        solver = Learned(Weights.from_json(tuned.weights.as_json()))
        expected = pf.generate(again, 8, solver=solver, nfe=4, label=1, guidance=w)
        assert torch.equal(pf.generate(again, 8, nfe=4, label=1, guidance=w), expected)
        other = pf.generate(again, 8, solver=Learned(), nfe=4, label=1, guidance=w)
        assert (tuned.after < tuned.before) == (not torch.equal(expected, other))
    # Nothing else changes: other numbers of calls, other guidance, wrapped models.
    assert torch.equal(
        pf.generate(again, 8, nfe=5, label=1),
        pf.generate(again, 8, nfe=5, label=1, solver=Learned()),
    )
    wrapped = pf.guidance.ClassifierFree(again, 2.0)
    assert torch.equal(
        pf.generate(wrapped, 8, nfe=4, label=1),
        pf.generate(wrapped, 8, nfe=4, label=1, solver=Learned()),
    )
    assert before.shape == (8, 2)
    assert all(p.grad is None for p in model.parameters())


def test_a_fit_is_a_function_of_its_seed():
    field = RING.field(pf.CondOT())
    options = {"num": 16, "held_out": 8, "iterations": 3, "batch_size": 16}
    first, second, other = (pf.tune(field, 4, seed=s, **options) for s in (0, 0, 1))
    assert torch.equal(first.weights.out, second.weights.out)
    assert first.after == second.after
    assert first.before != other.before


def test_wrong_calls_are_told():
    field = RING.field(pf.CondOT())
    with pytest.raises(pf.InputError, match="at least 3 steps"):
        pf.tune(field, 2)
    with pytest.raises(pf.InputError, match="'gradient' or 'least-squares'"):
        pf.tune(field, 4, method="magic")
    with pytest.raises(pf.InputError, match="must be positive"):
        pf.tune(field, 4, num=0)
    with pytest.raises(pf.UndefinedError, match="learned sampler"):
        pf.tune(RING.field(pf.CondOT(gaussian_source=False)), 4)


@pytest.mark.parametrize("entry", [{}, "x", {"nfe": 4, "guidance": None, "weights": 3}])
def test_a_saved_sampler_that_cannot_be_read_is_told(entry):
    model = pf.Model(
        MLP(2, 8, 1), pf.CondOT(), shape=(2,), sampling=SamplingDefaults(fitted=(entry,))
    )
    with pytest.raises(pf.InputError, match="fitted sampler that cannot be read"):
        pf.generate(model, 2, nfe=4)
    assert pf.generate(model, 2, nfe=4, solver=Learned()).shape == (2, 2)
