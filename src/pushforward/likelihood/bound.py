"""The variational bound of a diffusion model on -ln p(x).

The model draws x_T from N(0, sigma(0)^2 I), goes step by step from x_t to x_s by a Gaussian of predicted mean, and from
the last state to the data. Against the noising process q,

    -ln p(x) <= KL(q(x_T | x) || p(x_T)) + sum KL(q(x_s | x_t, x) || p(x_s | x_t)) - E ln p(x | x_last)

Ho et al. 2020 (arXiv 2006.11239), eq. 5; Nichol & Dhariwal 2021 (arXiv 2102.09672), sec. 2; in continuous time: Kingma
et al. 2021 (arXiv 2107.00630).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.chain import (
    decoded_log_prob,
    learned_variance,
    levels,
    prior_kl,
    step_kl,
    step_variances,
)
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, VarianceField
from pushforward.core.noise import SOURCE, TIME, Noise
from pushforward.core.progress import counted
from pushforward.core.shapes import expand, sum_data
from pushforward.likelihood.flow import _ids, _slices

# Variance of p(x_s | x_t), from (x_t (B, ...), t (B,), s (B,), **cond) to a tensor that broadcasts with x_t.
Variance = Callable[..., Tensor]


class Bound(NamedTuple):
    """Terms of the bound in nats, for each sample.

    prior: L_T (B,). decoder: L_0 (B,).
    terms: (B, m) of the `steps` KLs between: all of them in the order of times if `complete`, or drawn at random.
    """

    prior: Tensor
    terms: Tensor
    decoder: Tensor
    steps: int
    complete: bool

    @property
    def total(self) -> Tensor:
        """(B,) the bound on -ln p(x), in nats: unbiased if only some of the terms are there."""
        return self.prior + self.steps * self.terms.mean(1) + self.decoder

    @property
    def standard_error(self) -> Tensor:
        """(B,) of `total`, left by drawing only some terms: 0 if all are there, infinite for one of several."""
        m = self.terms.shape[1]
        if self.complete:
            return torch.zeros_like(self.prior)
        if m == 1:
            return torch.full_like(self.prior, math.inf)
        return self.steps * self.terms.std(1) / math.sqrt(m)

    def bits(self, dimensions: int) -> Tensor:
        """(B,) bits per dimension, for quantised data."""
        return self.total / (dimensions * math.log(2))


@torch.no_grad()
def variational_bound(
    field: Field,
    x: Tensor,
    *,
    grid: Tensor | None = None,
    variance: Literal["beta", "beta-tilde", "learned"] | Variance = "beta-tilde",
    bin_width: float | None = 2 / 255,
    value_range: tuple[float, float] = (-1.0, 1.0),
    terms: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
    batch_size: int | None = None,
    **cond: Any,
) -> Bound:
    """L_T + sum_k L_k + L_0 at x, each expectation by one draw of x_t for each sample and term.

        L_T = alpha_0^2 |x|^2 / (2 sigma_0^2)
        L_k = D/2 (ln(v/b~) + b~/v - 1) + (alpha_s b/sigma_t^2)^2 |x - data(x_t, t)|^2 / (2 v)
        L_0 = -ln P(x | data(x_t, t), v)                  at the last time t before the data
        b   = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2,  b~ = b sigma_s^2/sigma_t^2

    x:        (B, ...) data, at the centres of their bins.
    grid:     times (n + 1,) that increase from the first state, whose law is N(0, sigma^2 I), to 1; one at sigma = 0 is
              the data itself. Left out, the steps of a DDPMPath, or else 1000 of `times.straight`.
    variance: v of each step: b, b~, or "learned", as of `DDPM`; or a function (x_t, t, s, **cond) that gives it. In L_0
              there is no b~: that of the step before stands for it.
    bin_width, value_range: of the values of x; bin_width=None takes the density of x, for data that are not quantised.
    terms:    how many of the L_k are computed for each sample, drawn uniformly with replacement; all by default.
    seed, ids: key the draws: a shard of a data set with its own ids gives what the whole would.
    batch_size: samples at a time; all of them by default.

    Ho et al. 2020 (arXiv 2006.11239), eq. 5-8 and 13; variances of the last step: Nichol & Dhariwal 2021, sec. 2.1.
    """
    path = field.path
    path.require_gaussian("variational bound")
    times = levels(path, grid).to(x.device)
    count = len(times) - 1
    if isinstance(variance, str) and variance not in ("beta", "beta-tilde", "learned"):
        raise InputError(
            f"variance is 'beta', 'beta-tilde', 'learned' or a function, not {variance!r}"
        )
    if terms is not None and terms < 1:
        raise InputError(f"terms is {terms}; it must be at least 1")
    ids = _ids(ids, x)
    parts = []
    for rows in counted("bound", _slices(len(x), batch_size)):
        noise = Noise(seed, ids[rows])
        here = conditions.take(cond, rows)
        step = _Step(field, x[rows], variance, here)
        # times[k] is the state k steps from the source, x_t; times[k + 1], the next, x_s.
        if terms is None:
            picked = torch.arange(count, device=x.device).expand(len(step.x), -1)
        else:
            picked = (noise.uniform((terms,), TIME) * count).long()
        kls = [
            step.kl(times[k], times[k + 1], noise.at(j)) for j, k in enumerate(picked.unbind(1), 1)
        ]
        last, before = (times[k].expand(len(step.x)) for k in (-1, -2))
        distribution = step.decoder(before, last, noise)
        parts.append(
            (
                prior_kl(path, step.x, times[0].expand(len(step.x))),
                torch.stack(kls, 1),
                -decoded_log_prob(step.x, *distribution, bin_width, value_range),
            )
        )
    prior, middle, decoder = (torch.cat(part) for part in zip(*parts, strict=True))
    return Bound(prior, middle, decoder, count, terms is None)


@dataclass(frozen=True)
class _Step:
    """One step of the model against the noising process, at the data x (B, ...)."""

    field: Field
    x: Tensor
    variance: Literal["beta", "beta-tilde", "learned"] | Variance
    cond: dict[str, Any]

    def predict(
        self, t: Tensor, s: Tensor, added: Tensor, tilde: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Predicted data and variance of the step at one x_t, in float64."""
        x0 = noise.normal(self.x.shape[1:], SOURCE, self.x.dtype)
        x_t = self.field.path.sample(x0, self.x, t)
        if self.variance == "learned":
            if not isinstance(self.field, VarianceField):
                raise InputError(f"{type(self.field).__name__} has no learned variance")
            data, share = self.field.with_variance(x_t, t, "data", **self.cond)
            return data.double(), learned_variance(share, added, tilde)
        data = self.field(x_t, t, "data", **self.cond).double()
        if callable(self.variance):
            return data, self.variance(x_t, t, s, **self.cond).double()
        return data, expand(added if self.variance == "beta" else tilde, data)

    def kl(self, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """(B,) KL(q(x_s | x_t, x) || p(x_s | x_t)) at one x_t."""
        added, tilde = step_variances(self.field.path, t, s)
        data, v = self.predict(t, s, added, tilde, noise)
        pull = self.field.path.alpha(s) * added / self.field.path.sigma(t) ** 2
        return step_kl(self.x, data, v, tilde, pull)

    def decoder(self, before: Tensor, last: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Mean and variance of the data given the last state."""
        added = self.field.path.sigma(last) ** 2  # of a step to alpha_s = 1, sigma_s = 0
        tilde = step_variances(self.field.path, before, last)[1]
        return self.predict(last, torch.ones_like(last), added, tilde, noise)


@torch.no_grad()
def continuous_bound(
    field: Field,
    x: Tensor,
    *,
    terms: int = 100,
    start: float = 0.0,
    end: float = 0.999,
    bin_width: float | None = 2 / 255,
    value_range: tuple[float, float] = (-1.0, 1.0),
    seed: int = 0,
    ids: Tensor | None = None,
    batch_size: int | None = None,
    **cond: Any,
) -> Bound:
    """The bound in the limit of infinitely many steps from `start` to `end`, by `terms` times for each sample.

        L = L_T + 1/2 int SNR'(t) E|x - data(x_t, t)|^2 dt + L_0       SNR = alpha^2/sigma^2

    taken as 1/2 int E|x0 - noise(x_t, t)|^2 d ln SNR, at one draw of ln SNR in each of `terms` equal parts (of which
    `Bound.terms` has the estimates of the whole). L_0 is -ln P of the data under N(x_t/alpha, sigma^2/alpha^2 I) at
    t = end. The log-SNR must be finite at both ends.

    Kingma et al. 2021 (arXiv 2107.00630), eq. 17-18 and app. E.
    """
    path = field.path
    path.require_gaussian("variational bound")
    ends = path.log_snr(torch.tensor([start, end], dtype=torch.float64))
    if not bool(ends.isfinite().all()) or start >= end or terms < 2:
        raise InputError(
            f"the log-SNR of {path} is {ends.tolist()} at start = {start} and end = {end}: it must be finite at both, "
            f"start < end, and terms at least 2"
        )
    low, high = ends.tolist()
    ids = _ids(ids, x)
    parts = []
    for rows in counted("bound", _slices(len(x), batch_size)):
        noise, data = Noise(seed, ids[rows]), x[rows]
        here = conditions.take(cond, rows)
        stratum = torch.arange(terms, device=x.device)
        where = (stratum + noise.uniform((terms,), TIME)) / terms
        losses = []
        for j, share in enumerate(where.unbind(1), 1):
            t = path.time_of_log_snr(low + (high - low) * share)
            x0 = noise.at(j).normal(data.shape[1:], SOURCE, data.dtype)
            eps = field(path.sample(x0, data, t), t, "noise", **here)
            losses.append((high - low) / 2 * sum_data((x0 - eps).double() ** 2))
        t = torch.full((len(data),), end, dtype=torch.float64, device=x.device)
        x_t = path.sample(noise.normal(data.shape[1:], SOURCE, data.dtype), data, t).double()
        alpha, sigma = (expand(value, x_t) for value in (path.alpha(t), path.sigma(t)))
        parts.append(
            (
                prior_kl(path, data, torch.full_like(t, start)),
                torch.stack(losses, 1),
                -decoded_log_prob(data, x_t / alpha, (sigma / alpha) ** 2, bin_width, value_range),
            )
        )
    prior, middle, decoder = (torch.cat(part) for part in zip(*parts, strict=True))
    return Bound(prior, middle, decoder, 1, False)
