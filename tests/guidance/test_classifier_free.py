"""Guidance is its formula, for every prediction, in one call."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import pushforward as pf
from contracts.members import PATHS, Counted, mixture, randn, relative
from pushforward.core.conditions import Fill
from pushforward.core.noise import SOLVER
from pushforward.guidance import ClassifierFree

LAW = mixture(2, 4, "full", labels=[0, 1, 0, 2])
X, LABEL = randn(5, 2, seed=1), torch.tensor([0, 1, 2, 1, 0])
T = torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8], dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.5, -1.0])
def test_guidance_is_the_stated_combination_of_two_laws(scale, path):
    field = LAW.field(path)
    guided = ClassifierFree(field, scale)
    assert guided.path is path
    for want in pf.PREDICTIONS:
        free, given = field(X, T, want), field(X, T, want, label=LABEL)
        truth = (1 - scale) * free + scale * given
        assert relative(guided(X, T, want, label=LABEL), truth) < 1e-10, want
    assert torch.equal(guided(X, T, label=LABEL), guided(X, T, "velocity", label=LABEL))


@pytest.mark.parametrize("path", PATHS)
def test_guidance_is_the_same_under_every_name(path):
    guided = ClassifierFree(LAW.field(path), 2.5)
    values = {name: guided(X, T, name, label=LABEL) for name in pf.PREDICTIONS}
    for have, value in values.items():
        for want in pf.PREDICTIONS:
            got = pf.convert(value, X, T, path, have, want)
            scale = values[want].norm(dim=1).max() + 1e-3 * X.norm(dim=1).max()
            assert float((got - values[want]).norm(dim=1).max() / scale) < 1e-9


def test_scale_zero_ignores_the_condition_and_scale_one_is_plain_conditional_sampling():
    field = LAW.field(pf.CondOT())
    assert torch.allclose(ClassifierFree(field, 0.0)(X, T, label=LABEL), field(X, T), rtol=1e-12)
    assert torch.equal(ClassifierFree(field, 1.0)(X, T, label=LABEL), field(X, T, label=LABEL))
    with pytest.raises(pf.InputError, match="needs a condition that may be dropped"):
        ClassifierFree(field, 3.0)(X, T)
    assert torch.equal(ClassifierFree(field, 1.0)(X, T), field(X, T))


@pytest.mark.parametrize(
    ("low", "high"), [(0.3, 0.7), (0.35, 0.65), (0.0, 0.35), (0.65, 1.0), (0.9, 1.0), (0.5, 0.5)]
)
def test_outside_its_interval_the_condition_alone_is_used_for_each_sample(low, high):
    field, counted = LAW.field(pf.CondOT()), Counted(LAW.field(pf.CondOT()))
    got = ClassifierFree(counted, 3.0, (low, high))(X, T, label=LABEL)
    for i, t in enumerate(T.tolist()):
        free, given = field(X, T)[i], field(X, T, label=LABEL)[i]
        truth = 3 * given - 2 * free if low <= t <= high else given
        assert torch.allclose(got[i], truth, rtol=1e-10)
    assert counted.calls == 1


def test_one_call_of_the_field_a_step():
    for scale, batch in ((2.0, 10), (1.0, 5)):
        counted = Counted(LAW.field(pf.CondOT()))
        pf.integrate(
            pf.solvers.Heun(),
            ClassifierFree(counted, scale),
            X,
            pf.times.uniform(6, 0, 0.9),
            label=LABEL,
        )
        assert counted.calls == 12
        assert {len(t) for t in counted.times} == {batch}


def test_each_sample_keeps_its_own_condition_whatever_its_kind():
    seen = {}

    class Field:
        path = pf.CondOT()
        nulls: ClassVar = {"label": Fill(-1), "text": Fill(0)}

        def __call__(self, x, t, want="velocity", **cond):
            seen.update(cond)
            return x * (1 + cond["label"][:, None]) + cond["text"].flatten(1).sum(1, keepdim=True)

    text = randn(5, 3, 2, seed=2)
    got = ClassifierFree(Field(), 2.0)(X, 0.5, label=LABEL, text=text)
    given = X * (1 + LABEL[:, None]) + text.flatten(1).sum(1, keepdim=True)
    assert torch.allclose(got, 2 * given)  # unconditional: label -1 and text 0 give 0
    assert seen["label"].tolist() == [-1] * 5 + LABEL.tolist()


class WithVariance:
    """LAW, with v = label/4 and, without a label, -1/4."""

    def __init__(self, path):
        self.field, self.path, self.sizes = LAW.field(path), path, []

    def with_variance(self, x, t, want="data", **cond):
        self.sizes.append(len(x))
        value = self.field(x, t, want, **cond)
        return value, (cond["label"] / 4.0)[:, None].expand_as(value)

    def __call__(self, x, t, want="velocity", **cond):
        raise AssertionError("one call for both")


def test_the_guided_prediction_comes_with_the_variance_of_the_conditional_one():
    path = pf.VP()
    inner, plain = WithVariance(path), ClassifierFree(LAW.field(path), 2.5, (0.3, 0.7))
    guided = ClassifierFree(inner, 2.5, (0.3, 0.7))
    for want in pf.PREDICTIONS:
        value, v = guided.with_variance(X, T, want, label=LABEL)
        assert torch.allclose(value, plain(X, T, want, label=LABEL), rtol=1e-12)
        assert torch.equal(v, (LABEL / 4.0)[:, None].expand_as(X))
    # Within one step without a break. Nichol & Dhariwal, eq. 15: ln of the variance is v ln beta + (1 - v) ln
    # beta-tilde.
    plain, guided = ClassifierFree(LAW.field(path), 2.5), ClassifierFree(inner, 2.5)
    x, s = pf.Noise.batch(5).normal((2,), dtype=torch.float64), T + 0.1
    times = torch.stack((T, s), 1)
    one, tilde, beta = (
        pf.integrate(solver, field, x, times, seed=1, label=LABEL)
        for solver, field in (
            (pf.solvers.DDPM("learned"), guided), (pf.solvers.DDPM("beta-tilde"), plain),
            (pf.solvers.DDPM("beta"), plain),
        )
    )  # fmt: skip
    z = pf.Noise.batch(5, seed=1).normal((2,), SOLVER, torch.float64)
    b = path.sigma(T) ** 2 - (path.alpha(T) / path.alpha(s)) ** 2 * path.sigma(s) ** 2
    roots = b.sqrt()[:, None], (b.sqrt() * path.sigma(s) / path.sigma(T))[:, None]
    mean = tilde - roots[1] * z
    assert torch.allclose(beta - mean, roots[0] * z, rtol=1e-9, atol=1e-12)
    share = LABEL[:, None] / 4
    assert torch.allclose(one - mean, roots[0] ** share * roots[1] ** (1 - share) * z, rtol=1e-9)
    assert inner.sizes == [10] * 6
    with pytest.raises(pf.InputError, match="no variance to give"):
        pf.integrate(pf.solvers.DDPM("learned"), plain, x, times, label=LABEL)


@pytest.mark.parametrize("interval", [(-0.1, 1.0), (0.0, 1.1), (0.6, 0.4)])
def test_intervals_that_are_none_are_errors(interval):
    with pytest.raises(pf.InputError, match="interval"):
        ClassifierFree(LAW.field(pf.CondOT()), 2.0, interval)
