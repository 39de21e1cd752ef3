"""Arguments of the sampling functions: whole numbers, grids and sources."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import torch

from pushforward.core.errors import InputError


def check_whole(**values: Any) -> None:
    """That each is a whole number, or, except for the seed, None."""
    for name, value in values.items():
        if value is None and name != "seed":
            continue
        try:
            index(value)
        except TypeError as error:
            raise InputError(f"{name} is {value!r}; it must be a whole number") from error


def check_count(num: int, batch_size: int, start: int) -> None:
    check_whole(num=num, batch_size=batch_size, start=start)
    if num < 1 or batch_size < 1:
        raise InputError(f"num and batch_size must be positive, got {num} and {batch_size}")
    if start < 0:
        raise InputError(f"start is {start}; ids count from 0")


def as_grid(grid: Any) -> Any:
    """A list or an array of times as a tensor; a tensor, a rule or None as it is."""
    if isinstance(grid, str):
        raise InputError(
            f"grid={grid!r} is a name: pass times (n + 1,), or a rule such as pf.times.karras"
        )
    if isinstance(grid, list | tuple | np.ndarray):
        return torch.as_tensor(grid, dtype=torch.float64)
    return grid


def as_source(source: Any) -> Any:
    """An array of states as a tensor; a tensor, a law or None as it is."""
    if isinstance(source, np.ndarray):
        return torch.from_numpy(source)
    if isinstance(source, type):
        raise InputError(f"source={source.__name__} is a class: pass {source.__name__}()")
    if source is not None and not isinstance(source, torch.Tensor) and not hasattr(source, "draw"):
        raise InputError(
            f"source is a {type(source).__name__}: pass states (num, ...) as a tensor, or a law such as pf.laws.Moons()"
        )
    return source
