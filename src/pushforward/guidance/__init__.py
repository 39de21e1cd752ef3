"""Guidance: a Field wrapped in a Field, so that every solver takes it."""

from pushforward.guidance.autoguidance import Autoguidance
from pushforward.guidance.classifier import ClassifierGuidance
from pushforward.guidance.classifier_free import ClassifierFree

__all__ = ["Autoguidance", "ClassifierFree", "ClassifierGuidance"]
