"""Training of a classifier on noisy data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pushforward.core.errors import InputError
from pushforward.core.noise import SOURCE, Noise
from pushforward.core.times import TimeDraw, Uniform
from pushforward.data.batch import Batch
from pushforward.models.classifier import NoisyClassifier
from pushforward.objectives.matching import refuse_mask


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of the classes at x_t.

        loss_i = -ln p_theta(y_i | x_t, t),   x_t = alpha x1 + sigma x0,   x0 ~ N(0, I)

    Its minimiser is the posterior p_t(y | x_t) of the noisy law. Samples of label -1 have loss 0.

    model: a classifier and its path. times: the law of t.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 4.
    """

    model: NoisyClassifier
    times: TimeDraw = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        self.model.path.require_gaussian("noisy classifier")

    def __call__(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. noise: keyed by the global ids of the samples."""
        refuse_mask(batch)
        if "label" not in batch.cond:
            raise InputError("a classifier is trained on labels, and this batch has none")
        if len(noise) != len(batch):
            raise InputError(f"{len(noise)} noise ids for a batch of {len(batch)}")
        noise, x1 = noise.to(batch.x1.device), batch.x1
        t = self.times(noise)
        x_t = self.model.path.sample(noise.normal(x1.shape[1:], SOURCE, x1.dtype), x1, t)
        logits = self.model(x_t, t)
        loss = cross_entropy(logits, batch.cond["label"], reduction="none", ignore_index=-1)
        return {"loss": loss}


@torch.no_grad()
def noisy_accuracy(model: NoisyClassifier, x1: Tensor, label: Tensor, t: float, seed: int) -> float:
    """The share of data x1 (B, ...) whose class is the likeliest one at x_t, noise keyed by (seed, row)."""
    noise = Noise.batch(len(x1), seed, device=x1.device).normal(x1.shape[1:], SOURCE, x1.dtype)
    found = model(model.path.sample(noise, x1, t), t).argmax(1)
    return float((found == label).double().mean())
