"""Samples to be judged: drawn batch by batch, kept on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.runtime.processes import Processes
from pushforward.sampling.generate import WHOLE, generate, generate_together


def drawn(
    model: Any, num: int, label: int | Sequence[int] | Tensor | None = None, **sampling: Any
) -> Tensor:
    """(num, ...) on the CPU: the samples of `generate`, of which the device holds one batch at a time.

    With several processes each draws its share, and all get all of them. sampling: options of `generate`.
    """
    if Processes.current().count > 1 or num < 1:
        return generate_together(model, num, label=label, **sampling).cpu()
    options = sampling if label is None else sampling | {"label": label}
    start, size = int(options.pop("start", 0)), int(options.get("batch_size", 256))
    parts = []
    for first in range(0, num, size):
        count = min(size, num - first)
        own: dict[str, Any] = {
            name: value[first : first + count]
            if isinstance(value, Tensor) and value.ndim > 0 and name not in WHOLE
            else value
            for name, value in options.items()
        }
        parts.append(generate(model, count, start=start + first, **own).cpu())
    return torch.cat(parts)
