"""A classifier of states along a path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.network import ask
from pushforward.core.paths import Path
from pushforward.core.shapes import as_time
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import ModelBase


class NoisyClassifier(ModelBase):
    """A network with the path on whose states it tells classes apart: log p_t(y | x_t) up to a constant.

    net:   (x (B, ...), t (B,)) -> logits (B, classes).
    clean: whether it was trained at t = 1 only, where there is no noise. It then judges samples and guides nothing.
    spec, provenance, shape, classes: as in `Model`.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        *,
        classes: int | None = None,
        shape: Sequence[int] = (),
        clean: bool = False,
        spec: DataSpec | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.set_records(
            shape, classes, spec=spec, nulls={}, sampling=sampling, provenance=provenance
        )
        if self.classes is None or self.classes < 2:
            raise InputError(f"a classifier of {self.classes} classes has nothing to tell apart")
        self.net, self.path, self.clean = net, path, clean

    def to_config(self) -> dict[str, Any]:
        config = self.records() | {"net": self.net, "path": self.path, "clean": self.clean}
        del config["nulls"]
        return config

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        logits: Tensor = ask(self.net, x, as_time(t, x), {})
        if logits.shape != (len(x), self.classes):
            raise InputError(
                f"the network {type(self.net).__name__} answered {tuple(logits.shape)} to x of shape {tuple(x.shape)}; "
                f"a classifier of {self.classes} classes answers logits {(len(x), self.classes)}"
            )
        return logits
