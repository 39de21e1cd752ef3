"""Options that say how samples are drawn, and the sampler that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from pushforward.cli.base import Command, Device, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.core.fields import Field as ModelField
    from pushforward.core.fields import FlowMap
    from pushforward.models.model import Model
    from pushforward.solvers import Solver

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


class Sampler(NamedTuple):
    """A solver, its times, and their names: "tuned" are those that were fitted to the model.

    grid: None for a solver that chooses its own times.
    """

    solver: Solver
    grid: Tensor | None
    names: tuple[str, str | None]


def find_sampler(
    field: ModelField,
    solver: SolverChoice,
    grid: GridChoice,
    nfe: int | None,
    guidance: float | None = None,
    renoise: float | None = None,
) -> Sampler:
    """The sampler of these names at nfe calls; "auto" is what `generate` takes by itself."""
    from pushforward.core.errors import InputError
    from pushforward.core.fields import FlowMap
    from pushforward.models.diffflow import Backward
    from pushforward.recipes.tables import GRIDS, SOLVERS, own_grid
    from pushforward.sampling.generate import default_sampler, solver_of_any_grid
    from pushforward.solvers import Learned
    from pushforward.solvers.learned import universal

    if isinstance(field, FlowMap):
        return find_jump(field, solver, grid, nfe, renoise)
    if renoise is not None:
        raise InputError("--renoise is for flow maps, and this model has a velocity: leave it out")
    name: str = solver
    if solver != "auto":
        made = SOLVERS[solver](field.path)
    elif nfe is None:
        raise InputError("the number of network calls is missing: --nfe")
    else:
        made = (
            default_sampler(field, nfe, guidance)
            if grid == "auto"
            else solver_of_any_grid(field.path)
        )
        if isinstance(made, Backward):
            return Sampler(made, made.grid(nfe, field.path), ("diffflow", None))
        if not isinstance(made, Learned):
            name = "ab2"
        elif made.weights is None:
            name = "abm3"
        else:
            name = "learned" if made.weights is universal() else "tuned"
    if made.calls == 0:
        if grid != "auto":
            raise InputError(f"{solver} chooses its own times: leave --grid out")
        if nfe is not None:
            raise InputError(
                f"{solver} makes as many calls as its tolerance takes: leave --nfe out"
            )
        return Sampler(made, None, (name, None))
    assert nfe is not None
    if nfe < made.calls:
        raise InputError(
            f"{name} calls the network {made.calls} times in a step: --nfe must be at least that, not {nfe}"
        )
    steps = nfe // made.calls
    if grid != "auto":
        return Sampler(made, GRIDS[grid](steps, field.path), (name, grid))
    if name == "tuned":
        return Sampler(made, made.grid(steps, field.path), (name, name))  # type: ignore[attr-defined]
    return Sampler(made, GRIDS[own_grid(name)](steps, field.path), (name, own_grid(name)))


def find_jump(
    flow: FlowMap, solver: SolverChoice, grid: GridChoice, nfe: int | None, renoise: float | None
) -> Sampler:
    """The sampler of a flow map at nfe calls."""
    import torch

    from pushforward.core.errors import InputError
    from pushforward.recipes.tables import GRIDS
    from pushforward.solvers import FlowMapSampler
    from pushforward.solvers.fewstep import default_jump

    if solver != "auto":
        raise InputError(
            f"this model is a flow map, which {solver} cannot follow: leave --solver out"
        )
    assert nfe is not None
    jump = default_jump(flow) if renoise is None else FlowMapSampler(renoise)
    name = "jump" if jump.renoise == 0 else f"jump, renoise {jump.renoise:g}"
    if isinstance(flow.jumps, tuple):
        steps = len(flow.jumps) - 1
        if nfe != steps or grid != "auto":
            raise InputError(
                f"this student takes the steps that it was distilled to: --nfe {steps}, and no --grid. Those of its "
                f"earlier stages are in the folder stages of its run"
            )
        return Sampler(jump, torch.tensor(flow.jumps, dtype=torch.float64), (name, "its own"))
    grid = "straight" if grid == "auto" else grid
    return Sampler(jump, GRIDS[grid](nfe, flow.path), (name, grid))


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

    def budget(self, model: Model) -> int | None:
        """Network calls; None for a solver that makes as many as it takes."""
        from pushforward.sampling.generate import default_nfe

        return default_nfe(model) if self.nfe is None and self.solver != "dopri5" else self.nfe

    def sampler(self, model: Model, field: ModelField | None = None) -> Sampler:
        """What draws the samples of a field around the model, or of the model itself."""
        return find_sampler(
            field or model, self.solver, self.grid, self.budget(model), self.guidance, self.renoise
        )

    def settings(self, model: Model, sampler: Sampler) -> dict[str, Any]:
        """What goes into pictures and reports: enough to draw the same samples again."""
        solver, grid = sampler.names
        settings = {
            "solver": solver,
            "grid": grid,
            "nfe": self.budget(model),
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


def described(sampler: Sampler, nfe: int | None) -> str:
    """A sampler in words."""
    solver, grid = sampler.names
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
