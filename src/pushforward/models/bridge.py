"""Models of stochastic processes between two laws: they know the velocity and the score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pushforward.core.conditions import Null
from pushforward.core.errors import InputError
from pushforward.core.interpolants import BrownianBridge, Interpolant
from pushforward.core.network import ask
from pushforward.core.predictions import Prediction, check_defined
from pushforward.core.shapes import as_time, expand
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import ModelBase, check_outputs, split_outputs


class _Process(ModelBase, ABC):
    """What models that know velocity and score have in common."""

    path: Interpolant

    @abstractmethod
    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        if want == "score":
            return self.with_score(x, t, **cond)[1]
        check_defined(want, self.path)
        return self.with_score(x, t, **cond)[0]


BRIDGE_OUTPUTS = ("line", "score")


class BridgeModel(_Process):
    """A network that gives the line and the score of an interpolant, and with them its velocity.

        line, score = net(x, t, **cond)             line = E[alpha' x1 + sigma' x0 | x_t = x]
        velocity = line - gamma gamma' score        (see `core.interpolants`)

    No target and no answer is infinite, also where gamma' is: the Brownian bridge has gamma gamma' = std^2 (1 - 2t)/2.

    net:  (x (B, C, ...), t (B,), **cond) -> (B, 2C, ...): `MLP(..., outputs=2)`, `UNet(..., outputs=2)`.
    path: an interpolant. The other arguments are those of `Model`.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Interpolant,
        *,
        shape: Sequence[int] = (),
        classes: int | None = None,
        spec: DataSpec | None = None,
        nulls: Mapping[str, Null | float | str] | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.set_records(
            shape,
            classes,
            spec=spec,
            nulls=nulls,
            sampling=sampling,
            provenance=provenance,
        )
        if not isinstance(path, Interpolant):
            raise InputError(
                f"a BridgeModel goes along an interpolant, such as BrownianBridge(1.0), not {path}; on a Gaussian path "
                f"a Model knows the score by its velocity"
            )
        check_outputs(net, BRIDGE_OUTPUTS, "build the network with outputs=2")
        self.net, self.path = net, path

    def to_config(self) -> dict[str, Any]:
        return {"net": self.net, "path": self.path, **self.records()}

    def heads(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Line and score as the network has them. x: (B, ...), t: (B,)."""
        raw = ask(self.net, x, t, cond)
        line, score = split_outputs(self.net, raw, x, BRIDGE_OUTPUTS)
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
    The other arguments are those of `Model`.

    Nelson 1967; Shi et al. 2023 (arXiv 2303.16852), sec. 3.2; De Bortoli et al. 2021 (arXiv 2106.01357).
    """

    path: BrownianBridge

    def __init__(
        self,
        forward_drift: nn.Module,
        backward_drift: nn.Module,
        path: BrownianBridge,
        *,
        shape: Sequence[int] = (),
        classes: int | None = None,
        spec: DataSpec | None = None,
        nulls: Mapping[str, Null | float | str] | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.set_records(
            shape,
            classes,
            spec=spec,
            nulls=nulls,
            sampling=sampling,
            provenance=provenance,
        )
        if not isinstance(path, BrownianBridge):
            raise InputError(f"half-bridges go along a BrownianBridge, not {path}")
        if {id(p) for p in forward_drift.parameters()} & {
            id(p) for p in backward_drift.parameters()
        }:
            raise InputError(
                "forward_drift and backward_drift share parameters; while one is trained the other must stay as it "
                "is: build two networks"
            )
        for net in (forward_drift, backward_drift):
            check_outputs(net, ("drift",), "build the network with outputs=1")
        self.forward_drift, self.backward_drift = forward_drift, backward_drift
        self.path = path

    def to_config(self) -> dict[str, Any]:
        return {
            "forward_drift": self.forward_drift,
            "backward_drift": self.backward_drift,
            "path": self.path,
            **self.records(),
        }

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Velocity and score by one call of each network."""
        t = as_time(t, x)
        f, b = (ask(net, x, t, cond) for net in (self.forward_drift, self.backward_drift))
        return (f + b) / 2, (f - b) / self.path.std**2
