"""Objectives: what a model is trained to minimise."""

from pushforward.core.steps import Steps
from pushforward.objectives import weights
from pushforward.objectives.adjoint import trajectory
from pushforward.objectives.bridge import (
    BridgeMatching,
    ProportionalFitting,
    ScoreAndFlowMatching,
)
from pushforward.objectives.classification import Classification, noisy_accuracy
from pushforward.objectives.diffflow import Backward, DiffFlow, DiffFlowModel
from pushforward.objectives.matching import (
    DenoisingScoreMatching,
    FlowMatching,
    Matching,
    NoisePrediction,
    Objective,
)
from pushforward.objectives.maximum_likelihood import MaximumLikelihood
from pushforward.objectives.reflow import OneStep, Reflow
from pushforward.objectives.score import (
    ControlledDenoising,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
)
from pushforward.objectives.variational import (
    Hybrid,
    VariationalBound,
    important_steps,
)

__all__ = [
    "Backward",
    "BridgeMatching",
    "Classification",
    "ControlledDenoising",
    "DenoisingScoreMatching",
    "DiffFlow",
    "DiffFlowModel",
    "ExplicitScoreMatching",
    "FlowMatching",
    "Hybrid",
    "ImplicitScoreMatching",
    "Matching",
    "MaximumLikelihood",
    "NoisePrediction",
    "Objective",
    "OneStep",
    "ProportionalFitting",
    "Reflow",
    "ScoreAndFlowMatching",
    "SlicedScoreMatching",
    "Steps",
    "VariationalBound",
    "important_steps",
    "noisy_accuracy",
    "trajectory",
    "weights",
]
