"""`pushforward evaluate --compare`: solvers against each other."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

from pushforward.cli.base import print_wide, reopen, say, write_json
from pushforward.cli.sampling import (
    GridChoice,
    Guided,
    OfModel,
    SolverChoice,
    named_sampler,
)
from pushforward.recipes.choices import SOLVERS
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from pushforward.evaluate.compare import Comparison, Method
    from pushforward.recipes.experiment import Sampled
    from pushforward.sampling.sampler import Sampler


class Compare(Guided, OfModel):
    """Compare solvers by their error, from the same noise, against a precise one.

    A table, and comparison.json and comparison.png in the run folder.
    """

    compare: bool = option(True, "Compare solvers.", rare=True)
    solvers: tuple[SolverChoice, ...] = option(
        ("auto", "abm3", "ab2", "euler", "heun", "deis3", "dpm++2m", "unipc3"),
        "Solvers to compare; auto: the learned one, and those fitted to the model.",
        min_length=1,
    )
    grids: tuple[GridChoice, ...] = option(
        ("auto",), "Grids to compare, each with each solver; auto: the solver's own.", min_length=1
    )
    nfes: tuple[int, ...] | None = option(
        None,
        "Network calls to compare at. Default: 5 8 10 15 20 30 50, and those of fitted samplers.",
        min_length=1,
    )
    distance: bool = option(
        False, "Compare how far the samples are from the data, too (energy or Frechet)."
    )
    num: int = option(128, "Samples to judge.", ge=2)

    def opening(self) -> str:
        return f"comparing solvers on {self.folder}"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.evaluate.compare import compare, distance_to
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.compare import comparison
        from pushforward.evaluate.labels import judged_labels
        from pushforward.runtime.files import write_file
        from pushforward.runtime.processes import Processes

        if Processes.current().count > 1:
            raise InputError("solvers are compared by one process: start it without torchrun")
        if self.nfes is not None and min(self.nfes) < 1:
            raise InputError(f"--nfes must be positive, got {min(self.nfes)}")
        model = self.load()
        if isinstance(model, FlowMap):
            raise InputError(
                "solvers are compared on a velocity, and this model is a flow map: judge it beside its teacher by "
                "pushforward evaluate TEACHER --students RUN"
            )
        for name in self.solvers:
            solver = None if name == "auto" else SOLVERS[name].make(path=model.path)
            if solver is not None and solver.calls == 0:
                raise InputError(
                    f"{name} makes as many calls as it takes: it cannot be compared by them"
                )
            if solver is not None and solver.stochastic and not self.distance:
                raise InputError(
                    f"{name} draws noise of its own, so that its samples have no error: add --distance, or omit it"
                )
        model.path.require_gaussian("comparison of samplers")
        distance = None
        if self.distance:
            run = reopen(self.folder, self.device, model)
            distance = distance_to(run.data, run.held_out, self.num, self.seed)
        fitted = {entry["nfe"] for entry in model.sampling.fitted}
        nfes = set(self.nfes or {5, 8, 10, 15, 20, 30, 50} | fitted)
        label = judged_labels(self.num, model.spec, seed=self.seed)
        result = compare(
            model,
            self.methods(model),
            sorted(nfes),
            self.num,
            distance,
            guidance=self.guidance,
            seed=self.seed,
            batch_size=self.batch_size,
            label=label,
        )
        settings = {
            "num": self.num, "guidance": self.guidance, "seed": self.seed, "model": model.provenance.sha256,
        }  # fmt: skip
        write_json(self.folder / "comparison.json", result.as_json() | {"settings": settings})
        write_file(self.folder / "comparison.png", png(comparison(result), settings))
        tabulate(result, f"{self.num} samples, seed {self.seed}")
        say(f"in {self.folder / 'comparison.json'} and {self.folder / 'comparison.png'}")
        return 0

    def methods(self, model: Sampled) -> dict[str, Method]:
        """What is compared, by name."""
        from pushforward.evaluate.compare import Method

        def method(name: str, times: GridChoice) -> Method:
            solver = SOLVERS[name].make(path=model.path)

            def at(nfe: int) -> Sampler | None:
                return named_sampler(model, name, times, nfe) if nfe >= solver.calls else None

            return Method(at, not solver.stochastic)

        def fitted(nfe: int) -> Sampler | None:
            sampler = named_sampler(model, "auto", "auto", nfe, self.guidance)
            return sampler if sampler.names[0] == "tuned" else None

        found: dict[str, Method] = {}
        for choice, times in product(self.solvers, self.grids):
            name = "learned" if choice == "auto" else choice
            found[name if times == "auto" else f"{name}, {times}"] = method(name, times)
            if choice == times == "auto":
                found["tuned"] = Method(fitted)
        return found


def tabulate(result: Comparison, title: str) -> None:
    """Tables of errors, and of distances if they were found; the least of a column in bold."""
    from rich.box import SIMPLE
    from rich.table import Table

    tables: dict[str, Any] = {f"error (root mean square: {result.scale:.3g})": result.errors}
    if result.measure is not None:
        tables[result.measure] = result.distances
    say(title)
    for caption, values in tables.items():
        table = Table(
            "calls", *map(str, result.nfes), title=caption, title_justify="left", box=SIMPLE
        )
        for column in table.columns[1:]:
            column.justify = "right"
        least = [min(row.get(nfe, math.inf) for row in values.values()) for nfe in result.nfes]
        for name, row in values.items():
            cells = [f"{row[nfe]:.2g}" if nfe in row else "-" for nfe in result.nfes]
            best = [row.get(nfe) == value for nfe, value in zip(result.nfes, least, strict=True)]
            table.add_row(
                name, *(f"[bold]{c}[/]" if b else c for c, b in zip(cells, best, strict=True))
            )
        print_wide(table)
    say(f"reference: {result.steps} steps, precise to {result.accuracy:.1g}")
    if result.floor is not None:
        say(
            f"{result.measure} of the reference: {result.reference_distance:.2g}; of data to data: {result.floor:.2g}"
        )
