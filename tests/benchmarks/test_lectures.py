"""The figures of the lectures: what they are judged by is right, and each command runs at a tiny size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from benchmarks.lectures import __main__ as lectures
from benchmarks.lectures.common import (
    DRAWS,
    Work,
    cell,
    counting,
    everything,
    halves,
    mean_and_error,
    rounded,
)
from benchmarks.lectures.five import WAYS

from pushforward import generate
from pushforward.core.noise import Noise
from pushforward.core.times import uniform
from pushforward.data.batch import Batch
from pushforward.recipes.recipe import Recipe
from pushforward.solvers import RK4

SIZES = {"seeds": "0", "steps": "4", "batch": "4", "width": "8", "num": "20", "points": "2"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def options(**sizes: str) -> list[str]:
    return [part for name, value in sizes.items() for part in (f"--{name}", value)]


# These train nine networks or more each.
LARGE = ("consistency", "precision", "scaling")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in lectures.FIGURES
]


@pytest.mark.parametrize("name", NAMES)
def test_each_command_writes_its_table_and_its_picture(name, runs, tmp_path):
    out, images = tmp_path / "results", tmp_path / "images"
    places = {"runs": str(runs), "out": str(out), "images": str(images)}
    lectures.main([name, *options(**SIZES, **places)])
    kept = json.loads((out / f"lectures_{name}.json").read_text())
    text = (out / f"lectures_{name}.md").read_text()
    assert f"(../images/lectures_{name}.png)" in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(kept["rows"]) > 3
    assert (images / f"lectures_{name}.png").read_bytes().startswith(b"\x89PNG")
    # The command that is written down makes the same again.
    again = kept["command"].removeprefix("python -m benchmarks.lectures ").split()
    assert again == [name, *options(**SIZES)]


def test_training_data_are_spread_over_their_own_bins(tmp_path):
    file = np.load(Work(runs=tmp_path).data())
    x, own = torch.from_numpy(file["x"]), everything(halves()[0]).x1
    assert torch.equal(rounded(x), own.repeat(DRAWS, 1, 1, 1))
    # Evenly: a uniform law on a bin of width 1/8 has the variance (1/8)^2/12, here of half a million draws.
    spread = (x - own.flatten(1).repeat(DRAWS, 1)).var().item() * 64 * 12
    assert spread == pytest.approx(1, abs=5 * math.sqrt(0.8 / x.numel()))


def test_losses_of_the_diffusion_path_are_one_error_with_published_weights(tmp_path):
    # Of a network that has not begun to learn, whose answers are 0: |x0|^2 at every t in the noise, and
    # beta/2 |x0/sigma|^2 in the score.
    work = Work(runs=tmp_path, width=8)
    ids = torch.arange(64)
    noise, batch = Noise(3, ids), Batch(everything(halves()[0])[ids].x1.flatten(1))
    losses, models = {}, {}
    for way in ("DDPM", "Score Matching", "ScoreFlow"):
        experiment = recipe(work, way).build()
        losses[way] = experiment.objective(batch, noise)["loss"].double()
        models[way] = experiment.objective
    torch.testing.assert_close(losses["DDPM"], losses["Score Matching"])
    t = models["ScoreFlow"].times(noise).double()
    s = 1 - t
    beta, integral = 0.1 + 19.9 * s, 0.1 * s + 19.9 * s**2 / 2
    expected = losses["DDPM"] * beta / 2 / -torch.expm1(-integral)
    torch.testing.assert_close(losses["ScoreFlow"], expected, rtol=1e-4, atol=0)


def recipe(work: Work, way: str) -> Recipe:
    return work.recipe(0, **WAYS[way])


def test_calls_are_counted_as_a_solver_of_known_cost_makes_them(tmp_path):
    model = recipe(Work(runs=tmp_path, width=8), "FM w/ OT").build().model
    with counting(model) as rows:
        generate(model, 10, solver=RK4(), grid=uniform(3), batch_size=4)
    assert rows == [10 * 3 * 4]
    generate(model, 10, solver=RK4(), grid=uniform(3))
    assert rows == [10 * 3 * 4]


def test_a_cell_has_the_mean_and_its_standard_error():
    assert mean_and_error([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7 / 3)))
    assert cell([1.0, 2.0, 6.0], 2) == "3.00 ± 1.53"
    assert cell([0.5]) == "0.500"
