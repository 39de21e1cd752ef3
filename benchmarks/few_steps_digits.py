from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from benchmarks.measure import Report, Row
from pushforward.evaluate.few_steps import TEACHER, quality
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.few_steps import few_steps
from pushforward.evaluate.figures.grid import grid
from pushforward.recipes import Digits, Distill
from pushforward.recipes.config import experiment_of
from pushforward.recipes.recipe import Recipe
from pushforward.recipes.run import train

RUNS = Path("runs/few_steps_digits")
GUIDANCE, STEPS, NUM, NFES, CALLS, SEED = 1.5, 1000, 5000, (1, 2, 4), 100, 0
METHODS = ("meanflow", "consistency")
# Of one call, against the teacher: share of samples of the class asked for, ratio of Frechet distances, minutes.
WANTED = {"agreement": 0.95, "ratio": 1.5, "minutes": 15.0}
QUIET: dict[str, Any] = {"sample_every": 0, "device": "cpu"}


def few_steps_digits() -> Report:
    """Handwritten digits by class, guided, in one, two and four calls of a student against 100 of its teacher.

    The teacher is the recipe digits as it is; a guided call of it is two of its network, a student's is one. Students
    by `pushforward distill --guidance 1.5` with 1000 steps of 128 samples, from the teacher's weights. 5000 samples
    each, labels in equal shares: Frechet distance on pixels to the held-out half, and the share in which a classifier
    of the training half finds the class that was asked for. Minutes of training by the wall clock, on the threads
    stated below. Runs that are in runs/few_steps_digits are taken as they are.
    """
    minutes: dict[str, float | None] = {}

    def run(name: str, recipe: Recipe) -> Any:
        began = time.perf_counter()
        done = (RUNS / name / "config.toml").is_file()
        where = recipe.changed(out=RUNS / name, resume=done)
        folder, signal = train(where, quiet=True)
        if signal:
            raise SystemExit(128 + signal)
        minutes[name] = None if done else (time.perf_counter() - began) / 60
        return pf.load(folder)

    teacher = run(TEACHER, Digits.of(**QUIET))
    students = {
        method: run(
            method,
            Distill.of(
                method=method, teacher=RUNS / TEACHER, guidance=GUIDANCE, steps=STEPS, batch_size=128, **QUIET
            ),
        )
        for method in METHODS
    }  # fmt: skip
    experiment = experiment_of(RUNS / TEACHER)

    def judge(model: Any, nfe: int) -> dict[str, float]:
        guided = {"guidance": GUIDANCE} if model is teacher else {}
        return replace(experiment, model=model).judge(NUM, nfe=nfe, seed=SEED, **guided)[0]

    found = quality(teacher, students, judge, NFES, CALLS)
    rows: list[Row] = []
    for name, by_calls in found.figures.items():
        for nfe, figures in by_calls.items():
            rows.append(
                {
                    "model": name,
                    "calls": nfe,
                    "Frechet distance": figures["frechet"],
                    "over the teacher's": found.ratio(name, nfe, "frechet"),
                    "agreement": figures["agreement"],
                    "minutes of training": minutes[name],
                }
            )
    best = min(students, key=lambda name: found.ratio(name, 1, "frechet"))
    kept = {
        "agreement": found.figures[best][1]["agreement"] >= WANTED["agreement"],
        "ratio": found.ratio(best, 1, "frechet") <= WANTED["ratio"],
    }
    words = ", ".join(f"{name} {'kept' if ok else 'NOT kept'}" for name, ok in kept.items())
    more = (
        f"One call of {best}: {words} (agreement at least {WANTED['agreement']}, ratio at most {WANTED['ratio']}).\n\n"
        f"![quality by calls](few_steps_digits.png)\n\nThe same noise in every column: the teacher's 100 guided calls, "
        f"and one call of each student.\n\n![samples](few_steps_digits.samples.png)"
    )
    settings = {"benchmark": "few_steps_digits", "guidance": GUIDANCE, "seed": SEED}
    return Report(
        rows,
        more,
        {
            "few_steps_digits.png": png(few_steps(found), settings),
            "few_steps_digits.samples.png": samples(teacher, students, settings),
        },
    )


def samples(teacher: Any, students: dict[str, Any], settings: dict[str, Any]) -> bytes:
    """Two of each class from the same noise: the teacher's in the first row, and each student's under it."""
    label = torch.arange(20) // 2
    drawn = [pf.generate(teacher, 20, nfe=CALLS, guidance=GUIDANCE, seed=SEED, label=label)]
    drawn += [pf.generate(model, 20, nfe=1, seed=SEED, label=label) for model in students.values()]
    names = [f"teacher, {CALLS} calls", *(f"{name}, 1 call" for name in students)]
    page = grid(torch.cat(drawn), 20, row_labels=names, cell=40)
    return png(page, settings)
