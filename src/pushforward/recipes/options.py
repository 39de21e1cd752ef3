"""Options that all recipes share. Nothing here imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Classifying, Experiment

PathName = Literal[
    "condot", "cosine", "vp", "subvp", "ve", "edm", "ddpm-linear", "ddpm-cosine", "tube", "brownian", "smooth-bridge"
]  # fmt: skip
TimesName = Literal["uniform", "logit-normal", "mode", "cosmap", "edm"]
PredictionName = Literal["velocity", "data", "noise", "score", "v"]
ObjectiveName = Literal[
    "matching", "denoising", "implicit", "sliced", "variational", "hybrid", "sf2m", "dsbm", "dsb", "diffflow",
    "maximum-likelihood", "meanflow", "consistency", "continuous-consistency", "shortcut",
]  # fmt: skip
CouplingName = Literal["independent", "ot", "sinkhorn", "conditional-ot"]
WeightName = Literal[
    "none", "likelihood", "min-snr", "truncated-snr", "snr-plus-one", "p2", "edm", "sigmoid"
]

# Options that say where a run goes, and what is told of it.
PLACE = frozenset({"out", "resume", "device", "tensorboard"})
# Options that say how the machine at hand does the work: kept with a run, and free to change when it is taken up. They
# change nothing but rounding.
MACHINE = frozenset({"compile", "accumulate", "checkpointing", "parallel", "workers"})


class Recipe(BaseModel, ABC):
    """What every training run has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = Field(None, description="Run folder. Left out: runs/ and the recipe's name.")
    resume: bool = Field(
        False, description="Go on with the run in the folder, with its own options."
    )
    device: str = Field(
        "auto", description="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."
    )
    tensorboard: bool = Field(
        False, description="Write the log for TensorBoard, too, into the run folder."
    )
    seed: int = Field(0, ge=0, lt=2**64, description="Key of all randomness.")

    objective: ObjectiveName = Field(
        "matching",
        description="What is minimised: regression of a prediction; score matching (denoising, implicit, sliced); "
        "DDPM's bound with a learned variance (variational, hybrid); a Schroedinger bridge (sf2m, dsbm, dsb); "
        "DiffFlow; the likelihood of a continuous normalising flow; a flow map for one to a few calls (meanflow, "
        "consistency, continuous-consistency, shortcut).",
    )
    guidance: float | None = Field(
        None,
        description="Scale of classifier-free guidance folded into a flow map, for --objective meanflow.",
    )
    coupling: CouplingName = Field(
        "independent", description="How source and data are paired within a batch."
    )
    regularisation: float | None = Field(
        None,
        gt=0,
        description="Epsilon of the entropic plan of cost |x0 - x1|^2, for --coupling sinkhorn. Left out: 2 std^2.",
    )
    path: Literal["auto", PathName] = Field(
        "auto",
        description="Probability path; auto: brownian for bridges, ddpm-linear for variational and hybrid, vp for "
        "scores and diffflow, cosine for continuous-consistency, condot for all else.",
    )
    std: float | None = Field(
        None,
        gt=0,
        description="Noise on the way, of the paths tube, brownian and smooth-bridge. Left out: 0.01, 1, 1.",
    )
    prediction: Literal["auto", PredictionName] = Field(
        "auto",
        description="What the network predicts; auto: noise for scores, variational and hybrid, else velocity.",
    )
    loss_in: PredictionName | None = Field(
        None,
        description="Prediction in which the loss is measured. Left out: what the network predicts.",
    )
    edm: bool = Field(
        False, description="Wrap the network by EDM preconditioning; it then predicts data."
    )
    simulation_steps: int | None = Field(
        None,
        ge=1,
        description="Steps of what training simulates. Left out: 20 for dsbm and dsb, else 8.",
    )
    phase: int = Field(
        1000, ge=1, description="Steps for which dsbm and dsb train in one direction of time."
    )
    weight: WeightName = Field(
        "none", description="Weight of the loss over time, for regression of a prediction."
    )
    times: TimesName = Field("uniform", description="Law of training times.")
    low_discrepancy: bool = Field(True, description="Spread the times of a batch evenly.")

    steps: int = Field(2000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(128, ge=1, description="Samples in a step.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup: int = Field(100, ge=0, description="Steps over which the rate rises to its peak.")
    decay: Literal["constant", "cosine", "linear", "trapezoid", "inverse-root"] = Field(
        "cosine", description="How the rate falls."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(
        0.995, ge=0, lt=1, description="Decay of the average of weights that is sampled."
    )

    more_emas: tuple[float, ...] = Field(
        (), description="Decays of further averages, kept in emas/ of the run folder."
    )

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32",
        description="What networks compute in; weights, moments and averages are float32 all the same. auto: bf16 "
        "where the processor has it and the objective is matching.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "off", description="torch.compile of the networks; auto: on CUDA."
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts in which a batch is taken, one after the other, for less memory.",
    )
    checkpointing: bool = Field(
        False, description="Work activations out again in the backward pass, for less memory."
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="What the processes of torchrun hold: whole copies of the networks, or parts.",
    )
    workers: int = Field(
        0, ge=0, description="Threads that prepare batches ahead; 0: when they are asked for."
    )

    log_every: int = Field(50, ge=1, description="Steps between lines of the log.")
    sample_every: int = Field(500, ge=0, description="Steps between sample pictures; 0 for none.")
    validate_every: int = Field(
        500,
        ge=0,
        description="Steps between losses on held-out data, in lines of the log; 0 for none.",
    )
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Checkpoints kept.")

    @abstractmethod
    def build(self) -> Experiment | Classifying:
        """Everything that the run needs, made from these options alone."""

    def settled(self) -> Recipe:
        """The recipe with what it leaves to its data decided, so that it is recorded. Asked before a run is built."""
        return self

    def recorded(self) -> dict[str, Any]:
        """The options that say what the run computes, as TOML values; those that are None are left out."""
        return self.model_dump(mode="json", exclude=set(PLACE), exclude_none=True)
