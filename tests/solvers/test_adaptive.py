"""The adaptive pair of Dormand and Prince: its tableau, its tolerance, and steps of each sample's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from contracts.members import Counted, mixture, randn
from pushforward.solvers import DormandPrince
from pushforward.solvers.adaptive import A, C, E

X = 0.8 * randn(5, 2, seed=2)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def tableau():
    a = np.zeros((7, 7))
    for i, row in enumerate(A):
        a[i + 1, : len(row)] = row
    return a, np.array([*A[-1], 0.0]), np.array([0.0, *C])


def conditions(b, a, c, order):
    """Hairer, Norsett, Wanner, table II.2.1: (elementary weight, 1/density) of the trees up to an order."""
    trees = [
        [(b.sum(), 1)],
        [(b @ c, 2)],
        [(b @ c**2, 3), (b @ a @ c, 6)],
        [(b @ c**3, 4), (b @ (c * (a @ c)), 8), (b @ a @ c**2, 12), (b @ a @ a @ c, 24)],
        [
            (b @ c**4, 5), (b @ (c**2 * (a @ c)), 10), (b @ (c * (a @ c**2)), 15), (b @ (c * (a @ a @ c)), 30),
            (b @ (a @ c) ** 2, 20), (b @ a @ c**3, 20), (b @ a @ (c * (a @ c)), 40), (b @ a @ a @ c**2, 60),
            (b @ a @ a @ a @ c, 120),
        ],
    ]  # fmt: skip
    return [pair for level in trees[:order] for pair in level]


def test_the_tableau_is_of_order_five_and_its_companion_of_order_four():
    a, b, c = tableau()
    assert np.allclose(a.sum(1), c, atol=1e-14)
    for got, density in conditions(b, a, c, 5):
        assert got == pytest.approx(1 / density, abs=1e-14)
    assert sum(E) == pytest.approx(0, abs=1e-16)
    fourth = b - np.array(E)
    for got, density in conditions(fourth, a, c, 4):
        assert got == pytest.approx(1 / density, abs=1e-14)
    # Were the companion of order five too, the difference would see nothing.
    gaps = [abs(g - 1 / d) for g, d in conditions(fourth, a, c, 5)[8:]]
    assert max(gaps) > 1e-4
    assert DormandPrince.order == 5
    assert DormandPrince.calls == 0


PATHS = [pf.CondOT(), pf.Cosine(), pf.VP(), pf.EDM()]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_the_error_falls_with_the_tolerance(backward, path):
    field, x = mixture(2).field(path), X * (1.0 if backward else path.source_std)
    ends = ENDS.flip(0) if backward else ENDS
    truth = pf.integrate(DormandPrince(1e-11, 1e-12), field, x, ends)
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        counted = Counted(field)
        out = pf.integrate(DormandPrince(tolerance, tolerance / 10), counted, x, ends)
        errors.append(float((out - truth).abs().max() / truth.abs().max()))
        calls.append(counted.calls)
    assert errors[1] < 30 * 1e-5, errors
    assert errors[2] < 30 * 1e-7, errors
    assert errors[2] < errors[1] < errors[0]
    # Order five: a tolerance 100 times smaller takes 100^(1/5) = 2.5 times the steps.
    assert calls[2] < 4 * calls[1] < 16 * calls[0]
    assert calls[2] < 600, calls


def test_a_sixth_power_is_the_first_that_is_not_integrated_exactly():
    # u = k t^(k - 1): quadrature, exact up to t^4 and so for x = t^5; the companion sees t^4, hence steps stay large.
    class Power:
        path = pf.CondOT()

        def __init__(self, k):
            self.k = k

        def __call__(self, x, t, want="velocity", **cond):
            return (self.k * t ** (self.k - 1))[:, None].expand_as(x)

    for k in range(1, 6):
        out = pf.integrate(DormandPrince(1e-2, 1e-2), Power(k), torch.zeros(1, 1).double(), ENDS)
        assert float(out) == pytest.approx(1, abs=1e-14)
    out = pf.integrate(DormandPrince(10.0, 10.0), Power(7), torch.zeros(1, 1).double(), ENDS)
    assert abs(float(out) - 1) > 1e-8


def test_a_linear_equation_is_solved_by_its_exponential():
    matrix = randn(3, 3, seed=6)

    class Linear:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return x @ matrix.T

    x = randn(4, 3, seed=1)
    for a, b in ((0.0, 1.0), (1.0, 0.0), (0.25, 0.5)):
        times = torch.tensor([a, b], dtype=torch.float64)
        out = pf.integrate(DormandPrince(1e-10, 1e-11), Linear(), x, times)
        assert torch.allclose(out, x @ torch.linalg.matrix_exp((b - a) * matrix).T, atol=1e-8)


def test_a_sample_does_not_depend_on_a_stiff_companion():
    law = mixture(2, 3, labels=[0, 1, 2])
    stiff = pf.Empirical([[3.0, 3.0], [3.01, 3.0]])
    field = law.field(pf.CondOT())

    class Both:
        """The field of the mixture, and for samples marked `hard` that of two points almost at the same place."""

        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", *, label, hard):
            slow, fast = field(x, t, want, label=label), stiff.field(self.path)(x, t, want)
            return torch.where(hard[:, None], fast, slow)

    ends = torch.tensor([0.0, 0.999], dtype=torch.float64)
    label, hard = torch.tensor([0, 1, 2, -1, 1]), torch.tensor([False, False, True, False, True])
    solver = DormandPrince(1e-6, 1e-7)
    together = pf.integrate(solver, Both(), X, ends, label=label, hard=hard)
    for i in range(5):
        one = slice(i, i + 1)
        alone = pf.integrate(solver, Both(), X[one], ends, label=label[one], hard=hard[one])
        assert torch.allclose(together[one], alone, rtol=1e-12, atol=1e-12)


def test_samples_that_have_arrived_are_no_longer_asked_about_and_keep_their_order():
    sizes = []

    class Rates:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", *, rate):
            sizes.append(len(x))
            return rate[:, None] * (0.3 - x)

    rate = torch.tensor([40.0, 0.1, 8.0, 200.0, 1.0], dtype=torch.float64)
    out = pf.integrate(DormandPrince(1e-8, 1e-9), Rates(), X, ENDS, rate=rate)
    assert torch.allclose(out, 0.3 + (X - 0.3) * (-rate[:, None]).exp(), atol=1e-6)
    assert sizes[0] == 5
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)


def test_times_of_each_samples_own_and_intervals_are_separate_integrations():
    field, solver = mixture(2).field(pf.Cosine()), DormandPrince(1e-8, 1e-9)
    starts, ends = torch.tensor([0.0, 0.1, 0.0, 0.5, 0.3]), torch.tensor([1.0, 0.9, 0.2, 0.6, 1.0])
    for times in (torch.stack((starts, ends), 1), torch.stack((ends, starts), 1)):
        times = times.double()
        together = pf.integrate(solver, field, X, times)
        for i in range(5):
            alone = pf.integrate(solver, field, X[i : i + 1], times[i])
            assert torch.allclose(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)
    once = pf.integrate(solver, field, X, ENDS)
    assert torch.allclose(pf.integrate(solver, field, X, pf.times.uniform(7)), once, atol=1e-6)


def test_the_field_is_asked_within_the_interval_and_at_its_very_end():
    for path in (pf.CondOT(), pf.VP()):
        for times in (ENDS, ENDS.flip(0), torch.tensor([0.1, 0.7]), torch.tensor([0.7, 0.1])):
            field = Counted(mixture(2).field(path))
            pf.integrate(DormandPrince(), field, X, times)
            asked = torch.cat(field.times)
            low, high = times.double().min(), times.double().max()
            assert asked.min() == low
            assert asked.max() == high
            assert (field.times[0] == times[0].double()).all()
            assert (field.times[-1] == times[1].double()).all()


def test_the_last_stages_are_asked_at_the_end_itself_whatever_the_rounding():
    class Still:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return torch.ones_like(x)

    ends = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in ends:
        field = Counted(Still())
        pf.integrate(DormandPrince(), field, torch.ones(1, 1).double(), row)
        asked = torch.cat(field.times)
        assert asked[-1] == row[1]
        assert asked.min() == row.min()
        assert asked.max() == row.max()


class Decay:
    """u = -rate x, and NaN for negative x if asked for: what a step that is too long leads to."""

    path = pf.CondOT()

    def __init__(self, rate, nan=False):
        self.rate, self.nan = rate, nan

    def __call__(self, x, t, want="velocity", **cond):
        u = -self.rate * x
        return torch.where(x < 0, torch.nan, u) if self.nan else u


def test_the_tolerance_is_relative_to_the_size_of_the_state_and_absolute_where_it_is_small():
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    out = pf.integrate(DormandPrince(1e-4, 1e-12), Decay(3.0), x, ENDS)
    assert torch.equal(out[0], -out[1])
    for sign in (1, -1):
        counted = Counted(Decay(3.0))
        pf.integrate(DormandPrince(1e-4, 1e-12), counted, sign * x[:1], ENDS)
        assert counted.calls < 80
    # A thousand times the state takes as many steps under a relative tolerance and more under an absolute one.
    calls = {}
    for scale in (1.0, 1e3):
        for name, solver in (
            ("rtol", DormandPrince(1e-5, 1e-14)),
            ("atol", DormandPrince(0.0, 1e-5)),
        ):
            counted = Counted(Decay(3.0))
            out = pf.integrate(solver, counted, scale * x, ENDS)
            assert torch.allclose(out, scale * x * np.exp(-3.0), rtol=1e-3)
            calls[name, scale] = counted.calls
    assert calls["rtol", 1.0] == calls["rtol", 1e3]
    assert calls["atol", 1e3] > 2 * calls["atol", 1.0]


def test_the_first_step_moves_the_state_by_a_hundredth():
    counted = Counted(Decay(4.0))
    pf.integrate(DormandPrince(), counted, torch.ones(1, 1).double(), ENDS)
    # |u| h = 0.01 |x|, and the second stage is asked at h/5.
    assert float(counted.times[1]) == pytest.approx(0.01 / 4 / 5, rel=1e-9)
    counted = Counted(Decay(4.0))
    pf.integrate(DormandPrince(), counted, torch.ones(1, 1).double(), ENDS.flip(0))
    assert float(counted.times[1]) == pytest.approx(1 - 0.01 / 4 / 5, rel=1e-9)


def test_a_trial_step_that_is_not_finite_is_taken_again_and_shorter():
    x = torch.ones(1, 1).double()
    out = pf.integrate(DormandPrince(1e-3, 1e-3), Decay(300.0, nan=True), x, ENDS)
    assert abs(float(out)) < 1e-2


def test_a_constant_velocity_arrives_to_the_last_digit_in_few_calls():
    class Still:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return torch.full_like(x, 2.0)

    counted = Counted(Still())
    out = pf.integrate(DormandPrince(), counted, X, ENDS)
    assert torch.allclose(out, X + 2, atol=1e-14)
    assert counted.calls < 40
    # Single precision stays single precision.
    assert pf.integrate(DormandPrince(), Still(), X.float(), ENDS).dtype == torch.float32


def test_gradients_are_those_of_the_flow():
    field, solver = mixture(2).field(pf.CondOT()), DormandPrince(1e-9, 1e-10)
    weight = randn(5, 2, seed=5)
    x = X.clone().requires_grad_()
    (got,) = torch.autograd.grad((weight * pf.integrate(solver, field, x, ENDS)).sum(), x)
    h = 1e-4
    for i, j in ((0, 0), (2, 1), (4, 0)):
        shift = torch.zeros(5, 2).double()
        shift[i, j] = h
        up, down = (
            float((weight * pf.integrate(solver, field, X + d, ENDS)).sum())
            for d in (shift, -shift)
        )
        assert float(got[i, j]) == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-5)

    class Zero:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return 0 * x

    (one,) = torch.autograd.grad(pf.integrate(solver, Zero(), x, ENDS).sum(), x)
    assert torch.equal(one, torch.ones_like(one))


def test_what_cannot_arrive_is_an_error_that_says_where():
    class Broken:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", *, bad):
            return torch.where(bad[:, None] & (t[:, None] > 0.5), torch.nan, 1.0) * torch.ones_like(
                x
            )

    bad = torch.tensor([False, False, False, True, False])
    with pytest.raises(
        pf.NonFiniteError, match=r"1 samples did not arrive in 80 steps.*row 3"
    ) as error:
        pf.integrate(DormandPrince(max_steps=80), Broken(), X, ENDS, bad=bad)
    assert "t = 0.5" in str(error.value) or "t = 0.49" in str(error.value)
    with pytest.raises(pf.NonFiniteError, match="5 samples"):
        pf.integrate(DormandPrince(max_steps=2), mixture(2).field(pf.CondOT()), X, ENDS)
    for bad in ({"atol": 0.0}, {"rtol": -1.0}, {"rtol": float("nan")}):
        with pytest.raises(pf.InputError, match="rtol"):
            DormandPrince(**bad)


def test_no_samples_are_carried_to_no_samples():
    out = pf.integrate(DormandPrince(), mixture(2).field(pf.CondOT()), X[:0], ENDS)
    assert out.shape == (0, 2)
