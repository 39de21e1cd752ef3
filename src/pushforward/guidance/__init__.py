"""Guidance: a Field wrapped in a Field, so that every solver takes it."""

from pushforward.guidance import operators as operators
from pushforward.guidance.autoguidance import Autoguidance
from pushforward.guidance.classifier import ClassifierGuidance
from pushforward.guidance.classifier_free import ClassifierFree
from pushforward.guidance.composed import Composed
from pushforward.guidance.perturbed import Smoothed, perturbed, without
from pushforward.guidance.posterior import Diagonal, Full, Isotropic, NoSpread, Posterior, Spread
from pushforward.guidance.rules import (
    Frequencies,
    MagnitudeAware,
    Projected,
    Rescaled,
    Rule,
    Tangential,
    ZeroStar,
)

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "Composed",
    "Diagonal",
    "Frequencies",
    "Full",
    "Isotropic",
    "MagnitudeAware",
    "NoSpread",
    "Posterior",
    "Projected",
    "Rescaled",
    "Rule",
    "Smoothed",
    "Spread",
    "Tangential",
    "ZeroStar",
    "operators",
    "perturbed",
    "without",
]
