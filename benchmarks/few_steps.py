"""Few-step methods in the plane: python -m benchmarks.few_steps

Every case, a method on a law with a seed, is written to a file of its own when it is done, and not run again: the
command can be stopped and taken up, and several processes can share the work (`--share 0/2` and `--share 1/2`).
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, write
from benchmarks.run import RESULTS
from pushforward.core.errors import Error
from pushforward.evaluate.few_steps import TEACHER, Quality
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.few_steps import few_steps as figure
from pushforward.evaluate.metrics.wasserstein import wasserstein
from pushforward.laws import LAWS
from pushforward.recipes import Distill, Rectify, Toy2D
from pushforward.recipes.recipe import Recipe
from pushforward.recipes.run import train

TASKS = ("8gaussians", "moons", "checkerboard")
NUM, NFES, CALLS = 5000, (1, 2, 4), 100
QUIET: dict[str, Any] = {"sample_every": 0, "checkpoint_every": 10_000, "device": "cpu"}
# Times the teacher's distance at 100 calls that the best method is to stay below.
WANTED = {1: 1.5, 2: 1.25, 4: 1.1}


@dataclass(frozen=True)
class Case:
    method: str
    task: str
    seed: int
    runs: Path

    @property
    def file(self) -> str:
        return f"{self.method}, {self.task}, {self.seed}.json".replace(" ", "_")

    def folder(self, method: str) -> Path:
        return self.runs / f"{method}-{self.task}-{self.seed}".replace(" ", "_").replace(",", "")

    @property
    def teacher(self) -> Path:
        return self.folder(TEACHER)

    def run(self, recipe: Recipe) -> Path:
        """Train, unless it is done."""
        assert recipe.place.out is not None
        begun = (recipe.place.out / "config.toml").is_file()
        folder, signal = train(recipe.changed(resume=begun), quiet=True)
        if signal:
            raise SystemExit(128 + signal)
        return folder

    def distilled(self, method: str, **options: Any) -> dict[int, Path]:
        out = self.folder(options.pop("name", self.method))
        recipe = Distill.of(
            method=method, teacher=self.teacher, out=out, seed=self.seed, **QUIET | options
        )
        folder = self.run(recipe)
        return dict.fromkeys(NFES, folder)

    def progressive(self) -> dict[int, Path]:
        """From 16 steps to 1; each stage is the student of its number of calls."""
        found: dict[int, Path] = {}
        teacher = self.teacher
        for count in (16, 8, 4, 2, 1):
            out = self.folder(f"{self.method} {count}")
            recipe = Distill.of(
                method="progressive", student_steps=count, teacher=teacher, out=out, seed=self.seed, steps=1500, **QUIET
            )  # fmt: skip
            teacher = self.run(recipe)
            found[count] = teacher
        return {nfe: found[nfe] for nfe in NFES}

    def reflow(self) -> dict[int, Path]:
        """One step fitted to 20 000 pairs of the teacher."""
        recipe = Rectify.of(
            teacher=self.teacher, objective="one-step", out=self.folder(self.method), seed=self.seed, steps=3000,
            **QUIET,
        )  # fmt: skip
        return {1: self.run(recipe)}

    def scratch(self, objective: str) -> dict[int, Path]:
        recipe = Toy2D.of(
            target=self.task, objective=objective, batch_size=256, out=self.folder(self.method), seed=self.seed, **QUIET
        )  # fmt: skip
        return dict.fromkeys(NFES, self.run(recipe))


METHODS: dict[str, Callable[[Case], dict[int, Path]]] = {
    TEACHER: lambda case: {
        n: case.run(Toy2D.of(target=case.task, out=case.teacher, seed=case.seed, **QUIET))
        for n in (*NFES, CALLS)
    },
    "MeanFlow, distilled": lambda case: case.distilled("meanflow"),
    "consistency, distilled": lambda case: case.distilled("consistency"),
    "continuous consistency, distilled": lambda case: case.distilled("continuous-consistency"),
    "shortcut, distilled": lambda case: case.distilled("shortcut"),
    "progressive distillation": Case.progressive,
    "reflow, one step": Case.reflow,
    "MeanFlow": lambda case: case.scratch("meanflow"),
    "consistency training": lambda case: case.scratch("consistency"),
    "continuous consistency": lambda case: case.scratch("continuous-consistency"),
    "shortcut": lambda case: case.scratch("shortcut"),
}


FIRST = (
    TEACHER,
    "consistency, distilled",
    "continuous consistency, distilled",
    "progressive distillation",
)


def data(case: Case) -> Tensor:
    """The draws that samples of all methods are compared with."""
    return LAWS[case.task]().sample(NUM, seed=1000 + case.seed)


def judge(case: Case) -> Row:
    """W2 of a method's samples to the data at each number of calls; what failed, in words."""
    began = time.process_time()
    # Of a run that is taken up the time is not known.
    begun = any(case.folder(name).exists() for name in (case.method, f"{case.method} 16"))
    row: Row = {"method": case.method, "task": case.task, "seed": case.seed}
    try:
        folders = METHODS[case.method](case)
    except Error as error:
        return row | {"failed": str(error)}
    if not begun:
        row["s"] = time.process_time() - began
    truth = data(case)
    for nfe, folder in folders.items():
        model = pf.load(folder)
        samples = pf.generate(model, NUM, nfe=nfe, seed=2000 + case.seed, batch_size=NUM)
        row[str(nfe)] = wasserstein(samples, truth).value
    return row


def few_steps(found: list[Row], seeds: int) -> Report:
    """Exact 2-Wasserstein distance to the data at 1, 2 and 4 network calls, over the teacher's at 100 calls.

    Each method as `pushforward distill` or `pushforward train toy2d --objective` has it by default, with 3000 optimiser
    steps of 256 samples (progressive distillation 1500 for each of five stages, from 16 steps to 1; the teacher, a
    residual MLP of three blocks of width 128, 3000 of 512). 5000 samples against 5000 draws, means over seeds, +- their
    standard deviation. Two such sets of draws are some way apart themselves ("data"): ratios near that say no more. s:
    processor seconds of training on one thread, without the teacher's.
    """
    rows: list[Row] = []
    best: dict[tuple[str, int], tuple[float, str]] = {}
    for method in METHODS:
        of = [r for r in found if r["method"] == method]
        row: Row = {"method": method}
        for task, nfe in product(TASKS, NFES):
            ratios = [
                float(r[str(nfe)]) / float(base)  # type: ignore[arg-type]
                for r in of
                if r["task"] == task and str(nfe) in r and (base := full(found, task, r["seed"]))
            ]
            row[f"{task}, {nfe}"] = _cell(ratios)
            if len(ratios) == seeds and method != TEACHER:
                mean = statistics.mean(ratios)
                if mean < best.get((task, nfe), (float("inf"), ""))[0]:
                    best[task, nfe] = mean, method
        own = [float(r["s"]) for r in of if "s" in r]  # type: ignore[arg-type]
        row["s"] = statistics.mean(own) if own else None
        rows.append(row)
    floor: Row = {"method": "data"}
    for task in TASKS:
        values = []
        for seed in range(seeds):
            base = full(found, task, seed)
            if base:
                other = LAWS[task]().sample(NUM, seed=5000 + seed)
                values.append(wasserstein(other, data(Case("", task, seed, Path()))).value / base)
        floor[f"{task}, 1"] = _cell(values)
    lines = [
        "Best method of each column, of those with all seeds, and the bound it is held against:",
        "",
    ]
    for (task, nfe), (value, method) in best.items():
        kept = "kept" if value <= WANTED[nfe] else "NOT kept"
        lines.append(
            f"- {task}, {nfe} calls: {method}, {value:.3f} (at most {WANTED[nfe]}: {kept})"
        )
    counts = [
        sum((r["method"], r["task"]) == cell for r in found) for cell in product(METHODS, TASKS)
    ]
    lines += ["", f"Cases for each cell: {min(counts)} to {max(counts)} of {seeds} seeds."]
    absolute = ", ".join(
        f"{task} {statistics.mean(values):.3f}"
        for task in TASKS
        if (values := [v for s in range(seeds) if (v := full(found, task, s))])
    )
    lines += ["", f"W2 of the teacher at {CALLS} calls: {absolute}."]
    failures = [
        f"- {r['method']}, {r['task']}, seed {r['seed']}: {r['failed']}"
        for r in found
        if "failed" in r
    ]
    lines += ["", "Failed:", "", *failures] if failures else ["", "No run failed or diverged."]
    lines += ["", "![W2 by network calls](few_steps.png)"]
    return Report([*rows, floor], "\n".join(lines), {"few_steps.png": picture(found)})


def full(found: list[Row], task: str, seed: Any) -> float | None:
    """W2 of the teacher at its full number of calls."""
    for r in found:
        if (r["method"], r["task"], r["seed"]) == (TEACHER, task, seed) and str(CALLS) in r:
            return float(r[str(CALLS)])  # type: ignore[arg-type]
    return None


def picture(found: list[Row]) -> bytes:
    """W2 by calls on the eight Gaussians, means over seeds."""
    task = TASKS[0]
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for method in METHODS:
        of = [r for r in found if (r["method"], r["task"]) == (method, task) and "failed" not in r]
        calls = (*NFES, CALLS) if method == TEACHER else NFES
        for nfe in calls:
            values = [float(r[str(nfe)]) for r in of if str(nfe) in r]  # type: ignore[arg-type]
            if values:
                figures.setdefault(method, {})[nfe] = {"w2": statistics.mean(values)}
    return png(figure(Quality(figures, CALLS)), {"benchmark": "few_steps", "law": task})


def _cell(values: list[float]) -> str | None:
    if not values:
        return None
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each case")
    parser.add_argument("--share", default="0/1", help="which part of the cases, as in 0/2")
    parser.add_argument("--runs", type=Path, default=Path("runs/few_steps"), help="where runs are")
    parser.add_argument("--report", action="store_true", help="only write the table of what is there")  # fmt: skip
    parser.add_argument("--note", default="", help="a remark to keep with the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    facts = circumstances(f"python -m benchmarks.few_steps --seeds {options.seeds}", options.note)
    done = options.runs / "cases"
    done.mkdir(parents=True, exist_ok=True)
    # The best first, each after the teacher for its law and seed; then all others, seed by seed.
    groups = list(product(range(options.seeds), TASKS))
    others = [name for name in METHODS if name not in FIRST]
    cases = [
        Case(m, t, s, options.runs)
        for methods in (FIRST, others)
        for s, t in groups
        for m in methods
    ]
    if not options.report:
        mine, parts = map(int, options.share.split("/"))
        for case in cases:
            if (done / case.file).exists() or groups.index((case.seed, case.task)) % parts != mine:
                continue
            figures = judge(case)
            part = done / (case.file + ".part")
            part.write_text(json.dumps(figures))
            part.rename(done / case.file)
            print(figures, flush=True)
    found = [json.loads(p.read_text()) for c in cases if (p := done / c.file).exists()]
    if options.report or options.share == "0/1":
        text = inspect.cleandoc(few_steps.__doc__ or "")
        report = few_steps(found, options.seeds)
        write(RESULTS, "few_steps", text, report, facts, time.perf_counter() - began)
        (RESULTS / "few_steps.cases.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
