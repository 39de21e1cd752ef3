"""Which labels samples are drawn with, and how classes are matched by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.data import Dataset
from pushforward.evaluate.labels import (
    balanced_labels,
    judged_labels,
    label_map,
    present,
    shown_labels,
    spec_of,
)


def data(labels: list[int] | list[str], names: list[str] | None = None) -> Dataset:
    return Dataset.from_arrays(np.zeros((len(labels), 2), np.float32), labels, class_names=names)


def test_labels_come_in_equal_shares() -> None:
    assert balanced_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert balanced_labels(5, [4, 1]).tolist() == [4, 1, 4, 1, 4]


def test_classes_without_data_are_neither_shown_nor_judged() -> None:
    """Labels 1 ... 4: class 0 has no data."""
    spec = DataSpec((2,), classes=5, class_counts=(0, 3, 3, 0, 94))
    assert present(spec) == (1, 2, 4)
    shown = shown_labels(9, spec)
    assert shown is not None
    assert shown.tolist() == [1, 2, 4] * 3
    judged = judged_labels(100, spec)
    assert judged is not None
    assert judged.bincount(minlength=5).tolist() == [0, 3, 3, 0, 94]
    # Where the counts are not known, those of the training data are used.
    judged = judged_labels(1000, DataSpec((2,), classes=5), data([1] * 3 + [2] * 7))
    assert judged is not None
    assert judged.bincount(minlength=5).tolist() == [0, 300, 700, 0, 0]
    assert shown_labels(3, DataSpec((2,))) is None
    assert judged_labels(3, DataSpec((2,))) is None


def test_without_any_counts_shares_are_equal() -> None:
    judged = judged_labels(30, DataSpec((2,), classes=3))
    assert judged is not None
    assert judged.bincount().tolist() == [10, 10, 10]


def test_shares_of_training_data_go_to_the_classes_of_the_same_name() -> None:
    spec = DataSpec((2,), classes=3, class_names=("dog", "bird", "cat"))
    judged = judged_labels(100, spec, data(["cat"] * 9 + ["dog"]))
    assert judged is not None
    assert judged.bincount(minlength=3).tolist() == [10, 0, 90]


def names(*classes: str, counts: tuple[int, ...] | None = None) -> DataSpec:
    return DataSpec((2,), classes=len(classes), class_names=classes, class_counts=counts)


def test_labels_are_matched_by_name() -> None:
    assert label_map(names("cat", "dog"), names("ant", "dog", "cat")).tolist() == [2, 1]
    bare = DataSpec((2,), classes=2)
    assert label_map(bare, names("ant", "dog", "cat")).tolist() == [0, 1]
    # A class that the other does not know is only an error if it has data.
    assert label_map(names("cat", "cow", counts=(3, 0)), names("dog", "cat")).tolist() == [1, -1]
    with pytest.raises(pf.Error, match=r"does not know: dgo \(did you mean dog"):
        label_map(names("cat", "dgo"), names("cat", "dog"))


def test_the_spec_of_a_field_is_what_its_shape_and_classes_say() -> None:
    field = pf.GaussianMixture([[-3.0, 0.0], [3.0, 1.0]], 0.1).field(pf.CondOT())
    assert (spec_of(field).shape, spec_of(field).classes) == ((2,), None)
    model = pf.Model(torch.nn.Identity(), pf.CondOT(), spec=names("a", "b"))
    assert spec_of(pf.guidance.ClassifierFree(model, 2.0)) is model.spec
