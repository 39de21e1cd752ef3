"""Laws in the plane with a known density.

A sample is a function of (seed, id, step), whatever the batch, and `log_prob` is exact to rounding, so that
a model trained on one of these laws can be judged without a second sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import DATA, Noise
from pushforward.core.paths import Path
from pushforward.laws.exact_field import ExactField
from pushforward.laws.law import check_states
from pushforward.laws.mixture import GaussianMixture

# A panel of the quadrature along a curve spans at most this many standard deviations of the noise.
PANEL_WIDTH = 8.0
PANEL_NODES = 24

# Distances to Gaussians that are held at a time: 2^20 in float64 are 8 MiB, which stay in the cache.
CHUNK = 1 << 20


class PlaneLaw(ABC):
    """A probability law in the plane: samples keyed by `Noise`, and the logarithm of their density."""

    @abstractmethod
    def transform(self, u: Tensor) -> Tensor:
        """Four independent uniform numbers (B, 4) float64 on (0, 1) -> a sample (B, 2) float64."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """ln p(x) in nats: (B, 2) float64 -> (B,) float64."""

    def draw(self, noise: Noise) -> Tensor:
        """(B, 2) float32, one sample for each id; all four of its numbers come from the stream DATA."""
        return self.transform(noise.uniform((4,), stream=DATA)).float()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, 2) float32: the samples with ids 0, ..., n - 1."""
        return self.draw(Noise.batch(n, seed))

    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x) in nats, (B, 2) -> (B,), computed in float64 and returned in x's dtype.

        Raises InputError unless x is a floating-point tensor (B, 2).
        """
        check_states(x, (2,))
        return self.log_density(x.double()).to(x.dtype)


class MixtureLaw(PlaneLaw):
    """A law that is a mixture of Gaussians, exactly or to rounding, and so has an exact field on any path."""

    @abstractmethod
    def components(self) -> tuple[Tensor, Tensor, float]:
        """Means (K, 2), weights (K,), and the one standard deviation of all Gaussians."""

    def mixture(self, device: torch.device | str = "cpu") -> GaussianMixture:
        """The same law as a `GaussianMixture` whose numbers lie on `device`."""
        means, weights, std = self.components()
        variances = torch.full((len(means),), std**2, dtype=torch.float64)
        return GaussianMixture(means.to(device), variances, weights)

    def field(self, path: Path, device: torch.device | str = "cpu") -> ExactField:
        """The exact field that carries the path's source to this law."""
        return self.mixture(device).field(path)

    def log_density(self, x: Tensor) -> Tensor:
        means, weights, std = self.components()
        means, log_weights = means.to(x.device), weights.log().to(x.device)
        rows = max(1, CHUNK // len(means))
        parts = []
        for part in torch.split(x, rows):
            square = (part[:, :1] - means[:, 0]) ** 2 + (part[:, 1:] - means[:, 1]) ** 2
            parts.append((log_weights - square / (2 * std**2)).logsumexp(1))
        return torch.cat(parts) - math.log(2 * math.pi * std**2)


@dataclass(frozen=True)
class EightGaussians(MixtureLaw):
    """Eight equal Gaussians N(c_k, std^2 I) around a circle, c_k = radius (cos k pi/4, sin k pi/4).

    The variant of Tong et al. 2023 (arXiv 2302.00482, app. E) is radius 5, std sqrt(0.1).
    """

    radius: float = 4.0
    std: float = 0.3

    def __post_init__(self) -> None:
        _require_positive(self, "radius", "std")

    def transform(self, u: Tensor) -> Tensor:
        angle = (8 * u[:, 0]).floor() * (math.pi / 4)
        return self.radius * _direction(angle) + self.std * _normal_pair(u[:, 2:])

    def components(self) -> tuple[Tensor, Tensor, float]:
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        return self.radius * _direction(angle), torch.full_like(angle, 1 / 8), self.std


class CurveLaw(MixtureLaw):
    """A point on one of `pieces` equally likely smooth curves, blurred by Gaussian noise.

        x = c_k(v) + std n        k uniform, v in [0, 1] of density m v^(m-1), n ~ N(0, I)
        p(x) = 1/K sum_k  int_0^1 N(x; c_k(v), std^2 I) m v^(m-1) dv

    Gauss-Legendre quadrature turns the integral into a finite mixture of Gaussians. Each piece is cut into panels
    of at most PANEL_WIDTH standard deviations, with PANEL_NODES nodes on each: the relative error of the density
    is then that of rounding, below 1e-12 wherever ln p(x) > -40.
    """

    power: ClassVar[int] = 1  # m: the parameter v is the m-th root of a uniform number

    @property
    @abstractmethod
    def pieces(self) -> int:
        """K, how many curves there are."""

    @property
    @abstractmethod
    def blur(self) -> float:
        """The standard deviation of the noise, in the units of x."""

    @property
    @abstractmethod
    def speed(self) -> float:
        """max |c_k'(v)|, which bounds the length of a curve."""

    @abstractmethod
    def curve(self, piece: Tensor, v: Tensor) -> Tensor:
        """c_k(v): piece (...) integers and v (...) float64 -> (..., 2)."""

    def transform(self, u: Tensor) -> Tensor:
        piece = (self.pieces * u[:, 0]).floor()
        return self.curve(piece, u[:, 1] ** (1 / self.power)) + self.blur * _normal_pair(u[:, 2:])

    def components(self, refine: int = 1) -> tuple[Tensor, Tensor, float]:
        """The nodes of the quadrature and their weights, on `refine` times as many panels as are needed."""
        panels = refine * math.ceil(self.speed / (PANEL_WIDTH * self.blur))
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(PANEL_NODES))
        v = ((torch.arange(panels)[:, None] + (nodes + 1) / 2) / panels).flatten()
        weights = (weights / 2).repeat(panels) / panels * self.power * v ** (self.power - 1)
        piece = torch.arange(self.pieces, dtype=torch.float64)[:, None].expand(-1, len(v))
        means = self.curve(piece, v.expand_as(piece)).flatten(0, 1)
        return means, weights.repeat(self.pieces) / self.pieces, self.blur


@dataclass(frozen=True)
class Moons(CurveLaw):
    """Two interleaved half circles, scaled and shifted after the noise.

        x = scale ((cos a, sin a) + noise n) + shift                 a = pi v, upper moon
        x = scale ((1 - cos a, 1/2 - sin a) + noise n) + shift       lower moon

    With scale 1 and shift 0 the law of scikit-learn's make_moons, whose angles are evenly spaced. The scale 3
    and shift -1 are those of Tong et al. 2023; the noise there is one uniform number on [0, 0.2] added to both
    coordinates, of standard deviation 0.058 each: a density with edges.
    """

    noise: float = 0.05
    scale: float = 3.0
    shift: float = -1.0

    def __post_init__(self) -> None:
        _require_positive(self, "noise", "scale")

    @property
    def pieces(self) -> int:
        return 2

    @property
    def blur(self) -> float:
        return self.scale * self.noise

    @property
    def speed(self) -> float:
        return self.scale * math.pi

    def curve(self, piece: Tensor, v: Tensor) -> Tensor:
        upper = _direction(math.pi * v)
        lower = torch.tensor((1.0, 0.5), dtype=v.dtype, device=v.device) - upper
        return self.scale * torch.where(piece[..., None] == 0, upper, lower) + self.shift


@dataclass(frozen=True)
class SCurve(CurveLaw):
    """The letter S: two three-quarter circles that meet at the origin, scaled after the noise.

        x = scale ((sin a, sign(a) (cos a - 1)) + noise n)        a uniform on [-3 pi/2, 3 pi/2]

    The first and third coordinates of scikit-learn's make_s_curve. The curvature jumps at a = 0, which is why
    the quadrature takes each half for itself.
    """

    noise: float = 0.05
    scale: float = 2.0

    def __post_init__(self) -> None:
        _require_positive(self, "noise", "scale")

    @property
    def pieces(self) -> int:
        return 2

    @property
    def blur(self) -> float:
        return self.scale * self.noise

    @property
    def speed(self) -> float:
        return self.scale * 1.5 * math.pi

    def curve(self, piece: Tensor, v: Tensor) -> Tensor:
        angle, sign = 1.5 * math.pi * v, 1 - 2 * piece
        return self.scale * torch.stack((sign * angle.sin(), sign * (angle.cos() - 1)), dim=-1)


@dataclass(frozen=True)
class Spirals(CurveLaw):
    """Interleaved arms of an Archimedean spiral that start at the origin.

        x = radius v (cos a, sin a) + std n        a = 2 pi (turns v + k / arms)

    v is the square root of a uniform number, so that the samples are spread nearly evenly along an arm.
    """

    arms: int = 2
    turns: float = 1.5
    radius: float = 4.0
    std: float = 0.15

    power: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _require_positive(self, "radius", "std")
        _require_count(self, "arms")

    @property
    def pieces(self) -> int:
        return self.arms

    @property
    def blur(self) -> float:
        return self.std

    @property
    def speed(self) -> float:
        return self.radius * math.hypot(1, 2 * math.pi * self.turns)

    def curve(self, piece: Tensor, v: Tensor) -> Tensor:
        angle = 2 * math.pi * (self.turns * v + piece / self.arms)
        return self.radius * v[..., None] * _direction(angle)


@dataclass(frozen=True)
class Checkerboard(PlaneLaw):
    """Uniform on the eight squares of a 4 x 4 board on [-4, 4]^2 whose column and row have an even sum.

        p(x) = 1/32 on those squares, each [2i, 2i + 2) x [2j, 2j + 2) with i + j even, and 0 off them

    log_prob is -inf off the board. Its gradient is 0. There is no Gaussian mixture here, and so no exact field.
    """

    def transform(self, u: Tensor) -> Tensor:
        square = (8 * u[:, 0]).floor()
        row = (square / 2).floor()
        column = 2 * (square % 2) + row % 2
        # Odd multiples of 2^-22: float32 holds them exactly, so that no sample is rounded into the next square.
        inside = ((u[:, 1:3] * 2**22).floor() + 0.5) * 2.0**-21
        return 2 * torch.stack((column, row), dim=1) - 4 + inside

    def log_density(self, x: Tensor) -> Tensor:
        inside = ((x >= -4) & (x < 4)).all(dim=1)
        black = (x / 2).floor().sum(dim=1) % 2 == 0
        value = 0 * x.sum(dim=1) - math.log(32)
        return torch.where(inside & black, value, -math.inf)


@dataclass(frozen=True)
class Pinwheel(PlaneLaw):
    """Blades of a wheel: a Gaussian blob at distance `radius`, turned to each arm and twisted.

        f ~ N((radius, 0), diag(radial_std^2, tangential_std^2)),  k uniform
        x = R(2 pi k / arms + rate |f|) f                          R(a): rotation by the angle a
        p(x) = 1/arms sum_k N(R(-2 pi k / arms - rate |x|) x; (radius, 0), diag(radial_std^2, tangential_std^2))

    The twist, in radians, depends on the distance |f| = |x| alone. On each circle the map is then a rotation, it
    keeps areas, and the density needs no Jacobian. Johnson et al. 2016 (arXiv 1603.06277) twist by
    rate exp(f_1 / radius) instead, whose inverse has no closed form.
    """

    arms: int = 5
    radius: float = 2.0
    radial_std: float = 0.6
    tangential_std: float = 0.2
    rate: float = 0.4

    def __post_init__(self) -> None:
        _require_positive(self, "radius", "radial_std", "tangential_std")
        _require_count(self, "arms")

    def transform(self, u: Tensor) -> Tensor:
        arm = (self.arms * u[:, 0]).floor()
        normal = _normal_pair(u[:, 2:])
        f = torch.stack(
            (self.radius + self.radial_std * normal[:, 0], self.tangential_std * normal[:, 1]),
            dim=1,
        )
        distance = torch.linalg.vector_norm(f, dim=1)
        return _rotate(f, 2 * math.pi * arm / self.arms + self.rate * distance)

    def log_density(self, x: Tensor) -> Tensor:
        arm = torch.arange(self.arms, dtype=x.dtype, device=x.device)
        distance = torch.linalg.vector_norm(x, dim=1)
        angle = -2 * math.pi * arm / self.arms - self.rate * distance[:, None]
        f = _rotate(x[:, None], angle)
        radial = (f[..., 0] - self.radius) / self.radial_std
        tangential = f[..., 1] / self.tangential_std
        constant = math.log(2 * math.pi * self.radial_std * self.tangential_std * self.arms)
        return torch.logsumexp(-(radial**2 + tangential**2) / 2, dim=1) - constant


# Every law by the name it has on the command line.
LAWS: dict[str, type[PlaneLaw]] = {
    "8gaussians": EightGaussians,
    "moons": Moons,
    "s-curve": SCurve,
    "checkerboard": Checkerboard,
    "spirals": Spirals,
    "pinwheel": Pinwheel,
}


def _direction(angle: Tensor) -> Tensor:
    """(...) -> (..., 2): the unit vector at an angle."""
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """x (..., 2) turned counterclockwise by the angle (...)."""
    c, s = angle.cos(), angle.sin()
    return torch.stack((c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]), dim=-1)


def _normal_pair(u: Tensor) -> Tensor:
    """(B, 2) uniform on (0, 1) -> (B, 2) standard normal, by Box and Muller."""
    return (-2 * u[:, :1].log()).sqrt() * _direction(2 * math.pi * u[:, 1])


def _require_positive(law: PlaneLaw, *names: str) -> None:
    for name in names:
        value = getattr(law, name)
        if not 0 < value < math.inf:
            raise InputError(f"{name} of {type(law).__name__} is {value}; it must be positive")


def _require_count(law: PlaneLaw, name: str) -> None:
    value = getattr(law, name)
    if value != int(value) or value < 1:
        raise InputError(
            f"{name} of {type(law).__name__} is {value}; it must be a whole number from 1 on"
        )
