"""Two steps in one: the exact map is their fixed point."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pushforward as pf
from contracts.flow_maps import ExactNet, Free, flow_model, gradient
from contracts.members import has_share, mixture, randn
from objectives.test_meanflow import LAWS
from pushforward.core.noise import SOURCE
from pushforward.core.times import Uniform
from pushforward.objectives import FlowMatching, ProgressiveDistillation, Shortcut, weights
from pushforward.solvers import DDIM, Euler, SolverFlowMap

FINE = torch.tensor([0.0, 0.15, 0.3, 0.4, 0.7, 0.85, 1.0], dtype=torch.float64)
GRID = FINE[::2].tolist()


def next_of_grid(t: Tensor) -> Tensor:
    """Where a student of that grid goes from t."""
    return FINE[::2][1 + (t.detach()[:, None] > FINE[2::2] - 1e-9).sum(1)]


# Progressive distillation.


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("jumps", ["any", tuple(GRID)], ids=["any", "grid"])
@pytest.mark.parametrize(
    ("path", "prediction", "measure"),
    [
        (pf.CondOT(), "velocity", "velocity"), (pf.CondOT(), "data", "v"), (pf.Cosine(), "v", "data"),
        (pf.VP(), "v", "v"), (pf.VP(), "data", "velocity"), (pf.EDM(0.05, 10.0), "noise", "data"),
    ],
)  # fmt: skip
def test_the_exact_map_is_the_fixed_point_of_two_of_its_own_steps(
    path, prediction, measure, jumps, law
):
    net = ExactNet(law, path, prediction, next_of_grid)
    noise = pf.Noise.batch(24, seed=1)
    x1 = law.draw(noise)
    model = flow_model(net, path, prediction, jumps)
    objective = ProgressiveDistillation(model, law.flow_map(path), FINE, measure)
    loss = objective(x1, noise)["loss"]
    assert float(loss.detach().max()) < 1e-14
    assert float(gradient(loss.mean(), net).abs()) < 1e-7
    with torch.no_grad():
        net.theta.fill_(0.3)
    off = objective(x1, noise)["loss"]
    assert float(off.detach().mean()) > 1e-3
    assert float(gradient(off.mean(), net).abs()) > 1e-3


@pytest.mark.parametrize("teacher", ["v", "noise", "data"])
@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.Cosine()], ids=repr)
def test_the_target_is_the_data_to_which_one_step_of_ddim_makes_two_of_the_teachers(path, teacher):
    """Salimans & Ho 2022, alg. 2, in their words: z_t, z_t'' and alpha, sigma of both."""
    model, net = pf.Model(Free(seed=3), path, teacher), Free(seed=4)
    x1, noise = randn(20, 2, seed=1), pf.Noise.batch(20, seed=2)
    student = flow_model(net, path, "data", tuple(GRID))
    objective = ProgressiveDistillation(student, SolverFlowMap(model, DDIM()), FINE, "data")
    loss = objective(x1, noise)["loss"]
    z, t, s, _ = net.asked[-1]
    assert s is None
    t = FINE[(t[:, None] - FINE).abs().argmin(1)]  # of a time moved off the end, the end
    k = (t[:, None] == FINE).nonzero()[:, 1]
    assert set(k.tolist()) == {0, 2, 4}
    x0 = noise.normal((2,), SOURCE, torch.float64)
    torch.testing.assert_close(z, path.alpha(t)[:, None] * x1 + path.sigma(t)[:, None] * x0)
    with torch.no_grad():
        times = torch.stack((FINE[k], FINE[k + 1], FINE[k + 2]), 1)
        after = pf.integrate(DDIM(), model, z, times)
        (a, b), (c, d) = ((path.alpha(v)[:, None], path.sigma(v)[:, None]) for v in times.T[::2])
        target = (after - (d / b) * z) / (c - (d / b) * a)
    truth = ((student.model(z, t, "data") - target) ** 2).mean(1)
    torch.testing.assert_close(loss, truth, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradient(loss.sum(), net), gradient(truth.sum(), net))
    # A step of the student's from t leads there, if it says so.
    told = torch.cat([
        pf.integrate(DDIM(), Says(target[i : i + 1], path), z[i : i + 1], times[i, ::2]) for i in range(20)
    ])  # fmt: skip
    torch.testing.assert_close(told, after)


class Says:
    """A field whose data are given."""

    def __init__(self, data: Tensor, path: pf.Path) -> None:
        self.data, self.path = data, path

    def __call__(self, x, t, want="velocity"):
        return pf.convert(self.data, x, t, self.path, "data", want)


@pytest.mark.parametrize("path", [pf.VP(), pf.Cosine()], ids=repr)
def test_errors_of_v_are_errors_of_the_data_times_snr_plus_one_and_truncated_times_snr_or_one(path):
    net = Free()
    law = mixture(2, 1)
    x1, noise = law.sample(30, seed=1), pf.Noise.batch(30, seed=2)
    fine = torch.linspace(0.1, 1, 9, dtype=torch.float64)
    student = flow_model(net, path, "v", tuple(fine[::2].tolist()))
    data = ProgressiveDistillation(student, law.flow_map(path), fine, "data")
    base = data(x1, noise)["loss"].detach()
    t = net.asked[-1][1]
    snr = (path.alpha(t) / path.sigma(t)) ** 2
    assert float(snr.min()) < 0.9 < 1.1 < float(snr.max())
    v = replace(data, loss_in="v")(x1, noise)["loss"].detach()
    torch.testing.assert_close(v, (snr + 1) * base, rtol=1e-8, atol=0)
    cut = replace(data, loss_in="v", weight=weights.TruncatedSNR(path, "v"))(x1, noise)["loss"]
    torch.testing.assert_close(cut.detach(), torch.clamp(snr, min=1) * base, rtol=1e-8, atol=0)
    with pytest.raises(pf.InputError, match="was made for errors of the v"):
        replace(data, weight=weights.TruncatedSNR(path, "v"))


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.Cosine(), pf.EDM()], ids=repr)
def test_a_teacher_whose_steps_make_no_error_has_nothing_to_teach_its_copy(path):
    """A point: the data are the same at all times, and DDIM is exact."""

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))

        def forward(self, x, t):
            return self.at.expand_as(x)

    law, net = pf.Empirical([[0.3, -0.7]]), Point()
    model = pf.Model(net, path, "data")
    student = pf.FlowMapModel(copy.deepcopy(model), tuple(GRID))
    noise = pf.Noise.batch(20, seed=1)
    for teacher in (SolverFlowMap(model, DDIM()), law.flow_map(path)):
        loss = ProgressiveDistillation(student, teacher, FINE)(law.draw(noise), noise)["loss"]
        assert float(loss.detach().max()) < 1e-20 * (1 + path.source_std**2)
        assert float(gradient(loss.mean(), student.net).abs().max()) < 1e-8


@pytest.mark.parametrize("n", [1, 3])
def test_the_time_is_drawn_equally_from_those_of_the_student(n):
    law, path, net, size = mixture(2, 1), pf.CondOT(), Free(), 9000
    fine = FINE if n == 3 else FINE[::3]
    student = flow_model(net, path, "velocity", tuple(fine[::2].tolist()))
    ProgressiveDistillation(student, law.flow_map(path), fine)(
        randn(size, 2), pf.Noise.batch(size, seed=1)
    )
    t, counts = net.asked[-1][1].unique(return_counts=True)
    assert t.tolist() == fine[:-1:2].tolist()
    assert n == 1 or stats.chisquare(counts).pvalue > 1e-4


# Shortcuts.


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("path", "prediction"),
    [(pf.CondOT(), "velocity"), (pf.CondOT(), "v"), (pf.Cosine(), "v"), (pf.VP(), "data")],
)
def test_the_exact_map_is_the_fixed_point_of_two_jumps_in_one(path, prediction, law):
    """With itself for the shortest; without it, all but those, whose velocity is that of one time."""
    net = ExactNet(law, path, prediction)
    model, noise = flow_model(net, path, prediction), pf.Noise.batch(64, seed=1)
    x1 = law.draw(noise)
    taught = Shortcut(model, law.flow_map(path), finest=8, share=0.0)
    loss = taught(x1, noise)["loss"]
    assert float(loss.detach().max()) < 1e-13
    assert float(gradient(loss.mean(), net).abs()) < 1e-6
    alone = replace(taught, teacher=None)(x1, noise)["loss"].detach()
    shortest = alone > 1e-13
    # Jumps of 1, 1/2 and 1/4 come up equally often; test_defaults.py has their shares to a few per cent.
    assert has_share(shortest, 1 / 3)
    with torch.no_grad():
        net.theta.fill_(0.3)
    off = taught(x1, noise)["loss"]
    assert float(off.detach().mean()) > 1e-3
    assert float(gradient(off.mean(), net).abs()) > 1e-3


@pytest.mark.parametrize("finest", [2, 8, 128])
def test_jumps_have_all_lengths_equally_often_and_start_on_the_grid_of_their_length(finest):
    net, size = Free(), 6000
    Shortcut(flow_model(net, pf.CondOT()), finest=finest, share=0.0)(
        randn(size, 2), pf.Noise.batch(size, seed=1)
    )
    _, t, s, _ = net.asked[-1]
    length = s - t
    values, counts = length.unique(return_counts=True)
    assert values.tolist() == [2.0**-k for k in range(finest.bit_length() - 1)][::-1][: len(values)]
    assert float(values[0]) == 2 / finest
    assert float(values[-1]) == 1.0
    assert len(counts) == 1 or stats.chisquare(counts).pvalue > 1e-4
    assert bool((t / length == (t / length).round()).all())
    assert bool(((t >= 0) & (s <= 1)).all())
    for value in values.tolist()[::-1][:4]:
        where = (t[length == value] / value).long().numpy()
        counts = np.bincount(where, minlength=round(1 / value))
        assert len(counts) == round(1 / value)
        assert len(counts) == 1 or stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize(("path", "solver"), [(pf.CondOT(), Euler()), (pf.VP(), DDIM())], ids=repr)
def test_the_shortest_jumps_are_two_steps_along_the_velocity_and_longer_ones_two_jumps(
    path, solver, prediction
):
    """Euler's on straight paths and DDIM's on all; the model's own, from the one to the other, for the rest."""
    net, n = Free(), 48
    model, noise, x1 = flow_model(net, path, prediction), pf.Noise.batch(n, seed=2), randn(n, 2)
    loss = Shortcut(model, finest=8, share=0.0)(x1, noise)["loss"]
    z = noise.normal((2,), SOURCE, torch.float64)
    x, t, s, _ = net.asked[-1]
    shortest = (s - t) == 0.25
    assert set((s - t).tolist()) == {0.25, 0.5, 1.0}
    torch.testing.assert_close(x, path.alpha(t)[:, None] * x1 + path.sigma(t)[:, None] * z)
    r = (t + s) / 2
    with torch.no_grad():
        times = torch.stack((t, r, s), 1)
        short = pf.integrate(solver, pf.InstantaneousField(model), x, times)
        own = pf.integrate(pf.solvers.FlowMapSampler(), model, x, times)
        x_s = torch.where(shortest[:, None], short, own)
    got = model.model(x, t, "velocity", s=s)
    truth = ((got - slope_to(x_s, x, t, s, path)) ** 2).mean(1)
    torch.testing.assert_close(loss, truth, rtol=1e-7, atol=1e-9)
    # The target is held fixed.
    torch.testing.assert_close(gradient(loss.sum(), net), gradient(truth.sum(), net))
    # A teacher makes the shortest jumps, and no others.
    teacher = mixture(2, 1).flow_map(path)
    taught = Shortcut(model, teacher, finest=8, share=0.0)(x1, noise)["loss"]
    torch.testing.assert_close(taught[~shortest], loss[~shortest])
    truth = ((got - slope_to(teacher(x, t, s), x, t, s, path)) ** 2).mean(1)
    torch.testing.assert_close(taught[shortest], truth[shortest], rtol=1e-7, atol=1e-9)


def slope_to(x_s: Tensor, x: Tensor, t: Tensor, s: Tensor, path: pf.Path) -> Tensor:
    """The velocity at t of the pair whose line goes through x_t and x_s; on CondOT the slope."""
    if isinstance(path, pf.CondOT):
        return (x_s - x) / (s - t)[:, None]
    rows = [torch.stack((path.alpha(at), path.sigma(at)), 1) for at in (t, s)]
    pair = torch.linalg.solve(torch.stack(rows, 1), torch.stack((x, x_s), 1))
    return path.velocity(pair[:, 1], pair[:, 0], t)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_share_that_goes_nowhere_learns_by_flow_matching(share):
    net, path, n = Free(), pf.Cosine(), 4000
    model = flow_model(net, path, "v")
    noise, x1 = pf.Noise.batch(n, seed=2), randn(n, 2, seed=1)
    loss = Shortcut(model, finest=4, share=share)(x1, noise)["loss"].detach()
    _, t, s, _ = net.asked[-1]
    plain = s == t
    assert abs(float(plain.double().mean()) - share) <= 4.5 * (share * (1 - share) / n) ** 0.5
    theirs = FlowMatching(model.model, times=Uniform())(x1, noise)["loss"].detach()
    torch.testing.assert_close(loss[plain], theirs[plain], rtol=1e-9, atol=1e-10)
    if share > 0:
        assert stats.kstest(t[plain].numpy(), "uniform").pvalue > 1e-4


def test_a_dropped_condition_is_dropped_in_both_jumps_and_in_their_sum():
    net, path, n = Free(), pf.CondOT(), 6000
    noise, label = pf.Noise.batch(n, seed=2), torch.arange(n) % 3
    Shortcut(flow_model(net, path), finest=4, share=0.0, condition_dropout=0.3)(
        pf.Batch(randn(n, 2), {"label": label}), noise
    )
    told = [cond["label"] for *_, cond in net.asked]
    assert len(told) == 3
    dropped = told[-1] == -1
    assert has_share(dropped, 0.3)
    assert torch.equal(told[-1][~dropped], label[~dropped])
    assert all(torch.equal(part, told[-1]) for part in told)


LAW, PATH = mixture(2, 1), pf.CondOT()
FLOW = LAW.flow_map(PATH)


def test_arguments_that_do_not_fit_are_errors():
    model = flow_model(Free(), PATH, jumps=tuple(GRID))
    ProgressiveDistillation(model, FLOW, FINE)
    for bad in (FINE[:2], FINE[:4], FINE.flip(0), FINE[None], torch.tensor([0.0, 0.5, 0.5])):
        with pytest.raises(pf.InputError, match="fine must be"):
            ProgressiveDistillation(model, FLOW, bad)
    for other in (
        flow_model(Free(), PATH, jumps="data"),
        flow_model(Free(), PATH, jumps=(0.0, 1.0)),
    ):
        with pytest.raises(pf.InputError, match="every other time of `fine`"):
            ProgressiveDistillation(other, FLOW, FINE)
    with pytest.raises(pf.InputError, match="no prediction 'flow'"):
        ProgressiveDistillation(model, FLOW, FINE, "flow")
    for measure in ("noise", "score"):  # that x_t is, where it is all noise
        with pytest.raises(pf.InputError, match=f"cannot be measured in the {measure}"):
            ProgressiveDistillation(model, FLOW, FINE, measure)
        later = 0.1 + 0.9 * FINE
        some = flow_model(Free(), PATH, jumps=tuple(later[::2].tolist()))
        ProgressiveDistillation(some, FLOW, later, measure)
        some = flow_model(Free(), pf.EDM(), "data", tuple(GRID))
        ProgressiveDistillation(some, LAW.flow_map(pf.EDM()), FINE, measure)
    with pytest.raises(pf.InputError, match="the teacher flows along"):
        ProgressiveDistillation(model, LAW.flow_map(pf.VP()), FINE)
    with pytest.raises(pf.InputError, match="probability"):
        ProgressiveDistillation(model, FLOW, FINE, condition_dropout=2.0)
    free = flow_model(Free(), PATH)
    with pytest.raises(pf.InputError, match="jumps of any length"):
        Shortcut(model)
    for finest in (0, 1, 3, 12):
        with pytest.raises(pf.InputError, match="power of 2"):
            Shortcut(free, finest=finest)
    for share in (-0.1, 1.1):
        with pytest.raises(pf.InputError, match="share is"):
            Shortcut(free, share=share)
    with pytest.raises(pf.InputError, match="the teacher flows along"):
        Shortcut(free, LAW.flow_map(pf.Cosine()))
    with pytest.raises(pf.InputError, match="probability"):
        Shortcut(free, condition_dropout=-1.0)
