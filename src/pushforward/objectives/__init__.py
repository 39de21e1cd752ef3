"""Objectives: what a model is trained to minimise."""

from pushforward.objectives import weights
from pushforward.objectives.autoencoding import Autoencoding
from pushforward.objectives.bridge import BridgeMatching, ProportionalFitting, ScoreAndFlowMatching
from pushforward.objectives.buckets import NextBucket
from pushforward.objectives.captioning import ContrastiveCaptioning
from pushforward.objectives.classification import Classification, noisy_accuracy
from pushforward.objectives.consistency import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    Levels,
    PseudoHuber,
    squared,
)
from pushforward.objectives.contrastive import Contrastive
from pushforward.objectives.diffflow import DiffFlow
from pushforward.objectives.distillation import ProgressiveDistillation, Shortcut
from pushforward.objectives.matching import (
    DenoisingScoreMatching,
    FlowMatching,
    Matching,
    NoisePrediction,
    Objective,
)
from pushforward.objectives.maximum_likelihood import MaximumLikelihood
from pushforward.objectives.meanflow import MeanFlow
from pushforward.objectives.reflow import OneStep, Reflow
from pushforward.objectives.score import (
    ControlledDenoising,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
)
from pushforward.objectives.variational import Hybrid, VariationalBound, important_steps

__all__ = [
    "Autoencoding",
    "BridgeMatching",
    "Classification",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "ContinuousConsistency",
    "Contrastive",
    "ContrastiveCaptioning",
    "ControlledDenoising",
    "DenoisingScoreMatching",
    "DiffFlow",
    "ExplicitScoreMatching",
    "FlowMatching",
    "Hybrid",
    "ImplicitScoreMatching",
    "Levels",
    "Matching",
    "MaximumLikelihood",
    "MeanFlow",
    "NextBucket",
    "NoisePrediction",
    "Objective",
    "OneStep",
    "ProgressiveDistillation",
    "ProportionalFitting",
    "PseudoHuber",
    "Reflow",
    "ScoreAndFlowMatching",
    "Shortcut",
    "SlicedScoreMatching",
    "VariationalBound",
    "important_steps",
    "noisy_accuracy",
    "squared",
    "weights",
]
