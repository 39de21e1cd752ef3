"""How others count time: from t, 0 for noise and 1 for data, to what their networks are asked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pushforward.core.errors import InputError


class Clock(Protocol):
    """t (B,) in [0, 1] -> the time that a network was trained with, (B,), in t's precision."""

    def __call__(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class StepClock:
    """The number of a noising step, 0 ... T - 1: `T (1 - t) - 1`, and 0 where that is negative.

    Ho et al. 2020 count k = 1 ... T, which is `DDPMPath.step_of_time`; their code and diffusers' count k - 1. Between
    the last step and the data there is no time that the network has seen, so it is asked at step 0.
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, t: Tensor) -> Tensor:
        return (self.steps * (1 - t) - 1).clamp(min=0)


@dataclass(frozen=True)
class NoiseClock:
    """The share of noise on a straight path, times `scale`: `scale (1 - t)`.

    1000 for Stable Diffusion 3; 1 for FLUX, whose network has its own factor of 1000.
    """

    scale: float = 1000.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"the scale of a clock must be positive, not {self.scale}")

    def __call__(self, t: Tensor) -> Tensor:
        return self.scale * (1 - t)


@dataclass(frozen=True)
class SigmaClock:
    """The noise level itself, of the path `VE(sigma_min, sigma_max)`: `sigma_min (sigma_max/sigma_min)^(1-t)`."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}: need 0 < sigma_min < sigma_max"
            )

    def __call__(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** (1 - t)


@dataclass(frozen=True)
class SameClock:
    """Time as it comes, such as the c_noise of a preconditioned network."""

    def __call__(self, t: Tensor) -> Tensor:
        return t


def check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"a schedule has at least one step, not {steps}")
