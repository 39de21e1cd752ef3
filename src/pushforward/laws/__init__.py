"""Laws whose velocity, score, density and flow map are known: what everything else is tested against."""

from pushforward.laws.exact_field import ExactField
from pushforward.laws.flow_map import ExactMap
from pushforward.laws.gaussian_pair import GaussianPair
from pushforward.laws.law import Law
from pushforward.laws.mixture import Empirical, GaussianMixture
from pushforward.laws.plane import (
    LAWS,
    Checkerboard,
    EightGaussians,
    Moons,
    Pinwheel,
    PlaneLaw,
    SCurve,
    Spirals,
)

__all__ = [
    "LAWS",
    "Checkerboard",
    "EightGaussians",
    "Empirical",
    "ExactField",
    "ExactMap",
    "GaussianMixture",
    "GaussianPair",
    "Law",
    "Moons",
    "Pinwheel",
    "PlaneLaw",
    "SCurve",
    "Spirals",
]
