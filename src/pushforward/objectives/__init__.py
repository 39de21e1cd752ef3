"""Objectives: what a model is trained to minimise."""

from pushforward.objectives import weights
from pushforward.objectives.bridge import (
    BridgeMatching,
    ProportionalFitting,
    ScoreAndFlowMatching,
)
from pushforward.objectives.classification import Classification, noisy_accuracy
from pushforward.objectives.matching import (
    DenoisingScoreMatching,
    FlowMatching,
    Matching,
    NoisePrediction,
    Objective,
)
from pushforward.objectives.score import (
    ControlledDenoising,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
)

__all__ = [
    "BridgeMatching",
    "Classification",
    "ControlledDenoising",
    "DenoisingScoreMatching",
    "ExplicitScoreMatching",
    "FlowMatching",
    "ImplicitScoreMatching",
    "Matching",
    "NoisePrediction",
    "Objective",
    "ProportionalFitting",
    "ScoreAndFlowMatching",
    "SlicedScoreMatching",
    "noisy_accuracy",
    "weights",
]
