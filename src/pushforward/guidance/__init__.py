"""Guidance: a Field wrapped in a Field, so that every solver takes it."""

from pushforward.guidance.autoguidance import Autoguidance
from pushforward.guidance.classifier import ClassifierGuidance
from pushforward.guidance.classifier_free import ClassifierFree
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
    "Frequencies",
    "MagnitudeAware",
    "Projected",
    "Rescaled",
    "Rule",
    "Tangential",
    "ZeroStar",
]
