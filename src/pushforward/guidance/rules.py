"""Rules by which a conditional prediction is pushed away from the one without its condition.

A rule computes the guided prediction from two, `free` f and `given` g (B, ...), and a weight w (B,), as classifier-free
guidance computes (1 - w) f + w g. Unlike that one, the rules here depend on the prediction in which they act, `space`.

    ClassifierFree(model, 6.0, rule=Projected(parallel=0.0, largest=15.0))

None of them samples from a law with a closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from pushforward.core.errors import InputError
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import expand


class Rule(ABC):
    """How two predictions and a weight become the guided one."""

    space: Prediction
    padded: ClassVar[bool] = True  # whether entries at which both predictions are 0 change nothing

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the rule jumps in time."""
        return ()

    def within(self, start: float, end: float) -> Rule:
        """The rule between two neighbouring breaks."""
        return self

    @abstractmethod
    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        """The guided prediction (B, ...). free, given: (B, ...), in `space`. weight, t: (B,) or (1,)."""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each sample, (B, 1, ...)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def norm(a: Tensor) -> Tensor:
    """|a| of each sample, (B, 1, ...). Its derivative at 0 is 0."""
    length = torch.linalg.vector_norm(a.flatten(1), dim=1)
    return length.reshape(-1, *[1] * (a.ndim - 1))


def _share(a: Tensor, b: Tensor) -> Tensor:
    """<a, b>/<b, b>, 0 where b is 0."""
    return _over(inner(a, b), inner(b, b))


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a/b for b >= 0, and 0 where b is 0, with derivatives that are finite there too."""
    there = b > 0
    return torch.where(there, a / torch.where(there, b, torch.ones_like(b)), torch.zeros_like(a))


def linear(free: Tensor, given: Tensor, weight: Tensor) -> Tensor:
    """(1 - w) f + w g: classifier-free guidance, which is the same in every prediction."""
    return free + expand(weight, free) * (given - free)


@dataclass(frozen=True)
class Rescaled(Rule):
    """Guidance that keeps the standard deviation of the conditional prediction, against overexposure.

        c = (1 - w) f + w g        amount c std(g)/std(c) + (1 - amount) c

    with std over all of a sample; c as it is where it has none. Lin et al. 2023 (arXiv 2305.08891), eq. 15 and 16.
    """

    amount: float = 0.7
    space: Prediction = "noise"
    padded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= 1:
            raise InputError(f"amount is {self.amount}; it must lie in [0, 1]")

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        guided = linear(free, given, weight)
        dims = tuple(range(1, given.ndim))
        mine, aimed = (norm(x - x.mean(dims, keepdim=True)) for x in (guided, given))
        ratio = torch.where(mine > 0, _over(aimed, mine), torch.ones_like(mine))
        return guided * (self.amount * ratio + 1 - self.amount)


@dataclass(frozen=True)
class Projected(Rule):
    """Adaptive projected guidance: the part of the push along the prediction, which saturates colours, is weakened.

        d = g - f, shortened to |d| <= largest        g + (w - 1) (d_orthogonal + parallel d_parallel)

    with respect to g. parallel: 1 and no limit is the linear rule. largest: of |d|; None for no limit.

    The paper's momentum between steps is not part of it: a field has no memory, and its solver may go back.

    Sadat et al. 2024 (arXiv 2410.02416), alg. 1.
    """

    parallel: float = 0.0
    largest: float | None = None
    space: Prediction = "data"

    def __post_init__(self) -> None:
        if self.largest is not None and self.largest <= 0:
            raise InputError(f"largest is {self.largest}; it must be positive")

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        push = given - free
        if self.largest is not None:
            push = push * (self.largest / norm(push).clamp_min(self.largest))
        along = _share(push, given) * given
        return given + expand(weight - 1, given) * (push - along + self.parallel * along)


@dataclass(frozen=True)
class ZeroStar(Rule):
    """CFG-Zero*: the free prediction at its best multiple, and no motion at first.

        s = <f, g>/<f, f>        (1 - w) s f + w g        0 for t < until

    until: the share of time with velocity 0; the paper takes its first few steps, 4% of them.

    Fan et al. 2025 (arXiv 2503.18886), eq. 9 and sec. 4.2.
    """

    until: float = 0.0
    space: Prediction = "velocity"

    def __post_init__(self) -> None:
        if not 0 <= self.until < 1:
            raise InputError(f"until is {self.until}; it must lie in [0, 1)")
        if self.until and self.space != "velocity":
            raise InputError("what is zero at first is the velocity: space='velocity'")

    @property
    def breaks(self) -> tuple[float, ...]:
        return (self.until,) if self.until else ()

    def within(self, start: float, end: float) -> Rule:
        if not self.until:
            return self
        return Still() if (start + end) / 2 < self.until else replace(self, until=0.0)

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        guided = linear(_share(given, free) * free, given, weight)
        if not self.until:
            return guided
        return torch.where(expand(t < self.until, given).bool(), torch.zeros_like(guided), guided)


@dataclass(frozen=True)
class Still(Rule):
    """No motion: velocity 0."""

    space: Prediction = "velocity"

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(given)


@dataclass(frozen=True)
class Tangential(Rule):
    """Tangential guidance: of f only its component along the first principal direction v of f and g is kept.

        (1 - w) <f, v> v + w g

    v is the first right singular vector of the 2 x D matrix of f and g.

    Kwon et al. 2025 (arXiv 2503.18137), alg. 1.
    """

    space: Prediction = "noise"

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        # v = cos(a) g + sin(a) f, up to its length, by the first eigenvector of the 2 x 2 matrix of inner products.
        a = torch.atan2(2 * inner(given, free), inner(given, given) - inner(free, free)) / 2
        v = a.cos() * given + a.sin() * free
        return linear(_share(free, v) * v, given, weight)


@dataclass(frozen=True)
class MagnitudeAware(Rule):
    """A weight that falls where the push is large beside the prediction, as it is at first (MAMBO-G).

        (1 - w') f + w' g        w' = 1 + (w - 1) exp(-strength |g - f|/|f|)

    Zhu et al. 2025 (arXiv 2508.03442), by its code.
    """

    strength: float = 8.0
    space: Prediction = "velocity"

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        push = given - free
        # Where f is 0 the push is infinitely large beside it, unless there is none.
        damped = torch.exp(-self.strength * _over(norm(push), norm(free)))
        damped = torch.where(norm(free) > 0, damped, torch.zeros_like(damped))
        return free + (1 + expand(weight - 1, given) * damped) * push


@dataclass(frozen=True)
class Frequencies(Rule):
    """Frequency-decoupled guidance of pictures: a weight of its own for each level of a Laplacian pyramid.

        pyramid of the guided prediction, level k:  (1 - w_k) f_k + w_k g_k        w_k = 1 + factors[k] (w - 1)

    factors: of w - 1, by level, from the finest details to what is left of the picture. All 1: the linear rule.
             Less for the coarse levels keeps colours and diversity.

    Each level halves the sides, which must stay whole. Sadat et al. 2025 (arXiv 2506.19713), alg. 2.
    """

    factors: Sequence[float] = (1.0, 0.5)
    space: Prediction = "data"
    padded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(self.factors))
        if len(self.factors) < 2:
            raise InputError(
                "factors has one number by level, from fine to coarse, of two levels at least"
            )

    def __call__(self, free: Tensor, given: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        halvings = 2 ** (len(self.factors) - 1)
        if given.ndim != 4 or given.shape[2] % halvings or given.shape[3] % halvings:
            raise InputError(
                f"{len(self.factors)} levels need pictures (B, C, H, W) whose sides can be halved "
                f"{len(self.factors) - 1} times, got {tuple(given.shape)}"
            )
        levels = zip(self.factors, self._pyramid(free), self._pyramid(given), strict=True)
        guided = [linear(f, g, 1 + factor * (weight - 1)) for factor, f, g in levels]
        picture = guided[-1]
        for level in guided[-2::-1]:
            picture = doubled(picture) + level
        return picture

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """What each halving loses, and what is left."""
        levels = []
        for _ in self.factors[1:]:
            small = halved(x)
            levels.append(x - doubled(small))
            x = small
        return [*levels, x]


def halved(x: Tensor) -> Tensor:
    """Blurred, at half the sides."""
    side = x.shape[2] // 2, x.shape[3] // 2
    return interpolate(blurred(x), size=side, mode="bilinear", align_corners=False)


def doubled(x: Tensor) -> Tensor:
    """At twice the sides, blurred."""
    return blurred(interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


def blurred(x: Tensor) -> Tensor:
    """By the binomial filter 1 4 6 4 1 in both directions, with mirrored borders."""
    row = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 5, 5)
    return conv2d(pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1])
