"""Flow maps: where the flow carries a state from one time to another, in one call.

    X(x, t, s) = x_s,      d x_r / dr = u(x_r, r),  x_t = x

A flow map is a solver's step without its error. Three laws make it one:

    X(x, t, t) = x                              boundary
    X(X(x, t, r), r, s) = X(x, t, s)            composition
    d/dt X(x_t, t, s) = 0 along the flow        the start may move along its trajectory

and its derivative in s at s = t is the velocity. Every objective for few steps asks for one of them: composition in two
steps (progressive distillation, shortcuts), in one small step (consistency), or in an infinitesimal one (MeanFlow, and
consistency in continuous time).

Boffi, Albergo, Vanden-Eijnden 2024 (arXiv 2406.07507), sec. 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.derivatives import jvp
from pushforward.core.ends import away, margin_for, singular_jumps
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import FlowMap, Jumps
from pushforward.core.interpolants import Interpolant
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, convert, jump
from pushforward.core.shapes import as_time, expand
from pushforward.models.base import ModelBase
from pushforward.models.model import Model


class FlowMapModel(ModelBase):
    """A network as a flow map: a step of DDIM whose prediction knows where it goes.

        P   = model(x, t; s)                          a prediction that holds for the whole way from t to s
        x_s = alpha_s data(x, P) + sigma_s noise(x, P) = a x + b P        a = 1, b = 0 at s = t

    On CondOT, x_s = x + (s - t) U with U the mean velocity between t and s (MeanFlow). To s = 1, where sigma = 0, it is
    data(x, P) = c_skip x + c_out net: a consistency model. With P of t alone it is DDIM, what a progressively distilled
    student is. X(x, t, t) = x holds whatever the network says, and its derivative in s at s = t is the model's
    velocity, P at s = t being a prediction in the usual sense (`InstantaneousField`).

    model: a Model on a Gaussian path, or on one between two laws that adds no noise on the way. For jumps "any" its
           network takes a second time, `s` (`two_times=True`); for others it need not know s.
    jumps: "any", "data" (to s = 1 alone, as of consistency models), or a grid of increasing times (from each to the
           next). Another jump is an UndefinedError: the network was not trained for it.

    Kim et al. 2023 (CTM, arXiv 2310.02279), eq. 9; Geng et al. 2025 (MeanFlow, arXiv 2505.13447); Song et al. 2023
    (consistency, arXiv 2303.01469), sec. 3; Salimans & Ho 2022 (arXiv 2202.00512), sec. 3.
    """

    def __init__(self, model: Model, jumps: Jumps = "any") -> None:
        super().__init__()
        if isinstance(model.path, Interpolant):
            raise InputError(
                f"{model.path} adds noise on the way, so that two ends do not say the state between them: learn the "
                f"flow of its velocity on CondOT(gaussian_source=False)"
            )
        if isinstance(jumps, str):
            if jumps not in ("any", "data"):
                raise InputError(f"jumps are 'any', 'data' or a grid of times, not {jumps!r}")
        else:
            jumps = tuple(float(t) for t in jumps)
            rising = all(a < b for a, b in pairwise(jumps))
            if len(jumps) < 2 or not rising or jumps[0] < 0 or jumps[-1] > 1:
                raise InputError(
                    f"a grid of jumps is two or more increasing times in [0, 1], got {jumps[:8]}"
                )
        config = getattr(model.net, "config", {})
        if jumps == "any" and isinstance(config, Mapping) and config.get("two_times") is False:
            raise InputError(
                f"a flow map of any jumps takes a network of two times: build the {type(model.net).__name__} with "
                f"two_times=True"
            )
        self.model = model
        self.jumps: Jumps = jumps
        self._ends = singular_jumps(model.prediction, model.path)

    @property
    def path(self) -> Path:
        return self.model.path

    @property
    def net(self) -> nn.Module:
        return self.model.net

    @property
    def prediction(self) -> Prediction:
        return self.model.prediction

    @property
    def preconditioning(self) -> Any:
        return self.model.preconditioning

    def _described(self) -> ModelBase:
        return self.model

    @property
    def takes_masks(self) -> bool:
        return self.model.takes_masks

    def to_config(self) -> dict[str, Any]:
        return {"model": self.model, "jumps": self.jumps}

    def forward(self, x: Tensor, t: Tensor | float, s: Tensor | float, **cond: Any) -> Tensor:
        t, s = as_time(t, x), as_time(s, x)
        self._require(t, s)
        c_s = self.path.coefficients(s)
        a, b = jump(self.prediction, self.path.coefficients(t), c_s)
        asked = t
        if any(self._ends):
            # Where the prediction says no more than x_t does, it is asked at the model's margin from there.
            asked = away(t, self._ends, margin_for(self.model.margin, x.dtype))
            near = jump(self.prediction, self.path.coefficients(asked), c_s)
            known, stay = a.isfinite() & b.isfinite(), t == s
            a, b = torch.where(known, a, near[0]), torch.where(known, b, near[1])
            a, b = torch.where(stay & ~known, 1.0, a), torch.where(stay & ~known, 0.0, b)
        return expand(a, x) * x + expand(b, x) * self.predict(x, asked, s, **cond)

    def predict(
        self,
        x: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        want: Prediction | None = None,
        **cond: Any,
    ) -> Tensor:
        """P as the prediction `want`, the network's own by default: with it and x_t, DDIM's step is x_s."""
        told = {"s": self._shown(as_time(s, x))} if self.jumps == "any" else {}
        return self.model(x, t, want or self.prediction, **told, **cond)

    def _shown(self, s: Tensor) -> Tensor:
        """The time s as the network is shown t."""
        wrap = self.model.preconditioning
        return s if wrap is None else wrap(self.path, s).noise

    def _require(self, t: Tensor, s: Tensor) -> None:
        if self.jumps == "any":
            return
        if self.jumps == "data":
            if not bool((s == 1).all()):
                raise UndefinedError(
                    "this flow map knows the way to the data alone, s = 1: go on from there by noise "
                    "(solvers.FlowMapSampler(renoise=1)), or train one that knows any (MeanFlow)"
                )
            return
        grid = torch.tensor(self.jumps, dtype=t.dtype, device=t.device)
        k = torch.searchsorted(grid, t.contiguous() - 1e-6).clamp(max=len(grid) - 2)
        if not bool(((grid[k] - t).abs() < 1e-6).all() & ((grid[k + 1] - s).abs() < 1e-6).all()):
            raise UndefinedError(
                f"this flow map knows the {len(grid) - 1} steps of its own grid alone: pass "
                f"grid=torch.tensor(model.jumps)"
            )


@dataclass(frozen=True)
class InstantaneousField:
    """The Field of a flow map: its derivative in s at s = t.

        u(x, t) = d/ds X(x, t, s) at s = t

    Of a FlowMapModel that knows any jump it is the prediction at s = t, one call of its network; of any other map a
    derivative in forward mode. Raises UndefinedError for a map that knows no short jumps.
    """

    map: FlowMap

    def __post_init__(self) -> None:
        if self.map.jumps != "any":
            raise UndefinedError(
                "this flow map knows no jumps from t to times near t, and so no velocity: only a map of any jumps does"
            )

    @property
    def path(self) -> Path:
        return self.map.path

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t = as_time(t, x)
        if isinstance(self.map, FlowMapModel):
            return self.map.predict(x, t, t, want, **cond)
        check_defined(want, self.path)
        one = torch.ones_like(t)
        _, velocity = jvp(lambda s: self.map(x, t, s, **cond), (t.clone(),), (one,))
        return convert(velocity, x, t, self.path, "velocity", want)
