"""The driver: fields that jump in time, padded samples, states that are edited on the way."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.guidance import ClassifierFree
from pushforward.solvers import RK4, DormandPrince, Euler, EulerMaruyama, Heun, Multistep

LAW = pf.GaussianMixture(
    torch.tensor([[-1.0, 0.3], [1.0, -0.2], [0.1, 1.2]]), 0.3, labels=[0, 1, 1]
)
LABEL = torch.tensor([0, 1, 1, 0])
INTERVAL = (0.31, 0.67)
FIELD = ClassifierFree(LAW.field(pf.CondOT()), 2.5, INTERVAL)
X = pf.Noise.batch(4, seed=2).normal((2,), dtype=torch.float64)


def in_parts(field, times, solver=None) -> torch.Tensor:
    """The flow through each smooth part of a guided field, by hand: conditional, guided, conditional."""
    plain = field.field
    guided = ClassifierFree(plain, field.scale)
    x, solver = X, solver or DormandPrince(1e-11, 1e-12)
    for part, (start, end) in zip((plain, guided, plain), pairwise(times), strict=True):
        x = pf.integrate(solver, part, x, torch.tensor([start, end]).double(), label=LABEL)
    return x


TRUTH = in_parts(FIELD, (0.0, *INTERVAL, 0.95))


@pytest.mark.parametrize(
    ("solver", "order"), [(Euler(), 1), (Heun(), 2), (RK4(), 4), (Multistep("velocity", "time", 2), 2)],
    ids=["euler", "heun", "rk4", "ab2"],
)  # fmt: skip
def test_solvers_keep_their_order_across_the_ends_of_a_guidance_interval(solver, order):
    errors = []
    for n in (12, 24, 48):
        grid = pf.times.uniform(n, 0.0, 0.95)
        got = pf.integrate(solver, FIELD, X, grid, label=LABEL)
        errors.append(float((got - TRUTH).abs().max()))
    observed = math.log2(errors[1] / errors[2])
    assert abs(observed - order) < 0.35, (errors, observed)


def test_an_adaptive_solver_keeps_its_tolerance_across_a_break():
    got = pf.integrate(DormandPrince(1e-7, 1e-8), FIELD, X, torch.tensor([0.0, 0.95]), label=LABEL)
    assert float((got - TRUTH).abs().max()) < 1e-6
    # And backwards.
    back = pf.integrate(
        DormandPrince(1e-7, 1e-8), FIELD, got, torch.tensor([0.95, 0.0]), label=LABEL
    )
    assert float((back - X).abs().max()) < 1e-5


def test_the_density_under_guidance_in_an_interval_is_that_of_its_smooth_parts():
    x, rtol = LAW.sample(4, seed=1), DormandPrince(1e-9, 1e-10)
    end = torch.tensor([0.0, 0.95]).double()
    got = pf.log_prob(FIELD, x, label=LABEL, grid=end, solver=rtol)
    plain, guided = FIELD.field, ClassifierFree(FIELD.field, 2.5)
    source, cuts = None, (0.0, *INTERVAL, 0.95)
    for field, start, stop in zip((plain, guided, plain), cuts, cuts[1:], strict=False):
        grid = torch.tensor([start, stop]).double()

        def source(y, field=field, grid=grid, before=source):
            return pf.log_prob(field, y, label=LABEL, grid=grid, solver=rtol, source=before)

    assert torch.allclose(got, source(x), atol=1e-7)


def test_samples_of_times_of_their_own_are_cut_at_the_same_breaks():
    times = torch.stack([pf.times.uniform(9, 0.0, end) for end in (0.5, 0.95, 0.5, 0.9)])
    got = pf.integrate(Heun(), FIELD, X, times, label=LABEL)
    for i in range(4):
        alone = pf.integrate(Heun(), FIELD, X[i : i + 1], times[i], label=LABEL[i : i + 1])
        assert torch.allclose(got[i : i + 1], alone, rtol=1e-10)


def test_a_change_of_schedule_moves_the_breaks_to_times_of_equal_noise():
    path = pf.Cosine()
    moved = pf.ScheduleTransfer(FIELD, path)
    for own, other in zip(INTERVAL, moved.breaks, strict=True):
        t, s = torch.tensor([own, other], dtype=torch.float64)
        assert float(pf.CondOT().log_snr(t) - path.log_snr(s)) == pytest.approx(0, abs=1e-9)
    # The flow is the same up to the scale of the states: at the same end.
    s = float(path.time_of_log_snr(pf.CondOT().log_snr(torch.tensor(0.95).double())))
    end = pf.integrate(DormandPrince(1e-9, 1e-10), moved, X, torch.tensor([0.0, s]), label=LABEL)
    scale = torch.hypot(torch.tensor(0.95), torch.tensor(0.05)).double()
    assert torch.allclose(end * scale, TRUTH, atol=1e-6)


# Padded samples.


class Pooled(nn.Module):
    """A network over sequences (B, 1, L) whose answer depends on the mean of what is data."""

    def forward(self, x, t, mask=None):
        count = x.shape[2] if mask is None else mask.expand_as(x).sum(2, keepdim=True)
        data = x if mask is None else torch.where(mask, x, 0.0)
        mean = data.sum(2, keepdim=True) / count
        return torch.tanh(x) * (1 - t[:, None, None]) + 0.3 * mean - 0.5 * x


LENGTHS = (3, 5, 2)
MASK = (torch.arange(5) < torch.tensor(LENGTHS)[:, None])[:, None]
MODEL = pf.Model(Pooled(), pf.CondOT(), shape=(1, 5))


@pytest.mark.parametrize(
    "solver",
    [
        Heun(), RK4(), pf.solvers.Learned(), Multistep("data", "log_snr", 3), DormandPrince(1e-6, 1e-7),
        EulerMaruyama(0.4), pf.solvers.StochasticHeun(0.3), pf.solvers.DDIM(eta=1), pf.solvers.DDPM(),
        pf.solvers.ChurnedHeun(4, 0.05, 50, 1.003), pf.solvers.DPMSolver(2, "data"),
        pf.solvers.PredictorCorrector(pf.solvers.DDIM(), pf.solvers.SignalToNoise()),
    ],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_padded_sample_is_the_one_that_it_is_alone(solver, dtype):
    noise = pf.Noise.batch(3, seed=4)
    x = noise.masked(MASK).normal((1, 5), dtype=dtype)
    grid = pf.times.uniform(7, 0.05, 0.9)
    together = pf.integrate(solver, MODEL, x, grid, seed=4, mask=MASK)
    assert not together[~MASK].any()
    for i, length in enumerate(LENGTHS):
        own = noise[torch.tensor([i])]
        start = own.normal((1, length), dtype=dtype)
        assert torch.equal(start[0], x[i, :, :length])
        alone = pf.integrate(
            solver, MODEL, start, grid, seed=4, ids=own.ids, mask=torch.ones(1, 1, length).bool()
        )
        bound = 1e-6 if dtype == torch.float32 else 1e-12
        assert float((alone[0] - together[i, :, :length]).abs().max()) < bound * 10


@pytest.mark.parametrize("probes", [None, 3])
def test_a_padded_sample_has_the_density_that_it_has_alone(probes):
    x = torch.where(MASK, pf.Noise.batch(3, seed=1).normal((1, 5), dtype=torch.float64), 0.0)
    found = pf.log_prob(MODEL, x, mask=MASK, probes=probes)
    for i, length in enumerate(LENGTHS):
        ids = torch.tensor([i])
        alone = pf.log_prob(MODEL, x[i : i + 1, :, :length], probes=probes, ids=ids)
        for a, b in zip(found if probes else (found,), alone if probes else (alone,), strict=True):
            assert torch.allclose(a[i], b[0], atol=1e-6)


def test_what_stands_in_the_padding_makes_no_difference():
    x = pf.Noise.batch(3).normal((1, 5), dtype=torch.float64)
    other = torch.where(MASK, x, 7.0)
    a, b = (pf.integrate(Heun(), MODEL, v, pf.times.uniform(5), mask=MASK) for v in (x, other))
    assert torch.equal(a[MASK.expand_as(a)], b[MASK.expand_as(b)])


def test_a_network_that_takes_no_mask_says_so():
    class Blind(nn.Module):
        def forward(self, x, t):
            return x

    with pytest.raises(pf.InputError, match="Blind takes no mask"):
        pf.integrate(
            Heun(),
            pf.Model(Blind(), pf.CondOT()),
            torch.zeros(3, 1, 5),
            pf.times.uniform(2),
            mask=MASK,
        )
    with pytest.raises(pf.InputError, match="no data"):
        pf.integrate(Heun(), MODEL, torch.zeros(3, 1, 5), pf.times.uniform(2), mask=MASK & False)


# Edits.


class Still:
    """A field that moves nothing."""

    path = pf.CondOT()

    def __call__(self, x, t, want="velocity", **cond):
        return torch.zeros_like(x)


def test_an_edit_changes_the_state_before_each_step_and_at_the_end():
    seen = []

    def edit(i, t, x):
        seen.append((i, float(t[0])))
        return x + 1

    end = pf.integrate(Euler(), Still(), torch.zeros(2, 1), pf.times.uniform(4), edit=edit)
    assert torch.equal(end, torch.full((2, 1), 5.0))
    assert seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]


def test_what_is_no_solver_or_no_state_is_said():
    x, grid = torch.zeros(2, 1), pf.times.uniform(2)
    for solver, words in (
        (Heun, r"solver=Heun is a class: pass Heun\(\)"),
        ("heun", "is a name"),
        (3, "int is no"),
    ):
        with pytest.raises(pf.InputError, match=words):
            pf.integrate(solver, Still(), x, grid)
    with pytest.raises(pf.InputError, match="got ndarray"):
        pf.integrate(Heun(), Still(), x.numpy(), grid)
    with pytest.raises(pf.InputError, match=r"t is 1\.5"):
        pf.Model(Pooled(), pf.CondOT())(torch.zeros(2, 1, 3), 1.5)
