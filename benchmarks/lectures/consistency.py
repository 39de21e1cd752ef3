"""Distilled and trained flow maps, at one and two calls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pushforward as pf
from benchmarks.lectures.chart import Found, dots
from benchmarks.lectures.common import QUIET, Judge, Work, labels, rows_of
from benchmarks.lectures.five import WAYS, name_of
from benchmarks.measure import Report, Row
from pushforward.recipes import Distill, Rectify
from pushforward.solvers import Heun

# Calls of the teacher in full: as many as EDM has in the lecture's table.
FULL = 79
STAGES = (8, 4, 2, 1)
# Of the lecture's table, on ImageNet 64 x 64: FID, precision, recall.
LECTURE = {
    "PD, 1": (15.39, 0.59, 0.62), "CD, 1": (6.20, 0.68, 0.63), "CT, 1": (13.0, 0.71, 0.47),
    "PD, 2": (8.95, 0.63, 0.65), "CD, 2": (4.70, 0.69, 0.64), "CT, 2": (11.1, 0.69, 0.56),
    f"teacher, {FULL}": (2.44, 0.71, 0.67),
}  # fmt: skip
FIGURES = ("Frechet distance", "precision", "recall")
ABOUT = """Frechet distance, precision and recall at one and two network calls.

After table 1 and 2 of Song et al. 2023 (arXiv 2303.01469), which lecture 004 shows, and after the rectified flow of
the same lecture. The teacher is the network of `five_ways` trained by flow matching on straight lines. Students start
from its weights: progressive distillation (PD) in four stages of a quarter of the steps each, to 8, 4, 2 and 1 step;
consistency distillation (CD); 2-rectified flow (pairs that the teacher's flow joins, by 40 calls each), asked by
Euler's method, and one step fitted to pairs of the 2-rectified flow (InstaFlow). All have two thirds of the teacher's
steps; reflow and its one step share them. Consistency training (CT) has no teacher and as many steps as the teacher.
Objectives are those of `pushforward distill`, `train` and `reflow` as they are. Means over seeds of training, +- the
standard error over them. `FID, lecture`: that of ImageNet 64 x 64, where there is one; the teacher's is EDM's."""


def consistency(work: Work) -> Found:
    judge = Judge()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in work.seeds:
        for name, samples in drawn(work, seed).items():
            found.setdefault(name, []).append(judge.figures(samples))
    rows = rows_of(found, "method, calls", {})
    for row in rows:
        known = LECTURE.get(str(row["method, calls"]))
        for figure, value in zip(("FID", *FIGURES[1:]), known or (), strict=bool(known)):
            row[f"{figure}, lecture"] = value
    floor = judge.floor()
    last: Row = {"method, calls": "(training half)"}
    rows.append(last | {key: f"{value:.3f}" for key, value in floor.items()})
    panels = [
        (key, {n: [run[key] for run in runs] for n, runs in found.items()}) for key in FIGURES
    ]
    return Found(
        Report(rows, "\n\n".join(map(partial(compared, found), (1, 2)))),
        dots(panels, floors=floor, logs=FIGURES[:1]),
    )


def compared(found: Mapping[str, list[dict[str, float]]], calls: int) -> str:
    """The order of the methods of the lecture at so many calls, here and there."""

    def mean(name: str) -> float:
        return sum(run["Frechet distance"] for run in found[f"{name}, {calls}"])

    names = ("PD", "CD", "CT")
    theirs = sorted(names, key=lambda name: LECTURE[f"{name}, {calls}"][0])
    return (
        f"{calls} call{'s' * (calls > 1)}, by Frechet distance: here {' < '.join(sorted(names, key=mean))}; in the "
        f"lecture {' < '.join(theirs)}."
    )


def drawn(work: Work, seed: int) -> dict[str, Any]:
    """Samples of every method and number of calls, from one seed of training."""
    models = trained(work, seed)
    few: dict[str, Any] = {"label": labels(work.num), "seed": seed}
    teacher = models["teacher"]
    samples: dict[str, Any] = {}
    for calls in (1, 2):
        pd = models[f"PD, {calls}"]
        samples[f"PD, {calls}"] = pf.generate(pd, work.num, **few)
        for name in ("CD", "CT"):
            samples[f"{name}, {calls}"] = pf.generate(models[name], work.num, nfe=calls, **few)
        euler = {"solver": pf.solvers.Euler(), "nfe": calls}
        samples[f"2-rectified, {calls}"] = pf.generate(
            models["2-rectified"], work.num, **euler, **few
        )
        samples[f"teacher, {calls}"] = pf.generate(teacher, work.num, **euler, **few)
    one = {"solver": pf.solvers.Euler(), "nfe": 1}
    samples["InstaFlow, 1"] = pf.generate(models["InstaFlow"], work.num, **one, **few)
    # Heun's method as EDM is sampled, of two calls a step.
    samples[f"teacher, {FULL}"] = pf.generate(teacher, work.num, solver=Heun(), nfe=FULL, **few)
    order = ["PD", "CD", "CT", "InstaFlow", "2-rectified", "teacher"]
    return {
        f"{name}, {calls}": samples[f"{name}, {calls}"]
        for calls in (1, 2, FULL)
        for name in order
        if f"{name}, {calls}" in samples
    }


def trained(work: Work, seed: int) -> dict[str, Any]:
    """The teacher of one seed and its students, by name."""
    usual: dict[str, Any] = {
        **QUIET, "seed": seed, "batch_size": work.batch, "checkpoint_every": work.steps,
    }  # fmt: skip
    steps = max(len(STAGES), 2 * work.steps // 3)
    teacher = work.kept(name_of("FM w/ OT", seed), work.recipe(seed, **WAYS["FM w/ OT"]))
    models: dict[str, Any] = {"teacher": pf.load(teacher)}

    def student(name: str, recipe: Any) -> Path:
        folder = work.kept(f"{name.lower().replace(', ', '-')}-{seed}", recipe)
        models[name] = pf.load(folder)
        return folder

    stage = teacher
    for count in STAGES:
        options = {"method": "progressive", "student_steps": count, "steps": steps // len(STAGES)}
        stage = student(f"PD, {count}", Distill.of(teacher=stage, **options, **usual))
    student("CD", Distill.of(teacher=teacher, steps=steps, **usual))
    student("CT", work.recipe(seed, objective="consistency"))
    pairs = {"pairs": 4 * work.num, "pairs_nfe": 40, "steps": max(1, steps // 2)}
    straight = student("2-rectified", Rectify.of(teacher=teacher, **pairs, **usual))
    student("InstaFlow", Rectify.of(teacher=straight, objective="one-step", **pairs, **usual))
    return models
