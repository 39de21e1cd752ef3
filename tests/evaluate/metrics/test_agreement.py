"""Classifiers that say whether samples are of their class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.data import Dataset, load_digits
from pushforward.evaluate.metrics.agreement import (
    NetworkClassifier,
    everything,
    train_classifier,
    trained_classifier,
)
from pushforward.models.classifier import NoisyClassifier


def sorted_by_class(count: int = 600, classes: int = 3, names: list[str] | None = None) -> Dataset:
    """Gray squares in the order of their classes, each class at its own brightness."""
    label = np.arange(classes).repeat(count)
    noise = np.random.default_rng(0).normal(0, 0.02, (len(label), 1, 4, 4))
    x = (-0.6 + 0.6 * label)[:, None, None, None] + noise
    return Dataset.from_arrays(x.astype(np.float32), label, class_names=names)


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


def test_data_in_the_order_of_their_classes_are_judged_as_well_as_any() -> None:
    """Of three classes of 600 in class order, 500 samples: the first 500 would be of one class, an accuracy of 1/3."""
    train, held_out = sorted_by_class().split(0.5)
    assert train_classifier(train, held_out, limit=500).accuracy == 1
    x, y = everything(held_out, 300)
    assert y.bincount().tolist() == [100, 100, 100]
    assert len(x) == 300
    # A network that answers by brightness, scored on few of them.
    judge = trained_classifier(Bright.model(), held_out, 90)
    assert judge.accuracy == 1


class Bright(torch.nn.Module):
    """Logits of three classes by how bright an image is; order: which label is the darkest, ..."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        level = x.flatten(1).mean(1)
        distance = -(level[:, None] - torch.tensor([-0.6, 0.0, 0.6])).abs() * self.one
        return distance[:, [self.order.index(k) for k in range(3)]]

    @classmethod
    def model(cls, names: tuple[str, ...] | None = None, order=(0, 1, 2)) -> NoisyClassifier:
        spec = DataSpec((1, 4, 4), classes=3, class_names=names)
        return NoisyClassifier(cls(list(order)), pf.CondOT(), spec=spec, clean=True)


def test_classes_of_a_classifier_are_matched_by_name() -> None:
    """A classifier whose first class is "light" judges data whose first class is "dark"."""
    held_out = sorted_by_class(names=["dark", "grey", "light"])
    judge = trained_classifier(Bright.model(("light", "dark", "grey"), (1, 2, 0)), held_out)
    assert isinstance(judge, NetworkClassifier)
    assert judge.accuracy == 1
    x, y = everything(held_out, 30)
    assert judge.agreement(x, y) == 1
    assert judge.agreement(x, (y + 1) % 3) == 0
    with pytest.raises(pf.Error, match="a class that the model does not know: light"):
        trained_classifier(Bright.model(("white", "dark", "grey")), held_out)
    with pytest.raises(pf.Error, match="does not know: 3"):
        trained_classifier(Bright.model(), sorted_by_class(classes=4))
    small = Dataset.from_arrays(np.zeros((4, 1, 2, 2), np.float32), [0, 1, 2, 0])
    with pytest.raises(pf.InputError, match="knows samples"):
        trained_classifier(Bright.model(), small)


def test_agreement_by_class_counts_rare_classes_as_much_as_others() -> None:
    judge = trained_classifier(Bright.model(), sorted_by_class())
    data = sorted_by_class(100)
    x, y = everything(data.subset(torch.cat((torch.arange(100), torch.arange(200, 210)))), 999)
    assert judge.agreement_by_class(x, y) == 1
    # All ten of class 2 taken for another one.
    assert judge.agreement_by_class(x, torch.where(y == 2, 1, y)) == 0.5
    assert judge.agreement(x, torch.where(y == 2, 1, y)) == pytest.approx(100 / 110)


def test_large_images_are_judged_in_little_memory(monkeypatch) -> None:
    """Of 256 x 256 colour images a support vector machine sees no more than 1024 numbers each."""
    import sklearn.svm

    label = np.arange(60) % 2
    x = np.random.default_rng(0).integers(0, 60, (60, 256, 256, 3)).astype(np.uint8)
    x[label == 1, :128] += 120  # brighter in the upper half
    data = Dataset.from_arrays(x, label)
    sizes = []

    class Watched(sklearn.svm.SVC):
        def fit(self, X, y):
            sizes.append(X.shape)
            return super().fit(X, y)

    monkeypatch.setattr(sklearn.svm, "SVC", Watched)
    train, held_out = data.halves()
    classifier = train_classifier(train, held_out)
    assert classifier.accuracy == 1
    assert sizes == [(30, 3 * 18 * 18)]
    assert classifier.predict(held_out[torch.arange(4)].x1).tolist() == held_out.labels[:4].tolist()  # type: ignore[index]


def test_a_classifier_needs_labels_of_two_classes() -> None:
    data = Dataset.from_arrays(np.zeros((4, 2), np.float32))
    with pytest.raises(pf.InputError, match="needs labels"):
        train_classifier(data, data)
    one = Dataset.from_arrays(np.zeros((4, 2), np.float32), [1, 1, 1, 1])
    with pytest.raises(pf.InputError, match="two classes with data"):
        train_classifier(one, one)


def test_everything_is_a_stratified_sample_with_its_labels() -> None:
    data = Dataset.from_arrays(np.arange(8, dtype=np.float32).reshape(4, 2), np.array([1, 0, 2, 1]))
    x, y = everything(data, 9)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert y.tolist() == [1, 0, 2, 1]
    bare = Dataset.from_arrays(data.values)
    assert everything(bare, 99)[1].tolist() == [-1] * 4
