"""What a law is: it can be sampled, and its density is known."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise


class Law(Protocol):
    """A distribution with samples and a density."""

    def draw(self, noise: Noise) -> Tensor:
        """One sample for each id of `noise`."""

    def sample(self, n: int, seed: int = 0) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...


def check_states(x: Any, shape: tuple[int, ...], device: torch.device | None = None) -> None:
    """InputError unless x is a floating-point tensor (B, *shape), on `device` if one is named."""
    if not isinstance(x, Tensor):
        raise InputError(
            f"x is a {type(x).__module__}.{type(x).__name__}; pass a tensor, torch.as_tensor(x)"
        )
    if not x.is_floating_point():
        raise InputError(
            f"x has dtype {x.dtype}; points are floating-point numbers: pass x.float()"
        )
    if x.ndim == 0 or x.shape[1:] != shape:
        raise InputError(
            f"x has shape {tuple(x.shape)}; this law has samples of shape {shape}: pass (B, "
            f"{', '.join(map(str, shape))})"
        )
    if device is not None and x.device != device:
        raise InputError(f"x is on {x.device} and the law on {device}: pass x.to({str(device)!r})")
