"""Samples given an observation, by the score of the posterior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core.ends import away, check_margin, singular_ends
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, breaks_of, within
from pushforward.core.paths import Path
from pushforward.core.predictions import PREDICTIONS, Prediction, check_defined, convert
from pushforward.core.shapes import as_time, expand
from pushforward.guidance.score_weight import score_weight

Operator = Callable[[Tensor], Tensor]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Seen:
    """What a spread of the data given x_t may look at. All of one batch, each sample by itself.

    y_hat: A(D), (B, *M). transposed: v (B, *M) -> A'^T v, of the data's shape. forward: v of that shape -> A' v.
    denoised: v -> J^T v with J = dD/dx, by one backward pass. alpha, sigma: (B,) of the path.
    """

    y_hat: Tensor
    transposed: Product
    forward: Product
    denoised: Product
    alpha: Tensor
    sigma: Tensor


class Spread(ABC):
    """How uncertain the data are given x_t, by which the difference y - A(D) is weighed.

    q(y | x_t) = N(A(D), S)      S = noise_std^2 + A' Cov(x_1 | x_t) A'^T
    """

    @abstractmethod
    def solve(self, difference: Tensor, noise_std: float, seen: Seen) -> Tensor:
        """S^-1 difference, (B, *M)."""


@dataclass(frozen=True)
class NoSpread(Spread):
    """No spread: the data are taken for D. Its pull is far too strong where there is much noise.

    zeta: instead of 1/noise_std^2 the weight zeta/|y - A(D)|, as DPS is used; its step is then to be chosen.

    Chung et al. 2023 (arXiv 2209.14687), eq. 11 and 16.
    """

    zeta: float | None = None

    def __post_init__(self) -> None:
        if self.zeta is not None and not 0 < self.zeta < math.inf:
            raise InputError(f"zeta is {self.zeta}; it must be positive")

    def solve(self, difference: Tensor, noise_std: float, seen: Seen) -> Tensor:
        if self.zeta is None:
            return difference / noise_std**2
        length = _flat(difference).norm(dim=1).clamp_min(torch.finfo(difference.dtype).tiny)
        return difference * expand(self.zeta / length, difference)


@dataclass(frozen=True)
class Isotropic(Spread):
    """Cov(x_1 | x_t) = r^2, that of independent Gaussian data of standard deviation `std`.

        r^2 = std^2 sigma^2 / (alpha^2 std^2 + sigma^2)

    The system is solved by GMRES, in as many steps as A A^T has different eigenvalues; no backward pass of the network.

    Song et al. 2023 (PiGDM), sec. 3.2.
    """

    std: float = 1.0
    iterations: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.std < math.inf:
            raise InputError(f"std is {self.std}; it must be positive")
        _check_iterations(self.iterations)

    def solve(self, difference: Tensor, noise_std: float, seen: Seen) -> Tensor:
        square = (self.std * seen.sigma) ** 2
        r2 = square / ((self.std * seen.alpha) ** 2 + seen.sigma**2)

        def system(v: Tensor) -> Tensor:
            return noise_std**2 * v + expand(r2, v) * seen.forward(seen.transposed(v))

        return krylov(system, difference, self.iterations)


@dataclass(frozen=True)
class Diagonal(Spread):
    """S taken for diagonal, by its row sums: noise_std^2 + A' Cov A'^T 1. One backward pass more.

    Exact where the data's coordinates are independent given x_t and each is seen by itself. Boys et al. 2023 (TMPD,
    arXiv 2310.06721), eq. 8.
    """

    def solve(self, difference: Tensor, noise_std: float, seen: Seen) -> Tensor:
        ones = torch.ones_like(difference)
        spread = seen.forward(_covariance(seen, seen.transposed(ones)))
        return difference / (noise_std**2 + spread)


@dataclass(frozen=True)
class Full(Spread):
    """Cov(x_1 | x_t) = (sigma^2/alpha) dD/dx, which is exact, in products with vectors: a backward pass for each.

    The system is solved by `iterations` of GMRES, at most as many as there are numbers in y. For Gaussian data and a
    linear operator the field is that of the posterior, exactly.

    Rozet et al. 2024 (MMPS, arXiv 2405.13712), sec. 4.2.
    """

    iterations: int = 3

    def __post_init__(self) -> None:
        _check_iterations(self.iterations)

    def solve(self, difference: Tensor, noise_std: float, seen: Seen) -> Tensor:
        def system(v: Tensor) -> Tensor:
            return noise_std**2 * v + seen.forward(_covariance(seen, seen.transposed(v)))

        return krylov(system, difference, self.iterations)


def _covariance(seen: Seen, v: Tensor) -> Tensor:
    """Cov(x_1 | x_t) v, by the second-order identity of Tweedie: sigma^2/alpha dD/dx."""
    return expand(seen.sigma**2 / seen.alpha, v) * seen.denoised(v)


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise InputError(f"iterations is {iterations}; it must be at least 1")


def _flat(v: Tensor) -> Tensor:
    """(B, *M) as (B, numbers of M), one of a single number as well."""
    return v.reshape(len(v), math.prod(v.shape[1:]))


def krylov(system: Product, b: Tensor, iterations: int) -> Tensor:
    """x (B, *M) with system(x) = b, by GMRES from 0: |b - system(x)| is least among combinations of the first
    `iterations` of b, system(b), ... Each sample is a system of its own.

    Saad & Schultz 1986.
    """
    flat = _flat(b)
    count = min(iterations, flat.shape[1])
    start = flat.norm(dim=1)
    tiny = torch.finfo(b.dtype).tiny
    basis = [flat / start.clamp_min(tiny)[:, None]]
    h = flat.new_zeros(len(flat), count + 1, count)
    for k in range(count):
        w = _flat(system(basis[k].reshape(b.shape)))
        scale = w.norm(dim=1)
        for _ in range(2):  # again, for what rounding leaves
            for i, v in enumerate(basis):
                along = (w * v).sum(1)
                h[:, i, k] += along
                w = w - along[:, None] * v
        left = w.norm(dim=1)
        # Where the space is used up the rest is rounding, and the solution found.
        left = torch.where(
            left > 10 * torch.finfo(b.dtype).eps * scale, left, torch.zeros_like(left)
        )
        h[:, k + 1, k] = left
        unit = w / left.clamp_min(tiny)[:, None]
        basis.append(torch.where(left[:, None] > 0, unit, torch.zeros_like(unit)))
    right = flat.new_zeros(len(flat), count + 1, 1)
    right[:, 0, 0] = start
    # A sample that has diverged stays so, and leaves the others alone; there is no factorisation in half precision.
    fine = h.isfinite().all((1, 2), keepdim=True)
    wide = torch.promote_types(h.dtype, torch.float32)
    inverse = torch.linalg.pinv(torch.where(fine, h, torch.zeros_like(h)).to(wide)).to(h.dtype)
    weights = torch.where(fine, inverse, torch.full_like(inverse, torch.nan)) @ right
    return (torch.stack(basis[:count], 2) @ weights).squeeze(2).reshape(b.shape)


@dataclass(frozen=True)
class Posterior:
    """The field of the data given y = A(x_1) + noise_std z, by its score

        score(x | y) = score(x) + grad_x ln q_t(y | x)        q_t(y | x) = N(y; A(D(x)), S)

    where D is the mean of the data given x_t, and the covariance S of y around A(D) is what methods differ in: `Full`
    (MMPS), `Diagonal` (TMPD), `Isotropic` (PiGDM), `NoSpread` (DPS). The gradient is that of A(D) alone, S held fixed:

        grad_x ln q = J^T A'^T S^-1 (y - A(D))        J = dD/dx

    Exact, with `Full`, for Gaussian data and linear A; else S is not the whole truth, since the law of the data given
    x_t is no Gaussian. All solvers take it, with noise or without. It has no derivatives of its own.

    Of padded samples (the condition `mask`) the operator sees 0 where there are no data.

    field:     on a Gaussian path; asked for its data once a step, and differentiated.
    operator:  A, (B, ...) -> (B, *M), of each sample by itself, differentiable twice: see `guidance.operators`.
    noise_std: of the observation, one positive number.
    y:         one observation (1, *M) for all samples. Without it each has its own: pass observation= (B, *M) to the
               field, as pf.posterior does.
    spread:    what S is.
    margin:    by which times are moved where alpha or sigma is 0: 1e-6 in float64 and 1e-2 below.
    """

    field: Field
    operator: Operator
    noise_std: float
    y: Tensor | None = None
    spread: Spread = Full()
    margin: float | None = None
    takes: ClassVar[tuple[str, ...]] = ("observation",)  # conditions that are not the network's

    def __post_init__(self) -> None:
        if isinstance(self.noise_std, Tensor) and self.noise_std.numel() != 1:
            raise InputError(
                f"noise_std has shape {tuple(self.noise_std.shape)}; it is one number: scale the operator and y, entry "
                f"by entry, to a common one"
            )
        object.__setattr__(self, "noise_std", float(self.noise_std))
        if not 0 < self.noise_std < math.inf:
            raise InputError(
                f"noise_std is {self.noise_std}; it must be positive: an observation without noise is one with little"
            )
        check_margin(self.margin)
        check_defined("score", self.path)
        if self.y is not None and not bool(self.y.isfinite().all()):
            raise InputError("the observation y has numbers that are not finite")

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the field jumps in time."""
        return breaks_of(self.field)

    def within(self, start: float, end: float) -> Posterior:
        """The field between two neighbouring breaks."""
        return replace(self, field=within(self.field, start, end))

    @cached_property
    def _ends(self) -> dict[Prediction, tuple[bool, bool]]:
        empty = float(self.path.alpha(torch.zeros((), dtype=torch.float64))) == 0
        ends = {want: singular_ends("data", want, self.path) for want in PREDICTIONS}
        return {want: (first or empty, last) for want, (first, last) in ends.items()}

    def __call__(
        self,
        x: Tensor,
        t: Tensor | float,
        want: Prediction = "velocity",
        *,
        observation: Tensor | None = None,
        **cond: Any,
    ) -> Tensor:
        y = self.y if observation is None else observation
        if y is None:
            raise InputError("give the observation: Posterior(..., y=y), or observation= for each")
        if torch.is_inference_mode_enabled():
            raise InputError(
                "a posterior field differentiates its network, which torch.inference_mode() forbids: use "
                "torch.no_grad() instead"
            )
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "a posterior field has no derivatives: no likelihood is computed of it, and of two observations one "
                "operator gives both"
            )
        mask = cond.get("mask")
        margin = self.margin or (1e-6 if x.dtype == torch.float64 else 1e-2)
        t = away(as_time(t, x), self._ends[want], margin)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            data = self.field(state, t, "data", **cond)
            if not data.requires_grad:
                raise InputError(
                    "the field cannot be differentiated: its data have no gradient, as under torch.no_grad()"
                )
            # The operator's derivatives are taken apart from the network's.
            held = data.detach().requires_grad_()
            seen_of = held if mask is None else torch.where(mask, held, torch.zeros_like(held))
            y_hat = self.operator(seen_of)
            if y_hat.shape[:1] != x.shape[:1]:
                raise InputError(
                    f"the operator makes {tuple(y_hat.shape)} of {len(x)} samples; it must keep them apart, (B, ...)"
                )
            if y.ndim == 0 or y.shape[1:] != y_hat.shape[1:] or len(y) not in (1, len(x)):
                raise InputError(
                    f"the observation has shape {tuple(y.shape)}, and the operator makes {tuple(y_hat.shape)}"
                )
            dummy = torch.zeros_like(y_hat, requires_grad=True)
            if not y_hat.requires_grad:
                raise InputError(
                    "the operator cannot be differentiated: its result has no gradient"
                )
            (back,) = torch.autograd.grad(y_hat, held, dummy, create_graph=True)

        def transposed(v: Tensor) -> Tensor:
            return torch.autograd.grad(y_hat, held, v, retain_graph=True)[0]

        def forward(v: Tensor) -> Tensor:
            # A' v, since A'^T u is linear in u: the derivative of its product with v by u.
            return torch.autograd.grad(back, dummy, v, retain_graph=True)[0]

        def denoised(v: Tensor) -> Tensor:
            return torch.autograd.grad(data, state, v, retain_graph=True)[0]

        with torch.no_grad():
            seen = Seen(y_hat.detach(), transposed, forward, denoised, alpha, sigma)
            difference = y.to(x) - seen.y_hat
            weighed = self.spread.solve(difference, self.noise_std, seen)
            gradient = denoised(transposed(weighed))
            plain = convert(data.detach(), x, t, self.path, "data", want)
            return plain + expand(score_weight(self.path, want, t), x) * gradient
