"""Objectives on the command line: each with the options that it alone has, and how it and its model are built.

Nothing here imports torch before something is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.recipes.choices import (
    COUPLING,
    PATH,
    WEIGHTS,
    AnyCoupling,
    GaussianPath,
    Independent,
    PathChoice,
    RegularPath,
    Times,
    WeightName,
)
from pushforward.recipes.options import Choice, option, pick

if TYPE_CHECKING:
    from torch import nn

    from pushforward.core.conditions import Null
    from pushforward.core.paths import Path
    from pushforward.couplings import Coupling
    from pushforward.data import Dataset
    from pushforward.laws import Law
    from pushforward.models.base import Codec, Encoder
    from pushforward.models.flow_map import FlowMapModel
    from pushforward.models.model import Model
    from pushforward.objectives import Objective

# `net(outputs, **more)` builds a network with this many answers for each channel, and other options of its own.
NetFactory = Callable[..., "nn.Module"]

PredictionName = Literal["velocity", "data", "noise", "score", "v"]
# "edm": the data, by a network wrapped in EDM preconditioning.
Predicted = Literal[PredictionName, "edm"]
OBJECTIVE = "What is minimised."
PREDICTION = "What the network predicts; edm: the data, with EDM preconditioning."


@dataclass(frozen=True)
class Parts:
    """What an objective and its model are built from.

    net: builds the network. path: see `ObjectiveChoice.along`. steps: of the run. nulls: what stands for each condition
    that may be dropped. spec, sampling, provenance, encoders, codec: what else travels with the model.
    """

    net: NetFactory
    path: Path
    data: Dataset | Law
    steps: int
    nulls: Mapping[str, Null]
    spec: DataSpec
    sampling: SamplingDefaults
    provenance: Provenance
    encoders: Mapping[str, Encoder] | None = None
    codec: Codec | None = None

    def records(self) -> dict[str, Any]:
        """The arguments by which a model takes its records."""
        return {
            "spec": self.spec,
            "nulls": self.nulls,
            "sampling": self.sampling,
            "provenance": self.provenance,
            **{
                name: value
                for name, value in (("encoders", self.encoders), ("codec", self.codec))
                if value is not None
            },
        }


class ObjectiveChoice(Choice):
    """What is minimised, along which path, with which model."""

    path: PathChoice

    def along(self, gaussian: bool) -> tuple[Path, Coupling | None]:
        """The path, and the coupling if pairs are not independent. gaussian: whether the source is Gaussian noise."""
        path, coupling = self.path.build(), self.coupler()
        return (
            path if gaussian and coupling is None else replace(path, gaussian_source=False)
        ), coupling

    def coupler(self) -> Coupling | None:
        return None

    def dropped(self, parts: Parts) -> float:
        """The share of samples trained without their condition."""
        return float(getattr(self, "condition_dropout", 0.0)) if parts.nulls else 0.0

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        """The model and its objective."""
        raise NotImplementedError


class Coupled(ObjectiveChoice):
    """An objective for pairs of any coupling."""

    coupling: AnyCoupling = pick(Independent, COUPLING)

    def coupler(self) -> Coupling | None:
        return self.coupling.build(self.path.build())


def predictor(parts: Parts, prediction: str, outputs: int = 1, **more: Any) -> Model:
    """A model that predicts one thing, with its variance or without."""
    from pushforward.models.model import Model
    from pushforward.models.preconditioning import EDMPreconditioning

    edm = prediction == "edm"
    what: Any = "data" if edm else prediction
    wrapped = EDMPreconditioning() if edm else None
    kinds = ("prediction", "variance")[:outputs]
    return Model(
        parts.net(outputs, **more), parts.path, what, wrapped, outputs=kinds, **parts.records()
    )


class Matching(Coupled):
    """Regression of a prediction: flow matching, denoising, DDPM's simple loss."""

    name: Literal["matching"] = "matching"
    path: RegularPath = pick(GaussianPath, PATH)
    prediction: Predicted = option("velocity", PREDICTION, rare=True)
    loss_in: PredictionName | None = option(
        None, "Prediction in which the loss is measured. Default: what is predicted.", rare=True
    )
    weight: WeightName = option("none", "Weight of the loss over time.", rare=True)
    times: Times = pick(Times, "Law of training times.", rare=True)

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward import objectives

        times = self.times.build(parts.path)
        model = predictor(parts, self.prediction)
        weight = None
        if self.weight != "none":
            loss_in = self.loss_in or model.prediction
            weight = WEIGHTS[self.weight].make(path=parts.path, loss_in=loss_in)
        return model, objectives.Matching(
            model, self.loss_in, times, weight, condition_dropout=self.dropped(parts)
        )


class Score(ObjectiveChoice):
    """Score matching, with DDPM's weight sigma^2: without one, times near the data are all that counts."""

    path: GaussianPath = pick(lambda: GaussianPath(name="vp"), PATH)
    prediction: Predicted = option("noise", PREDICTION, rare=True)
    times: Times = pick(Times, "Law of training times.", rare=True)

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        times = self.times.build(parts.path)
        model = predictor(parts, self.prediction)
        from pushforward.objectives import weights

        weight = weights.Unweighted(parts.path, "score", "noise")
        return model, self.kind()(
            model, times=times, weight=weight, condition_dropout=self.dropped(parts)
        )

    def kind(self) -> Callable[..., Objective]:
        raise NotImplementedError


class Denoising(Score):
    """Denoising score matching with a control variate."""

    name: Literal["denoising"] = "denoising"

    def kind(self) -> Callable[..., Objective]:
        from pushforward.objectives import ControlledDenoising

        return ControlledDenoising


class Implicit(Score):
    """Implicit score matching, which takes the divergence of the score."""

    name: Literal["implicit"] = "implicit"

    def kind(self) -> Callable[..., Objective]:
        from pushforward.objectives import ImplicitScoreMatching

        return ImplicitScoreMatching


class Sliced(Score):
    """Sliced score matching, implicit along random directions."""

    name: Literal["sliced"] = "sliced"

    def kind(self) -> Callable[..., Objective]:
        from pushforward.objectives import SlicedScoreMatching

        return SlicedScoreMatching


class Bound(ObjectiveChoice):
    """DDPM's variational bound, with a learned variance."""

    path: GaussianPath = pick(lambda: GaussianPath(name="ddpm-linear"), PATH)
    prediction: Predicted = option("noise", PREDICTION, rare=True)

    def quantised(self, data: Dataset | Law) -> dict[str, Any]:
        """What a bound takes the data for: the values of an image, or numbers with a density."""
        from pushforward.data import Dataset

        if not isinstance(data, Dataset) or data.bin_width is None:
            return {"bin_width": None}
        return {"bin_width": data.bin_width, "value_range": data.value_range}


class Variational(Bound):
    """The bound itself, every term at its weight."""

    name: Literal["variational"] = "variational"

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward.objectives import VariationalBound

        model = predictor(parts, self.prediction, 2)
        return model, VariationalBound(
            model, "learned", **self.quantised(parts.data), condition_dropout=self.dropped(parts)
        )


class Hybrid(Bound):
    """The simple loss, and a small share of the bound for the variance."""

    name: Literal["hybrid"] = "hybrid"

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward import objectives

        model = predictor(parts, self.prediction, 2)
        return model, objectives.Hybrid(
            model, **self.quantised(parts.data), condition_dropout=self.dropped(parts)
        )


class MaximumLikelihood(ObjectiveChoice):
    """The likelihood of a continuous normalising flow, by simulation."""

    name: Literal["maximum-likelihood"] = "maximum-likelihood"
    path: GaussianPath = pick(GaussianPath, PATH)
    prediction: Predicted = option("velocity", PREDICTION, rare=True)
    simulation_steps: int = option(8, "Steps of the simulation in a training step.", ge=1)

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward import objectives
        from pushforward.solvers import Heun

        model = predictor(parts, self.prediction)
        return model, objectives.MaximumLikelihood(
            model, self.simulation_steps, Heun(), jacobian=0.01
        )


class DiffFlow(ObjectiveChoice):
    """A learned forward drift and a backward score, by the stochastic adjoint."""

    name: Literal["diffflow"] = "diffflow"
    path: GaussianPath = pick(lambda: GaussianPath(name="vp"), PATH)
    simulation_steps: int = option(8, "Steps of the two processes.", ge=1)

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward import objectives
        from pushforward.models.diffflow import DiffFlowModel

        parts = replace(parts, sampling=replace(parts.sampling, nfe=self.simulation_steps))
        score = predictor(parts, "noise")
        processes = DiffFlowModel(score, parts.net(1), self.simulation_steps)
        return processes, objectives.DiffFlow(processes)


class FlowMap(Coupled):
    """A flow map, for one to a few calls."""

    path: GaussianPath = pick(GaussianPath, PATH)
    prediction: Literal["velocity", "v", "data", "edm"] | None = option(
        None, f"{PREDICTION} Default: velocity on condot, else v.", rare=True
    )

    def mapped(self, parts: Parts, any_jump: bool, guidance: float | None = None) -> FlowMapModel:
        from pushforward.core.paths import CondOT
        from pushforward.models.flow_map import FlowMapModel

        usual = "velocity" if isinstance(parts.path, CondOT) else "v"
        parts = replace(
            parts,
            sampling=replace(parts.sampling, guidance=guidance),
            provenance=replace(parts.provenance, method=self.name),
        )
        inner = predictor(parts, self.prediction or usual, two_times=any_jump, time="smooth")
        return FlowMapModel(inner, "any" if any_jump else "data")


class MeanFlow(FlowMap):
    """MeanFlow: the mean velocity of any jump."""

    name: Literal["meanflow"] = "meanflow"

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        return self.guided(parts, 1.0)

    def guided(self, parts: Parts, scale: float) -> tuple[Any, Objective]:
        from pushforward import objectives

        model = self.mapped(parts, True, None if scale == 1 else scale)
        return model, objectives.MeanFlow(
            model, guidance=scale, condition_dropout=self.dropped(parts)
        )


class Shortcut(FlowMap):
    """A shortcut model: two jumps in one."""

    name: Literal["shortcut"] = "shortcut"

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward import objectives

        model = self.mapped(parts, True)
        return model, objectives.Shortcut(model, condition_dropout=self.dropped(parts))


class Consistency(FlowMap):
    """Consistency training, in steps that grow finer."""

    name: Literal["consistency"] = "consistency"

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward.objectives import ConsistencyTraining, Levels

        model, levels = self.mapped(parts, False), Levels(10, 160, parts.steps)
        return model, ConsistencyTraining(model, levels, condition_dropout=self.dropped(parts))


class ContinuousConsistency(FlowMap):
    """Consistency training in continuous time."""

    name: Literal["continuous-consistency"] = "continuous-consistency"
    path: GaussianPath = pick(lambda: GaussianPath(name="cosine"), PATH)

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward import objectives

        model = self.mapped(parts, False)
        return model, objectives.ContinuousConsistency(
            model, warmup=parts.steps // 4, condition_dropout=self.dropped(parts)
        )
