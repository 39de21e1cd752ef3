"""Objectives: what a model is trained to minimise."""

from pushforward.objectives.classification import Classification, noisy_accuracy
from pushforward.objectives.matching import (
    DenoisingScoreMatching,
    FlowMatching,
    Matching,
    NoisePrediction,
    Objective,
)

__all__ = [
    "Classification",
    "DenoisingScoreMatching",
    "FlowMatching",
    "Matching",
    "NoisePrediction",
    "Objective",
    "noisy_accuracy",
]
