"""The one place where times are brought to shape (B,) and where (B,) meets (B, ...)."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError


def as_time(t: Tensor | float, x: Tensor) -> Tensor:
    """`t` as a floating tensor of shape (B,) on x's device, B being `len(x)`.

    A number or a 0-dimensional tensor is the time of every sample; a tensor (B,) gives each sample its own. A tensor
    (1,) is one time for all, and stays so: what is computed of it is a row that `expand` broadcasts.
    The dtype is never narrower than float32 or than x's own: schedules are steep, and half precision
    cannot hold them.
    """
    if not isinstance(t, Tensor):
        if not 0 <= t <= 1:
            raise InputError(f"t is {t}; times lie in [0, 1], 0 the noise and 1 the data")
        t = torch.tensor(t, dtype=torch.float64, device=x.device)
    alike = t.ndim == 1 and t.shape[0] == 1
    if t.ndim > 1 or (t.ndim == 1 and not alike and t.shape[0] != x.shape[0]):
        raise InputError(
            f"t has shape {tuple(t.shape)}; give one time, or one for each of the {x.shape[0]} samples "
            f"of x, whose shape is {tuple(x.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(t.dtype, x.dtype), torch.float32)
    t = t.to(device=x.device, dtype=dtype)
    return t if alike else t.expand(x.shape[0])


def expand(c: Tensor, x: Tensor) -> Tensor:
    """A coefficient (B,) as (B, 1, ..., 1) in x's dtype, ready to multiply x (B, ...).

    Always by position from the left, so that a batch that happens to be as large as the last dimension
    is never broadcast along it.
    """
    return c.to(x.dtype).reshape([*c.shape, *[1] * (x.ndim - c.ndim)])


def sum_data(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over all but the batch dimension, (B, ...) -> (B,); over the entries in `mask` if there is one."""
    if mask is not None:
        x = torch.where(mask, x, torch.zeros_like(x))
    return x.flatten(1).sum(1)


def mean_data(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over all but the batch dimension, (B, ...) -> (B,); over the entries in `mask` if there is one."""
    if mask is None:
        return x.flatten(1).mean(1)
    return sum_data(x, mask) / count_data(x, mask).to(x.dtype)


def count_data(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) how many entries of each sample are data."""
    if mask is None:
        return torch.full((len(x),), x[:1].numel() if len(x) else 0, device=x.device)
    return mask.expand_as(x).flatten(1).sum(1)


def check_mask(mask: Tensor, x: Tensor) -> None:
    """That a mask says of each entry of x (B, ...) whether it is data, and leaves every sample some."""
    fits = mask.ndim == x.ndim and all(
        m in (1, n) for m, n in zip(mask.shape[1:], x.shape[1:], strict=True)
    )
    if mask.dtype != torch.bool or not fits or len(mask) != len(x):
        raise InputError(
            f"a mask is bool with as many dimensions as the data {tuple(x.shape)}, each as long or 1; got "
            f"{mask.dtype} {tuple(mask.shape)}"
        )
    if not bool(mask.flatten(1).any(1).all()):
        raise InputError("a sample of the batch has no data: its mask is False everywhere")
