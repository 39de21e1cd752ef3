"""`pushforward evaluate --students`: few-step models beside the one that taught them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward.cli.base import reopen, say, write_json
from pushforward.cli.sampling import Guided, OfModel
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from pushforward.evaluate.few_steps import Quality


class Students(Guided, OfModel):
    """Judge students beside this run's model: quality against network calls.

    A table, and students.json and students.png in the run folder.
    """

    students: tuple[Path, ...] = option(..., "Runs distilled from this one, or others of its kind.")
    num: int | None = option(None, "Samples to judge. Default: 5000, or 4000 of a law.", ge=2)
    nfes: tuple[int, ...] = option((1, 2, 4, 8), "Network calls to judge at.", min_length=1)

    def opening(self) -> str:
        return f"judging students of {self.folder}"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.data import Dataset
        from pushforward.evaluate.few_steps import TEACHER, quality
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.few_steps import few_steps
        from pushforward.evaluate.metrics.wasserstein import library, wasserstein
        from pushforward.recipes.config import find_source
        from pushforward.runtime.device import find_device
        from pushforward.runtime.files import write_file
        from pushforward.runtime.processes import Processes
        from pushforward.saving.folder import load

        if Processes.current().count > 1:
            raise InputError("students are judged by one process: start it without torchrun")
        if not self.students:
            raise InputError("--students is empty: give their run folders")
        if min(self.nfes) < 1:
            raise InputError("--nfes must be one or more positive numbers of calls")
        model = self.load()
        if model.spec.law is not None:
            library()
        if isinstance(model, FlowMap):
            raise InputError(f"{self.folder} holds a flow map: give the run of its teacher first")
        experiment = reopen(self.folder, self.device, model)
        # The first row is the teacher's, whatever a student's folder is called.
        found = {
            f"./{f}" if str(f) == TEACHER else str(f): load(f, find_device(self.device))
            for f in self.students
        }
        for folder, student in found.items():
            if student.shape != model.shape or student.spec.fingerprint != model.spec.fingerprint:
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

        result = quality(model, found, judge, sorted(set(self.nfes)))
        settings = {
            "num": num, "guidance": self.guidance, "seed": self.seed, "model": model.provenance.sha256,
            "students": {name: student.provenance.sha256 for name, student in found.items()},
        }  # fmt: skip
        write_json(self.folder / "students.json", result.as_json() | {"settings": settings})
        write_file(self.folder / "students.png", png(few_steps(result), settings))
        by_calls(result, f"{num} samples, seed {self.seed}")
        say(f"in {self.folder / 'students.json'} and {self.folder / 'students.png'}")
        return 0


def by_calls(result: Quality, title: str) -> None:
    """A table for each figure: models by rows, calls by columns."""
    from rich.box import SIMPLE
    from rich.table import Table

    from pushforward.cli.base import print_wide

    say(title)
    nfes = sorted({nfe for rows in result.figures.values() for nfe in rows})
    for key, caption, _ in result.names():
        table = Table("calls", *map(str, nfes), title=caption, title_justify="left", box=SIMPLE)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, rows in result.figures.items():
            cells = (f"{rows[n][key]:.3g}" if key in rows.get(n, {}) else "-" for n in nfes)
            table.add_row(name, *cells)
        print_wide(table)
