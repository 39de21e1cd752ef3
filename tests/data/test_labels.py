"""Labels: order of classes, classes without samples, and labels of other data for a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.core.spec import DataSpec
from pushforward.data import Dataset, match_labels


def labelled(labels: object, names: list[str] | None = None) -> Dataset:
    values = np.arange(float(len(labels)))[:, None]  # type: ignore[arg-type]
    return Dataset.from_arrays(values, labels, class_names=names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["010", "2", "001"], ("001", "2", "010")),
        (["b10", "b2", "a"], ("a", "b10", "b2")),
        (["10", "2", "x"], ("10", "2", "x")),
    ],
)
def test_names_that_are_numbers_are_in_the_order_of_numbers(
    names: list[str], classes: tuple[str, ...]
) -> None:
    dataset = labelled(names)
    assert dataset.class_names == classes
    assert [classes[i] for i in dataset.labels.tolist()] == names  # type: ignore[union-attr]


def test_strings_are_numbered_in_the_order_of_given_names() -> None:
    dataset = labelled(["cat", "ant", "cat"], ["cat", "bee", "ant"])
    assert dataset.labels.tolist() == [0, 2, 0]  # type: ignore[union-attr]
    assert dataset.class_counts == (2, 0, 1)
    with pytest.raises(DataError, match="label 'dog' is none of the classes cat, bee"):
        labelled(["cat", "dog"], ["cat", "bee"])


def test_classes_without_samples_are_said_once_and_count_as_none() -> None:
    dataset = labelled([1, 2, 3, 4, 4])
    assert dataset.class_counts == dataset.spec.class_counts == (0, 1, 1, 1, 2)
    (note,) = dataset.notes
    assert note.startswith("1 of 5 class has no samples") or "1 of 5" in note
    assert "0 (labels run from 1 to 4)" in note
    (note,) = labelled(["b", "b"], ["a", "b", "c"]).notes
    assert "2 of 3 classes have no samples" in note
    assert "'a', 'c'" in note
    assert labelled([0, 1, 2]).notes == ()


MODEL = DataSpec(classes=4, class_names=("ant", "cat", "dog", "fox"))


def test_labels_are_matched_to_a_model_by_name() -> None:
    data = match_labels(labelled(["fox", "cat", "fox"]), MODEL)
    assert data.labels.tolist() == [3, 1, 3]  # type: ignore[union-attr]
    assert (data.classes, data.class_names) == (4, MODEL.class_names)
    assert data.class_counts == (0, 1, 0, 2)
    assert data[torch.tensor([1])].cond["label"].tolist() == [1]
    assert data.split(0.5)[0].classes == 4
    # A class without samples may be unknown.
    assert match_labels(labelled(["cat"], ["bee", "cat"]), MODEL).class_counts == (0, 1, 0, 0)


def test_classes_that_a_model_does_not_know_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"know: cta \(did you mean cat\?\). It knows ant, cat"):
        match_labels(labelled(["cta", "dog"]), MODEL)
    with pytest.raises(DataError, match="classes that the model does not know: bird, cow"):
        match_labels(labelled(["bird", "cow", "dog"]), MODEL)
    with pytest.raises(DataError, match="know: 4"):
        match_labels(labelled([0, 4]), MODEL)
    with pytest.raises(DataError, match=r"know: 5\. It knows 0, 1, 2"):
        match_labels(labelled([0, 5]), DataSpec(classes=3))


@pytest.mark.parametrize(
    ("labels", "spec", "matched"),
    [
        # Numbers for a model with numbers, and for one with names: its own.
        ([0, 2], DataSpec(classes=3), [0, 2]),
        ([0, 2], MODEL, [0, 2]),
        # Names that are numbers, on either side.
        (["2", "0"], DataSpec(classes=3), [2, 0]),
        ([2, 10], DataSpec(classes=2, class_names=("2", "10")), [0, 1]),
        ([1, 0], DataSpec(classes=2, class_names=("2", "10")), [1, 0]),
    ],
)
def test_numbers_are_matched_with_numbers(
    labels: object, spec: DataSpec, matched: list[int]
) -> None:
    assert match_labels(labelled(labels), spec).labels.tolist() == matched  # type: ignore[union-attr]


def test_without_labels_or_classes_there_is_nothing_to_match() -> None:
    plain = Dataset.from_arrays(np.zeros((2, 1)))
    assert match_labels(plain, MODEL) is plain
    data = labelled(["x"])
    assert match_labels(data, DataSpec()) is data


def test_one_class_and_one_sample_are_data() -> None:
    data = labelled(["only"] * 5)
    assert (data.classes, data.class_counts, data.notes) == (1, (5,), ())
    train, held_out = data.split(0.8)
    assert (len(train), len(held_out)) == (4, 1)
    one = labelled(["only"])
    with pytest.raises(DataError, match=r"hold none out \(--held-out 0\)"):
        one.split(0.9)
    train, nothing = one.split(1.0)
    assert train.fingerprint() == one.fingerprint()
    assert (len(nothing), nothing.shape, nothing.class_counts) == (0, (1,), (0,))
    assert nothing.fingerprint() != one.fingerprint()
