"""Score matching: losses whose minimiser is the score of the law of x_t.

    explicit    |s - grad ln p_t|^2                        where grad ln p_t is known
    implicit    |s|^2 + 2 div s                            Hyvarinen 2005
    sliced      |s|^2 + 2 v . (ds/dx) v  or  (v . s)^2 + 2 v . (ds/dx) v        E v v^T = I; Song et al. 2019
    denoising   |s + x0/sigma|^2                           Vincent 2011: `DenoisingScoreMatching`

each divided by the number of dimensions, at the same x_t. By parts, E s . grad ln p_t = -E div s, and so

    E explicit = E implicit + F = E sliced + F,    E denoising = E explicit + E |x0/sigma|^2/D - F

with F = E |grad ln p_t|^2/D, the Fisher information for each dimension: constants, and equal gradients. Unlike the
denoising loss, the implicit and the sliced one ask nothing of how x_t came about, and exist at sigma = 0 for data that
have a density: `times.Constant(1.0)` matches the score of the data themselves, if the model predicts the score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pushforward.core.derivatives import divergence, quadratic_form
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import Field
from pushforward.core.noise import PROBE, Noise
from pushforward.core.predictions import check_defined, conversion
from pushforward.core.shapes import expand, mean_data, sum_data
from pushforward.core.times import TimeDraw, Uniform
from pushforward.data.batch import Batch
from pushforward.models.model import Model
from pushforward.objectives.matching import (
    Drawn,
    Dropout,
    check_dropout,
    check_weight,
    draw,
    weighted,
)


@dataclass(frozen=True)
class ScoreObjective(ABC):
    """A loss at x_t whose minimiser is the score.

    model:  whatever its network predicts, it is asked for the score.
    times:  the law of t.
    weight: w(t), from (B,) to (B,), which multiplies the loss; None for 1.
    condition_dropout: probability of training a sample without its condition.
    """

    model: Model
    times: TimeDraw = field(default_factory=Uniform, kw_only=True)
    weight: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    condition_dropout: Dropout = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        path, have = self.model.path, self.model.prediction
        check_defined("score", path)
        check_dropout(self.condition_dropout, self.model)
        check_weight(self.weight, "score", path)
        ends = self.times.quantile(torch.tensor([2.0**-33, 1 - 2.0**-33], dtype=torch.float64))
        a, b = conversion(have, "score", path.coefficients(ends))
        if have != "score" and not bool((a.isfinite() & b.isfinite()).all()):
            raise UndefinedError(
                f"the {have} that the model predicts says nothing of the score at times drawn here, from "
                f"{float(ends.min()):.4g} to {float(ends.max()):.4g}: let it predict the score, or stop short of "
                f"sigma = 0"
            )

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        drawn = draw(self.model, batch, noise, self.times, self.condition_dropout)
        x_t = self.model.path.sample(drawn.x0, drawn.x1, drawn.t)
        loss = self._losses(x_t, drawn, noise.to(x_t.device))
        return {"loss": weighted(loss, self.weight, drawn.t)}

    @abstractmethod
    def _losses(self, x_t: Tensor, drawn: Drawn, noise: Noise) -> Tensor:
        """(B,)"""

    def _differentiable(self, x_t: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """x_t, and the score there, to be differentiated twice."""
        x_t = x_t.detach().requires_grad_()
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return x_t, self.model(x_t, drawn.t, "score", **drawn.cond)


@dataclass(frozen=True)
class ExplicitScoreMatching(ScoreObjective):
    """`E | s_theta(x_t, t) - grad ln p_t(x_t) |^2 / D`, the Fisher divergence of each p_t.

    law: a Field whose score is that of p_t, on the model's path: an exact law, or a teacher.
    """

    law: Field

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.law.path != self.model.path:
            raise InputError(
                f"the score of a law on {self.law.path} is not that on {self.model.path}, the model's path"
            )

    def _losses(self, x_t: Tensor, drawn: Drawn, noise: Noise) -> Tensor:
        with torch.no_grad():
            truth = self.law(x_t, drawn.t, "score", **drawn.cond)
        return mean_data((self.model(x_t, drawn.t, "score", **drawn.cond) - truth) ** 2)


@dataclass(frozen=True)
class ImplicitScoreMatching(ScoreObjective):
    """`E ( |s_theta|^2 + 2 div s_theta ) / D`, by one backward pass for each dimension.

    Can be negative: the minimum is minus the Fisher information. Hyvarinen 2005 (JMLR 6), thm. 1 and eq. 4.
    """

    def _losses(self, x_t: Tensor, drawn: Drawn, noise: Noise) -> Tensor:
        x_t, score = self._differentiable(x_t, drawn)
        return mean_data(score**2) + 2 * divergence(score, x_t, create_graph=True) / _size(x_t)


@dataclass(frozen=True)
class SlicedScoreMatching(ScoreObjective):
    """`E ( |s_theta|^2 + 2 v . (ds_theta/dx) v ) / D`: the divergence by random projections v of signs.

    projections:      probes for each sample, whose losses are averaged; one backward pass each.
    variance_reduced: False for (v . s)^2 instead of its mean |s|^2, the plain form.

    Song, Garg, Shi, Ermon 2019 (arXiv 1905.07088), eq. 7-8.
    """

    projections: int = field(default=1, kw_only=True)
    variance_reduced: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projections < 1:
            raise InputError(f"projections is {self.projections}; it must be at least 1")

    def _losses(self, x_t: Tensor, drawn: Drawn, noise: Noise) -> Tensor:
        x_t, score = self._differentiable(x_t, drawn)
        signs = noise.uniform((self.projections, *x_t.shape[1:]), PROBE) < 0.5
        total = torch.zeros_like(drawn.t, dtype=x_t.dtype)
        for v in (signs.to(x_t.dtype) * 2 - 1).unbind(1):
            square = sum_data(score**2) if self.variance_reduced else sum_data(v * score) ** 2
            total = total + square + 2 * quadratic_form(score, x_t, v, create_graph=True)
        return total / (self.projections * _size(x_t))


@dataclass(frozen=True)
class ControlledDenoising(ScoreObjective):
    """Denoising score matching whose variance stays finite as sigma -> 0.

        |s(x_t) + x0/sigma|^2 - |x0|^2/sigma^2 + D/sigma^2 - 2 s(alpha x1) . x0/sigma
      = |s(x_t)|^2 + 2 (s(x_t) - s(alpha x1)) . x0/sigma + D/sigma^2,     all over D

    What is taken away has mean 0 given x1, so that the expectation, and that of the gradient, is the one of
    `DenoisingScoreMatching`; the variance of that one grows as 1/sigma^4 and of its gradient as 1/sigma^2, while as
    sigma -> 0 this becomes sliced score matching of Gaussian projections x0. The network is called twice. The
    other ways out: errors measured in the noise (a weight sigma^2), and times that stop short of sigma = 0.

    Wang et al. 2020 (arXiv 2002.07501); Song & Kingma 2021 (arXiv 2101.03288), on denoising score matching.
    """

    def _losses(self, x_t: Tensor, drawn: Drawn, noise: Noise) -> Tensor:
        path, (x0, x1, t, cond, _) = self.model.path, drawn
        sigma = expand(path.sigma(t), x_t)
        score = self.model(x_t, t, "score", **cond)
        centre = self.model(expand(path.alpha(t), x1) * x1, t, "score", **cond)
        return mean_data(score**2 + 2 * (score - centre) * x0 / sigma + 1 / sigma**2)


def _size(x: Tensor) -> Any:
    return x[0].numel()
