from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from benchmarks.measure import Report, Row
from pushforward.evaluate.control import judge_edges
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.page import blank, colour, style
from pushforward.nets.control import Branch
from pushforward.recipes import Control, Digits, Recipe
from pushforward.recipes.run import train
from pushforward.recipes.steered import Steered
from pushforward.saving.control import controls_of
from pushforward.train.ema import EMA

BASE_STEPS, STEPS, SAMPLES, CALLS, EVERY = 3000, 3000, 256, 10, 100


def control_convergence() -> Report:
    """How edges come into a trained model of digits, by steps of training its control (ControlNet).

    The recipes `digits` (3000 steps) and `control` (3000 steps, batches of 64, AdamW at 5e-4 without decay, EMA 0.99);
    every 100 steps 256 digits are drawn by 10 calls under the edges of held-out ones. edge F1: of their edges at the
    same pixel, with its standard error; loss: of the regression, on held-out digits. At step 0 they are those of the
    base.

    zero: hints come in by weights that start at 0, as in the paper, at a saddle; shaken: these weights start at normal
    numbers of the size of the layer's others. The picture shows both, beside the base.
    """
    return convergence(Digits.of(steps=BASE_STEPS, sample_every=0, device="cpu"))


def convergence(
    base: Recipe, steps: int = STEPS, every: int = EVERY, samples: int = SAMPLES
) -> Report:
    """The same for the run of any recipe of images."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, _ = train(base.changed(out=Path(temporary) / "base"), quiet=True)
        for start in ("zero", "shaken"):
            recipe = Control.of(base=folder, control="edges", steps=steps, device="cpu")
            experiment = recipe.build()
            if start == "shaken":
                shake(controls_of(experiment.model)["edges"])
            for step, model in training(experiment, recipe, steps, every):
                rows.append({"start": start, "step": step, **figures(experiment, model, samples)})
    page = png(drawn(rows), {"benchmark": "control_convergence"})
    return Report(
        rows, "![edge F1 by steps](control_convergence.png)", {"control_convergence.png": page}
    )


def training(
    experiment: Steered, recipe: Control, steps: int, every: int
) -> Iterator[tuple[int, Any]]:
    """The average of the weights after every so many steps, from 0 on."""
    model, options = experiment.model, recipe.optimiser
    some = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(some, options.lr, weight_decay=0.0)
    average = EMA(model, options.ema)
    for step in range(steps + 1):
        if step % every == 0:
            yield step, average.model
        batch = experiment.stream.at(step)
        loss = experiment.objective(batch, pf.Noise.batch(len(batch), recipe.seed, step))[
            "loss"
        ].mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(some, options.clip)
        optimiser.step()
        average.update(model, step)


def figures(experiment: Steered, model: Any, samples: int) -> dict[str, float]:
    """Edge F1 of samples under held-out hints, and the loss on held-out data."""
    assert experiment.edges is not None
    assert experiment.held_out is not None
    label = pf.Noise.batch(samples, 1).permutation(samples) % (model.classes or 1)
    label = label if model.classes else None
    given = experiment.columns(samples, 0, label)
    found = pf.generate(model, samples, nfe=CALLS, label=label, **given)
    value = judge_edges(found, given["control"]["edges"], experiment.edges)
    ids = torch.arange(min(512, len(experiment.held_out)))
    objective: Any = replace(experiment.objective, model=model, condition_dropout=0.0)  # type: ignore[type-var]
    with torch.no_grad():
        loss = objective(experiment.held_out[ids], pf.Noise(0, ids, 2**32 - 2))["loss"].mean()
    return {"edge F1": value.value, "+-": value.standard_error, "loss": float(loss)}


@torch.no_grad()
def shake(branch: Branch) -> None:
    """Normal numbers for the weights by which the features of the hint come into the copy."""
    inside = int(branch.config["config"].get("in_channels") or branch.config["config"]["channels"])
    weight: Any = next(p for name, p in branch.copy.named_parameters() if p.ndim == 4)
    torch.manual_seed(0)
    own = weight[:, inside : inside + branch.width]
    own.normal_(std=float(weight[:, :inside].std()) * (inside / branch.width) ** 0.5)


def drawn(rows: list[Row]) -> Any:
    """Edge F1 by steps, a line for each start."""
    with style():
        figure = blank(5.2, 3.0)
        axis = figure.subplots()
        for k, start in enumerate(dict.fromkeys(row["start"] for row in rows)):
            own = [row for row in rows if row["start"] == start]
            steps = [float(row["step"] or 0) for row in own]
            f1, error = ([float(row[name] or 0) for row in own] for name in ("edge F1", "+-"))
            axis.errorbar(steps, f1, error, color=colour(k), lw=1.2, label=str(start))
        axis.axhline(float(rows[0]["edge F1"] or 0), color="0.5", lw=0.8, ls=":", label="base")
        axis.set(xlabel="steps", ylabel="F1 of edges")
        axis.legend(frameon=False)
    return figure
