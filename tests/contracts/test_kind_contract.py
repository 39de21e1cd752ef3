"""What every kind of data keeps to."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import KINDS, randn
from pages import pixels
from pushforward.evaluate import kinds

COUNT = 4


def drawn(kind, shape, samples=None, **options):
    spec = pf.DataSpec(shape, kind=kind.name, classes=2, class_names=("left", "right"))
    label = torch.arange(COUNT) % 2
    samples = samples_of(shape) if samples is None else samples
    return pixels(kind.draw(samples, spec, label, **options))


def samples_of(shape):
    return randn(COUNT, *shape, seed=3, dtype=torch.float32).clamp(-0.9, 0.9)


@pytest.mark.parametrize(("kind", "shape", "other"), KINDS)
def test_a_spec_of_a_kind_finds_it(kind, shape, other):
    assert kinds.of(pf.DataSpec(shape, kind=kind.name)) is kind
    assert sum(known.name == kind.name for known in kinds.KINDS) == 1


@pytest.mark.parametrize(("kind", "shape", "other"), KINDS)
def test_as_many_samples_of_each_class_are_drawn_as_of_any_other(kind, shape, other):
    alone = kind.number(pf.DataSpec(shape, kind=kind.name))
    assert alone > 0
    for classes in (1, 3):
        number = kind.number(pf.DataSpec(shape, kind=kind.name, classes=classes))
        assert number == (alone if kind.per_class is None else classes * kind.per_class)


@pytest.mark.parametrize(("kind", "shape", "other"), KINDS)
def test_samples_of_another_shape_are_refused(kind, shape, other):
    assert kind.fits(shape)
    assert not kind.fits(other)
    with pytest.raises(pf.InputError, match=f"cannot be drawn as {kind.noun}"):
        kind.draw(torch.zeros(COUNT, *other), pf.DataSpec(other))
    with pytest.raises(pf.InputError, match="3 labels for 4 samples"):
        kind.draw(torch.zeros(COUNT, *shape), pf.DataSpec(shape), torch.zeros(3))


@pytest.mark.parametrize(("kind", "shape", "other"), KINDS)
def test_every_sample_shows_and_a_picture_is_a_function_of_the_samples(kind, shape, other):
    picture = drawn(kind, shape)
    assert (picture == drawn(kind, shape)).all()
    for i in range(COUNT):
        samples = samples_of(shape)
        samples[i] = -samples[i]
        changed = drawn(kind, shape, samples)
        assert changed.shape != picture.shape or (changed != picture).any(), i
