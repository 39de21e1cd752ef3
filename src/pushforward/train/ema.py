"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.models.base import ModelBase
from pushforward.train.frozen import frozen_modules
from pushforward.train.parallel import local


class EMA:
    """`average <- d average + (1 - d) weights` after every step, d = min(decay, (1 + step) / (10 + step)).

    Kept in float32 whatever the weights are in: in bfloat16 a step of 1e-4 is lost to rounding. The warm-up of d
    forgets the first steps. Buffers are copied. What is frozen is not averaged and not copied: both models have it in
    common. `model` is a copy of the model that holds the average, for sampling.
    """

    def __init__(self, model: ModelBase, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"the decay of the EMA is {decay}; it must lie in [0, 1)")
        self.decay = decay
        shared: dict[int, nn.Module | Tensor] = {
            id(module): module for _, module in frozen_modules(model)
        }
        shared |= {id(p): p for p in model.parameters() if not p.requires_grad}
        self.model = copy.deepcopy(model, dict(shared))
        _widen(self.model, set(shared))
        self.model.eval()
        self._pairs: tuple[ModelBase, list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update(self, model: ModelBase, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 0. `model` may be wrapped or sharded."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._pairs is None or self._pairs[0] is not model:
            # Looked up once: going through all modules takes longer than the average.
            both = zip(model.parameters(), self.model.parameters(), strict=True)
            trained = [(mine, theirs) for mine, theirs in both if mine.requires_grad]
            self._pairs = model, [mine for mine, _ in trained], [theirs for _, theirs in trained]
            buffers = zip(self.model.buffers(), model.buffers(), strict=True)
            self._buffers = [(mine, theirs) for mine, theirs in buffers if mine is not theirs]
        _, weights, average = self._pairs
        torch._foreach_lerp_(
            [local(p) for p in average], [local(p.detach()).float() for p in weights], 1 - decay
        )
        for mine, theirs in self._buffers:
            mine.copy_(theirs)


def _widen(module: nn.Module, shared: set[int]) -> None:
    """Parameters and buffers in float32 and without gradients, but for what is shared."""
    for parameter in module.parameters(recurse=False):
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.float()
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.float())
    for child in module.children():
        if id(child) not in shared:
            _widen(child, shared)
