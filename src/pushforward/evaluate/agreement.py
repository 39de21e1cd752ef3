"""Do samples asked for by class look like their class, to a classifier trained on real data?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.arrays import Dataset


@dataclass(frozen=True)
class Classifier:
    """A support vector machine with a Gaussian kernel on the pixels, and its accuracy on held-out data."""

    machine: Any
    accuracy: float

    def predict(self, x: Tensor) -> Tensor:
        """(B,) classes of samples (B, ...)."""
        return torch.from_numpy(self.machine.predict(x.flatten(1).double().cpu().numpy()))

    def agreement(self, x: Tensor, label: Tensor) -> float:
        """The share of samples that are found to be of the class they were asked for."""
        return float((self.predict(x) == label.cpu()).double().mean())


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


def everything(data: Dataset, limit: int) -> tuple[Tensor, Tensor]:
    """The first `limit` samples, with their labels (-1 where there are none)."""
    batch = data[torch.arange(min(len(data), limit))]
    return batch.x1, batch.cond.get("label", torch.full((len(batch),), -1))
