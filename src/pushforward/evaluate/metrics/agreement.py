"""Do samples asked for by class look like their class, to a classifier trained on real data?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.arrays import Dataset
from pushforward.models.classifier import NoisyClassifier


class Judge(ABC):
    """What finds the class of a sample, with its accuracy on held-out data."""

    accuracy: float

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """(B,) classes of samples (B, ...)."""

    def agreement(self, x: Tensor, label: Tensor) -> float:
        """The share of samples that are found to be of the class they were asked for."""
        return float((self.predict(x) == label.cpu()).double().mean())


@dataclass(frozen=True)
class Classifier(Judge):
    """A support vector machine with a Gaussian kernel on the pixels, and its accuracy on held-out data."""

    machine: Any
    accuracy: float

    def predict(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.machine.predict(x.flatten(1).double().cpu().numpy()))


@dataclass(frozen=True)
class NetworkClassifier(Judge):
    """A trained classifier at t = 1, where there is no noise, and its accuracy on held-out data."""

    model: NoisyClassifier
    accuracy: float

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int = 256) -> Tensor:
        device = next(self.model.parameters()).device
        parts = (self.model(part.to(device, torch.float32), 1.0) for part in x.split(batch_size))
        return torch.cat([part.argmax(1).cpu() for part in parts])


def train_classifier(train: Dataset, held_out: Dataset, limit: int = 10_000) -> Classifier:
    """Fit on `train` (its first `limit` samples), score on `held_out`. Both need labels."""
    from sklearn.svm import SVC

    if train.labels is None or held_out.labels is None:
        raise InputError("a classifier needs labels, and this data set has none")
    x, y = everything(train, limit)
    machine = SVC(C=10.0, gamma="scale").fit(x.flatten(1).double().numpy(), y.numpy())
    x, y = everything(held_out, limit)
    predicted = torch.from_numpy(machine.predict(x.flatten(1).double().numpy()))
    return Classifier(machine, float((predicted == y).double().mean()))


def trained_classifier(
    model: NoisyClassifier, held_out: Dataset, limit: int = 10_000
) -> NetworkClassifier:
    """A classifier of this data set's classes that is there already, scored on `held_out` (its first `limit` samples).

    Raises InputError if it was made for samples of another shape, range of values or number of classes.
    """
    if held_out.labels is None:
        raise InputError("a classifier is scored on labels, and this data set has none")
    info = model.info
    kinds = {
        "samples": (model.shape, held_out.shape),
        "classes": (model.classes, held_out.classes),
        "values": (
            tuple(info.get("value_range") or held_out.value_range),
            tuple(held_out.value_range),
        ),
        "class names": (
            tuple(info.get("class_names") or ()),
            tuple(held_out.class_names or info.get("class_names") or ()),
        ),
    }
    for kind, (has, wanted) in kinds.items():
        if has != wanted:
            raise InputError(f"the classifier knows {kind} {has}, and these data have {wanted}")
    x, y = everything(held_out, limit)
    scored = NetworkClassifier(model.eval(), 0.0)
    return NetworkClassifier(scored.model, scored.agreement(x, y))


def everything(data: Dataset, limit: int) -> tuple[Tensor, Tensor]:
    """The first `limit` samples, with their labels (-1 where there are none)."""
    batch = data[torch.arange(min(len(data), limit))]
    return batch.x1, batch.cond.get("label", torch.full((len(batch),), -1))
