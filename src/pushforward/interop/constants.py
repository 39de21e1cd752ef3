"""Keeping what is known beforehand out of a traced graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_iter


class Folding(TorchFunctionMode):
    """While `torch.export` traces: whatever depends on no input is computed, in its own precision, and the graph holds
    the result.

    So the numbers of a schedule are constants, to the last bit those of `integrate`, and control flow may depend on
    them. The graph of a path would have other digits where it is read again: ONNX has no expm1, log1p or logsigmoid,
    and writes them by their definitions.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(map(_traced, tree_iter((tuple(args), kwargs)))):
            return func(*args, **kwargs)
        with _disable_current_modes():
            return func(*args, **kwargs)


def _traced(value: Any) -> bool:
    """Whether a value depends on an input: a tensor that stands for one, or a size that may be any."""
    return isinstance(value, FakeTensor | torch.SymInt | torch.SymFloat | torch.SymBool) or (
        isinstance(value, Tensor) and torch._is_functional_tensor(value)
    )
