"""Guidance by a worse model is its formula on two laws, and two calls at most."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import PATHS, Counted, mixture, relative
from guidance.laws import LABEL, LAW, T, X
from pushforward.guidance import Autoguidance

BAD = mixture(2, 3, "full", seed=9, labels=[0, 1, 2])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.5])
def test_autoguidance_is_the_stated_combination_under_every_name(path, scale):
    good, bad = LAW.field(path), BAD.field(path)
    guided = Autoguidance(good, bad, scale)
    assert guided.path is path
    values = {}
    for want in pf.PREDICTIONS:
        truth = (1 - scale) * bad(X, T, want, label=LABEL) + scale * good(X, T, want, label=LABEL)
        values[want] = guided(X, T, want, label=LABEL)
        assert relative(values[want], truth) < 1e-9, want
    assert torch.equal(guided(X, T, label=LABEL), values["velocity"])


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_for_two_gaussians_the_guided_score_is_that_of_a_gaussian(scale):
    # w S_good + (1 - w) S_bad with S = -(x - alpha m)/(alpha^2 v + sigma^2).
    path, t = pf.Cosine(), 0.4
    a, s = (float(f(torch.tensor(t).double())) for f in (path.alpha, path.sigma))
    good = pf.GaussianMixture([[1.0, 2.0]], 0.5).field(path)
    bad = pf.GaussianMixture([[0.0, -1.0]], 1.5).field(path)
    got = Autoguidance(good, bad, scale)(X, t, "score")
    p, q = scale / (a**2 * 0.5 + s**2), (1 - scale) / (a**2 * 1.5 + s**2)
    mean = a * (p * torch.tensor([1.0, 2.0]) + q * torch.tensor([0.0, -1.0])) / (p + q)
    assert torch.allclose(got, -(p + q) * (X - mean), rtol=1e-6)


def test_scale_one_is_the_field_alone_and_asks_nobody_else():
    good, bad = Counted(LAW.field(pf.CondOT())), Counted(BAD.field(pf.CondOT()))
    assert torch.equal(Autoguidance(good, bad, 1.0)(X, T), LAW.field(pf.CondOT())(X, T))
    assert (good.calls, bad.calls) == (1, 0)
    Autoguidance(good, bad, 2.0)(X, T)
    assert (good.calls, bad.calls) == (2, 1)
    Autoguidance(good, bad, 2.0, (0.9, 1.0))(X, T)
    assert (good.calls, bad.calls) == (3, 1)


@pytest.mark.parametrize("interval", [(0.3, 0.7), (0.35, 0.65), (0.0, 0.35), (0.65, 1.0)])
def test_outside_its_interval_the_field_alone_is_used_for_each_sample(interval):
    good, bad = LAW.field(pf.VP()), BAD.field(pf.VP())
    got = Autoguidance(good, bad, 3.0, interval)(X, T)
    inside = (interval[0] <= T) & (interval[1] >= T)
    assert torch.allclose(got[~inside], good(X, T)[~inside], rtol=1e-12)
    truth = 3 * good(X, T) - 2 * bad(X, T)
    assert torch.allclose(got[inside], truth[inside], rtol=1e-10)


def test_fields_of_two_paths_do_not_mix_until_one_is_brought_over():
    good, bad = LAW.field(pf.CondOT()), BAD.field(pf.VP())
    with pytest.raises(pf.InputError, match="ScheduleTransfer"):
        Autoguidance(good, bad, 2.0)
    moved = pf.ScheduleTransfer(bad, pf.CondOT())
    truth = 2 * good(X, T) - BAD.field(pf.CondOT())(X, T)
    assert torch.allclose(Autoguidance(good, moved, 2.0)(X, T), truth, rtol=1e-6, atol=1e-8)
    with pytest.raises(pf.InputError, match="interval"):
        Autoguidance(good, good, 2.0, (0.6, 0.4))
