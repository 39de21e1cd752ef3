"""Fields: what solvers, guidance and likelihood see of a model or of an exact law."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, conversion


@runtime_checkable
class Field(Protocol):
    """A posterior mean on a path, under any of its five names.

    x: (B, ...) the state x_t; t: one time or (B,); cond: what the law is conditioned on, tensors (B, ...).
    Returns a tensor of x's shape.
    """

    @property
    def path(self) -> Path: ...

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor: ...


@runtime_checkable
class VarianceField(Field, Protocol):
    """A Field that also says how large the steps of `DDPM("learned")` scatter."""

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The prediction `want` and v, both of x's shape, by one call: variance beta^v beta-tilde^(1 - v)."""


def require_variance(field: Field) -> VarianceField:
    if not isinstance(field, VarianceField):
        raise InputError(
            f"{type(field).__name__} has no variance to give: DDPM('learned') takes a field with `with_variance`, "
            f"such as a Model whose network has two outputs for each channel; or choose 'beta' or 'beta-tilde'"
        )
    return field


def regular_times(prediction: Prediction, path: Path, margin: float) -> tuple[float, float]:
    """The times at which `prediction` gives a velocity: [0, 1], less `margin` at an end where it does not."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, b = conversion(prediction, "velocity", path.coefficients(ends))
    first, last = (prediction == "velocity" or bool(ok) for ok in a.isfinite() & b.isfinite())
    return (0.0 if first else margin), (1.0 if last else 1 - margin)


def null_condition(cond: dict[str, Tensor], mask: Tensor | None = None) -> dict[str, Tensor]:
    """`cond` with the samples in `mask` (B,) made unconditional; all of them without a mask.

    Integer tensors (labels) become -1 there and floating tensors (embeddings) 0: what the networks of this library
    take for "no condition".
    """
    out = {}
    for name, value in cond.items():
        null = torch.zeros_like(value) if value.is_floating_point() else torch.full_like(value, -1)
        out[name] = (
            null
            if mask is None
            else torch.where(mask.reshape(-1, *[1] * (value.ndim - 1)), null, value)
        )
    return out


@runtime_checkable
class ScoreField(Field, Protocol):
    """A Field that knows the score beside the velocity, as on an interpolant neither gives the other."""

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Velocity and score at (x, t), both of x's shape, by one call."""


def require_score(field: Field) -> ScoreField:
    """The field, if it has a score to give where its velocity does not say it."""
    if not isinstance(field, ScoreField):
        raise UndefinedError(
            f"{type(field).__name__} does not know the score, which its velocity does not say on {field.path}: train a "
            f"BridgeModel or HalfBridges, or take a solver without noise"
        )
    return field


# Which jumps a flow map knows: from any time to any other; from any time to the data, s = 1; or from each time of a
# grid to the next one.
Jumps = Literal["any", "data"] | tuple[float, ...]


@runtime_checkable
class FlowMap(Protocol):
    """The solution operator x_t -> x_s of a flow, in one call.

    x: (B, ...) the state at t; t, s: one time or (B,) each, s > t towards the data; cond: what it is conditioned on.
    Returns the state at s, of x's shape. jumps: the pairs (t, s) that it knows.
    """

    @property
    def path(self) -> Path: ...

    @property
    def jumps(self) -> Jumps: ...

    def __call__(self, x: Tensor, t: Tensor | float, s: Tensor | float, **cond: Any) -> Tensor: ...
