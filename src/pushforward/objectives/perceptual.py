"""A distance of pictures by the features of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError


@dataclass(frozen=True)
class FeatureDistance:
    """d(x, y) = mean_l mean_places | f_l(x)/|f_l(x)| - f_l(y)/|f_l(y)| |^2,    (B,)

    layers: pictures (B, C, H, W) to feature maps (B, c_l, h_l, w_l), one for each l.

    Zhang et al. 2018 (arXiv 1801.03924), eq. 1, with all channels weighted alike: their weights are not needed.
    """

    layers: Callable[[Tensor], Sequence[Tensor]]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            ours = [_unit(f) for f in self.layers(x)]
        found = [
            (a - _unit(b)).square().sum(1).flatten(1).mean(1)
            for a, b in zip(ours, self.layers(y), strict=True)
        ]
        return torch.stack(found).mean(0)


def _unit(f: Tensor) -> Tensor:
    return f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt()


@dataclass(frozen=True)
class Watched:
    """What some modules of a frozen network give on the way: `FeatureDistance.layers`.

    ask: asks the network about pictures. modules: those of it whose outputs (B, c, h, w) are taken, in this order.
    """

    ask: Callable[[Tensor], Any]
    modules: Sequence[nn.Module]

    def __post_init__(self) -> None:
        if not self.modules:
            raise InputError("a distance by features needs at least one layer")

    def __call__(self, x: Tensor) -> list[Tensor]:
        found: dict[int, Tensor] = {}

        def keep(k: int) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, given: Any, out: Tensor) -> None:
                found[k] = out

            return hook

        handles = [m.register_forward_hook(keep(k)) for k, m in enumerate(self.modules)]
        try:
            self.ask(x)
        finally:
            for handle in handles:
                handle.remove()
        return [found[k] for k in range(len(self.modules))]
