"""Objectives by their names on the command line, each with the model that it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from pushforward.core.errors import InputError
from pushforward.core.interpolants import BrownianBridge, Interpolant
from pushforward.core.paths import CondOT, Path
from pushforward.core.predictions import Prediction
from pushforward.core.times import TimeDraw
from pushforward.couplings import Coupling
from pushforward.data.arrays import Dataset
from pushforward.laws.law import Law
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.model import Model
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.objectives import (
    BridgeMatching,
    ConsistencyTraining,
    ContinuousConsistency,
    ControlledDenoising,
    Hybrid,
    ImplicitScoreMatching,
    Levels,
    Matching,
    MaximumLikelihood,
    MeanFlow,
    Objective,
    ProportionalFitting,
    ScoreAndFlowMatching,
    Shortcut,
    SlicedScoreMatching,
    VariationalBound,
    weights,
)
from pushforward.recipes.options import Recipe
from pushforward.recipes.tables import PATHS, training_times
from pushforward.solvers import Heun

# What `net(outputs, **more)` builds: a network with this many answers for each channel, and other options of its own.
NetFactory = Callable[..., nn.Module]

# Weights of a regression over time, from the path and the measure.
WEIGHTS: dict[str, Callable[[Path, Prediction], weights.Weight]] = {
    "likelihood": weights.Likelihood,
    "min-snr": weights.MinSNR,
    "truncated-snr": weights.TruncatedSNR,
    "snr-plus-one": weights.SNRPlusOne,
    "p2": weights.P2,
    "edm": weights.EDMWeight,
    "sigmoid": weights.Sigmoid,
}

BRIDGES = ("sf2m", "dsbm", "dsb")
BOUNDS = ("variational", "hybrid")
SCORES = ("denoising", "implicit", "sliced")
FLOW_MAPS = ("meanflow", "consistency", "continuous-consistency", "shortcut")


def find_path(recipe: Recipe, gaussian_source: bool) -> Path:
    """The path of a recipe: its own, or that of its objective."""
    name = recipe.path
    if name == "auto":
        name = "condot"
        if recipe.objective in BRIDGES:
            name = "brownian"
        elif recipe.objective in BOUNDS:
            name = "ddpm-linear"
        elif recipe.objective == "continuous-consistency":
            name = "cosine"
        elif recipe.objective in SCORES or recipe.objective == "diffflow":
            name = "vp"
    path = PATHS[name]()
    if recipe.std is not None:
        if not isinstance(path, Interpolant):
            raise InputError(f"--std is for the paths tube, brownian and smooth-bridge, not {name}")
        path = replace(path, std=recipe.std)  # type: ignore[call-arg]
    return path if gaussian_source else replace(path, gaussian_source=False)


def find_coupling(recipe: Recipe) -> Coupling | None:
    """The coupling of a recipe; None for independent pairs."""
    if recipe.coupling != "sinkhorn" and recipe.regularisation is not None:
        raise InputError("--regularisation is for --coupling sinkhorn")
    if recipe.coupling == "independent":
        return None
    from pushforward.couplings import ConditionalTransport, OptimalTransport, Sinkhorn

    match recipe.coupling:
        case "ot":
            return OptimalTransport()
        case "conditional-ot":
            return ConditionalTransport()
        case "sinkhorn":
            epsilon = recipe.regularisation
            if epsilon is None:
                path = find_path(recipe, False)
                if not isinstance(path, BrownianBridge):
                    raise InputError(
                        "--coupling sinkhorn needs --regularisation: only on the path brownian it follows from --std"
                    )
                epsilon = 2 * path.std**2
            return Sinkhorn(epsilon)
    raise InputError(f"there is no coupling {recipe.coupling!r}")


def find_objective(
    recipe: Recipe,
    net: NetFactory,
    path: Path,
    data: Dataset | Law,
    condition_dropout: float,
    **about: Any,
) -> tuple[Any, Objective]:
    """The model and what it minimises. drop: share of samples trained without their condition.

    about: shape, classes and info of the model.
    """
    name = recipe.objective
    prediction: Prediction = "noise" if name in BOUNDS + SCORES else "velocity"
    if recipe.prediction != "auto":
        prediction = recipe.prediction
    check_unused(recipe)
    times = training_times(recipe.times, path, recipe.low_discrepancy)
    if name in BRIDGES:
        return bridge(recipe, net, path, times, condition_dropout, about)
    if name in FLOW_MAPS:
        return flow_map(recipe, net, path, condition_dropout, about)
    if name == "diffflow":
        from pushforward.models.diffflow import DiffFlowModel
        from pushforward.objectives import DiffFlow

        steps = recipe.simulation_steps or 8
        about["info"] = about["info"] | {"nfe": steps}
        score = Model(net(1), path, "noise", **about)
        processes = DiffFlowModel(score, net(1), steps)
        return processes, DiffFlow(processes)
    model = Model(
        net(2 if name in BOUNDS else 1),
        path,
        "data" if recipe.edm else prediction,
        EDMPreconditioning() if recipe.edm else None,
        outputs=("prediction", "variance") if name in BOUNDS else ("prediction",),
        **about,
    )
    return model, regression(recipe, model, data, times, condition_dropout)


def flow_map(
    recipe: Recipe, net: NetFactory, path: Path, condition_dropout: float, about: dict[str, Any]
) -> tuple[Any, Objective]:
    """Flow maps from scratch."""
    about["info"] = about["info"] | {"method": recipe.objective}
    if recipe.times != "uniform":
        raise InputError(f"--times is not for --objective {recipe.objective}, which draws two")
    any_jump = recipe.objective in ("meanflow", "shortcut")
    prediction: Prediction = "velocity" if isinstance(path, CondOT) else "v"
    if recipe.prediction != "auto":
        prediction = recipe.prediction
    if recipe.edm:
        prediction = "data"
    if prediction in ("noise", "score"):
        raise InputError(
            f"a flow map cannot start at pure noise by the {prediction}, which says nothing there: take --prediction "
            f"velocity, v or data"
        )
    made = Model(
        net(1, two_times=any_jump, time="smooth"),
        path,
        prediction,
        EDMPreconditioning() if recipe.edm else None,
        **about,
    )
    model = FlowMapModel(made, "any" if any_jump else "data")
    match recipe.objective:
        case "meanflow":
            scale = 1.0 if recipe.guidance is None else recipe.guidance
            if scale != 1 and not condition_dropout:
                raise InputError(
                    "--guidance needs classes, and a share of them dropped in training"
                )
            if scale != 1:
                model.info["guidance"] = scale
            return model, MeanFlow(model, guidance=scale, condition_dropout=condition_dropout)
        case "shortcut":
            return model, Shortcut(model, condition_dropout=condition_dropout)
        case "consistency":
            return model, ConsistencyTraining(
                model, Levels(10, 160, recipe.steps), condition_dropout=condition_dropout
            )
        case "continuous-consistency":
            return model, ContinuousConsistency(
                model, warmup=recipe.steps // 4, condition_dropout=condition_dropout
            )
    raise InputError(f"there is no objective {recipe.objective!r}")


def check_unused(recipe: Recipe) -> None:
    """Refuse options that another objective takes."""
    unused = () if recipe.objective == "matching" else (("loss_in", None), ("weight", "none"))
    for option, default in unused:
        if getattr(recipe, option) != default:
            raise InputError(f"--{option} is for --objective matching, not {recipe.objective}")
    if recipe.guidance is not None and recipe.objective != "meanflow":
        raise InputError(
            f"--guidance is folded into the flow map of --objective meanflow, not {recipe.objective}: any other "
            f"model is "
            f"guided when it is sampled"
        )


def regression(
    recipe: Recipe, model: Model, data: Dataset | Law, times: TimeDraw, condition_dropout: float
) -> Objective:
    """Objectives of one network that predicts one thing, with its variance or without."""
    # Scores are matched with the weight sigma^2 of DDPM: without one, times near the data are all that counts.
    of_noise = (
        weights.Unweighted(model.path, "score", "noise") if recipe.objective in SCORES else None
    )
    match recipe.objective:
        case "matching":
            if isinstance(model.path, BrownianBridge):
                raise InputError(
                    "the velocity of a Brownian bridge has infinite variance at its ends: take --objective sf2m, or "
                    "--path smooth-bridge"
                )
            weight = None
            if recipe.weight != "none":
                weight = WEIGHTS[recipe.weight](model.path, recipe.loss_in or model.prediction)
            return Matching(
                model, recipe.loss_in, times, weight, condition_dropout=condition_dropout
            )
        case "denoising":
            return ControlledDenoising(
                model, times=times, weight=of_noise, condition_dropout=condition_dropout
            )
        case "implicit":
            return ImplicitScoreMatching(
                model, times=times, weight=of_noise, condition_dropout=condition_dropout
            )
        case "sliced":
            return SlicedScoreMatching(
                model, times=times, weight=of_noise, condition_dropout=condition_dropout
            )
        case "variational":
            return VariationalBound(
                model, "learned", **quantised(model, data), condition_dropout=condition_dropout
            )
        case "hybrid":
            return Hybrid(model, **quantised(model, data), condition_dropout=condition_dropout)
        case "maximum-likelihood":
            return MaximumLikelihood(model, recipe.simulation_steps or 8, Heun(), jacobian=0.01)
    raise InputError(f"there is no objective {recipe.objective!r}")


def quantised(model: Model, data: Dataset | Law) -> dict[str, Any]:
    """What a bound takes the data for: the values of an image, or numbers with a density."""
    if not isinstance(data, Dataset) or not data.images:
        return {"bin_width": None}
    return {"bin_width": data.bin_width, "value_range": data.value_range}


def bridge(
    recipe: Recipe,
    net: NetFactory,
    path: Path,
    times: TimeDraw,
    condition_dropout: float,
    about: dict[str, Any],
) -> tuple[Any, Objective]:
    """Schroedinger bridges."""
    if not isinstance(path, BrownianBridge):
        raise InputError(f"--objective {recipe.objective} takes --path brownian, not {path}")
    if recipe.objective == "sf2m":
        model = BridgeModel(net(2), path, **about)
        return model, ScoreAndFlowMatching(model, times=times, condition_dropout=condition_dropout)
    if recipe.coupling != "independent" and recipe.objective == "dsb":
        raise InputError("dsb joins the two laws by a process of its own: leave --coupling out")
    halves, steps = HalfBridges(net(1), net(1), path, **about), recipe.simulation_steps or 20
    if recipe.objective == "dsb":
        return halves, ProportionalFitting(halves, recipe.phase, steps)
    return halves, BridgeMatching(halves, recipe.phase, steps, times=times)
