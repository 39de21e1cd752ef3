from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pushforward as pf
from benchmarks.measure import Report, Row
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.recipes import SuperResolution
from pushforward.recipes.run import train
from pushforward.recipes.set_to_set import Refinement

STEPS = 600


def superresolution() -> Report:
    """Digits of 8 x 8 pixels from their means over 2 x 2: flow matching from coarse to fine images, pairs given.

    The recipe `superresolution` with 600 steps. It trains on 80 % of the digits; all figures are of the rest, 20 calls.

    Rows: the coarse images as they are; fine images made of them, one each; the mean of eight fine images of each.
    squared error: to the true images; the error of one draw from the right law is twice that of the mean of all draws.
    kept: mean square of the change of the block means. energy: the unbiased energy distance to the true images; ratio:
    of that of two halves of the true images, as in `cells`, with its standard error. CPU s: processor time of training.
    """
    with tempfile.TemporaryDirectory() as temporary:
        recipe = SuperResolution.of(
            out=Path(temporary) / "run", steps=STEPS, sample_every=0, device="cpu"
        )
        began = time.process_time()
        folder, _ = train(recipe, quiet=True)
        seconds = time.process_time() - began
        experiment = recipe.build()
        assert isinstance(experiment, Refinement)
        experiment = replace(experiment, model=pf.load(folder))
    figures, _, _ = experiment.judge(360, nfe=20)
    coarse, _, truth = experiment.carry(360, nfe=1)
    draws = []
    for _ in range(8):
        noise = pf.Noise.batch(360, seed=len(draws) + 1).normal(coarse.shape[1:])
        start = coarse + recipe.blur * noise
        draws.append(pf.generate(experiment.model, 360, nfe=20, source=start))
    mean = sum(draws[1:], draws[0]) / len(draws)
    rows: list[Row] = [
        {
            "images": "coarse",
            "squared error": figures["squared_error_coarse"],
            "kept": 0.0,
            "energy": figures["energy_before"],
        },
        {
            "images": "made fine",
            "squared error": figures["squared_error"],
            "kept": figures["squared_error_kept"],
            "energy": figures["energy"],
            "ratio": figures["ratio"],
            "+-": figures["ratio_error"],
            "root ratio": figures["root_ratio"],
            "CPU s": round(seconds),
        },
        {
            "images": "mean of eight",
            "squared error": float(((mean - truth) ** 2).mean()),
            "energy": energy_distance(mean, truth),
        },
    ]
    png = experiment.figure(12, {"steps": STEPS, "nfe": 20}, nfe=20)
    return Report(rows, "![superresolution](superresolution.png)", {"superresolution.png": png})
