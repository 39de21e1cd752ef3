"""Fields: what solvers, guidance and likelihood see of a model or of an exact law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.core.conditions import Nulls
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction


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


def find_inside(field: Any, name: str, default: Any = None) -> Any:
    """The attribute of this name of a field, or else of the one that it wraps as its `field` or `map`."""
    while field is not None:
        if getattr(field, name, None) is not None:
            return getattr(field, name)
        field = getattr(field, "field", getattr(field, "map", None))
    return default


def require_field(field: Any) -> None:
    """InputError for what is no Field or flow map: a network or a function by itself, a name."""
    if hasattr(field, "path"):
        return
    if isinstance(field, nn.Module):
        kind = type(field).__name__
        raise InputError(
            f"{kind} is a network, and this takes a model, which also has a path and a prediction: "
            f"pf.Model({kind}(...), pf.CondOT(), shape=(...))"
        )
    raise InputError(
        f"{field!r} is no model or field: it has no path. Models are made by pf.Model(net, path), exact fields by "
        f"law.field(path)"
    )


def networks(field: Any) -> list[nn.Module]:
    """The modules of a field and of all that it wraps, its own first."""
    if field is None or isinstance(field, nn.Module):
        return [] if field is None else [field]
    inside = vars(field).values() if is_dataclass(field) else [getattr(field, "field", None)]
    return [module for value in inside for module in networks(value)]


def parameters_of(field: Any) -> Iterator[nn.Parameter]:
    """The parameters of a field and of all that it wraps."""
    for module in networks(field):
        yield from module.parameters()


def nulls_of(field: Any) -> Nulls:
    """What may be dropped of a field's conditions, and what stands for none; see `core.conditions`."""
    found: Nulls = find_inside(field, "nulls", {})
    return found


def require_nulls(field: Any) -> None:
    """InputError for a field that guidance cannot act on, since none of its conditions may be dropped, or ever was."""
    if not nulls_of(field):
        raise InputError(
            "guidance needs a model with classes or other conditions that may be dropped, and this one has none"
        )
    if getattr(find_inside(field, "sampling"), "condition_dropout", None) == 0:
        raise InputError(
            "guidance moves samples away from what a model draws without conditions, and this one was trained with all "
            "of them: leave guidance out, give a negative condition, or train with a share of them dropped "
            "(--condition-dropout 0.1)"
        )


# Fields with breaks in time.


def breaks_of(field: Any) -> tuple[float, ...]:
    """The times within (0, 1) at which a field jumps, as a guidance that acts in an interval does."""
    return tuple(t for t in getattr(field, "breaks", ()) if 0 < t < 1)


def within(field: Any, start: float, end: float) -> Any:
    """The field between two neighbouring breaks, continued smoothly to both of them: at a break each side is asked on
    its own side."""
    return field.within(start, end) if breaks_of(field) else field


@dataclass(frozen=True)
class Masked:
    """A field of padded samples: 0 where the condition `mask` is False, so that padding never moves.

    mask: bool, of x's number of dimensions, each as long or 1.
    told: whether the field gets it too: one that does not must not look at padding.
    """

    field: Field
    told: bool = True

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        return breaks_of(self.field)

    def within(self, start: float, end: float) -> Masked:
        return replace(self, field=within(self.field, start, end))

    def _given(self, cond: dict[str, Any]) -> dict[str, Any]:
        return cond if self.told else {k: v for k, v in cond.items() if k != "mask"}

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        value = self.field(x, t, want, **self._given(cond))
        return torch.where(cond["mask"], value, torch.zeros_like(value))

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        value, v = require_variance(self.field).with_variance(x, t, want, **self._given(cond))
        return torch.where(cond["mask"], value, torch.zeros_like(value)), v

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        pair = require_score(self.field).with_score(x, t, **self._given(cond))
        u, score = (torch.where(cond["mask"], v, torch.zeros_like(v)) for v in pair)
        return u, score


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
