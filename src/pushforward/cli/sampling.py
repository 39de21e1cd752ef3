"""Options that say how samples are drawn, and the sampler that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pushforward.cli.base import Command, Device, RunFolder

if TYPE_CHECKING:
    from pushforward.core.fields import Field as ModelField
    from pushforward.core.fields import FlowMap
    from pushforward.models.model import Model
    from pushforward.sampling.sampler import Sampler

SolverName = Literal[
    "learned", "abm3", "euler", "midpoint", "heun", "rk4", "dopri5", "ab2", "ab3", "ab4", "deis2", "deis3", "lms",
    "dpm++2m", "dpm++3m", "dpm++2m-sde", "dpm++3m-sde", "dpm2m", "dpm3m", "dpm2", "dpm3", "dpm++2s", "dpm++3s",
    "dpm++2s-ancestral", "dpm++sde", "unipc2", "unipc3", "sa-solver", "ddim", "ddpm", "euler-maruyama",
    "stochastic-heun", "euler-ancestral", "edm", "edm-churn", "annealed-langevin", "predictor-corrector",
]  # fmt: skip
GridName = Literal[
    "learned", "angle", "straight", "uniform", "quadratic", "shifted", "log-snr", "karras"
]
SolverChoice = Literal["auto", SolverName]
GridChoice = Literal["auto", GridName]


def named_sampler(
    field: ModelField | FlowMap,
    solver: SolverChoice,
    grid: GridChoice,
    nfe: int | None,
    guidance: float | None = None,
    renoise: float | None = None,
) -> Sampler:
    """The sampler of these names at nfe calls; "auto" is what `generate` takes by itself."""
    from pushforward.recipes.tables import GRIDS, SOLVERS
    from pushforward.sampling.sampler import find_sampler

    sampler = find_sampler(
        field,
        None if solver == "auto" else SOLVERS[solver](field.path),
        None if grid == "auto" else GRIDS[grid],
        nfe,
        guidance,
        renoise,
    )
    found, times = sampler.names
    return sampler._replace(
        names=(found if solver == "auto" else solver, times if grid == "auto" else grid)
    )


class Sampling(Command):
    """How samples are drawn from a run."""

    folder: RunFolder = Field(description="Run folder, or any folder with a model.")
    solver: SolverChoice = Field(
        "auto",
        description="Solver; auto: the sampler fitted to the model by pushforward tune if there is one for this "
        "number of calls, else the learned one; with --grid, abm3.",
    )
    grid: GridChoice = Field("auto", description="Times of the steps; auto: the solver's own.")
    nfe: int | None = Field(
        None,
        ge=1,
        description="Network calls for each sample, a guided call counting as one. Left out: 50, or 1 by a flow map; "
        "dopri5 makes as many as it takes.",
    )
    renoise: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Flow maps: how much noise is put back between calls, from 0 (none) to 1 (all). Left out: 0, or "
        "1 for a consistency model.",
    )
    guidance: float | None = Field(
        None, description="Scale of classifier-free guidance; 1 is none, more is stronger."
    )
    seed: int = Field(0, ge=0, lt=2**64, description="Sample i is a function of the seed and i.")
    batch_size: int = Field(256, ge=1, description="Samples drawn at a time.")
    device: Device = "auto"

    def sampler(self, model: Model, field: ModelField | None = None) -> Sampler:
        """What draws the samples of a field around the model, or of the model itself."""
        return named_sampler(
            field or model, self.solver, self.grid, self.nfe, self.guidance, self.renoise
        )

    def settings(self, model: Model, sampler: Sampler) -> dict[str, Any]:
        """What goes into pictures and reports: enough to draw the same samples again."""
        solver, grid = sampler.names
        settings = {
            "solver": solver,
            "grid": grid,
            "nfe": sampler.nfe,
            "guidance": self.guidance,
            "seed": self.seed,
            "model": model.info["sha256"],
        }
        if solver == "tuned":
            settings["sampler"] = fingerprint(sampler.solver)
        return settings

    def arguments(self, sampler: Sampler, model: Model) -> dict[str, Any]:
        """Of `generate`."""
        from pushforward.recipes.experiment import find_source

        return {
            "source": find_source(model, self.folder),
            "solver": sampler.solver,
            "grid": sampler.grid,
            "guidance": self.guidance,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    def model(self) -> Model:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        model = load(self.folder, find_device(self.device))
        if self.guidance is not None and model.classes is None:
            raise InputError("--guidance needs a model with classes, and this one has none")
        if self.guidance is not None and isinstance(model, FlowMap):
            trained = model.info.get("guidance", 1)  # type: ignore[attr-defined]
            raise InputError(
                f"this flow map has the guidance that it was trained with, of scale {trained}: leave --guidance out"
            )
        return model


def described(sampler: Sampler) -> str:
    """A sampler in words."""
    (solver, grid), nfe = sampler.names, sampler.nfe
    if nfe is None:
        return f"{solver}, adaptive calls"
    if solver == grid == "tuned":
        return f"the sampler fitted to this model, {nfe} calls"
    return (
        f"{solver}, {nfe} calls"
        if solver == grid or grid is None
        else f"{solver}, {grid} grid, {nfe} calls"
    )


def fingerprint(solver: Any) -> str:
    """SHA-256 of the weights of a learned solver."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(solver.weights.as_json()).encode()).hexdigest()
