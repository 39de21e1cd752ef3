"""Classifiers that say whether samples are of their class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.data import Dataset, load_digits
from pushforward.evaluate.metrics.agreement import everything, train_classifier


def test_the_classifier_knows_digits_that_it_has_not_seen() -> None:
    train, held_out = load_digits().halves(seed=0)
    classifier = train_classifier(train, held_out)
    assert classifier.accuracy >= 0.97
    x, y = everything(held_out, 10_000)
    assert classifier.agreement(x, y) == classifier.accuracy
    wrong = (y + 1) % 10
    assert classifier.agreement(x, wrong) <= 0.03
    half = torch.where(torch.arange(len(y)) % 2 == 0, y, wrong)
    assert classifier.agreement(x, half) == pytest.approx(0.5, abs=0.03)
    assert classifier.predict(x).shape == y.shape


def test_a_classifier_needs_labels() -> None:
    data = Dataset.from_arrays(np.zeros((4, 2), np.float32))
    with pytest.raises(pf.InputError, match="needs labels"):
        train_classifier(data, data)


def test_everything_is_the_first_samples_with_their_labels() -> None:
    data = Dataset.from_arrays(np.arange(8, dtype=np.float32).reshape(4, 2), np.array([1, 0, 2, 1]))
    x, y = everything(data, 3)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert y.tolist() == [1, 0, 2]
    bare = Dataset.from_arrays(data.values)
    assert everything(bare, 99)[1].tolist() == [-1] * 4
