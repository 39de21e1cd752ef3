"""The variational bound as a loss, in bits for each dimension: DDPM's L_vlb, L_simple and their hybrid.

    L_vlb = L_T + sum_k L_k        the L_k being n - 1 KLs and the decoder, as in `variational_bound`

One term is drawn for each sample, with probability p_k, and L_T + L_k/p_k is an unbiased estimate. L_simple is
`NoisePrediction(model, times=Steps(model.path))`. Ho et al. 2020 (arXiv 2006.11239), eq. 5 and 14; Nichol & Dhariwal
2021 (arXiv 2102.09672).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pushforward.core.chain import Steps, decoded_log_prob, learned_variance, prior_kl, step_kl
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import SOURCE, Noise
from pushforward.core.predictions import convert
from pushforward.core.shapes import expand, mean_data
from pushforward.data.batch import Batch
from pushforward.models.model import Model
from pushforward.objectives.matching import Drawn, Dropout, check_dropout, draw

StepVariance = Literal["beta", "beta-tilde", "learned"]


@dataclass(frozen=True)
class Chain(ABC):
    """A loss of the steps of a chain from noise to data.

    model:       on any path with a Gaussian source.
    steps:       the states, and how often each is drawn (see `important_steps`); by default the path's, equally.
    bin_width, value_range: of quantised data, at the centres of their bins; bin_width=None takes the density of x, for
                 data that are not quantised.
    condition_dropout: probability of training a sample without its condition.
    """

    model: Model
    steps: Steps | None = field(default=None, kw_only=True)
    bin_width: float | None = field(default=2 / 255, kw_only=True)
    value_range: tuple[float, float] = field(default=(-1.0, 1.0), kw_only=True)
    condition_dropout: Dropout = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        self.model.path.require_gaussian("variational bound")
        check_dropout(self.condition_dropout, self.model)
        if self.chain.path != self.model.path:
            raise InputError(
                f"steps of {self.chain.path} are not those of {self.model.path}, the model's path"
            )

    @cached_property
    def chain(self) -> Steps:
        return Steps(self.model.path) if self.steps is None else self.steps

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        drawn = draw(self.model, batch, noise, self.chain, self.condition_dropout)
        x_t = self.model.path.sample(drawn.x0, drawn.x1, drawn.t)
        k = self.chain.index(drawn.t)
        loss = self._losses(x_t, drawn, k, self.chain.shares.to(k.device)[k])
        return {"loss": loss.to(x_t.dtype)}

    @abstractmethod
    def _losses(self, x_t: Tensor, drawn: Drawn, k: Tensor, share: Tensor) -> Tensor:
        """(B,). k: which states these are, drawn with probability `share`."""

    def _bits(self, x1: Tensor, data: Tensor, v: Tensor, k: Tensor, share: Tensor) -> Tensor:
        """The estimate of L_vlb from the term k, in bits for each dimension. v: variance of that step."""
        term = _term(self.chain, x1, data, v, k, self.bin_width, self.value_range)
        first = self.chain.levels[:1].to(x1.device)
        return (prior_kl(self.model.path, x1, first) + term / share) / _bit(x1)


@dataclass(frozen=True)
class VariationalBound(Chain):
    """`L_vlb = L_T + E_k L_k/p_k`, in bits for each dimension.

        L_k = D/2 (ln(v/b~) + b~/v - 1) + pull_k^2 |x1 - data(x_t, t)|^2/(2 v),   the last one -ln P(x1 | data, v)

    variance: v of each step: b, b~, or "learned", `exp(share ln b + (1 - share) ln b~)`, the share being the second of
              two outputs that the network has for each channel. The bound then trains mean and variance.
    """

    variance: StepVariance = "beta-tilde"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in get_args(StepVariance):
            raise InputError(
                f"variance is one of {', '.join(get_args(StepVariance))}, not {self.variance!r}"
            )

    def _losses(self, x_t: Tensor, drawn: Drawn, k: Tensor, share: Tensor) -> Tensor:
        data, v = _answer(self.model, self.chain, self.variance, x_t, drawn.t, k, drawn.cond)
        return self._bits(drawn.x1, data, v, k, share)


@dataclass(frozen=True)
class Hybrid(Chain):
    """`L_simple + vlb_weight L_vlb`, in which L_vlb trains the variance alone.

        L_simple = E_k mean (eps_theta(x_t, t) - x0)^2/(n p_k),   L_vlb with the gradient of data(x_t, t) stopped

    The network has two outputs for each channel. Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 16.
    """

    vlb_weight: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.vlb_weight >= 0:
            raise InputError(f"vlb_weight is {self.vlb_weight}; it must be a number >= 0")

    def _losses(self, x_t: Tensor, drawn: Drawn, k: Tensor, share: Tensor) -> Tensor:
        path, t = self.model.path, drawn.t
        # From v follow both noise and data, also where alpha = 0.
        v, weight = self.model.with_variance(x_t, t, "v", **drawn.cond)
        eps = convert(v, x_t, t, path, "v", "noise")
        data = convert(v.detach(), x_t, t, path, "v", "data")
        added, tilde = (value.to(k.device)[k] for value in self.chain.table[:2])
        vlb = self._bits(drawn.x1, data, learned_variance(weight, added, tilde), k, share)
        simple = mean_data((eps - drawn.x0) ** 2)
        return simple / (len(self.chain) * share) + self.vlb_weight * vlb


@torch.no_grad()
def important_steps(
    field: Field,
    x: Tensor,
    steps: Steps | None = None,
    *,
    variance: StepVariance | Literal["optimal"] = "optimal",
    bin_width: float | None = 2 / 255,
    value_range: tuple[float, float] = (-1.0, 1.0),
    uniform: float = 0.01,
    seed: int = 0,
    **cond: Any,
) -> Steps:
    """The steps of a chain, drawn in proportion to the size of their terms: p_k ~ sqrt(E L_k^2).

    The terms are those of `field` at the data x (B, ...), one draw of x_t for each sample and step. The probabilities
    are numbers fixed before training, and not a running history of the losses as in the paper: a batch then has the
    same loss in a run that was resumed, and the estimate is unbiased either way. The field may be an exact one: that of
    a Gaussian with the mean and variance of the data has terms that fall with k as those of any data do,

        law = pf.GaussianMixture(x.mean(0)[None], x.var())
        bound = VariationalBound(model, "learned", steps=important_steps(law.field(model.path), x))

    or a model trained so far, for what follows.

    variance: of the steps; "optimal" is the best one that is the same for all dimensions, found at x itself.
    uniform:  share of draws that stay uniform, so that no term that is small here can weigh much.

    Nichol & Dhariwal 2021 (arXiv 2102.09672), sec. 3.3; optimal variance: Bao et al. 2022 (arXiv 2201.06503), thm. 1.
    """
    if not 0 < uniform <= 1:
        raise InputError(f"uniform is {uniform}; it must lie in (0, 1]")
    steps = Steps(field.path) if steps is None else steps
    noise = Noise.batch(len(x), seed, device=x.device)
    sizes = []
    for j, t in enumerate(steps.levels.to(x.device)):
        x0 = noise.at(j).normal(x.shape[1:], SOURCE, x.dtype)
        x_t, k = field.path.sample(x0, x, t), torch.full((len(x),), j, device=x.device)
        named = "beta-tilde" if variance == "optimal" else variance
        data, v = _answer(field, steps, named, x_t, t.expand(len(x)), k, cond)
        if variance == "optimal":
            _, tilde, pull = (float(value[j]) for value in steps.table)
            # The decoder has no b~ of its own.
            floor = tilde if j + 1 < len(steps) else 0.0
            error = float(((x - data) ** 2).mean())
            v = torch.full_like(v, max(floor + pull**2 * error, 1e-12))
        sizes.append((_term(steps, x, data, v, k, bin_width, value_range) ** 2).mean().sqrt())
    size = torch.stack(sizes).cpu()
    shares = (1 - uniform) * size / size.sum() + uniform / len(steps)
    return Steps(steps.path, steps.grid, shares, low_discrepancy=steps.low_discrepancy)


def _answer(
    field: Any, steps: Steps, variance: str, x_t: Tensor, t: Tensor, k: Tensor, cond: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Predicted data (B, ...), and the variance of the step from state k, in float64."""
    added, tilde = (value.to(k.device)[k] for value in steps.table[:2])
    if variance == "learned":
        data, share = field.with_variance(x_t, t, "data", **cond)
        return data, learned_variance(share, added, tilde)
    data = field(x_t, t, "data", **cond)
    return data, expand(added if variance == "beta" else tilde, data.double())


def _term(
    steps: Steps,
    x1: Tensor,
    data: Tensor,
    v: Tensor,
    k: Tensor,
    bin_width: float | None,
    value_range: tuple[float, float],
) -> Tensor:
    """(B,) L_k in nats: a KL, or, from the last state, -ln P(x1 | data, v)."""
    data = data.double()
    tilde, pull = (value.to(k.device)[k] for value in steps.table[1:])
    terms = step_kl(x1, data, v, tilde, pull)
    last = (k == len(steps) - 1).nonzero()[:, 0]
    if len(last) == 0:
        return terms
    decoded = decoded_log_prob(x1[last], data[last], v[last], bin_width, value_range)
    return terms.index_copy(0, last, -decoded)


def _bit(x: Tensor) -> float:
    """Nats in one bit for each dimension of a sample."""
    return x[0].numel() * math.log(2)
