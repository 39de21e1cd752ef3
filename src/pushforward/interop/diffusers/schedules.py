"""Schedulers of diffusers as what they mean: a path, and what the network predicts on it.

    DDPM, DDIM, PNDM, DPM++, UniPC, DEIS, SA-Solver, Euler, Heun, LMS, KDPM2, LCM, TCD    DDPMPath of their betas
    FlowMatchEuler, FlowMatchHeun, FlowMatchLCM, FlowMapEuler; those above on flow sigmas  CondOT, velocity of sign -1
    EDMEuler, EDMDPMSolverMultistep; Euler with continuous times                           EDM and EDMPreconditioning
    ScoreSdeVe                                                                            VE, score

How a scheduler steps, and where, is no property of a model: its grid is not read. `grids` has it for comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch

from pushforward.core.ddpm import DDPMPath
from pushforward.core.errors import InputError
from pushforward.core.fields import Jumps
from pushforward.core.paths import EDM, VE, CondOT, Path
from pushforward.core.predictions import Prediction
from pushforward.models.preconditioning import EDMPreconditioning, Preconditioning
from pushforward.nets.clocks import Clock, NoiseClock, SameClock, SigmaClock, StepClock

# diffusers' name of a prediction -> ours, on a path of betas.
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
}


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the number of tokens: e^mu, or mu if `linear`, where mu is linear in their number.

    base, largest: (tokens, mu), two points of the line. As in the pipelines of FLUX and Stable Diffusion 3.
    """

    base: tuple[int, float] = (256, 0.5)
    largest: tuple[int, float] = (4096, 1.15)
    linear: bool = False

    def at(self, tokens: int) -> float:
        """s of a picture of so many tokens."""
        (n0, mu0), (n1, mu1) = self.base, self.largest
        mu = mu0 + (mu1 - mu0) * (tokens - n0) / (n1 - n0)
        return mu if self.linear else math.exp(mu)


@dataclass(frozen=True)
class Schedule:
    """What a scheduler says of a model.

    clock:  what the network is asked at. sign: -1 where its answer is noise - data, or a v of the other sign.
    jumps:  "data" of a consistency model (LCM), which is a flow map to the data.
    shift:  s of the times that the model was published with, sigma -> s sigma/(1 + (s - 1) sigma); None for none.
    dynamic: the same by the size of the picture.
    """

    path: Path
    prediction: Prediction
    clock: Clock
    sign: int = 1
    preconditioning: Preconditioning | None = None
    jumps: Jumps | None = None
    shift: float | None = None
    dynamic: DynamicShift | None = None


def read_schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a scheduler_config.json. InputError for one that does not go from noise to data."""
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise InputError("the scheduler does not say of which class it is: _class_name is missing")
    reader = READERS.get(name)
    if reader is None:
        near = get_close_matches(name, READERS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(READERS)}"
        raise InputError(f"the scheduler {name} is not known here{hint}")
    try:
        return reader(config)
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the configuration of {name} cannot be read: {error}") from error


def _betas(start: float, end: float, schedule: str) -> Callable[[Mapping[str, Any]], Schedule]:
    """A reader of schedulers whose configuration has betas, with the defaults of their classes."""

    def read(config: Mapping[str, Any]) -> Schedule:
        kind = config.get("prediction_type", "epsilon")
        steps = int(config.get("num_train_timesteps", 1000))
        if config.get("use_flow_sigmas") or kind == "flow_prediction":
            if kind != "flow_prediction" or not config.get("use_flow_sigmas"):
                raise InputError(
                    f"use_flow_sigmas is {config.get('use_flow_sigmas', False)} and prediction_type {kind!r}: on flow "
                    f"sigmas a network predicts the flow, use_flow_sigmas true and 'flow_prediction'"
                )
            return _flow(config, config.get("flow_shift", 1.0))
        if kind not in PREDICTIONS:
            raise InputError(
                f"prediction_type is one of {', '.join(PREDICTIONS)} on betas, not {kind!r}"
            )
        given = config.get("trained_betas")
        path = (
            DDPMPath(given)
            if given is not None
            else path_of_betas(
                config.get("beta_schedule", schedule),
                steps,
                float(config.get("beta_start", start)),
                float(config.get("beta_end", end)),
            )
        )
        if config.get("rescale_betas_zero_snr") and path.betas[-1] != 1:
            path = path.rescaled()
        return Schedule(path, PREDICTIONS[kind], StepClock(path.steps))

    return read


def path_of_betas(schedule: Any, steps: int, start: float, end: float) -> DDPMPath:
    """The path of a named schedule of betas."""
    match schedule:
        case "linear":
            return DDPMPath.linear(steps, start, end)
        case "scaled_linear":
            return DDPMPath.scaled_linear(steps, start, end)
        case "squaredcos_cap_v2":
            return DDPMPath.cosine(steps)
        case "sigmoid":
            return DDPMPath.sigmoid(steps, start, end)
    raise InputError(
        f"beta_schedule is linear, scaled_linear, squaredcos_cap_v2 or sigmoid, not {schedule!r}"
    )


def _flow(config: Mapping[str, Any], shift: Any) -> Schedule:
    steps = int(config.get("num_train_timesteps", 1000))
    if config.get("invert_sigmas"):
        raise InputError(
            "invert_sigmas makes a scheduler run from data to noise: its model cannot be sampled from noise"
        )
    flow = Schedule(CondOT(), "velocity", NoiseClock(steps), -1)
    if config.get("use_dynamic_shifting"):
        return replace(flow, dynamic=_dynamic(config))
    return flow if shift == 1 else replace(flow, shift=float(shift))


def _dynamic(config: Mapping[str, Any]) -> DynamicShift:
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise InputError(f"time_shift_type is exponential or linear, not {kind!r}")
    base = int(config.get("base_image_seq_len", 256)), float(config.get("base_shift", 0.5))
    largest = int(config.get("max_image_seq_len", 4096)), float(config.get("max_shift", 1.15))
    if base[0] == largest[0]:
        raise InputError(f"base_image_seq_len and max_image_seq_len are both {base[0]}")
    return DynamicShift(base, largest, kind == "linear")


def _flow_match(config: Mapping[str, Any]) -> Schedule:
    return _flow(config, config.get("shift", 1.0))


def _edm(config: Mapping[str, Any]) -> Schedule:
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise InputError(f"prediction_type is epsilon or v_prediction under EDM, not {kind!r}")
    path = EDM(
        float(config.get("sigma_min", 0.002)),
        float(config.get("sigma_max", 80.0)),
        float(config.get("rho", 7.0)),
    )
    wrap = EDMPreconditioning(float(config.get("sigma_data", 0.5)))
    sign = 1 if kind == "epsilon" else -1
    return Schedule(path, "data", SameClock(), sign, wrap)


def _euler(config: Mapping[str, Any]) -> Schedule:
    if config.get("timestep_type", "discrete") != "continuous":
        return _betas(1e-4, 0.02, "linear")(config)
    if config.get("prediction_type") != "v_prediction":
        raise InputError("timestep_type continuous goes with prediction_type v_prediction")
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is None or high is None:
        raise InputError("timestep_type continuous needs sigma_min and sigma_max")
    # x / sqrt(sigma^2 + 1) goes in, and data = x / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) v comes out.
    return _edm(
        {"prediction_type": "v_prediction", "sigma_min": low, "sigma_max": high, "sigma_data": 1.0}
    )


def _lcm(config: Mapping[str, Any]) -> Schedule:
    return replace(_betas(0.00085, 0.012, "scaled_linear")(config), jumps="data")


def _flow_lcm(config: Mapping[str, Any]) -> Schedule:
    return replace(_flow_match(config), jumps="data")


def _ve(config: Mapping[str, Any]) -> Schedule:
    low, high = float(config.get("sigma_min", 0.01)), float(config.get("sigma_max", 1348.0))
    return Schedule(VE(low, high), "score", SigmaClock(low, high))


_DDPM = _betas(1e-4, 0.02, "linear")
_KATHERINE = _betas(0.00085, 0.012, "linear")
READERS: dict[str, Callable[[Mapping[str, Any]], Schedule]] = {
    **dict.fromkeys(
        (
            "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler",
            "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler",
            "DEISMultistepScheduler", "SASolverScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler",
        ),
        _DDPM,
    ),
    **dict.fromkeys(
        (
            "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
            "DPMSolverSDEScheduler",
        ),
        _KATHERINE,
    ),
    "EulerDiscreteScheduler": _euler,
    "TCDScheduler": _betas(0.00085, 0.012, "scaled_linear"),
    "LCMScheduler": _lcm,
    **dict.fromkeys(
        (
            "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMapEulerDiscreteScheduler",
        ),
        _flow_match,
    ),
    "FlowMatchLCMScheduler": _flow_lcm,
    **dict.fromkeys(("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"), _edm),
    "ScoreSdeVeScheduler": _ve,
}  # fmt: skip


def scheduler_config(
    path: Path,
    prediction: Prediction,
    preconditioning: Preconditioning | None = None,
    shift: float | None = None,
    steps: int = 1000,
    sign: int = 1,
    given_levels: bool = False,
) -> dict[str, Any]:
    """The scheduler_config.json by which diffusers samples such a model without a fault of its own.

    Written are schedulers whose steps end where the next one begins, at any number of steps: DPM++(2M) with trailing
    times for betas, and FlowMatchEuler without a shift for a flow, or FlowMapEuler with one, since FlowMatchEuler
    shifts its last times twice. InputError for what diffusers has no scheduler of.

    given_levels: the pipeline passes levels of its own, as that of FLUX does: FlowMatchEuler shifts those once.
    """
    if isinstance(preconditioning, EDMPreconditioning):
        if type(path) is not EDM or path.rho <= 0:
            raise InputError(
                f"diffusers has EDM preconditioning on EDM's path alone, not on {path}"
            )
        return {
            "_class_name": "EDMEulerScheduler",
            "sigma_min": path.sigma_min,
            "sigma_max": path.sigma_max,
            "sigma_data": preconditioning.sigma_data,
            "rho": path.rho,
            "sigma_schedule": "karras",
            "num_train_timesteps": steps,
            "prediction_type": "epsilon" if sign == 1 else "v_prediction",
            "final_sigmas_type": "zero",
        }
    if preconditioning is not None:
        raise InputError(f"diffusers has no {type(preconditioning).__name__}")
    if isinstance(path, CondOT):
        if path.sigma_min or prediction != "velocity":
            raise InputError(
                f"a flow of diffusers predicts the velocity on the straight path to the data, and this model predicts "
                f"the {prediction} on {path}"
            )
        once = given_levels or shift is None or shift == 1
        name = "FlowMatchEulerDiscreteScheduler" if once else "FlowMapEulerDiscreteScheduler"
        return {"_class_name": name, "num_train_timesteps": steps, "shift": shift or 1.0}
    if isinstance(path, VE):
        if prediction != "score":
            raise InputError(f"diffusers has VE with the score alone, not with the {prediction}")
        return {
            "_class_name": "ScoreSdeVeScheduler",
            "num_train_timesteps": steps,
            "sigma_min": path.sigma_min,
            "sigma_max": path.sigma_max,
        }
    kinds = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if prediction not in kinds:
        raise InputError(
            f"diffusers has networks that predict {', '.join(kinds)} on such a path, and this one predicts the "
            f"{prediction}"
        )
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        **beta_config(path, steps),
        "prediction_type": kinds[prediction],
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "timestep_spacing": "trailing",
        "final_sigmas_type": "zero",
        "lower_order_final": True,
    }


def beta_config(path: Path, steps: int) -> dict[str, Any]:
    """The betas of a variance-preserving path: those of a DDPMPath, or of any other one at `steps` equal steps."""
    if isinstance(path, DDPMPath):
        steps = path.steps
        found: DDPMPath = path
    else:
        t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha, sigma = path.alpha(t), path.sigma(t)
        if not torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-9):
            raise InputError(
                f"diffusers has paths with alpha^2 + sigma^2 = 1, straight ones, VE and EDM, and no {path}"
            )
        found = DDPMPath((1 - (alpha[1:] / alpha[:-1]) ** 2).clamp(max=1))
    first, last = found.betas[0], found.betas[-1]
    ends = {"num_train_timesteps": steps, "beta_start": first, "beta_end": last}
    if steps > 1 and last < 1:
        for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            named = path_of_betas(name, steps, first, last).betas
            if all(abs(a - b) < 1e-12 for a, b in zip(named, found.betas, strict=True)):
                return ends | {"beta_schedule": name}
    more = {"rescale_betas_zero_snr": True} if last == 1 else {}
    return ends | {"beta_schedule": "linear", "trained_betas": list(found.betas), **more}
