"""Do samples asked for by class look like their class, to a classifier trained on real data?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec
from pushforward.data.dataset import Dataset
from pushforward.evaluate.labels import classes_of, label_map, spec_of
from pushforward.evaluate.metrics.vectors import Vectors
from pushforward.models.classifier import NoisyClassifier

# Samples that a classifier is fitted and scored on, and the numbers of each that a support vector machine sees.
LIMIT, DIMENSIONS = 10_000, 1024


class Judge(ABC):
    """What finds the class of a sample.

    spec: the classes that it knows. accuracy: the share of held-out data whose class it finds.
    """

    spec: DataSpec
    accuracy: float

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """(B,) labels of samples (B, ...), as `spec` counts them."""

    def agreement(self, x: Tensor, label: Tensor) -> float:
        """The share of samples whose class it finds; `label` as `spec` counts them."""
        return float((self.predict(x) == label.cpu()).double().mean())

    def agreement_by_class(self, x: Tensor, label: Tensor) -> float:
        """The mean over classes of the share of their samples that are found to be theirs: rare ones count as much."""
        label = label.cpu()
        right = (self.predict(x) == label).double()
        classes, index, counts = label.unique(return_inverse=True, return_counts=True)
        shares = right.new_zeros(len(classes)).index_add(0, index, right) / counts
        return float(shares.mean())


@dataclass(frozen=True)
class Classifier(Judge):
    """A support vector machine with a Gaussian kernel on `vectors` of the samples."""

    machine: Any
    vectors: Vectors
    spec: DataSpec
    accuracy: float

    def predict(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.machine.predict(self.vectors.of_samples(x).double().numpy()))


@dataclass(frozen=True)
class NetworkClassifier(Judge):
    """A trained classifier at t = 1, where there is no noise. place: its labels as `spec` counts them."""

    model: NoisyClassifier
    place: Tensor
    spec: DataSpec
    accuracy: float

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int = 256) -> Tensor:
        device = next(self.model.parameters()).device
        parts = (self.model(part.to(device, torch.float32), 1.0) for part in x.split(batch_size))
        return self.place[torch.cat([part.argmax(1).cpu() for part in parts])]


def check_labels(train: Dataset, held_out: Dataset) -> None:
    """That a classifier can be fitted on one part of the data and scored on the other."""
    _machines()
    if train.labels is None or held_out.labels is None:
        raise InputError("a classifier needs labels, and this data set has none")
    if len(train.labels.unique()) < 2:
        raise InputError("a classifier needs two classes with data or more, and there is one")


def _machines() -> Any:
    """scikit-learn's support vector machines. InputError if it is missing."""
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise InputError(
            "the classifier that says whether samples are of their class comes with scikit-learn, which is not "
            "installed; pip install -e '.[demo]', or give one of your own"
        ) from error
    return SVC


def train_classifier(train: Dataset, held_out: Dataset, limit: int = LIMIT) -> Classifier:
    """Fit on `limit` samples of `train`, score on as many of `held_out`; both are stratified samples with labels.

    Samples of more than 1024 numbers are made shorter; see `Vectors`. Memory is then that of (limit, 1024) numbers,
    whatever the size of images.
    """
    check_labels(train, held_out)
    seen, apart = train.sample(limit), held_out.sample(limit)
    vectors = Vectors(train.shape, DIMENSIONS)
    x, y = vectors.of_data(seen).double().numpy(), seen.labels
    machine = _machines()(C=10.0, gamma="scale").fit(x, y.numpy())  # type: ignore[union-attr]
    predicted = torch.from_numpy(machine.predict(vectors.of_data(apart).double().numpy()))
    accuracy = float(torch.eq(predicted, apart.labels).double().mean())  # type: ignore[arg-type]
    return Classifier(machine, vectors, classes_of(train), accuracy)


def trained_classifier(
    model: NoisyClassifier, held_out: Dataset, limit: int = LIMIT
) -> NetworkClassifier:
    """A classifier that exists already, scored on a stratified sample of `held_out`; classes are matched by name.

    Raises InputError if it takes samples of another shape or range of values, or lacks a class of the data.
    """
    if held_out.labels is None:
        raise InputError("a classifier is scored on labels, and this data set has none")
    own = spec_of(model)
    kinds = {
        "samples": (own.shape, held_out.shape),
        "values": (own.value_range or held_out.value_range, held_out.value_range),
    }
    for kind, (has, wanted) in kinds.items():
        if tuple(has) != tuple(wanted):
            raise InputError(f"the classifier knows {kind} {has}, and these data have {wanted}")
    known = classes_of(held_out)
    place = label_map(known, own)
    # From the classifier's labels to those of the data; -1 for classes that the data do not have.
    back = torch.full((own.classes or 0,), -1)
    back[place[place >= 0]] = torch.arange(len(place))[place >= 0]
    apart = held_out.sample(limit)
    judge = NetworkClassifier(model.eval(), back, known, 0.0)
    found = [judge.predict(apart[rows].x1) for rows in torch.arange(len(apart)).split(256)]
    accuracy = float(torch.eq(torch.cat(found), apart.labels).double().mean())  # type: ignore[arg-type]
    return NetworkClassifier(model, back, known, accuracy)


def everything(data: Dataset, limit: int) -> tuple[Tensor, Tensor]:
    """A stratified sample of at most `limit` samples, with their labels (-1 where there are none)."""
    part = data.sample(limit)
    batch = part[torch.arange(len(part))]
    return batch.x1, batch.cond.get("label", torch.full((len(batch),), -1))
