"""Samples to be judged: drawn batch by batch, kept on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.runtime.processes import Processes
from pushforward.sampling.generate import generate_batches, generate_together


def drawn(
    model: Any, num: int, label: int | Sequence[int] | Tensor | None = None, **sampling: Any
) -> Tensor:
    """(num, ...) on the CPU: the samples of `generate`, of which the device holds one batch at a time.

    With several processes each draws its share, and all get all of them. sampling: options of `generate`.
    """
    if Processes.current().count > 1 or num < 1:
        return generate_together(model, num, label=label, **sampling).cpu()
    batches = generate_batches(model, num, label=label, **sampling)
    return torch.cat([batch.cpu() for batch in batches])
