"""The table of names: what each name on the command line and in config.toml stands for. Nothing here imports torch.

A line is a name, where its class or function is, and what it is called with. A new path, solver, grid, coupling, law,
weight, law of times, network or recipe with a name of its own is one line here; help, choices and tests follow.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import Field, model_validator

from pushforward.recipes.options import Choice, option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.core.paths import Path as ProbabilityPath
    from pushforward.core.times import TimeDraw
    from pushforward.couplings import Coupling


class Entry(NamedTuple):
    """What a name stands for.

    target:    module:name of a class or function of the library. arguments: what it is called with, entries made first.
    takes:     which of the path and the prediction that the loss is measured in it is also given, by name.
    """

    target: str
    arguments: Mapping[str, Any] = {}
    takes: tuple[str, ...] = ()

    def find(self) -> Any:
        """The class or function, whose module is imported now."""
        module, _, name = self.target.partition(":")
        found: Any = importlib.import_module(f"pushforward.{module}")
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def make(self, **given: Any) -> Any:
        """What it stands for; of what is given it takes its share."""
        arguments = {
            name: value.make(**given) if isinstance(value, Entry) else value
            for name, value in self.arguments.items()
        }
        return self.find()(**arguments, **{name: given[name] for name in self.takes})

    def with_(self, **arguments: Any) -> Entry:
        """The same, called with these arguments, too."""
        return self._replace(arguments={**self.arguments, **arguments})


def multistep(
    form: str, variable: str, points: int, corrector: str = "start", eta: float = 0.0
) -> Entry:
    arguments = {
        "form": form, "variable": variable, "points": points, "corrector": corrector, "eta": eta,
    }  # fmt: skip
    return Entry("solvers:Multistep", arguments)


RECIPES: dict[str, Entry] = {
    "toy2d": Entry("recipes.toy2d:Toy2D"),
    "digits": Entry("recipes.digits:Digits"),
    "fashion": Entry("recipes.fashion:Fashion"),
    "images": Entry("recipes.images:Images"),
    "text-to-image": Entry("recipes.text_to_image:TextToImage"),
    "control": Entry("recipes.control:Control"),
    "autoencoder": Entry("recipes.autoencoder:Autoencoder"),
    "clip": Entry("recipes.clip:CLIP"),
    "captioner": Entry("recipes.captioner:Captioner"),
    "prior": Entry("recipes.prior:Prior"),
    "decoder": Entry("recipes.decoder:Decoder"),
    "upsampler": Entry("recipes.upsampler:Upsampler"),
    "unclip": Entry("recipes.unclip:UnCLIP"),
    "array": Entry("recipes.array:Array"),
    "bridge": Entry("recipes.bridge:Bridge"),
    "cells": Entry("recipes.cells:Cells"),
    "superresolution": Entry("recipes.superresolution:SuperResolution"),
    "digits-classifier": Entry("recipes.classifier:DigitsClassifier"),
    "classifier": Entry("recipes.classifier:Classifier"),
    "reflow": Entry("recipes.reflow:Rectify"),
    "distill": Entry("recipes.distill:Distill"),
}

# Paths whose source is Gaussian noise, and those between any two laws.
GAUSSIAN_PATHS: dict[str, Entry] = {
    "condot": Entry("core.paths:CondOT"),
    "cosine": Entry("core.paths:Cosine"),
    "vp": Entry("core.paths:VP"),
    "subvp": Entry("core.paths:SubVP"),
    "ve": Entry("core.paths:VE"),
    "edm": Entry("core.paths:EDM"),
    "ddpm-linear": Entry("core.ddpm:DDPMPath.linear"),
    "ddpm-scaled-linear": Entry("core.ddpm:DDPMPath.scaled_linear"),
    "ddpm-sigmoid": Entry("core.ddpm:DDPMPath.sigmoid"),
    "ddpm-cosine": Entry("core.ddpm:DDPMPath.cosine"),
    "ddpm-rescaled": Entry(
        "core.ddpm:DDPMPath.rescaled", {"self": Entry("core.ddpm:DDPMPath.scaled_linear")}
    ),
}
INTERPOLANTS: dict[str, Entry] = {
    "tube": Entry("core.interpolants:Tube"),
    "brownian": Entry("core.interpolants:BrownianBridge"),
    "smooth-bridge": Entry("core.interpolants:SmoothBridge"),
}
PATHS = GAUSSIAN_PATHS | INTERPOLANTS

TIMES: dict[str, Entry] = {
    "uniform": Entry("core.times:Uniform"),
    "logit-normal": Entry("core.times:LogitNormal"),
    "mode": Entry("core.times:Mode"),
    "cosmap": Entry("core.times:CosMap"),
    "edm": Entry("core.times:EDMLogNormal", takes=("path",)),
}

WEIGHTS: dict[str, Entry] = {
    "likelihood": Entry("objectives.weights:Likelihood", takes=("path", "loss_in")),
    "min-snr": Entry("objectives.weights:MinSNR", takes=("path", "loss_in")),
    "truncated-snr": Entry("objectives.weights:TruncatedSNR", takes=("path", "loss_in")),
    "snr-plus-one": Entry("objectives.weights:SNRPlusOne", takes=("path", "loss_in")),
    "p2": Entry("objectives.weights:P2", takes=("path", "loss_in")),
    "edm": Entry("objectives.weights:EDMWeight", takes=("path", "loss_in")),
    "sigmoid": Entry("objectives.weights:Sigmoid", takes=("path", "loss_in")),
    "clamped": Entry("objectives.weights:ClampedVelocity", takes=("path", "loss_in")),
}

COUPLINGS: dict[str, Entry] = {
    "ot": Entry("couplings:OptimalTransport"),
    "conditional-ot": Entry("couplings:ConditionalTransport"),
    "sinkhorn": Entry("couplings:Sinkhorn", takes=("regularisation",)),
}

LAWS: dict[str, Entry] = {
    "8gaussians": Entry("laws:EightGaussians"),
    "moons": Entry("laws:Moons"),
    "s-curve": Entry("laws:SCurve"),
    "checkerboard": Entry("laws:Checkerboard"),
    "spirals": Entry("laws:Spirals"),
    "pinwheel": Entry("laws:Pinwheel"),
}

SOLVERS: dict[str, Entry] = {
    "learned": Entry("solvers:Learned"),
    # Adams, Bashforth, Moulton: the learned method without what it learned.
    "abm3": Entry("solvers:Learned", {"weights": None}),
    "euler": Entry("solvers:Euler"),
    "midpoint": Entry("solvers:Midpoint"),
    "heun": Entry("solvers:Heun"),
    "rk4": Entry("solvers:RK4"),
    "dopri5": Entry("solvers:DormandPrince"),
    "ab2": multistep("velocity", "time", 2),
    "ab3": multistep("velocity", "time", 3),
    "ab4": multistep("velocity", "time", 4),
    "deis2": multistep("noise", "time", 2),
    "deis3": multistep("noise", "time", 3),
    "lms": multistep("noise", "ratio", 4),
    "dpm++2m": multistep("data", "log_snr", 2),
    "dpm++3m": multistep("data", "log_snr", 3),
    "unipc2": multistep("data", "log_snr", 2, "always"),
    "unipc3": multistep("data", "log_snr", 3, "always"),
    "dpm++2m-sde": multistep("data", "log_snr", 2, eta=1),
    "dpm++3m-sde": multistep("data", "log_snr", 3, eta=1),
    "sa-solver": multistep("data", "log_snr", 3, "always", eta=1),
    "dpm2m": multistep("noise", "log_snr", 2),
    "dpm3m": multistep("noise", "log_snr", 3),
    "dpm2": Entry("solvers:DPMSolver", {"order": 2}),
    "dpm3": Entry("solvers:DPMSolver", {"order": 3}),
    "dpm++2s": Entry("solvers:DPMSolver", {"order": 2, "form": "data"}),
    "dpm++3s": Entry("solvers:DPMSolver", {"order": 3, "form": "data"}),
    "dpm++2s-ancestral": Entry("solvers:DPMSolver", {"order": 2, "form": "data", "eta": 1}),
    "dpm++sde": Entry("solvers:DPMSolver", {"order": 2, "form": "data", "eta": 1, "sde": True}),
    "ddim": Entry("solvers:DDIM"),
    "ddpm": Entry("solvers:DDPM"),
    "euler-maruyama": Entry("solvers:EulerMaruyama.along", takes=("path",)),
    "stochastic-heun": Entry("solvers:StochasticHeun.along", takes=("path",)),
    "euler-ancestral": Entry("solvers:DDIM", {"eta": 1}),
    "edm": Entry("solvers:ChurnedHeun"),
    "edm-churn": Entry(
        "solvers:ChurnedHeun", {"s_churn": 40, "s_tmin": 0.05, "s_tmax": 50, "s_noise": 1.003}
    ),
    "annealed-langevin": Entry("solvers:AnnealedLangevin"),
    "predictor-corrector": Entry(
        "solvers:PredictorCorrector",
        {
            "predictor": Entry("solvers:DDPM"),
            "corrector": Entry("solvers:Langevin", {"step": 4 * 0.16**2}),
        },
    ),
}

# Rules for the times of n steps on a path; see `grid`.
GRIDS: dict[str, Entry] = {
    "learned": SOLVERS["learned"],
    "angle": SOLVERS["abm3"],
    "straight": Entry("core.times:straight", takes=("path",)),
    "uniform": Entry("core.times:uniform"),
    "quadratic": Entry("core.times:quadratic"),
    "shifted": Entry("core.times:shifted"),
    "log-snr": Entry("core.times:log_snr", takes=("path",)),
    "karras": Entry("core.times:karras", takes=("path",)),
}


def grid(name: str) -> Callable[[int, ProbabilityPath], Tensor]:
    """The rule of this name: the times of n steps on a path."""
    entry = GRIDS[name]
    if entry in SOLVERS.values():
        times: Callable[[int, ProbabilityPath], Tensor] = entry.make().grid
        return times
    rule = entry.find()
    return rule if entry.takes else lambda n, path: rule(n)


NETWORKS: dict[str, Entry] = {
    "mlp": Entry("nets:MLP"),
    "unet": Entry("nets:UNet"),
    "uvit": Entry("nets:UViT"),
    "mmdit": Entry("nets.mmdit:MMDiT"),
    **{
        f"unet-{size}": Entry("nets.sizes:unet", {"size": size})
        for size in ("XS", "S", "M", "L", "XL")
    },
    **{
        f"dit-{size}": Entry("nets.sizes:dit", {"size": size})
        for size in ("nano", "tiny", "mini", "XS", "S", "B", "L", "XL")
    },
}

if TYPE_CHECKING:
    GaussianPathName: TypeAlias = str
    TimesName: TypeAlias = str
    WeightName: TypeAlias = str
    LawName: TypeAlias = str
    SolverName: TypeAlias = str
    GridName: TypeAlias = str
else:
    GaussianPathName = Literal[tuple(GAUSSIAN_PATHS)]
    TimesName = Literal[tuple(TIMES)]
    WeightName = Literal[("none", *WEIGHTS)]
    LawName = Literal[tuple(LAWS)]
    SolverName = Literal[tuple(SOLVERS)]
    GridName = Literal[tuple(GRIDS)]


# Choices.


class PathChoice(Choice):
    """The probability path."""

    def build(self) -> ProbabilityPath:
        options = self.model_dump(exclude={"name"})
        path: ProbabilityPath = PATHS[self.name].make()
        return replace(path, **options) if options else path


class GaussianPath(PathChoice):
    """A path from Gaussian noise."""

    name: GaussianPathName = "condot"


class Tube(PathChoice):
    """Straight lines between pairs, with noise of one standard deviation around them."""

    name: Literal["tube"] = "tube"
    std: float = option(0.01, "Standard deviation of the noise around the line.", gt=0)


class Brownian(PathChoice):
    """A Brownian bridge between pairs, variance std^2 t (1 - t)."""

    name: Literal["brownian"] = "brownian"
    std: float = option(1.0, "Diffusion of the bridge: variance std^2 t (1 - t).", gt=0)


class SmoothBridge(PathChoice):
    """A bridge between pairs whose noise comes and goes smoothly."""

    name: Literal["smooth-bridge"] = "smooth-bridge"
    std: float = option(1.0, "Largest noise on the way: std sin^2(pi t).", gt=0)


PATH = "Probability path."
# Paths along which a velocity can be regressed: that of a Brownian bridge has infinite variance at the ends.
RegularPath = Annotated[GaussianPath | Tube | SmoothBridge, Field(discriminator="name")]


class Times(Choice):
    """The law of training times."""

    name: TimesName = "uniform"
    time_mean: float | None = option(
        None, "Mean of logit t of logit-normal times, 0 if omitted; less favours noise.", rare=True
    )
    time_std: float | None = option(
        None, "Standard deviation of logit t, 1 if omitted.", gt=0, rare=True
    )
    low_discrepancy: bool = option(True, "Spread the times of a batch evenly.", rare=True)

    @model_validator(mode="after")
    def fits(self) -> Self:
        given = {"time_mean": self.time_mean, "time_std": self.time_std}
        flags = [n.replace("_", "-") for n, value in given.items() if value is not None]
        if flags and self.name != "logit-normal":
            raise ValueError(
                f"--{flags[0]} is of --times logit-normal, and the times are {self.name}"
            )
        return self

    def build(self, path: ProbabilityPath) -> TimeDraw:
        given = {"mean": self.time_mean, "std": self.time_std}
        entry = TIMES[self.name].with_(**{n: v for n, v in given.items() if v is not None})
        law: TimeDraw = entry.make(path=path)
        return replace(law, low_discrepancy=self.low_discrepancy)


class CouplingChoice(Choice):
    """How source and data are paired within a batch."""

    def build(self, path: ProbabilityPath) -> Coupling | None:
        """None for pairs as they come."""
        return None


class Independent(CouplingChoice):
    """Pairs as they come."""

    name: Literal["independent"] = "independent"


class Transport(CouplingChoice):
    """Pairs of least cost: optimal transport within the batch, or within samples of like condition."""

    name: Literal["ot", "conditional-ot"] = "ot"

    def require(self) -> None:
        from pushforward.couplings.minibatch import libraries

        libraries()

    def build(self, path: ProbabilityPath) -> Coupling:
        coupling: Coupling = COUPLINGS[self.name].make()
        return coupling


class Sinkhorn(CouplingChoice):
    """Pairs drawn from the entropic plan of cost |x0 - x1|^2."""

    name: Literal["sinkhorn"] = "sinkhorn"
    regularisation: float = option(..., "Epsilon of the entropic plan of cost |x0 - x1|^2.", gt=0)

    def build(self, path: ProbabilityPath) -> Coupling:
        coupling: Coupling = COUPLINGS[self.name].make(regularisation=self.regularisation)
        return coupling


class BridgeSinkhorn(CouplingChoice):
    """Pairs drawn from the entropic plan of the Schroedinger bridge."""

    name: Literal["sinkhorn"] = "sinkhorn"
    regularisation: float | None = option(
        None, "Epsilon of the entropic plan of cost |x0 - x1|^2. Default: 2 std^2.", gt=0
    )

    def build(self, path: ProbabilityPath) -> Coupling:
        epsilon = self.regularisation
        if epsilon is None:
            epsilon = 2 * path.std**2  # type: ignore[attr-defined]
        coupling: Coupling = COUPLINGS[self.name].make(regularisation=epsilon)
        return coupling


class Paired(CouplingChoice):
    """Each sample with the one that it belongs to."""

    name: Literal["paired"] = "paired"


COUPLING = "How source and data are paired within a batch."
AnyCoupling = Annotated[Independent | Transport | Sinkhorn, Field(discriminator="name")]
BridgeCoupling = Annotated[Independent | Transport | BridgeSinkhorn, Field(discriminator="name")]
