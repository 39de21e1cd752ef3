"""Options that say how samples are drawn, and the sampler that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pushforward.cli.base import DEVICE, SEED, Command, run_folder
from pushforward.recipes.choices import GRIDS, SOLVERS, grid
from pushforward.recipes.options import Options, RunFolder, option

if TYPE_CHECKING:
    from pushforward.core.fields import Field as ModelField
    from pushforward.core.fields import FlowMap
    from pushforward.recipes.experiment import Sampled
    from pushforward.sampling.sampler import Sampler

    SolverChoice: TypeAlias = str
    GridChoice: TypeAlias = str
else:
    SolverChoice = Literal[("auto", *SOLVERS)]
    GridChoice = Literal[("auto", *GRIDS)]


def named_sampler(
    field: ModelField | FlowMap,
    solver: SolverChoice,
    times: GridChoice,
    nfe: int | None,
    guidance: float | None = None,
    renoise: float | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> Sampler:
    """The sampler of these names at nfe calls; "auto" is what `generate` takes by itself.

    span: as in `find_sampler`.
    """
    from pushforward.sampling.sampler import find_sampler

    sampler = find_sampler(
        field,
        None if solver == "auto" else SOLVERS[solver].make(path=field.path),
        None if times == "auto" else grid(times),
        nfe,
        guidance,
        renoise,
        span,
    )
    found, own = sampler.names
    return sampler._replace(
        names=(found if solver == "auto" else solver, own if times == "auto" else times)
    )


class Drawing(Options):
    """How a sample is drawn."""

    solver: SolverChoice = option(
        "auto",
        "Solver; auto: the sampler fitted to the model by pushforward tune if there is one for this number of calls, "
        "else the learned one; with --grid, abm3.",
    )
    grid: GridChoice = option("auto", "Times of the steps; auto: the solver's own.")
    nfe: int | None = option(
        None,
        "Network calls for each sample, a guided call counting as one. Default: 50, or 1 by a flow map; dopri5 makes "
        "as many as it takes.",
        ge=1,
    )
    renoise: float | None = option(
        None,
        "Flow maps: how much noise is put back between calls, from 0 (none) to 1 (all). Default: 0, or 1 for a "
        "consistency model.",
        ge=0,
        le=1,
    )


class Guided(Options):
    guidance: float | None = option(
        None, "Scale of classifier-free guidance; 1 is none, more is stronger."
    )


class OfModel(Command):
    """A command on the model of a run."""

    folder: RunFolder = run_folder()
    seed: int = option(0, SEED, ge=0, lt=2**64)
    batch_size: int = option(256, "Samples drawn at a time.", ge=1)
    device: str = option("auto", DEVICE)

    # Whether it is for whole systems, too.
    systems: ClassVar[bool] = False

    def load(self) -> Sampled:
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        model: Sampled = load(self.folder, find_device(self.device))
        require_sampled(model, self.folder, self.systems)
        return model


def require_sampled(model: Any, folder: Path, systems: bool = False) -> None:
    """InputError for what a folder holds beside single models of samples. systems: whether these will do."""
    from pushforward.core.errors import InputError
    from pushforward.models.prior import AutoregressivePrior
    from pushforward.systems.unclip import UnCLIP

    if isinstance(model, AutoregressivePrior):
        raise InputError(
            f"{folder} holds a prior that draws vectors of pictures from texts: put it into a system with pushforward "
            f"train unclip --prior-run {folder}"
        )
    if isinstance(model, UnCLIP) and not systems:
        raise InputError(
            f"{folder} holds an unCLIP, a chain of several models, for pushforward sample, edit and evaluate; each of "
            f"its models is in {folder / 'stages'}"
        )


class Sampling(Drawing, Guided, OfModel):
    """How samples are drawn from a run."""

    def sampler(self, model: Sampled, field: ModelField | None = None) -> Sampler:
        """What draws the samples of a field around the model, or of the model itself."""
        return named_sampler(
            field or model, self.solver, self.grid, self.nfe, self.guidance, self.renoise
        )

    def settings(self, model: Sampled, sampler: Sampler, prompted: bool = False) -> dict[str, Any]:
        """What goes into pictures and reports: enough to draw the same samples again."""
        usual = model.sampling.prompt_guidance if prompted else None
        solver, times = sampler.names
        settings = {
            "solver": solver,
            "grid": times,
            "nfe": sampler.nfe,
            "guidance": usual if self.guidance is None else self.guidance,
            "seed": self.seed,
            "model": model.provenance.sha256,
        }
        if solver == "tuned":
            settings["sampler"] = fingerprint(sampler.solver)
        return settings

    def arguments(self, sampler: Sampler, model: Sampled) -> dict[str, Any]:
        """Of `generate`."""
        from pushforward.recipes.config import find_source

        return {
            "source": find_source(model, self.folder),
            "solver": sampler.solver,
            "grid": sampler.grid,
            "guidance": self.guidance,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }


def described(sampler: Sampler) -> str:
    """A sampler in words."""
    (solver, times), nfe = sampler.names, sampler.nfe
    if nfe is None:
        return f"{solver}, adaptive calls"
    if solver == times == "tuned":
        return f"the sampler fitted to this model, {nfe} calls"
    return (
        f"{solver}, {nfe} calls"
        if solver == times or times is None
        else f"{solver}, {times} grid, {nfe} calls"
    )


def fingerprint(solver: Any) -> str:
    """SHA-256 of the weights of a learned solver."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(solver.weights.as_json()).encode()).hexdigest()
