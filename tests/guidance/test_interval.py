"""Guidance that acts in an interval: where the field jumps, and what it is on each side."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import pushforward as pf
from contracts.members import mixture
from guidance.laws import LABEL, LAW, ExactClassifier, X
from pushforward.core.fields import breaks_of, within
from pushforward.guidance import Autoguidance, ClassifierFree, ClassifierGuidance

PATH = pf.CondOT()
EXACT = LAW.field(PATH)
WORSE = mixture(2, 4, "full", seed=5, labels=[0, 1, 0, 2]).field(PATH)
# Each with the scale that changes nothing.
KINDS = {
    "free": (lambda scale, interval: ClassifierFree(EXACT, scale, interval), 1.0),
    "classifier": (
        lambda scale, interval: ClassifierGuidance(
            EXACT, ExactClassifier(LAW, PATH), scale, interval
        ),
        0.0,
    ),
    "auto": (lambda scale, interval: Autoguidance(EXACT, WORSE, scale, interval), 1.0),
}
INTERVALS = {
    (0.0, 1.0): (),
    (0.0, 0.5): (0.5,),
    (0.3, 1.0): (0.3,),
    (0.2, 0.8): (0.2, 0.8),
    (0.4, 0.4): (),  # of no length: no solution sees it
}


def ask(field, t: float) -> torch.Tensor:
    return field(X, t, label=LABEL)


@pytest.mark.parametrize("interval", INTERVALS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_field_jumps_where_guidance_sets_in_or_ends_and_nowhere_without_guidance(kind, interval):
    make, none = KINDS[kind]
    assert breaks_of(make(2.0, interval)) == INTERVALS[interval]
    assert breaks_of(make(none, interval)) == ()
    jumps = [
        t
        for t in (0.2, 0.3, 0.5, 0.8)
        if not torch.allclose(
            ask(make(2.0, interval), t - 1e-9), ask(make(2.0, interval), t + 1e-9), atol=1e-4
        )
    ]
    assert tuple(jumps) == INTERVALS[interval]


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.3, 1.0), (0.2, 0.8)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_between_breaks_a_field_is_itself_and_at_them_the_limit_from_its_own_side(kind, interval):
    guided = KINDS[kind][0](2.0, interval)
    for start, end in pairwise((0.0, *breaks_of(guided), 1.0)):
        side = within(guided, start, end)
        assert breaks_of(side) == ()
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            t = start + share * (end - start)
            assert torch.equal(ask(side, t), ask(guided, t)), t
        for at, inner in ((start, start + 1e-9), (end, end - 1e-9)):
            if 0 < at < 1:
                assert torch.allclose(ask(side, at), ask(guided, inner), atol=1e-5), at


def test_a_field_has_the_breaks_of_all_that_it_wraps():
    inner = Autoguidance(EXACT, WORSE, 2.0, (0.1, 0.6))
    other = Autoguidance(EXACT, WORSE, 3.0, (0.3, 0.7))
    by = ClassifierGuidance(inner, ExactClassifier(LAW, PATH), 2.0, (0.1, 0.9))
    auto = Autoguidance(inner, other, 2.0, (0.2, 0.7))
    assert breaks_of(by) == (0.1, 0.6, 0.9)
    assert breaks_of(auto) == (0.1, 0.2, 0.3, 0.6, 0.7)
    for guided in (by, auto):
        for start, end in pairwise((0.0, *breaks_of(guided), 1.0)):
            t = (start + end) / 2
            assert torch.equal(ask(within(guided, start, end), t), ask(guided, t))
