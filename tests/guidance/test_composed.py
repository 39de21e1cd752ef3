"""Conditions composed: one call, the sum by hand, and the exact product where conditions are independent."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import pushforward as pf
from contracts.members import Counted, randn
from guidance.laws import LABEL, LAW, T, X
from pushforward.core.conditions import Fill
from pushforward.core.fields import Masked
from pushforward.guidance import ClassifierFree, Composed

FIELD = LAW.field(pf.CondOT())


def label(k: int) -> dict[str, torch.Tensor]:
    return {"label": torch.tensor([k])}


@pytest.mark.parametrize("want", ["velocity", "data", "noise"])
def test_the_sum_is_that_by_hand_in_one_call(want):
    field = Counted(FIELD)
    got = Composed(field, [(2.0, label(0)), (1.5, {"label": LABEL}), (-0.5, label(2))])(X, T, want)
    assert field.calls == 1
    free = FIELD(X, T, want, label=torch.full((5,), -1))
    parts = {k: FIELD(X, T, want, label=torch.full((5,), k)) for k in (0, 2)}
    own = FIELD(X, T, want, label=LABEL)
    by_hand = free + 2 * (parts[0] - free) + 1.5 * (own - free) - 0.5 * (parts[2] - free)
    assert torch.allclose(got, by_hand, atol=1e-12)


def test_one_term_is_classifier_free_guidance():
    got = Composed(FIELD, [(2.5, {"label": LABEL})])(X, T)
    assert torch.allclose(got, ClassifierFree(FIELD, 2.5)(X, T, label=LABEL), atol=1e-12)


def test_outside_the_interval_is_the_field_as_it_is_asked():
    composed = Composed(FIELD, [(2.5, label(1))], (0.3, 0.6))
    got = composed(X, T, label=LABEL)
    inside = ((T >= 0.3) & (T <= 0.6))[:, None]
    pushed = Composed(FIELD, [(2.5, label(1))])(X, T)
    assert torch.allclose(got, torch.where(inside, pushed, FIELD(X, T, label=LABEL)), atol=1e-12)
    assert composed.breaks == (0.3, 0.6)


def test_at_the_data_the_score_is_that_of_the_product_of_posteriors():
    # Conditions that are independent given x: p(x) p(y1 | x)^w1 p(y2 | x)^w2, by automatic differentiation.
    t = torch.tensor(1 - 1e-7, dtype=torch.float64)
    x = randn(6, 2, seed=5).requires_grad_()
    none, one, two = (FIELD.log_prob(x, t, torch.full((6,), k)) for k in (-1, 0, 1))
    tilted = none + 1.3 * (one - none) - 0.4 * (two - none)
    (want,) = torch.autograd.grad(tilted.sum(), x)
    got = Composed(FIELD, [(1.3, label(0)), (-0.4, label(1))])(x.detach(), t, "score")
    assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)


def test_solvers_take_it_and_every_sample_may_have_its_own():
    rows = {"label": torch.tensor([0, 1, 2, 0])}
    x = pf.generate(Composed(FIELD, [(1.0, rows)]), 4, nfe=8)
    assert torch.allclose(x, pf.generate(FIELD, 4, nfe=8, **rows), atol=1e-8)


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ([(1.0, {})], "names no condition"),
        ([(1.0, {"lable": torch.tensor([1])})], "lable cannot be dropped"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms, why):
    with pytest.raises(pf.InputError, match=why):
        Composed(FIELD, terms)


def test_a_term_of_the_wrong_number_of_rows_is_refused():
    with pytest.raises(pf.InputError):
        Composed(FIELD, [(1.0, {"label": torch.tensor([0, 1, 2])})])(X, T)


@pytest.mark.parametrize("terms", [[], [(float("nan"), label(1))]])
def test_no_terms_and_weights_that_are_no_numbers_are_refused(terms):
    with pytest.raises(pf.InputError, match="one or more pairs of a finite weight"):
        Composed(FIELD, terms)


def test_terms_with_a_row_for_each_sample_are_cut_with_the_batch_wherever_they_are():
    own = {"label": torch.tensor([0, 1, 2, 0, 1])}
    for field in (
        Composed(FIELD, [(2.0, own), (-0.5, label(2))]),
        Masked(Composed(FIELD, [(2.0, own)], (0.2, 0.7)), told=False),
    ):
        extra = {"mask": torch.ones(5, 2).bool()} if isinstance(field, Masked) else {}
        whole = pf.generate(field, 5, nfe=6, shape=(2,), **extra)
        parts = pf.generate(field, 5, nfe=6, shape=(2,), batch_size=2, **extra)
        assert torch.allclose(parts, whole, atol=1e-10)


def test_what_no_term_names_is_as_it_is_given_and_what_another_names_is_none():
    class Two:
        """A velocity by both of its conditions, not by their sum."""

        path = pf.CondOT()
        nulls: ClassVar = {"a": Fill(0.0), "b": Fill(0.0)}

        def __call__(self, x, t, want="velocity", *, a=None, b=None):
            a, b = (torch.zeros(len(x)).double() if v is None else v for v in (a, b))
            return x * torch.cos(a + 2 * b + a * b)[:, None]

    a, b = randn(5, seed=1), randn(5, seed=2)
    field = Two()
    free, given = field(X, T, b=b), field(X, T, a=a, b=b)
    got = Composed(field, [(2.0, {"a": a})])(X, T, b=b)
    assert torch.allclose(got, free + 2 * (given - free), atol=1e-12)
    # Guidance around it acts on what it leaves.
    inner = Composed(field, [(2.0, {"a": a[:1]})])
    outside = ClassifierFree(inner, 3.0)(X, T, b=b)
    assert torch.allclose(outside, -2 * inner(X, T) + 3 * inner(X, T, b=b), atol=1e-12)
    both = Composed(field, [(2.0, {"a": a}), (0.5, {"b": b})])(X, T, a=a, b=b)
    none, one, two = field(X, T), field(X, T, a=a), field(X, T, b=b)
    assert torch.allclose(both, none + 2 * (one - none) + 0.5 * (two - none), atol=1e-12)
