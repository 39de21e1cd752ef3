"""Guidance: a Field wrapped in a Field, so that every solver takes it."""

from pushforward.guidance.classifier_free import ClassifierFree

__all__ = ["ClassifierFree"]
