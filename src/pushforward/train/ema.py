"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.models.base import ModelBase
from pushforward.train.parallel import local


class EMA:
    """`average <- d average + (1 - d) weights` after every step, d = min(decay, (1 + step) / (10 + step)).

    Kept in float32 whatever the weights are in: in bfloat16 a step of 1e-4 is lost to rounding. The warm-up of d lets
    the first steps go. Buffers are copied. `model` is a copy of the model that holds the average, for sampling.
    """

    def __init__(self, model: ModelBase, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"the decay of the EMA is {decay}; it must lie in [0, 1)")
        self.decay = decay
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        self._pairs: tuple[ModelBase, list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update(self, model: ModelBase, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 0. `model` may be wrapped or sharded."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._pairs is None or self._pairs[0] is not model:
            # Looked up once: going through all modules takes longer than the average.
            self._pairs = model, list(model.parameters()), list(self.model.parameters())
            self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))
        _, weights, average = self._pairs
        torch._foreach_lerp_(
            [local(p) for p in average], [local(p.detach()).float() for p in weights], 1 - decay
        )
        for mine, theirs in self._buffers:
            mine.copy_(theirs)
