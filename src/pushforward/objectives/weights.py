"""Published weights of losses over time, for errors measured in any prediction.

A weight is published for errors of one prediction, `native`. Predictions differ by what x_t determines, and so

    error of native = b error of loss_in,   b of `predictions.conversion`,      w_measure = b^2 w_native

is the weight with which `Matching(model, loss_in, weight=...)` has the published loss. SNR = alpha^2/sigma^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, conversion
from pushforward.core.times import TimeDraw

# Half a unit of the grid on which training times are drawn: at the very ends weights are 0/0 on some paths.
MARGIN = 2.0**-33


@dataclass(frozen=True)
class Weight(ABC):
    """w(t), from (B,) to (B,) in float64, for squared errors of `loss_in` on `path`.

    t is kept 2^-33 off 0 and 1. A weight that is infinite at an end of the path is very large there.
    """

    path: Path
    loss_in: Prediction
    native: ClassVar[Prediction]

    def __post_init__(self) -> None:
        for name in (self.loss_in, self._native):
            check_defined(name, self.path)

    @property
    def _native(self) -> Prediction:
        return self.native

    @abstractmethod
    def published(self, t: Tensor) -> Tensor:
        """The weight of squared errors of the native prediction. t: (B,) float64 in (0, 1)."""

    def __call__(self, t: Tensor) -> Tensor:
        t = t.double().clamp(MARGIN, 1 - MARGIN)
        b = conversion(self.loss_in, self._native, self.path.coefficients(t))[1]
        return self.published(t) * b**2

    def snr(self, t: Tensor) -> Tensor:
        return (self.path.alpha(t) / self.path.sigma(t)) ** 2


@dataclass(frozen=True)
class Likelihood(Weight):
    """`g^2/2` for errors of the score: with t ~ U(0, 1), the variational bound in continuous time.

        D int g^2/2 E mean (s - grad ln p_t(x_t | x1))^2 dt  >=  KL(data || model) + constant, in nats

    The same as `d ln SNR/dt / 2` for the noise and `d SNR/dt / 2` for the data.

    Song et al. 2021 (arXiv 2101.09258), thm. 1; Kingma et al. 2021 (arXiv 2107.00630), eq. 17.
    """

    native: ClassVar[Prediction] = "score"

    def published(self, t: Tensor) -> Tensor:
        return self.path.forward_sde(t)[1] / 2


@dataclass(frozen=True)
class MinSNR(Weight):
    """`min(SNR, gamma)` for the data; on VP paths min(SNR, gamma)/SNR for the noise and /(SNR + 1) for v.

    Hang et al. 2023 (arXiv 2303.09556), sec. 3.4.
    """

    gamma: float = 5.0
    native: ClassVar[Prediction] = "data"

    def published(self, t: Tensor) -> Tensor:
        return self.snr(t).clamp(max=self.gamma)


@dataclass(frozen=True)
class TruncatedSNR(Weight):
    """`max(SNR, 1)` for the data: the larger of the errors of data and noise.

    Salimans & Ho 2022 (arXiv 2202.00512), eq. 9.
    """

    native: ClassVar[Prediction] = "data"

    def published(self, t: Tensor) -> Tensor:
        return self.snr(t).clamp(min=1)


@dataclass(frozen=True)
class SNRPlusOne(Weight):
    """`SNR + 1` for the data: on VP paths the error of v. Salimans & Ho 2022 (arXiv 2202.00512), eq. 10."""

    native: ClassVar[Prediction] = "data"

    def published(self, t: Tensor) -> Tensor:
        return self.snr(t) + 1


@dataclass(frozen=True)
class P2(Weight):
    """`1/(k + SNR)^gamma` for the noise, which favours large noise. Choi et al. 2022 (arXiv 2204.00227)."""

    gamma: float = 1.0
    k: float = 1.0
    native: ClassVar[Prediction] = "noise"

    def published(self, t: Tensor) -> Tensor:
        return (self.k + self.snr(t)) ** -self.gamma


@dataclass(frozen=True)
class EDMWeight(Weight):
    """`(k^2 + s^2)/(k s)^2` for the data, k = sigma/alpha, s = sigma_data: 1 for the raw EDM network.

    Made for the times of that paper, `times.EDMLogNormal`. Karras et al. 2022 (arXiv 2206.00364), table 1.
    """

    sigma_data: float = 0.5
    native: ClassVar[Prediction] = "data"

    def published(self, t: Tensor) -> Tensor:
        return self.snr(t) + 1 / self.sigma_data**2


@dataclass(frozen=True)
class Sigmoid(Weight):
    """`sigmoid(bias - ln SNR)` times the likelihood's weight, `d ln SNR/dt / 2` for the noise.

    Kingma & Gao 2023 (arXiv 2303.00848), with bias 2; Hoogeboom et al. 2024 (arXiv 2410.19324).
    """

    bias: float = 2.0
    native: ClassVar[Prediction] = "score"

    def published(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.bias - self.path.log_snr(t)) * self.path.forward_sde(t)[1] / 2


@dataclass(frozen=True)
class ClampedVelocity(Weight):
    """`((alpha' sigma - sigma' alpha) / max(sigma, least))^2` for the data: bounded errors of the velocity.

    On CondOT 1/max(1 - t, least)^2, the loss of networks that predict the data with errors in the velocity, whose
    1/(1 - t)^2 has no mean under most laws of times.

    Li & He 2025 (JiT, arXiv 2511.13720), sec. 4, with the clamp 0.05 and logit t ~ N(-0.8, 0.8^2).
    """

    least: float = 0.05
    native: ClassVar[Prediction] = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.least > 0:
            raise InputError(f"least is {self.least}; it must be positive")

    def published(self, t: Tensor) -> Tensor:
        c = self.path.coefficients(t)
        return ((c.d_alpha * c.sigma - c.d_sigma * c.alpha) / c.sigma.clamp(min=self.least)) ** 2


@dataclass(frozen=True)
class Unweighted(Weight):
    """1 for errors of `of`: the loss of flow matching ("velocity"), L_simple ("noise"), ... in another loss_in."""

    of: Prediction = "velocity"

    @property
    def _native(self) -> Prediction:
        return self.of

    def published(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Importance(TimeDraw):
    """Times drawn the more often, the more they weigh: density q(t) ~ w(t) on [start, end].

        E_{t ~ U(start, end)} w(t) l(t) = E_{t ~ q} w(t)/((end - start) q(t)) l(t)

    q is constant on each of `cells` equal parts, w being asked in their middles, and `weight` is the quotient: the
    estimate is unbiased, however few the cells, and the quotient nearly 1 times the mean of w where they are many.

        times = Importance(Likelihood(path, "noise"), 0.001, 0.999)
        Matching(model, "noise", times=times, weight=times.weight)

    Song et al. 2021 (arXiv 2101.09258), sec. 5: the likelihood with less variance.
    """

    of: Callable[[Tensor], Tensor]
    start: float = 0.0
    end: float = 1.0
    cells: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1 or self.cells < 1:
            raise InputError(
                f"start = {self.start}, end = {self.end}, cells = {self.cells}: need 0 <= start < end <= 1 and a cell"
            )
        if not bool((self._mass.isfinite() & (self._mass > 0)).all()):
            raise InputError(
                "the weight is not positive and finite between start and end, and times cannot be drawn by it"
            )

    @cached_property
    def _mass(self) -> Tensor:
        """Probability of each cell."""
        middle = (torch.arange(self.cells, dtype=torch.float64) + 0.5) / self.cells
        w = self.of(self.start + (self.end - self.start) * middle).double()
        return w / w.sum()

    def quantile(self, u: Tensor) -> Tensor:
        mass = self._mass.to(u.device)
        cdf = mass.cumsum(0)
        cell = torch.searchsorted(cdf, u * cdf[-1]).clamp(max=self.cells - 1)
        inside = 1 - (cdf[cell] - u * cdf[-1]) / mass[cell]
        return self.start + (self.end - self.start) * (cell + inside.clamp(0, 1)) / self.cells

    def weight(self, t: Tensor) -> Tensor:
        """w(t)/((end - start) q(t)), (B,)."""
        share = (t.double() - self.start) / (self.end - self.start)
        cell = (share * self.cells).long().clamp(0, self.cells - 1)
        return self.of(t) / (self.cells * self._mass.to(t.device)[cell])
