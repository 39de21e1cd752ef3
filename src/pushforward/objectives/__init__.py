"""Objectives: what a model is trained to minimise."""

from pushforward.objectives.matching import (
    DenoisingScoreMatching,
    FlowMatching,
    Matching,
    NoisePrediction,
    Objective,
)

__all__ = ["DenoisingScoreMatching", "FlowMatching", "Matching", "NoisePrediction", "Objective"]
