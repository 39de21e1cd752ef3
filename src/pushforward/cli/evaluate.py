"""`pushforward evaluate`."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pushforward.cli.base import reopen, require_same_data, say, show, write_json
from pushforward.cli.sampling import (
    GridChoice,
    Sampling,
    SolverChoice,
    SolverName,
    described,
    named_sampler,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.evaluate.compare import Comparison, Method
    from pushforward.evaluate.features import Features
    from pushforward.evaluate.few_steps import Quality
    from pushforward.models.model import Model
    from pushforward.recipes.experiment import Experiment
    from pushforward.sampling.sampler import Sampler


# Samples whose exact transport is worked out: a few seconds.
TRANSPORTED = 2000


class Evaluate(Sampling):
    """Judge a run's model against its data: a table, and evaluation.json in the run folder.

    Of a classifier: its accuracy on noisy data. With --compare: solvers against each other.
    """

    shareable = True

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
    students: tuple[Path, ...] = Field(
        (),
        description="Runs distilled from this one, or others of its kind: quality against network calls, a table, "
        "and in students.json and students.png in the run folder.",
    )
    distance: bool = Field(
        False, description="Compare how far the samples are from the data, too (energy or Frechet)."
    )

    features: str | None = Field(
        None,
        description="Frechet and kernel distance, precision, recall, density and coverage by these features, too: "
        "pixels; efficientnet; inception, which needs --weights; or the run folder of a classifier.",
    )
    weights: Path | None = Field(
        None,
        description="Weights of the FID's Inception network, .pth or .safetensors, for --features inception.",
    )
    classifier: Path | None = Field(
        None,
        description="Run folder of a classifier that says whether samples are of their class. Left out: one is fitted.",
    )
    neighbours: bool = Field(
        False,
        description="Look for copies of training images: the nearest to each sample, by pixels and by --features, and "
        "neighbours.png in the run folder.",
    )

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.recipes.card import write_card
        from pushforward.runtime.processes import Processes

        own = ["solvers", "grids", "distance"] + ([] if self.students else ["nfes"])
        if not self.compare and (given := self.given(*own)):
            raise InputError(f"--{given[0]} needs --compare")
        asked = self.given("features", "weights", "classifier", "neighbours")
        for name in asked if self.compare or self.students else ():
            raise InputError(
                f"--{name} judges one model by itself: leave --compare and --students out"
            )
        if self.weights is not None and self.features != "inception":
            raise InputError("--weights needs --features inception")
        if self.of_classifier():
            return self.accuracy()
        if (self.students or self.compare) and Processes.current().count > 1:
            raise InputError("models and solvers are compared by one process: leave torchrun out")
        if self.students:
            return self.against_students()
        if self.compare:
            return self.comparison()
        if Processes.current().count > 1 and (self.transport or asked):
            raise InputError(
                "several processes draw the samples of a plain evaluation; --transport, --features, --classifier and "
                "--neighbours are for one: leave them or torchrun out"
            )
        model = self.model()
        experiment = reopen(self.folder, self.device, model)
        if self.transport and isinstance(model, FlowMap):
            raise InputError(
                "--transport follows a velocity, and this model is a flow map: leave it out, or ask its teacher"
            )
        sampler, num = self.sampler(model), self.num or 5000
        settings = self.settings(model, sampler) | {"num": num}
        judging, features = self.judges(experiment, settings) if asked else ({}, None)
        figures, samples, _ = experiment.judge(num, **judging, **self.arguments(sampler, model))
        if not Processes.current().lead:
            return 0
        if self.transport:
            figures |= experiment.transport(TRANSPORTED, self.seed)
        if features is not None or self.neighbours:
            figures |= self.by_features(experiment, samples, features, settings)
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_card(self.folder)
        show(figures, f"{num} samples, {described(sampler)}, seed {self.seed}")
        return 0

    def judges(
        self, experiment: Experiment, settings: dict[str, Any]
    ) -> tuple[dict[str, Any], Features | None]:
        """Options of `judge`, and features, as they were asked for; what they are goes into the settings."""
        from pushforward.core.errors import InputError
        from pushforward.data import Dataset
        from pushforward.evaluate.features import find_features
        from pushforward.evaluate.metrics.agreement import trained_classifier
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_classifier

        name = self.given("features", "classifier", "neighbours")[0]
        data, held_out = experiment.data, experiment.held_out
        if not isinstance(data, Dataset) or held_out is None:
            raise InputError(f"--{name} compares with data kept apart, and {self.folder} has none")
        if not data.images and (self.features or self.neighbours):
            raise InputError(
                f"--{name} is for images, and the data of {self.folder} are of shape {data.shape}"
            )
        device = find_device(self.device)
        options: dict[str, Any] = {}
        if self.classifier is not None:
            if experiment.model.classes is None:
                raise InputError("--classifier needs a model with classes, and this one has none")
            judge = trained_classifier(load_classifier(self.classifier, device), held_out)
            options["classifier"] = judge
            settings["classifier"] = judge.model.info["sha256"]
        if self.features is None:
            return options, None
        features = find_features(
            self.features, self.weights, shape=data.shape, load=load_classifier, device=device
        )
        settings["features"] = {"name": features.name, "key": features.key}
        return options, features

    def by_features(
        self,
        experiment: Experiment,
        samples: Tensor,
        features: Features | None,
        settings: dict[str, Any],
    ) -> dict[str, float]:
        """Figures by features; with --neighbours also a picture of the training images nearest to samples."""
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.neighbours import neighbours
        from pushforward.evaluate.report import judge_features
        from pushforward.runtime.files import write_file

        train: Any = experiment.data
        held_out: Any = experiment.held_out
        found = judge_features(
            samples, train, held_out, features, self.neighbours, self.seed, write_file
        )
        if found.nearest is not None:
            page = neighbours(samples, found.nearest, train, space=found.space)
            write_file(self.folder / "neighbours.png", png(page, settings))
            say(f"in {self.folder / 'neighbours.png'}")
        return found.figures

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
        from pushforward.evaluate.metrics.agreement import everything, trained_classifier
        from pushforward.objectives import noisy_accuracy
        from pushforward.recipes.experiment import Classifying, recipe_of
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_classifier

        for name in self.given(
            "compare", "guidance", "solver", "grid", "nfe", "transport", "features", "classifier", "neighbours",
        ):  # fmt: skip
            raise InputError(
                f"{self.folder} is the run of a classifier, which draws no samples: leave --{name} out"
            )
        device = find_device(self.device)
        model = load_classifier(self.folder, device)
        experiment = recipe_of(self.folder, device=self.device).build()
        assert isinstance(experiment, Classifying)
        require_same_data(self.folder, model.info, experiment.fingerprint)
        clean = model.info.get("times") == [1.0]
        count = min(self.num or (10_000 if clean else 5000), len(experiment.held_out))
        if clean:
            judge = trained_classifier(model, experiment.held_out, count)
            figures = {"accuracy at t = 1": judge.accuracy}
        else:
            x, label = everything(experiment.held_out, count)
            x, label = x.to(device), label.to(device)
            figures = {
                f"accuracy at t = {t:g}": noisy_accuracy(model, x, label, t, self.seed)
                for t in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
            }
        settings = {"num": count, "seed": self.seed, "model": model.info["sha256"]}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        noise = "" if clean else f" with noise, seed {self.seed}"
        show(figures, f"{count} held-out samples{noise}")
        return 0

    def against_students(self) -> int:
        """Judge students beside this run's model."""
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.data import Dataset
        from pushforward.evaluate.few_steps import TEACHER, quality
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.few_steps import few_steps
        from pushforward.evaluate.metrics.wasserstein import wasserstein
        from pushforward.recipes.experiment import find_source
        from pushforward.runtime.device import find_device
        from pushforward.runtime.files import write_file
        from pushforward.saving.folder import load

        if self.compare or self.transport or self.given("solver", "grid", "renoise", "nfe"):
            raise InputError(
                "--students are judged by their own samplers at --nfes: leave --compare, --transport, --solver, "
                "--grid, --nfe and --renoise out"
            )
        if not self.nfes or min(self.nfes) < 1:
            raise InputError("--nfes must be one or more positive numbers of calls")
        model = self.model()
        if isinstance(model, FlowMap):
            raise InputError(f"{self.folder} holds a flow map: give the run of its teacher first")
        experiment = reopen(self.folder, self.device, model)
        # The first row is the teacher's, whatever a student's folder is called.
        found = {
            f"./{f}" if str(f) == TEACHER else str(f): load(f, find_device(self.device))
            for f in self.students
        }
        for folder, student in found.items():
            if student.shape != model.shape or student.info.get("data") != model.info.get("data"):
                raise InputError(
                    f"{folder} draws samples of another kind than {self.folder}, or of other data"
                )
        num = self.num or (5000 if isinstance(experiment.data, Dataset) else 4000)
        source = find_source(model, self.folder)
        truth = None
        if not isinstance(experiment.data, Dataset):
            truth = experiment.data.sample(num, seed=(self.seed + 1) % 2**64)

        def judge(one: Any, nfe: int) -> dict[str, float]:
            guided = {"guidance": self.guidance} if one is model else {}
            judged, samples, _ = replace(experiment, model=one).judge(
                num, nfe=nfe, seed=self.seed, batch_size=self.batch_size, source=source, **guided
            )
            if truth is not None:
                judged["w2"] = wasserstein(samples.cpu(), truth).value
            return judged

        nfes = self.nfes if self.given("nfes") else (1, 2, 4, 8)
        result = quality(model, found, judge, sorted(set(nfes)))
        settings = {
            "num": num, "guidance": self.guidance, "seed": self.seed, "model": model.info["sha256"],
            "students": {name: student.info["sha256"] for name, student in found.items()},
        }  # fmt: skip
        write_json(self.folder / "students.json", result.as_json() | {"settings": settings})
        write_file(self.folder / "students.png", png(few_steps(result), settings))
        by_calls(result, f"{num} samples, seed {self.seed}")
        say(f"in {self.folder / 'students.json'} and {self.folder / 'students.png'}")
        return 0

    def comparison(self) -> int:
        """Judge solvers."""
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.evaluate.compare import compare, distance_to
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.compare import comparison
        from pushforward.evaluate.labels import judged_labels, spec_of
        from pushforward.recipes.tables import STOCHASTIC
        from pushforward.runtime.files import write_file

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
        if isinstance(model, FlowMap):
            raise InputError(
                "solvers are compared on a velocity, and this model is a flow map: judge it beside its teacher by "
                "pushforward evaluate TEACHER --students RUN"
            )
        model.path.require_gaussian("comparison of samplers")
        num = self.num or 128
        distance = None
        if self.distance:
            run = reopen(self.folder, self.device, model)
            distance = distance_to(run.data, run.held_out, num, self.seed)
        fitted = {e["nfe"] for e in model.info.get("samplers", [])}
        nfes = set(self.nfes) | (set() if self.given("nfes") else fitted)
        label = judged_labels(num, spec_of(model), seed=self.seed)
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
        write_file(self.folder / "comparison.png", png(comparison(result), settings))
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
                return named_sampler(model, solver, grid, nfe) if nfe >= calls else None

            return Method(at, solver not in STOCHASTIC)

        def fitted(nfe: int) -> Sampler | None:
            sampler = named_sampler(model, "auto", "auto", nfe, self.guidance)
            return sampler if sampler.names[0] == "tuned" else None

        found: dict[str, Method] = {}
        for choice, grid in product(self.solvers, self.grids):
            solver: SolverName = "learned" if choice == "auto" else choice
            found[solver if grid == "auto" else f"{solver}, {grid}"] = method(solver, grid)
            if choice == grid == "auto":
                found["tuned"] = Method(fitted)
        return found


def by_calls(result: Quality, title: str) -> None:
    """A table for each figure: models by rows, calls by columns."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    say(title)
    nfes = sorted({nfe for rows in result.figures.values() for nfe in rows})
    for key, caption, _ in result.names():
        table = Table("calls", *map(str, nfes), title=caption, title_justify="left", box=SIMPLE)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, rows in result.figures.items():
            cells = (f"{rows[n][key]:.3g}" if key in rows.get(n, {}) else "-" for n in nfes)
            table.add_row(name, *cells)
        wide = Console(width=1000).measure(table).maximum
        Console(highlight=False, width=max(Console().width, wide)).print(table)


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
