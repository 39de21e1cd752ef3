from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from benchmarks.measure import Report, Row
from pushforward.cli.gallery import Gallery
from pushforward.recipes import Rectify, Toy2D
from pushforward.recipes.run import train

NUM = 4000
COMMON: dict[str, Any] = {"width": 64, "steps": 2000, "batch_size": 256, "sample_every": 0, "log_every": 1000,
                          "checkpoint_every": 10_000, "device": "cpu"}  # fmt: skip
# The options of `pushforward train toy2d` for each method.
METHODS: dict[str, dict[str, Any]] = {
    "flow matching": {},
    "optimal transport": {"coupling": "ot"},
    "denoising score": {"objective": "denoising"},
    "sliced score": {"objective": "sliced"},
    "hybrid bound": {"objective": "hybrid"},
    "[SF]2M": {"objective": "sf2m", "coupling": "ot"},
    "DSBM": {"objective": "dsbm", "phase": 250, "ema": 0.99, "batch_size": 128},
    "DSB": {"objective": "dsb", "phase": 250, "ema": 0.99, "batch_size": 64, "steps": 4000},
    "DiffFlow": {"objective": "diffflow"},
    "likelihood": {"objective": "maximum-likelihood", "steps": 600},
}


def gallery() -> Report:
    """Every method from noise to eight Gaussians: trajectories, which start goes with which end, and the density.

    `pushforward train toy2d` with the options of each, an MLP of width 64, 2000 steps of 256 (DSBM: of 128 pairs; DSB:
    4000 of 64 trajectories; likelihood: 600), then `pushforward reflow` of the first; the picture is that of
    `pushforward gallery --noise`: bridges by their own process. The energy distance is that of 4000 samples to 4000
    of the law; a flow takes 200 calls. Nothing was tuned for this picture.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        runs = []
        for name, options in METHODS.items():
            recipe = Toy2D.of(**COMMON | options, out=folder / name)
            rows.append(timed(recipe, name))
            runs.append(folder / name)
        first, straight = folder / "flow matching", folder / "reflow"
        recipes = {
            straight: Rectify.of(teacher=first, out=straight, **_steps(1000)),
            folder / "one step": Rectify.of(
                teacher=straight, out=folder / "one step", objective="one-step", **_steps(1000)
            ),
        }
        for run, recipe in recipes.items():
            rows.append(timed(recipe, run.name))
            runs.append(run)
        command = Gallery(folders=tuple(runs), out=folder / "gallery.png", num=NUM, columns=6, noise=True)  # fmt: skip
        command.run()
        data = pf.laws.EightGaussians().sample(NUM, seed=1)
        for row, run in zip(rows, runs, strict=True):
            entry = command.entry(run, command.model(run), data)
            row["energy distance"] = entry.figures["energy distance"]
        picture = (folder / "gallery.png").read_bytes()
    return Report(rows, "![gallery](gallery.png)", {"gallery.png": picture})


def _steps(steps: int) -> dict[str, Any]:
    return {k: v for k, v in COMMON.items() if k != "width"} | {"steps": steps}


def timed(recipe: Any, name: str) -> Row:
    torch.manual_seed(0)
    began = time.process_time()
    train(recipe, quiet=True)
    return {
        "method": name,
        "steps": recipe.optimiser.steps,
        "s of training": time.process_time() - began,
    }
