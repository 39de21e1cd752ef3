"""The loss of a classifier on noisy data, and its accuracy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import randn
from pushforward.core.noise import SOURCE
from pushforward.data.batch import Batch
from pushforward.models.classifier import NoisyClassifier
from pushforward.objectives import Classification
from pushforward.objectives.classification import noisy_accuracy


class Sign(nn.Module):
    """Logits (-x, x) of the first coordinate: the class is its sign."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gain * torch.stack((-x[:, 0], x[:, 0]), 1)


def test_the_loss_is_the_cross_entropy_at_x_t_and_0_without_a_label():
    path, n = pf.CondOT(), 12
    x1, label, noise = randn(n, 2), torch.tensor([0, 1, -1] * 4), pf.Noise.batch(n, seed=2)
    objective = Classification(NoisyClassifier(Sign(), path, classes=2))
    loss = objective(Batch(x1, {"label": label}), noise)["loss"]
    t = objective.times(noise)
    x0 = noise.normal((2,), SOURCE, torch.float64)
    x = t * x1[:, 0] + (1 - t) * x0[:, 0]
    sign = torch.where(label == 1, 1.0, -1.0).double()
    truth = torch.where(label < 0, 0.0, (1 + (-2 * sign * x).exp()).log())
    assert torch.allclose(loss, truth, rtol=1e-9)
    # Times are uniform: all noise levels count alike.
    many = Classification(NoisyClassifier(Sign(), path, classes=2)).times(pf.Noise.batch(4000))
    assert abs(float(many.mean()) - 0.5) < 4.5 / math.sqrt(12 * 4000)


def test_the_accuracy_is_the_share_of_right_classes():
    model = NoisyClassifier(Sign(), pf.CondOT(), classes=2)
    x1 = torch.tensor([[1.0, 0], [-1.0, 0], [2.0, 0], [-3.0, 0]], dtype=torch.float64)
    label = torch.tensor([1, 0, 0, 0])
    assert noisy_accuracy(model, x1, label, 1.0, 0) == 0.75
    # At t = 0 nothing but noise is seen.
    many, of_all = randn(4000, 2, seed=3), torch.ones(4000, dtype=torch.int64)
    assert noisy_accuracy(model, many, of_all, 0.0, 1) == pytest.approx(
        0.5, abs=4.5 * 0.5 / math.sqrt(4000)
    )
