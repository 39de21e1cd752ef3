"""Asking a network: in its own precision, with times that it can take."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError


def takes(net: nn.Module, name: str) -> bool:
    """Whether a network's `forward` has an argument of this name."""
    return name in arguments_of(type(getattr(net, "module", net)))


def arguments_of(cls: type) -> tuple[str, ...]:
    """The names of what `forward` takes beside x and t."""
    return _arguments(cls.forward)  # type: ignore[attr-defined]


def takes_any(cls: type) -> bool:
    """Whether `forward` takes arguments of any name, and judges them itself."""
    parameters = signature(cls.forward).parameters.values()  # type: ignore[attr-defined]
    return any(p.kind is Parameter.VAR_KEYWORD for p in parameters)


@lru_cache(maxsize=256)
def _arguments(forward: Any) -> tuple[str, ...]:
    parameters = list(signature(forward).parameters.values())[3:]
    return tuple(p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD)


def ask(net: nn.Module, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
    """`net(x, t, **cond)` in x's dtype.

    The network gets x in the precision of its weights, and t in that precision too but never below float32: networks
    concatenate and multiply the two. A class that sets `double_times = True` gets t as it is, in float64 along a grid;
    the library's networks do, since they compute features of time in t's precision.
    """
    if "mask" in cond and not takes(net, "mask"):
        raise InputError(
            f"{type(net).__name__} takes no mask, so that padding would change its answers: take a network whose "
            f"forward has an argument mask, or samples of one length"
        )
    weight = next(net.parameters(), None)
    dtype = weight.dtype if weight is not None and weight.is_floating_point() else x.dtype
    given = x if x.dtype == dtype else x.to(dtype)
    if t.shape[0] == 1:  # one time for all samples
        t, s = t.expand(x.shape[0]), cond.get("s")
        if isinstance(s, Tensor) and s.shape == (1,):
            cond = {**cond, "s": s.expand(x.shape[0])}
    if not getattr(getattr(net, "module", net), "double_times", False):
        wide = torch.promote_types(dtype, torch.float32)
        t = t.to(wide)
        s = cond.get("s")
        if isinstance(s, Tensor) and s.dtype == torch.float64 and s.shape == t.shape:
            cond = {**cond, "s": s.to(wide)}  # the second time of a flow map
    try:
        answer: Tensor = net(given, t, **cond)
    except (RuntimeError, TypeError) as error:
        error.add_note(
            f"{type(net).__name__} was asked about x {_shown(given)} at t {_shown(t)}"
            + "".join(f", {name} {_shown(value)}" for name, value in cond.items())
        )
        raise
    return answer.to(x.dtype)


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
