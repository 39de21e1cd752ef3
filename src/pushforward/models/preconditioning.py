"""How a network is wrapped, so that its inputs and targets have unit variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction


class Scales(NamedTuple):
    """c_skip, c_out, c_in and c_noise of a preconditioned network, each (B,)."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


class Preconditioning(Protocol):
    """How a network is wrapped: `prediction = c_skip x + c_out net(c_in x, c_noise)`."""

    @property
    def prediction(self) -> Prediction: ...

    def __call__(self, path: Path, t: Tensor) -> Scales: ...


@dataclass(frozen=True)
class EDMPreconditioning:
    """Unit-variance inputs and targets at every noise level, on any Gaussian path.

        c_in   = 1 / sqrt(alpha^2 s^2 + sigma^2)              s = sigma_data
        c_skip = alpha s^2 c_in^2
        c_out  = sigma s c_in
        c_noise = ln(sigma/alpha) / 4

    For alpha = 1 these are table 1 of Karras et al. 2022 (arXiv 2206.00364); c_skip is the least-squares
    estimate of data of standard deviation s from x_t, and c_out that of its error. Predicts the data.
    c_noise is kept within [-5, 5], since sigma/alpha runs from infinity to 0 on some paths.
    """

    sigma_data: float = 0.5
    prediction: Prediction = "data"

    def __post_init__(self) -> None:
        if self.sigma_data <= 0:
            raise InputError(f"sigma_data is {self.sigma_data}; it must be positive")
        if self.prediction != "data":
            raise InputError("EDM preconditioning predicts the data")

    def __call__(self, path: Path, t: Tensor) -> Scales:
        alpha, sigma = path.alpha(t), path.sigma(t)
        scale = 1 / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        return Scales(
            skip=alpha * self.sigma_data**2 * scale**2,
            out=sigma * self.sigma_data * scale,
            input=scale,
            noise=(-path.log_snr(t) / 8).clamp(-5, 5),
        )
