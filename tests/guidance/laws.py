"""A labelled law, its exact classifier, and batches to ask about."""

from __future__ import annotations

import torch
from torch import Tensor

import pushforward as pf
from contracts.members import mixture, randn

LAW = mixture(2, 4, "full", labels=[0, 1, 0, 2])
X, LABEL = randn(5, 2, seed=1), torch.tensor([0, 1, 2, 1, 0])
T = torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8], dtype=torch.float64)


class ExactClassifier:
    """ln p_t(y, x_t) of a labelled law on a path, by its definition: ln P(y) + ln p_t(x_t | y)."""

    def __init__(self, law: pf.GaussianMixture, path: pf.Path, own: bool = False) -> None:
        self.field, self.classes, self.calls = law.field(path), int(law.labels.max()) + 1, 0
        weights = law.log_weights.exp()
        self.prior = torch.stack([weights[law.labels == k].sum() for k in range(self.classes)])
        if own:
            self.path = path

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        rows = [
            self.field.log_prob(x, t, torch.full((len(x),), k)) + self.prior[k].log()
            for k in range(self.classes)
        ]
        return torch.stack(rows, 1)
