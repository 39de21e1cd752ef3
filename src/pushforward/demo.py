"""The whole chain on real data, in minutes: train, sample, look, measure.

python -m pushforward.demo --out runs/demo
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward.core.errors import Error, InputError
from pushforward.core.noise import Noise
from pushforward.core.times import uniform
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.flow import flow_in_the_plane
from pushforward.evaluate.figures.grid import class_grid, grid
from pushforward.evaluate.labels import balanced_labels
from pushforward.evaluate.report import judge_law
from pushforward.laws import EightGaussians
from pushforward.models.model import Model
from pushforward.recipes import Digits, Recipe, Toy2D
from pushforward.recipes.choices import LAWS
from pushforward.recipes.config import experiment_of
from pushforward.recipes.run import train
from pushforward.runtime.files import write_file
from pushforward.sampling.generate import generate
from pushforward.saving.folder import load
from pushforward.solvers import Heun

SEED, NFE, JUDGED = 0, 30, 5000
DIGITS = [str(digit) for digit in range(10)]


def run(out: Path, digits_steps: int, plane_steps: int) -> dict[str, Any]:
    """Train both models into `out`, draw the pictures, and return the figures."""
    began = time.perf_counter()
    plane_run = Toy2D.of(
        out=out / "toy2d",
        steps=plane_steps,
        sample_every=0,
        log_every=500,
        checkpoint_every=10_000,
    )
    finish(plane_run)
    figures: dict[str, Any] = {"plane": plane(out)}
    finish(Digits.of(out=out / "digits", steps=digits_steps, log_every=100))
    model = load(out / "digits")
    experiment = replace(experiment_of(out / "digits"), model=model)
    figures["digits"] = experiment.judge(JUDGED, nfe=NFE, seed=SEED, batch_size=500)[0]
    settings = {"solver": "learned", "nfe": NFE, "seed": SEED, "model": model.provenance.sha256}
    draw_digits(out, model, settings)
    figures["seconds"] = time.perf_counter() - began
    return figures


def finish(recipe: Recipe) -> None:
    """Train to the last step, or leave if a signal says so."""
    folder, signal = train(recipe)
    if signal:
        print(f"stopped; {folder} holds what there is")
        raise SystemExit(128 + signal)


def plane(out: Path) -> dict[str, float]:
    """The picture of the flow in the plane, and its figures."""
    model = load(out / "toy2d")
    law = LAWS[str(model.spec.law)].make()
    assert isinstance(law, EightGaussians)
    exact = law.field(model.path)
    settings = {"solver": "heun", "nfe": 200, "seed": SEED, "model": model.provenance.sha256}
    page = flow_in_the_plane(model, exact, model.spec.extent)
    write_file(out / "flow2d.png", png(page, settings))
    figures, _, _ = judge_law(model, law, 4000, nfe=NFE, seed=SEED)
    figures["velocity_error"] = velocity_error(model, law)
    return figures


def velocity_error(model: Model, law: EightGaussians, num: int = 8000) -> float:
    """Root mean square of learned minus exact velocity over that of the exact one, at x_t ~ p_t, t ~ U(0, 1)."""
    noise = Noise.batch(num, seed=SEED + 10)
    t = noise.uniform()
    x = model.path.sample(noise.normal((2,), dtype=torch.float64), law.draw(noise).double(), t)
    truth = law.field(model.path)(x, t)
    with torch.no_grad():
        learned = model(x.float(), t).double()
    return float((learned - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def draw_digits(out: Path, model: Model, settings: dict[str, Any]) -> None:
    """Ten samples of every class, and noise on its way to one of each."""
    label = balanced_labels(100, 10).sort().values
    samples = generate(model, 100, label=label, nfe=NFE, seed=SEED)
    page = class_grid(samples, DIGITS, 10, title="Samples asked for by class")
    write_file(out / "digits.png", png(page, settings))

    states: list[Tensor] = []
    every = 4
    generate(
        model,
        10,
        solver=Heun(),
        grid=uniform(10 * every),
        label=list(range(10)),
        seed=SEED,
        callback=lambda i, t, x: states.append(x.clone()) if i % every == 0 else None,
    )
    strip = torch.stack(states, dim=1).flatten(0, 1)
    labels = [f"{i / 10:.1f}" for i in range(11)]
    page = grid(
        strip, 11, row_labels=DIGITS, column_labels=labels, title="Noise becoming digits, by time t"
    )
    write_file(
        out / "noise-to-digits.png",
        png(page, settings | {"solver": "heun", "nfe": 20 * every}),
    )


# Name, what it says, and the bound it is held against, if any.
ROWS = (
    ("digits", "classifier_accuracy", "Classifier on held-out digits, accuracy", ">= 0.97"),
    ("digits", "agreement", f"Asked label found in {JUDGED} samples", ">= 0.97"),
    ("digits", "frechet", "Frechet distance, samples to held-out", ""),
    ("digits", "frechet_train", "Frechet distance, training half to held-out", ""),
    ("digits", "frechet_ratio", "Ratio of the two", "<= 1.5"),
    ("digits", "frechet_ratio_equal", "Ratio with as many samples as training digits", ""),
    ("plane", "velocity_error", "8 Gaussians: relative error of the velocity", ""),
    ("plane", "energy", "8 Gaussians: energy distance, samples to law", ""),
    ("plane", "energy_law", "8 Gaussians: energy distance, law to itself", ""),
)


def report(out: Path, figures: dict[str, Any]) -> None:
    """The table on the console, in figures.md, and all figures in figures.json."""
    table = Table("figure", "value", "wanted")
    lines = ["| figure | value | wanted |", "|-|-|-|"]
    for group, name, what, bound in ROWS:
        value = f"{figures[group][name]:.4f}"
        table.add_row(what, value, bound)
        lines.append(f"| {what} | {value} | {bound} |")
    settings = f"seed {SEED}, {NFE} network calls, no guidance; {figures['seconds']:.0f} s in all"
    Console(highlight=False).print(table)
    print(settings)
    write_file(out / "figures.md", ("\n".join(lines) + f"\n\n{settings}\n").encode())
    write_file(out / "figures.json", (json.dumps(figures, indent=1) + "\n").encode())
    print(f"Look at {out}: digits.png, noise-to-digits.png, flow2d.png, figures.md.")
    print(f"More samples: pushforward sample {out / 'digits'} --label 3 8 --guidance 2")


def main(
    out: Path = Path("runs/demo"),
    overwrite: bool = False,
    digits_steps: int = 1000,
    plane_steps: int = 1500,
) -> None:
    """Train on real digits and on a law in the plane, sample, draw, measure.

    Args:
        out: Folder for the results.
        overwrite: Replace an earlier demo in it.
        digits_steps: Optimiser steps on the digits.
        plane_steps: Optimiser steps in the plane.
    """
    if out.exists() and any(out.iterdir()):
        earlier = (out / "toy2d" / "config.toml").is_file()
        if not (overwrite and earlier):
            raise InputError(
                f"{out} is not empty: "
                + (
                    "pass --overwrite to replace the earlier demo"
                    if earlier
                    else "choose another --out"
                )
            )
        shutil.rmtree(out)
    report(out, run(out, digits_steps, plane_steps))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except Error as error:
        raise SystemExit(f"pushforward: {error}") from None
