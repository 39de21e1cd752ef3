"""Models of stochastic processes between two laws: they know the velocity and the score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.interpolants import BrownianBridge, Interpolant
from pushforward.core.predictions import Prediction, check_defined
from pushforward.core.shapes import as_time, expand


class _Process(nn.Module, ABC):
    """What models that know velocity and score have in common."""

    path: Interpolant
    shape: tuple[int, ...]
    classes: int | None
    info: dict[str, Any]

    def _describe(
        self, shape: tuple[int, ...], classes: int | None, info: dict[str, Any] | None
    ) -> None:
        self.shape, self.classes, self.info = tuple(shape), classes, dict(info or {})

    @abstractmethod
    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        if want == "score":
            return self.with_score(x, t, **cond)[1]
        check_defined(want, self.path)
        return self.with_score(x, t, **cond)[0]


class BridgeModel(_Process):
    """A network that gives the line and the score of an interpolant, and with them its velocity.

        line, score = net(x, t, **cond)             line = E[alpha' x1 + sigma' x0 | x_t = x]
        velocity = line - gamma gamma' score        (see `core.interpolants`)

    No target and no answer is infinite, also where gamma' is: the Brownian bridge has gamma gamma' = std^2 (1 - 2t)/2.

    net:  (x (B, C, ...), t (B,), **cond) -> (B, 2C, ...): `MLP(..., outputs=2)`, `UNet(..., outputs=2)`.
    path: an interpolant. shape, classes, info: as in `Model`.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Interpolant,
        *,
        shape: tuple[int, ...] = (),
        classes: int | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._describe(shape, classes, info)
        if not isinstance(path, Interpolant):
            raise InputError(
                f"a BridgeModel goes along an interpolant, such as BrownianBridge(1.0), not {path}; on a Gaussian path "
                f"a Model knows the score by its velocity"
            )
        self.net, self.path = net, path

    def heads(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Line and score as the network has them. x: (B, ...), t: (B,)."""
        raw = self.net(x, t, **cond).to(x.dtype)
        if raw.ndim < 2 or raw.shape != (len(x), 2 * x.shape[1], *x.shape[2:]):
            raise InputError(
                f"{type(self.net).__name__} answered {tuple(raw.shape)} to x of {tuple(x.shape)}: a BridgeModel takes "
                f"a network with two outputs for each channel (outputs=2)"
            )
        line, score = raw.chunk(2, dim=1)
        return line, score

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Velocity and score by one call of the network."""
        t = as_time(t, x)
        line, score = self.heads(x, t, **cond)
        return line - expand(self.path.growth(t), x) * score, score


class HalfBridges(_Process):
    """One process, known by its drift in either direction of time, from a network each.

        dX = f(X, t) dt + std dW,  dt > 0              dX = b(X, t) dt + std dW,  dt < 0
        velocity = (f + b)/2                           score = (f - b)/std^2

    The two describe one process when training has converged. Before, velocity and score are those of neither alone, and
    `EulerMaruyama(std)` follows f forwards and b backwards, whatever the other.

    forward_drift f, backward_drift b: networks (x (B, ...), t (B,), **cond) -> (B, ...). path: a BrownianBridge.
    shape, classes, info: as in
    `Model`.

    Nelson 1967; Shi et al. 2023 (arXiv 2303.16852), sec. 3.2; De Bortoli et al. 2021 (arXiv 2106.01357).
    """

    path: BrownianBridge

    def __init__(
        self,
        forward_drift: nn.Module,
        backward_drift: nn.Module,
        path: BrownianBridge,
        *,
        shape: tuple[int, ...] = (),
        classes: int | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._describe(shape, classes, info)
        if not isinstance(path, BrownianBridge):
            raise InputError(f"half-bridges go along a BrownianBridge, not {path}")
        if {id(p) for p in forward_drift.parameters()} & {
            id(p) for p in backward_drift.parameters()
        }:
            raise InputError(
                "forward_drift and backward_drift share parameters; while one is trained the other must stay as it "
                "is: build two networks"
            )
        self.forward_drift, self.backward_drift = forward_drift, backward_drift
        self.path = path

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Velocity and score by one call of each network."""
        t = as_time(t, x)
        f, b = (net(x, t, **cond).to(x.dtype) for net in (self.forward_drift, self.backward_drift))
        return (f + b) / 2, (f - b) / self.path.std**2
