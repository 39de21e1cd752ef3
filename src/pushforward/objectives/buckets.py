"""Training of a prior that draws one bucket after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.noise import DROP, Noise
from pushforward.data.batch import Batch
from pushforward.models.prior import AutoregressivePrior
from pushforward.objectives.matching import refuse_mask


@dataclass(frozen=True)
class NextBucket:
    """The negative log-likelihood of the buckets of a picture's vector, a mean over dimensions.

        loss_i = - 1/K sum_k ln p(b_k | b_1, ..., b_{k - 1}, y, c)

    b are the buckets of x1, y is its text and c the bucket of the cosine of both.

    model: what is trained. name: of the condition with the text's tokens and vector.
    condition_dropout: probability of training a sample without its text, for guidance.

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.2.
    """

    model: AutoregressivePrior
    name: str = "text"
    condition_dropout: float = 0.1

    shardable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout <= 1:
            raise InputError(f"condition_dropout is {self.condition_dropout}; it is a probability")

    def __call__(self, batch: Batch, noise: Noise) -> dict[str, Any]:
        """{"loss": (B,)}. noise: keyed by the global ids of the samples."""
        refuse_mask(batch)
        text = batch.cond.get(self.name)
        if not isinstance(text, dict) or "pooled" not in text:
            raise InputError(
                f"a prior is trained on the tokens and the vector of texts, and this batch has none as {self.name!r}"
            )
        buckets = self.model.buckets
        ids, prefix = buckets.encode(batch.x1), buckets.match(batch.x1, text["pooled"])
        cond = dict(batch.cond)
        if self.condition_dropout > 0:
            drop = noise.to(batch.x1.device).uniform((), DROP) < self.condition_dropout
            cond = conditions.drop(cond, self.model.nulls, drop)
        logits: Tensor = self.model(ids[:, :-1], prefix, **cond)
        kind = torch.promote_types(logits.dtype, torch.float32)
        loss = cross_entropy(logits.to(kind).transpose(1, 2), ids, reduction="none")
        return {"loss": loss.mean(1)}
