"""The one place where times are brought to shape (B,) and where (B,) meets (B, ...)."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError


def as_time(t: Tensor | float, x: Tensor) -> Tensor:
    """`t` as a floating tensor of shape (B,) on x's device, B being `len(x)`.

    A number or a 0-dimensional tensor is the time of every sample; a tensor (B,) gives each sample its own.
    The dtype is never narrower than float32 or than x's own: schedules are steep, and half precision
    cannot hold them.
    """
    if not isinstance(t, Tensor):
        t = torch.tensor(t, dtype=torch.float64, device=x.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
        raise InputError(
            f"t has shape {tuple(t.shape)}; give one time, or one for each of the {x.shape[0]} samples "
            f"of x, whose shape is {tuple(x.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(t.dtype, x.dtype), torch.float32)
    return t.to(device=x.device, dtype=dtype).expand(x.shape[0])


def expand(c: Tensor, x: Tensor) -> Tensor:
    """A coefficient (B,) as (B, 1, ..., 1) in x's dtype, ready to multiply x (B, ...).

    Always by position from the left, so that a batch that happens to be as large as the last dimension
    is never broadcast along it.
    """
    return c.to(x.dtype).reshape([*c.shape, *[1] * (x.ndim - c.ndim)])


def sum_data(x: Tensor) -> Tensor:
    """Sum over all but the batch dimension: (B, ...) -> (B,)."""
    return x.flatten(1).sum(1)


def mean_data(x: Tensor) -> Tensor:
    """Mean over all but the batch dimension: (B, ...) -> (B,)."""
    return x.flatten(1).mean(1)
