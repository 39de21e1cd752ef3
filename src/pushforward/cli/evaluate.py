"""`pushforward evaluate`."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pushforward.cli.base import reopen, require_same_data, say, show, write_json
from pushforward.cli.sampling import (
    GridChoice,
    Sampler,
    Sampling,
    SolverChoice,
    SolverName,
    described,
    find_sampler,
)

if TYPE_CHECKING:
    from pushforward.core.fields import Model
    from pushforward.evaluate.compare import Comparison, Method


# Samples whose exact transport is worked out: a few seconds.
TRANSPORTED = 2000


class Evaluate(Sampling):
    """Judge a run's model against its data: a table, and evaluation.json in the run folder.

    Of a classifier: its accuracy on noisy data. With --compare: solvers against each other.
    """

    num: int | None = Field(
        None, ge=2, description="Samples to judge. Left out: 5000, or 128 to compare."
    )
    compare: bool = Field(
        False,
        description="Compare solvers by their error, from the same noise, against a precise one: a table, and "
        "comparison.json and comparison.png in the run folder.",
    )
    solvers: tuple[SolverChoice, ...] = Field(
        ("auto", "abm3", "ab2", "euler", "heun", "deis3", "dpm++2m", "unipc3"),
        description="Solvers to compare; auto: the learned one, and those fitted to the model.",
    )
    grids: tuple[GridChoice, ...] = Field(
        ("auto",), description="Grids to compare, each with each solver; auto: the solver's own."
    )
    nfes: tuple[int, ...] = Field(
        (5, 8, 10, 15, 20, 30, 50),
        description="Network calls to compare at. Left out: those of fitted samplers, too.",
    )
    transport: bool = Field(
        False,
        description="Measure the flow as a transport, too: exact 2-Wasserstein distance of its ends to the data, "
        "normalised path energy, straightness and costs, with standard errors, of 2000 samples.",
    )
    distance: bool = Field(
        False, description="Compare how far the samples are from the data, too (energy or Frechet)."
    )

    def run(self) -> int:
        from pushforward.core.errors import InputError

        if not self.compare and (given := self.given("solvers", "grids", "nfes", "distance")):
            raise InputError(f"--{given[0]} needs --compare")
        if self.of_classifier():
            return self.accuracy()
        if self.compare:
            return self.comparison()
        model = self.model()
        experiment = reopen(self.folder, self.device, model)
        sampler, num = self.sampler(model), self.num or 5000
        figures, _, _ = experiment.judge(num, **self.arguments(sampler, model))
        if self.transport:
            figures |= experiment.transport(TRANSPORTED, self.seed)
        settings = self.settings(model, sampler) | {"num": num}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        show(figures, f"{num} samples, {described(sampler, self.budget(model))}, seed {self.seed}")
        return 0

    def given(self, *names: str) -> list[str]:
        """Those of these options that are not as they are by default."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]

    def of_classifier(self) -> bool:
        from pushforward.recipes.experiment import CONFIG, read_config

        if not (self.folder / CONFIG).is_file():
            return False
        return read_config(self.folder)[0].endswith("classifier")

    def accuracy(self) -> int:
        """Judge a classifier: the share of held-out data whose class it finds, by time."""
        from pushforward.core.errors import InputError
        from pushforward.evaluate.agreement import everything
        from pushforward.objectives import noisy_accuracy
        from pushforward.recipes.experiment import Classifying, find_device, recipe_of
        from pushforward.train.share import load_classifier

        for name in self.given("compare", "guidance", "solver", "grid", "nfe", "transport"):
            raise InputError(
                f"{self.folder} is the run of a classifier, which draws no samples: leave --{name} out"
            )
        device = find_device(self.device)
        model = load_classifier(self.folder, device)
        experiment = recipe_of(self.folder, device=self.device).build()
        assert isinstance(experiment, Classifying)
        require_same_data(self.folder, model.info, experiment.fingerprint)
        x, label = everything(experiment.held_out, self.num or 5000)
        x, label = x.to(device), label.to(device)
        figures = {
            f"accuracy at t = {t:g}": noisy_accuracy(model, x, label, t, self.seed)
            for t in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        }
        settings = {"num": len(x), "seed": self.seed, "model": model.info["sha256"]}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        show(figures, f"{len(x)} held-out samples with noise, seed {self.seed}")
        return 0

    def comparison(self) -> int:
        """Judge solvers."""
        from pushforward.core.errors import InputError
        from pushforward.evaluate.compare import compare, distance_to, figure
        from pushforward.evaluate.report import balanced_labels
        from pushforward.recipes.tables import STOCHASTIC
        from pushforward.train.files import write_file

        if self.transport:
            raise InputError("--transport is of one flow: leave --compare out")
        for name in self.given("solver", "grid", "nfe"):
            raise InputError(f"--compare takes --{name}s in place of --{name}")
        for values, name in ((self.solvers, "solvers"), (self.grids, "grids"), (self.nfes, "nfes")):
            if not values:
                raise InputError(f"--{name} is empty: give some, or leave it out")
        if min(self.nfes) < 1:
            raise InputError(f"--nfes must be positive, got {min(self.nfes)}")
        noisy = [name for name in self.solvers if name in STOCHASTIC]
        if noisy and not self.distance:
            raise InputError(
                f"{noisy[0]} draws noise of its own, so that its samples have no error: add --distance, or leave it out"
            )
        if "dopri5" in self.solvers:
            raise InputError(
                "dopri5 makes as many calls as it takes: it cannot be compared by them"
            )
        model = self.model()
        model.path.require_gaussian("comparison of samplers")
        num = self.num or 128
        distance = None
        if self.distance:
            run = reopen(self.folder, self.device, model)
            distance = distance_to(run.data, run.held_out, num, self.seed)
        fitted = {e["nfe"] for e in model.info.get("samplers", [])}
        nfes = set(self.nfes) | (set() if self.given("nfes") else fitted)
        label = None if model.classes is None else balanced_labels(num, model.classes)
        result = compare(
            model,
            self.methods(model),
            sorted(nfes),
            num,
            distance,
            guidance=self.guidance,
            seed=self.seed,
            batch_size=self.batch_size,
            label=label,
        )
        settings = {
            "num": num, "guidance": self.guidance, "seed": self.seed, "model": model.info["sha256"],
        }  # fmt: skip
        write_json(self.folder / "comparison.json", result.as_json() | {"settings": settings})
        write_file(self.folder / "comparison.png", figure(result, settings))
        tabulate(result, f"{num} samples, seed {self.seed}")
        say(f"in {self.folder / 'comparison.json'} and {self.folder / 'comparison.png'}")
        return 0

    def methods(self, model: Model) -> dict[str, Method]:
        """What is compared, by name."""
        from pushforward.evaluate.compare import Method
        from pushforward.recipes.tables import SOLVERS, STOCHASTIC

        def method(solver: SolverName, grid: GridChoice) -> Method:
            calls = SOLVERS[solver](model.path).calls

            def at(nfe: int) -> Sampler | None:
                return find_sampler(model, solver, grid, nfe) if nfe >= calls else None

            return Method(at, solver not in STOCHASTIC)

        def fitted(nfe: int) -> Sampler | None:
            sampler = find_sampler(model, "auto", "auto", nfe, self.guidance)
            return sampler if sampler.names[0] == "tuned" else None

        found: dict[str, Method] = {}
        for choice, grid in product(self.solvers, self.grids):
            solver: SolverName = "learned" if choice == "auto" else choice
            found[solver if grid == "auto" else f"{solver}, {grid}"] = method(solver, grid)
            if choice == grid == "auto":
                found["tuned"] = Method(fitted)
        return found


def tabulate(result: Comparison, title: str) -> None:
    """Tables of errors, and of distances if they were found; the least of a column in bold."""
    from rich.box import SIMPLE
    from rich.console import Console
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
        # Wider than a narrow terminal rather than cut.
        wide = Console(width=1000).measure(table).maximum
        Console(highlight=False, width=max(Console().width, wide)).print(table)
    say(f"reference: {result.steps} steps, precise to {result.accuracy:.1g}")
    if result.floor is not None:
        say(
            f"{result.measure} of the reference: {result.reference_distance:.2g}; of data to data: {result.floor:.2g}"
        )
