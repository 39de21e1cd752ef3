"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.ends import Ends, away, check_margin, margin_for, singular_ends
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, breaks_of, nulls_of, require_variance, within
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, convert
from pushforward.core.shapes import as_time, expand
from pushforward.guidance.interval import acting, breaks, check_interval, inside
from pushforward.guidance.rules import Rule, linear


@dataclass(frozen=True)
class ClassifierFree:
    """Push a conditional field away from the unconditional one, or from one under a negative condition.

        u_w(x | y) = (1 - w) u(x | none) + w u(x | y)

    w = 0 ignores the condition, w = 1 is plain conditional sampling, w > 1 exaggerates it; the w of Ho & Salimans is
    this one minus 1. The weights add up to 1, so the same formula holds for every prediction.

    field:    one trained with its conditions dropped now and then; its `nulls` say which those are and what stands for
              none. Called once a step, on both halves of a double batch.
    scale:    w, or a function of the time (B,), or (1,) of one for all, that gives w of that shape or one number.
    interval: (low, high) times within which guidance acts; outside, the condition alone is used.
    negative: conditions instead of none, by name, of one row for all samples or one for each: what to move away from.
              Conditions that it does not name are as in the positive half.
    rule:     another way than this sum, see `guidance.rules`. It acts in its own prediction, which is converted, in
              float32 at least; of padded samples (the condition `mask`) it sees the data alone.
    margin:   by which times are moved where that conversion has no value, see `core.ends`.

    Raises InputError where no condition is given that may be dropped or has a negative.

    Ho & Salimans 2022 (arXiv 2207.12598), eq. 6; interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724).
    """

    field: Field
    scale: float | Callable[[Tensor], Tensor]
    interval: tuple[float, float] = (0.0, 1.0)
    negative: Mapping[str, Any] | None = None
    rule: Rule | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        check_margin(self.margin)
        if self.rule is not None:
            check_defined(self.rule.space, self.path)

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the guided field jumps in time."""
        own = () if self._plain else breaks(self.interval)
        rule = () if self.rule is None else self.rule.breaks
        return tuple(sorted({*own, *rule, *breaks_of(self.field)}))

    def within(self, start: float, end: float) -> ClassifierFree:
        """The guided field between two neighbouring breaks."""
        interval = acting(self.interval, start, end)
        rule = None if self.rule is None else self.rule.within(start, end)
        return replace(self, field=within(self.field, start, end), interval=interval, rule=rule)

    @property
    def _plain(self) -> bool:
        """Whether nothing is changed."""
        return self.rule is None and not callable(self.scale) and self.scale == 1

    @cached_property
    def _ends(self) -> Callable[[Prediction], Ends]:
        """Where the rule's prediction cannot be converted."""
        rule = self.rule
        assert rule is not None
        return cache(lambda want: singular_ends(rule.space, want, self.path))

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        return self._guided(lambda x, t, w, **c: (self.field(x, t, w, **c),), x, t, want, cond)[0]

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The guided prediction, with the variance of the conditional one, as improved DDPM and DiT have it."""
        field = require_variance(self.field)
        value, v = self._guided(field.with_variance, x, t, want, cond)
        return value, v

    def _guided(
        self,
        ask: Callable[..., tuple[Tensor, ...]],
        x: Tensor,
        t: Tensor | float,
        want: Prediction,
        cond: dict[str, Any],
    ) -> tuple[Tensor, ...]:
        """What `ask(x, t, want, **cond)` gives, the first of its values guided and the others the conditional ones."""
        t = as_time(t, x)
        rule = self.rule
        space = want if rule is None else rule.space
        acts = inside(self.interval, t)
        if self._plain or not bool(acts.any()):
            return ask(x, t, want, **cond)
        if space != want:
            t = away(t, self._ends(want), margin_for(self.margin, x.dtype))
        weight = torch.where(acts, self._scale_at(t), torch.ones_like(t))
        count = x.shape[0]
        both = conditions.cat((self._other(cond, count), cond))
        twice = t if t.shape[0] != count else torch.cat((t, t))  # or one time for all
        value, *others = ask(torch.cat((x, x)), twice, space, **both)
        free, given = value[:count], value[count:]
        if rule is None:
            guided = linear(free, given, weight)
        else:
            guided = torch.where(
                expand(acts, x).bool(), self._ruled(rule, free, given, weight, t, cond), given
            )
            guided = convert(guided, x, t, self.path, space, want)
        return (guided, *(v[count:] for v in others))

    def _scale_at(self, t: Tensor) -> Tensor:
        """w of each time, of t's shape."""
        scale = self.scale(t) if callable(self.scale) else self.scale
        w = torch.as_tensor(scale, dtype=t.dtype, device=t.device)
        if w.shape not in ((), (1,), t.shape):
            raise InputError(
                f"the scale is a function of the time: of times {tuple(t.shape)} it gave a weight of shape "
                f"{tuple(w.shape)}, and must give one for each"
            )
        return w.expand(t.shape)

    @staticmethod
    def _ruled(
        rule: Rule, free: Tensor, given: Tensor, weight: Tensor, t: Tensor, cond: Mapping[str, Any]
    ) -> Tensor:
        """The rule's prediction, whose sums would overflow in half precision, and have no padding in them."""
        mask = cond.get("mask")
        if mask is not None:
            if not rule.padded:
                raise InputError(
                    f"{type(rule).__name__} looks at all of a sample, and these are padded: take another rule, or "
                    f"samples of one length without mask="
                )
            free, given = (torch.where(mask, v, torch.zeros_like(v)) for v in (free, given))
        wide = torch.promote_types(given.dtype, torch.float32)
        return rule(free.to(wide), given.to(wide), weight, t).to(given.dtype)

    def _other(self, cond: dict[str, Any], count: int) -> dict[str, Any]:
        """The conditions to move away from."""
        nulls = nulls_of(self.field)
        if self.negative is not None:
            missing = sorted(set(self.negative) - set(cond))
            if missing:
                raise InputError(
                    f"the negative condition {missing[0]} has no positive one beside it: give both"
                )
            rows = conditions.size(self.negative)
            negative = conditions.tile(self.negative, count) if rows == 1 else self.negative
            conditions.check_size(negative, count)
            return {**cond, **negative}
        if not any(name in cond for name in nulls):
            scale = "" if callable(self.scale) else f" of scale {self.scale:g}"
            known = ", ".join(nulls) or "none: build the model with classes or nulls"
            raise InputError(
                f"guidance{scale} needs a condition that may be dropped, and none was given; this "
                f"model's are {known}"
            )
        return conditions.drop(cond, nulls)
