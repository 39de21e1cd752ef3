"""Several conditions at once, wanted and unwanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, breaks_of, nulls_of, within
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import as_time, expand
from pushforward.guidance.interval import acting, breaks, check_interval, inside


@dataclass(frozen=True)
class Composed:
    """Push a field towards several conditions, and away from others.

        u = u(x | none) + sum_k w_k (u(x | y_k) - u(x | none))

    w > 0 asks for y_k ("and"), w < 0 for its absence ("not"); one term is `ClassifierFree`. At t = 1 its score is that
    of p(x) prod_k p(y_k | x)^{w_k}, for conditions that are independent given x; before it, products of noised laws
    are not the noised product, so that samples are only near that law.

    field: one with nulls. Called once a step, on one row more for each sample than there are terms.
    terms: (w_k, y_k); y_k a mapping of conditions of one row for all samples, or one for each. What another
           term names is none; what no term names is as it is given to the field.
    interval: (low, high) times within which the terms act; outside, the field under the conditions given to it.

    Liu et al. 2022 (arXiv 2206.01714), eq. 11 and 13.
    """

    field: Field
    terms: Sequence[tuple[float, Mapping[str, Any]]]
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple((float(w), dict(y)) for w, y in self.terms))
        check_interval(self.interval)
        if not self.terms or not all(math.isfinite(w) for w, _ in self.terms):
            raise InputError(
                "terms are one or more pairs of a finite weight and conditions, (2.0, {'label': ...})"
            )
        known = nulls_of(self.field)
        for _, given in self.terms:
            strange = sorted(set(given) - set(known))
            if strange or not given:
                what = f"{strange[0]} cannot be dropped" if strange else "a term names no condition"
                raise InputError(
                    f"{what}: the conditions of this model that can be composed are {', '.join(known) or 'none'}"
                )

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the field jumps in time."""
        return tuple(sorted({*breaks(self.interval), *breaks_of(self.field)}))

    def within(self, start: float, end: float) -> Composed:
        """The field between two neighbouring breaks."""
        interval = acting(self.interval, start, end)
        return replace(self, field=within(self.field, start, end), interval=interval)

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t = as_time(t, x)
        acts = inside(self.interval, t)
        if not bool(acts.any()):
            return self.field(x, t, want, **cond)
        count = x.shape[0]
        given = [self._rows(conditions.to(y, x.device), count) for _, y in self.terms]
        every = {name: value for y in given for name, value in y.items()}
        # What terms name is none where it is not asked for; all else is as the caller gives it, in every row.
        dropped = conditions.drop(every, nulls_of(self.field))
        plain, none = {**dropped, **cond}, {**cond, **dropped}
        rows = [none, *({**none, **y} for y in given)]
        if not bool(acts.all()):
            rows.append(plain)
        times = t if t.shape[0] != count else t.repeat(len(rows))
        state = x.repeat(len(rows), *[1] * (x.ndim - 1))
        out = self.field(state, times, want, **conditions.cat(rows))
        free, *others = out.unflatten(0, (len(rows), count)).unbind(0)
        pushes = [w * (u - free) for (w, _), u in zip(self.terms, others, strict=False)]
        guided = free + torch.stack(pushes).sum(0)
        if bool(acts.all()):
            return guided
        return torch.where(expand(acts, x).bool(), guided, others[-1])

    def _rows(self, given: Mapping[str, Any], count: int) -> dict[str, Any]:
        rows = conditions.size(given)
        found = conditions.tile(given, count) if rows == 1 else dict(given)
        conditions.check_size(found, count)
        return found
