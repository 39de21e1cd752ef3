"""Networks in two halves: the first one shows the image at each of its stages, where something may be added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from torch import Tensor

# (number of the stage, its value) -> the value to go on with.
At = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A place in a network's first half. "map": (B, channels, H, W); "tokens": (B, N, channels)."""

    channels: int
    kind: Literal["map", "tokens"]


@runtime_checkable
class Staged(Protocol):
    """A network that is computed in two halves, `net(x, t, **cond) == net.finish(net.begin(at, x, t, **cond))`, where
    `at` returns each stage as it was.

    channels, dims: of the state. control: number of channels that it takes beside those.
    config, from_config: see `Network`. Its argument in_channels counts the channels of state and control together.
    """

    config: dict[str, Any]
    double_times: ClassVar[bool]
    checkpointing: bool
    channels: int
    dims: int
    control: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self: ...

    def __call__(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor: ...

    def stages(self) -> tuple[Stage, ...]:
        """The stages in order."""

    def begin(self, at: At | None, x: Tensor, t: Tensor, **cond: Any) -> Any:
        """The first half, its stages given to `at`; returns what `finish` takes."""

    def finish(self, begun: Any) -> Tensor:
        """The second half."""

    def halve(self) -> None:
        """Remove all that comes after the last stage, so that nothing but `begin` is left."""

    def first_half(self) -> dict[str, Tensor]:
        """The weights of a network of the same configuration after `halve`, and perhaps others."""
