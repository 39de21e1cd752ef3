"""pushforward: flow matching and diffusion models, exactly.

    path  = pf.CondOT()
    law   = pf.GaussianMixture(means, covariances, weights)
    field = law.field(path)
    x1    = pf.integrate(pf.solvers.Heun(), field, x0, pf.times.uniform(20))

Names are imported when they are first used, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pushforward.core.version import __version__ as __version__

# Public name -> module that defines it; None where the name is the module.
_MODULES = {
    "times": "core.times",
    "noise": "core.noise",
    "predictions": "core.predictions",
    "laws": "laws",
    "solvers": "solvers",
    "guidance": "guidance",
    "couplings": "couplings",
    "objectives": "objectives",
    "nets": "nets",
    "data": "data",
    "likelihood": "likelihood",
}
_NAMES = {
    "core.errors": (
        "CheckpointError", "ConvergenceError", "DataError", "DivergenceError", "Error", "InputError",
        "NonFiniteError", "UndefinedError",
    ),
    "core.paths": ("CondOT", "Cosine", "EDM", "Path", "SubVP", "VE", "VP"),
    "core.ddpm": ("DDPMPath",),
    "core.interpolants": ("BrownianBridge", "Interpolant", "SmoothBridge", "Tube"),
    "core.predictions": ("PREDICTIONS", "Prediction", "convert"),
    "core.fields": ("Field", "FlowMap", "ScoreField"),
    "core.transfer": ("ScheduleTransfer",),
    "core.noise": ("Noise",),
    "core.conditions": ("Empty", "Fill", "Tokens"),
    "core.spec": ("DataSpec", "Provenance", "SamplingDefaults"),
    "core.shapes": ("as_time", "expand"),
    "laws.law": ("Law",),
    "laws.exact_field": ("ExactField",),
    "laws.mixture": ("Empirical", "GaussianMixture"),
    "laws.flow_map": ("ExactMap",),
    "laws.gaussian_pair": ("GaussianPair",),
    "models.model": ("Model",),
    "models.preconditioning": ("EDMPreconditioning",),
    "models.nulls": ("LearnedNull",),
    "models.flow_map": ("FlowMapModel", "InstantaneousField"),
    "models.bridge": ("BridgeModel", "HalfBridges"),
    "models.diffflow": ("DiffFlowModel",),
    "models.classifier": ("NoisyClassifier",),
    "data.batch": ("Batch",),
    "data.images.save": ("save_images",),
    "solvers.base": ("Solver", "integrate"),
    "sampling.edit": ("edit", "edit_by_inversion"),
    "sampling.invert": ("invert", "slerp"),
    "sampling.generate": ("generate", "generate_batches"),
    "sampling.density": ("sample_with_log_prob",),
    "sampling.posterior": ("posterior",),
    "sampling.tune": ("Tuned", "tune"),
    "likelihood": ("log_prob", "variational_bound"),
    "saving.control": ("Control", "controlled", "load_control", "save_control"),
    "saving.folder": ("load", "save"),
    "interop.diffusers": ("from_diffusers", "to_diffusers"),
    "interop.exporting": ("export",),
    "interop.galaxygrad": ("from_galaxygrad",),
    "interop.hub": ("push",),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES, *_HOME]

if TYPE_CHECKING:
    from pushforward import couplings as couplings
    from pushforward import data as data
    from pushforward import guidance as guidance
    from pushforward import laws as laws
    from pushforward import likelihood as likelihood
    from pushforward import nets as nets
    from pushforward import objectives as objectives
    from pushforward import solvers as solvers
    from pushforward.core import noise as noise
    from pushforward.core import predictions as predictions
    from pushforward.core import times as times
    from pushforward.core.conditions import Empty as Empty
    from pushforward.core.conditions import Fill as Fill
    from pushforward.core.conditions import Tokens as Tokens
    from pushforward.core.ddpm import DDPMPath as DDPMPath
    from pushforward.core.errors import CheckpointError as CheckpointError
    from pushforward.core.errors import ConvergenceError as ConvergenceError
    from pushforward.core.errors import DataError as DataError
    from pushforward.core.errors import DivergenceError as DivergenceError
    from pushforward.core.errors import Error as Error
    from pushforward.core.errors import InputError as InputError
    from pushforward.core.errors import NonFiniteError as NonFiniteError
    from pushforward.core.errors import UndefinedError as UndefinedError
    from pushforward.core.fields import Field as Field
    from pushforward.core.fields import FlowMap as FlowMap
    from pushforward.core.fields import ScoreField as ScoreField
    from pushforward.core.interpolants import BrownianBridge as BrownianBridge
    from pushforward.core.interpolants import Interpolant as Interpolant
    from pushforward.core.interpolants import SmoothBridge as SmoothBridge
    from pushforward.core.interpolants import Tube as Tube
    from pushforward.core.noise import Noise as Noise
    from pushforward.core.paths import EDM as EDM
    from pushforward.core.paths import VE as VE
    from pushforward.core.paths import VP as VP
    from pushforward.core.paths import CondOT as CondOT
    from pushforward.core.paths import Cosine as Cosine
    from pushforward.core.paths import Path as Path
    from pushforward.core.paths import SubVP as SubVP
    from pushforward.core.predictions import PREDICTIONS as PREDICTIONS
    from pushforward.core.predictions import Prediction as Prediction
    from pushforward.core.predictions import convert as convert
    from pushforward.core.shapes import as_time as as_time
    from pushforward.core.shapes import expand as expand
    from pushforward.core.spec import DataSpec as DataSpec
    from pushforward.core.spec import Provenance as Provenance
    from pushforward.core.spec import SamplingDefaults as SamplingDefaults
    from pushforward.core.transfer import ScheduleTransfer as ScheduleTransfer
    from pushforward.data.batch import Batch as Batch
    from pushforward.data.images.save import save_images as save_images
    from pushforward.interop.diffusers import from_diffusers as from_diffusers
    from pushforward.interop.diffusers import to_diffusers as to_diffusers
    from pushforward.interop.exporting import export as export
    from pushforward.interop.galaxygrad import from_galaxygrad as from_galaxygrad
    from pushforward.interop.hub import push as push
    from pushforward.laws.exact_field import ExactField as ExactField
    from pushforward.laws.flow_map import ExactMap as ExactMap
    from pushforward.laws.gaussian_pair import GaussianPair as GaussianPair
    from pushforward.laws.law import Law as Law
    from pushforward.laws.mixture import Empirical as Empirical
    from pushforward.laws.mixture import GaussianMixture as GaussianMixture
    from pushforward.likelihood import log_prob as log_prob
    from pushforward.likelihood import variational_bound as variational_bound
    from pushforward.models.bridge import BridgeModel as BridgeModel
    from pushforward.models.bridge import HalfBridges as HalfBridges
    from pushforward.models.classifier import NoisyClassifier as NoisyClassifier
    from pushforward.models.diffflow import DiffFlowModel as DiffFlowModel
    from pushforward.models.flow_map import FlowMapModel as FlowMapModel
    from pushforward.models.flow_map import InstantaneousField as InstantaneousField
    from pushforward.models.model import Model as Model
    from pushforward.models.nulls import LearnedNull as LearnedNull
    from pushforward.models.preconditioning import EDMPreconditioning as EDMPreconditioning
    from pushforward.sampling.density import sample_with_log_prob as sample_with_log_prob
    from pushforward.sampling.edit import edit as edit
    from pushforward.sampling.edit import edit_by_inversion as edit_by_inversion
    from pushforward.sampling.generate import generate as generate
    from pushforward.sampling.generate import generate_batches as generate_batches
    from pushforward.sampling.invert import invert as invert
    from pushforward.sampling.invert import slerp as slerp
    from pushforward.sampling.posterior import posterior as posterior
    from pushforward.sampling.tune import Tuned as Tuned
    from pushforward.sampling.tune import tune as tune
    from pushforward.saving.control import Control as Control
    from pushforward.saving.control import controlled as controlled
    from pushforward.saving.control import load_control as load_control
    from pushforward.saving.control import save_control as save_control
    from pushforward.saving.folder import load as load
    from pushforward.saving.folder import save as save
    from pushforward.solvers.base import Solver as Solver
    from pushforward.solvers.base import integrate as integrate


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"pushforward.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"pushforward.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'pushforward' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
