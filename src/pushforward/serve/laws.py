"""Laws that the page offers, with classes: all are mixtures of Gaussians, whose field is exact on every path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pushforward.laws import EightGaussians, GaussianMixture, Moons, SCurve, Spirals
from pushforward.laws.plane import CurveLaw
from pushforward.serve.settings import Component


@dataclass(frozen=True)
class Offered:
    """title: on the page. make: the law. classes: names of its labels. extent: half the side of the square shown."""

    title: str
    make: Callable[[], GaussianMixture]
    classes: tuple[str, ...]
    extent: float


def eight() -> GaussianMixture:
    means, weights, std = EightGaussians().components()
    return GaussianMixture(means, std**2, weights, labels=range(8))


def along(law: CurveLaw, nodes: int) -> Callable[[], GaussianMixture]:
    """The law of a curve as Gaussians at the middles of so many equal parts of each piece, which are its classes.

    A rule for integrals over v of smooth functions that fall off within a standard deviation: what is off in ln p is
    of order 2 exp(-2 pi^2 (std/h)^2), h the distance of neighbours, and what the ends cut. `law.components()` has
    several times as many, and is exact to rounding.
    """

    def make() -> GaussianMixture:
        v = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
        piece = torch.arange(law.pieces)[:, None].expand(-1, nodes)
        means = law.curve(piece.double(), v.expand(law.pieces, nodes)).flatten(0, 1)
        weights = (v ** (law.power - 1)).repeat(law.pieces)
        return GaussianMixture(means, law.blur**2, weights / weights.sum(), piece.flatten())

    return make


def one() -> GaussianMixture:
    """One Gaussian, tilted: its flow map is known in closed form."""
    return GaussianMixture([[1.2, 0.6]], torch.tensor([[[2.0, 1.1], [1.1, 0.9]]]), labels=[0])


def pair() -> GaussianMixture:
    return GaussianMixture([[-2.0, 0.0], [2.0, 0.8]], [0.35, 0.12], [0.5, 0.5], labels=[0, 1])


def own(components: tuple[Component, ...]) -> GaussianMixture:
    """The user's own. Labels are those of its components."""
    total = sum(c.weight for c in components)
    return GaussianMixture(
        [[c.x, c.y] for c in components],
        torch.tensor([c.std**2 for c in components], dtype=torch.float64),
        [c.weight / total for c in components],
        [c.label for c in components],
    )


LAWS: dict[str, Offered] = {
    "8gaussians": Offered("Eight Gaussians", eight, tuple(map(str, range(8))), 5.6),
    "moons": Offered("Two moons", along(Moons(), 72), ("upper", "lower"), 6.0),
    "s-curve": Offered("S-curve", along(SCurve(), 96), ("lower", "upper"), 5.2),
    "spirals": Offered("Two spirals", along(Spirals(), 192), ("first arm", "second arm"), 5.2),
    "pair": Offered("Two Gaussians", pair, ("wide", "narrow"), 4.4),
    "gaussian": Offered("One Gaussian", one, ("all",), 5.0),
}
# Half the side of the square that a law of the user's own is drawn in.
OWN_EXTENT = 6.0
