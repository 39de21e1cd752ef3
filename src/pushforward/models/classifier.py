"""A classifier of states along a path."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.shapes import as_time


class NoisyClassifier(nn.Module):
    """A network with the path on whose states it tells classes apart: log p_t(y | x_t) up to a constant.

    net:     (x (B, ...), t (B,)) -> logits (B, classes).
    shape:   shape of one sample. info: what should travel with it (JSON values), as in `Model`.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        *,
        classes: int,
        shape: tuple[int, ...] = (),
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"a classifier of {classes} classes has nothing to tell apart")
        self.net, self.path, self.classes = net, path, classes
        self.shape = tuple(shape)
        self.info = dict(info or {})

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.net(x, as_time(t, x))
