"""The exact field of a mixture or a finite data set on a Gaussian path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.conditions import Fill, Null
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined
from pushforward.core.shapes import as_time
from pushforward.laws.components import Moments
from pushforward.laws.finite_mixture import FiniteMixture
from pushforward.laws.law import check_states


@dataclass(frozen=True)
class ExactField:
    """The exact Field of a mixture or a finite data set on a path.

    x: (B, *shape), floating-point; results are computed in float64 and returned in x's dtype. Takes `label` (B,) if the
    law has labels, -1 standing for any. Where sigma = 0 and the law has no density (a finite data set at t = 1) only
    the data prediction exists, and any other raises UndefinedError.
    """

    law: FiniteMixture
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.law.shape

    @property
    def nulls(self) -> dict[str, Null]:
        """What stands for no condition: the label -1."""
        return {} if self.law.labels is None else {"label": Fill(-1)}

    def __call__(
        self,
        x: Tensor,
        t: Tensor | float,
        want: Prediction = "velocity",
        **cond: Any,
    ) -> Tensor:
        check_defined(want, self.path)
        label = _label(cond)
        t, alpha, sigma = self._times(x, t, want)
        m: Moments = self.law.moments(x, alpha, sigma, label)
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        noise = -sigma * m.score
        match want:
            case "data":
                out = m.data
            case "score":
                out = m.score
            case "noise":
                out = noise
            case "v":
                out = alpha * noise - sigma * m.data
            case "velocity":
                a, b, f, half = (value[:, None] for value in self._velocity_terms(t))
                out = a * m.data - b * m.score + (f * x.flatten(1) + half * m.score)
        return out.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """(B,) ln p_t(x), in nats."""
        _, alpha, sigma = self._times(x, t, "log density")
        return self.law.moments(x, alpha, sigma, label).log_prob.to(x.dtype)

    def laplacian(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """(B,) lap ln p_t(x), the divergence of the score."""
        _, alpha, sigma = self._times(x, t, "laplacian")
        return self.law.traces(x, alpha, sigma, label).laplacian.to(x.dtype)

    def divergence(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """(B,) div u_t(x), the divergence of the velocity."""
        t, alpha, sigma = self._times(x, t, "divergence")
        laplacian, divergence = self.law.traces(x, alpha, sigma, label)
        a, b, f, half = self._velocity_terms(t)
        size = x[0].numel() if len(x) else 0
        out = a * divergence - b * laplacian + (f * size + half * laplacian)
        return out.to(x.dtype)

    def _velocity_terms(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(a, b, f, h), each (B,), with `velocity = a data - b score + f x + h score`, all finite.

        a = alpha', b = sigma sigma' and f = h = 0 where both are finite. Where sigma' is infinite (variance-preserving
        paths at t = 1), a = b = 0 and f, h = g^2/2 are those of `Path.forward_sde`. Unused terms are set to 0 before
        they are multiplied, which keeps gradients finite. Raises UndefinedError where the path has neither.
        """
        c = self.path.coefficients(t)
        usual = c.d_sigma.isfinite() & c.d_alpha.isfinite()
        f, g2 = self.path.forward_sde(t)
        zero = torch.zeros_like(t)
        if not bool((usual | (f.isfinite() & g2.isfinite())).all()):
            raise UndefinedError(
                f"{self.path} has no velocity at one of these times, where the derivative of alpha or sigma is "
                f"infinite: stop short of that time, or give the path a forward_sde whose f and g^2 are finite there"
            )
        return (
            torch.where(usual, c.d_alpha, zero),
            torch.where(usual, c.sigma * c.d_sigma, zero),
            torch.where(usual, zero, f),
            torch.where(usual, zero, g2 / 2),
        )

    def _times(self, x: Tensor, t: Tensor | float, want: str) -> tuple[Tensor, Tensor, Tensor]:
        """t, alpha and sigma, (B,) float64 each."""
        check_states(x, self.law.shape, self.law.components.means.device)
        t = as_time(t, x).double()
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise InputError(
                f"t must lie in [0, 1], from noise to data, got {t.detach().tolist()[:4]}"
            )
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if self.law.components.smallest_variance() == 0 and bool((sigma == 0).any()):
            if want != "data":
                raise UndefinedError(
                    f"at sigma = 0 a law without density has no {want}: stop before the end of the path, "
                    f"for instance with times.uniform(n, end=0.999), or use a path whose sigma stays positive"
                )
            sigma = sigma.clamp(min=1e-15)
        return t, alpha, sigma


def _label(cond: dict[str, Any]) -> Tensor | None:
    """The only condition that an exact law has."""
    unknown = cond.keys() - {"label"}
    if unknown:
        raise InputError(
            f"an exact law takes the condition label, not {', '.join(sorted(unknown))}"
        )
    return cond.get("label")
