"""Data to noise and back, and arcs between noises."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import Counted, mixture, randn
from pushforward.solvers import DDIM, RK4, Euler, EulerMaruyama, Heun, Inverse, Midpoint, Multistep

ANGLES = torch.arange(8, dtype=torch.float64) * math.pi / 4
RING = pf.GaussianMixture(4 * torch.stack((ANGLES.cos(), ANGLES.sin()), 1), 0.09)
LAWS = {"ring": RING, "mixture": mixture(2), "five dimensions": mixture(5, 4, "isotropic")}
PATHS = [pf.CondOT(), pf.VP()]


def rmse(a, b):
    return float((a - b).square().mean().sqrt())


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("law", LAWS)
def test_ddim_inverted_and_back_is_the_data(law, path):
    field, x = Counted(LAWS[law].field(path)), LAWS[law].sample(60, seed=3)
    x0 = pf.invert(field, x, nfe=50)
    assert field.calls < 50 * 16
    back = pf.generate(field, 60, solver=DDIM(), nfe=50, source=x0)
    assert rmse(back, x) < 1e-11
    # It is the noise of the flow, up to the error of DDIM.
    fine = pf.times.straight(50, path)
    truth = pf.integrate(RK4(), field.field, x, fine.flip(0))
    assert rmse(x0, truth) < 0.2


def test_the_tolerance_sets_the_error_of_there_and_back_and_the_calls():
    field, x, grid = (
        Counted(RING.field(pf.VP())),
        RING.sample(60, seed=3),
        pf.times.straight(50, pf.VP()),
    )
    errors, calls = [], []
    for tol in (1e-3, 1e-5, 1e-7):
        field.calls = 0
        x0 = pf.integrate(Inverse(DDIM(), tol), field, x, grid.flip(0))
        calls.append(field.calls)
        errors.append(rmse(pf.integrate(DDIM(), field.field, x0, grid), x))
    assert errors[1] < 1e-3
    for i in range(2):
        assert 20 < errors[i] / errors[i + 1] < 500, errors
        assert calls[i] < calls[i + 1] < 50 * 9, calls


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_solvers_run_backwards_miss_by_their_order(path):
    field, x = RING.field(path), RING.sample(60, seed=3)
    second = Multistep("velocity", "time", 2)
    errors = {}
    for name, solver in (("first", DDIM()), ("second", second)):
        for n in (50, 100):
            x0 = pf.invert(field, x, solver=solver, nfe=n, exact=False)
            back = pf.generate(field, 60, solver=solver, nfe=n, source=x0)
            errors[name, n] = rmse(back, x)
    assert 0.01 < errors["first", 50] < 0.1
    assert errors["second", 50] < 0.01
    assert 1.6 < errors["first", 50] / errors["first", 100] < 2.6
    assert errors["second", 50] / errors["second", 100] > 2.8


@pytest.mark.parametrize("solver", [Euler(), Heun(), Midpoint(), RK4(), DDIM()], ids=repr)
def test_any_one_step_solver_is_inverted_in_both_directions(solver):
    law = mixture(2)
    field, x = law.field(pf.Cosine()), law.sample(20, seed=4)
    times = pf.times.uniform(20, 0.05, 0.95)
    x0 = pf.integrate(Inverse(solver), field, x, times.flip(0))
    assert torch.allclose(pf.integrate(solver, field, x0, times), x, atol=1e-11)
    y = pf.integrate(Inverse(solver), field, x, times)
    assert torch.allclose(pf.integrate(solver, field, y, times.flip(0)), x, atol=1e-11)
    assert Inverse(solver).order == solver.order


def test_a_step_back_solves_its_equation_in_closed_form():
    # On a Gaussian a step of DDIM is x -> A x + b, so that the step back is (x - b)/A.
    field = pf.GaussianMixture([[0.8]], 0.6).field(pf.VP())
    t, s = (torch.full((2,), v, dtype=torch.float64) for v in (0.6, 0.4))
    probe, noise = torch.tensor([[0.0], [1.0]], dtype=torch.float64), pf.Noise.batch(2)
    b, ab = DDIM().step(field, probe, s, t, None, noise)[0]
    x = randn(2, 1, seed=1)
    got = Inverse(DDIM()).step(field, x, t, s, None, noise)[0]
    assert torch.allclose(got, (x - b) / (ab - b), atol=1e-13)


def test_what_becomes_of_a_sample_does_not_depend_on_its_batch():
    law = mixture(2, 3, labels=[0, 1, 2])
    field, x, label = law.field(pf.CondOT()), law.sample(7, seed=2), [0, 1, 2, 0, 1, 2, -1]
    whole = pf.invert(field, x, nfe=10, label=label)
    parts = pf.invert(field, x, nfe=10, label=label, batch_size=3)
    assert torch.allclose(whole, parts, atol=1e-11)
    guided = pf.invert(field, x, nfe=10, label=label, guidance=1.5)
    back = pf.generate(field, 7, solver=DDIM(), nfe=10, label=label, guidance=1.5, source=guided)
    assert torch.allclose(back, x, atol=1e-11)
    assert not torch.allclose(guided, whole, atol=1e-2)


def test_images_in_single_precision_come_back():
    law = pf.GaussianMixture(randn(3, 1, 4, 4, seed=2), 0.2)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, t):
            return self.one * law.field(pf.CondOT())(x, t)

    model = pf.Model(Net(), pf.CondOT(), shape=(1, 4, 4))
    x = law.sample(5).float()
    x0 = pf.invert(model, x, nfe=20)
    assert x0.dtype == torch.float32
    assert x0.shape == x.shape
    assert not x0.requires_grad
    assert rmse(pf.generate(model, 5, solver=DDIM(), nfe=20, source=x0), x) < 2e-4


def test_what_cannot_be_inverted_is_an_error():
    field, x = RING.field(pf.CondOT()), RING.sample(4)
    with pytest.raises(pf.InputError, match="remembers"):
        pf.invert(field, x, solver=Multistep("velocity", "time", 2))
    with pytest.raises(pf.InputError, match="without noise"):
        pf.integrate(Inverse(EulerMaruyama(0.5)), field, x, pf.times.uniform(5, 0, 0.9).flip(0))
    with pytest.raises(pf.InputError, match="increasing times"):
        pf.invert(field, x, solver=DDIM(0.5), exact=False)
    with pytest.raises(pf.InputError, match="not both"):
        pf.invert(field, x, nfe=5, grid=pf.times.uniform(5))
    for bad in ({"tol": 0.0}, {"tol": -1.0}, {"max_calls": 0}, {"memory": 0}):
        with pytest.raises(pf.InputError, match="tol > 0"):
            Inverse(DDIM(), **bad)
    # A point between two atoms is no sample of their law: the last step leads to atoms alone.
    atoms = pf.Empirical(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).field(pf.CondOT())
    times = torch.tensor([0.9, 1.0], dtype=torch.float64)
    with pytest.raises((pf.ConvergenceError, pf.UndefinedError)):
        pf.integrate(Inverse(DDIM()), atoms, torch.tensor([[0.0, 5.0]]).double(), times.flip(0))
    with pytest.raises(pf.ConvergenceError, match="take more steps"):
        pf.integrate(Inverse(DDIM(), max_calls=2), field, x, pf.times.uniform(3).flip(0))


def test_slerp_is_shoemakes_formula_and_keeps_the_sphere():
    a, b = randn(4, 3, 5, seed=1), randn(4, 3, 5, seed=2)
    w = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    got = pf.slerp(a, b, w)
    for i in range(4):
        p, q = a[i].flatten(), b[i].flatten()
        theta = torch.arccos(p @ q / (p.norm() * q.norm()))
        want = (((1 - w[i]) * theta).sin() * p + (w[i] * theta).sin() * q) / theta.sin()
        assert torch.allclose(got[i].flatten(), want, atol=1e-12)
    assert torch.allclose(got[0], a[0])
    assert torch.allclose(got[3], b[3])
    unit_a, unit_b = (v / v.flatten(1).norm(dim=1)[:, None, None] for v in (a, b))
    assert torch.allclose(
        pf.slerp(unit_a, unit_b, 0.37).flatten(1).norm(dim=1), torch.ones(4).double()
    )
    # Equal angles for equal shares.
    arc = [pf.slerp(unit_a, unit_b, i / 4).flatten(1) for i in range(5)]
    cosines = [(arc[i] * arc[i + 1]).sum(1) for i in range(4)]
    assert all(torch.allclose(c, cosines[0], atol=1e-12) for c in cosines)


def test_slerp_of_noise_is_as_long_as_noise_and_the_straight_line_is_not():
    a, b = randn(50, 3000, seed=1), randn(50, 3000, seed=2)
    length = pf.slerp(a, b, 0.5).norm(dim=1) / math.sqrt(3000)
    assert (length - 1).abs().max() < 0.06
    assert ((a + b) / 2).norm(dim=1).max() / math.sqrt(3000) < 0.8


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_slerp_of_equal_opposite_and_zero_vectors(dim):
    a = randn(3, dim, seed=1)
    for b in (a, 2 * a, a * (1 + 1e-9)):
        assert torch.allclose(pf.slerp(a, b, 0.3), 0.7 * a + 0.3 * b, atol=1e-9)
    assert torch.allclose(pf.slerp(0 * a, a, 0.3), 0.3 * a)
    for w in (0.0, 0.25, 0.5, 1.0):
        half = pf.slerp(a, -a, w)
        assert half.isfinite().all()
        if dim > 1:
            assert torch.allclose(half.norm(dim=1), a.norm(dim=1))
            assert torch.allclose((half * a).sum(1), math.cos(w * math.pi) * a.square().sum(1), atol=1e-9)  # fmt: skip
    assert torch.allclose(pf.slerp(a, -2 * a, 1.0), -2 * a, atol=1e-9)
    near = -a + 1e-6 * randn(3, dim, seed=2)
    assert pf.slerp(a, near, 0.5).isfinite().all()


def test_slerp_takes_pairs_of_floating_samples():
    for a, b in ((torch.zeros(2, 3), torch.zeros(2, 4)), (torch.zeros(3), torch.zeros(3)),
                 (torch.zeros(2, 3, dtype=torch.int64),) * 2):  # fmt: skip
        with pytest.raises(pf.InputError, match="one shape"):
            pf.slerp(a, b, 0.5)
    assert pf.slerp(torch.ones(2, 3), torch.ones(2, 3), 0.5).dtype == torch.float32
