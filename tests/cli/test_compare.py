"""Samplers against each other, and what `evaluate --compare` and `evaluate` of a classifier write."""

from __future__ import annotations

import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import minimize

import pushforward as pf
from pushforward.cli import main
from pushforward.cli.sampling import named_sampler
from pushforward.core.noise import START
from pushforward.data import load_digits
from pushforward.evaluate.compare import (
    Method,
    compare,
    distance_to,
    reference,
)
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.compare import comparison
from pushforward.evaluate.figures.curves import apart, labels_apart
from pushforward.evaluate.metrics.agreement import everything
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.objectives import noisy_accuracy
from pushforward.recipes.choices import SOLVERS
from pushforward.saving.folder import load_classifier
from pushforward.solvers import Learned

MEAN, STD = torch.tensor([1.0, -2.0], dtype=torch.float64), 0.5
GAUSSIAN = pf.GaussianMixture(MEAN[None], STD**2)


def ends(num: int, seed: int = 0) -> torch.Tensor:
    """The flow from N(0, I) to N(m, s^2 I) in closed form: m + s x_0."""
    x0 = pf.Noise.batch(num, seed).normal((2,), START, torch.float64)
    return MEAN + STD * x0


def named(field: pf.Field, *names: str) -> dict[str, Method]:
    return {
        name: Method(
            lambda nfe, name=name: (
                named_sampler(field, name, "auto", nfe)
                if nfe >= SOLVERS[name].make(path=field.path).calls
                else None
            )
        )
        for name in names
    }


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM()], ids=repr)
def test_the_reference_is_as_precise_as_it_says(path) -> None:
    x, steps, accuracy = reference(GAUSSIAN.field(path), 200, seed=3)
    error = float((x - path_ends(path, 200, 3)).square().mean().sqrt())
    assert 0 < error < accuracy < 1e-3
    assert steps in (128, 256, 512)
    if steps < 512:
        assert accuracy <= 1e-5 * float(x.square().mean().sqrt())


def test_the_reference_takes_steps_until_twice_as_many_change_little() -> None:
    path = pf.VP()
    field = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.1, [0.3, 0.7]).field(path)
    x = {
        n: pf.generate(field, 40, solver=Learned(None), grid=Learned(None).grid(n, path))
        for n in (64, 128, 256, 512)
    }
    change = {n: float((x[n] - x[n // 2]).square().mean().sqrt()) for n in (128, 256, 512)}
    enough = [n for n in change if change[n] <= 1e-5 * float(x[n].square().mean().sqrt())]
    want = min([*enough, 512])
    assert want > 128
    found, steps, accuracy = reference(field, 40)
    assert torch.equal(found, x[want])
    assert (steps, accuracy) == (want, pytest.approx(change[want]))


def path_ends(path, num: int, seed: int) -> torch.Tensor:
    """The flow keeps (x_t - alpha m)/sqrt(alpha^2 s^2 + sigma^2) what it was at t = 0."""
    alpha, sigma = (
        f(torch.tensor([0.0, 1.0], dtype=torch.float64)) for f in (path.alpha, path.sigma)
    )
    x0 = path.source_std * pf.Noise.batch(num, seed).normal((2,), START, torch.float64)
    spread = ((alpha * STD) ** 2 + sigma**2).sqrt()
    return alpha[1] * MEAN + spread[1] * (x0 - alpha[0] * MEAN) / spread[0]


def test_errors_are_those_against_the_flow_in_closed_form_and_fall_by_their_order() -> None:
    field = GAUSSIAN.field(pf.CondOT())
    result = compare(field, named(field, "euler", "heun", "rk4"), (3, 8, 16, 32), 50, seed=1)
    truth = ends(50, 1)
    for name, solver in (("euler", pf.solvers.Euler()), ("heun", pf.solvers.Heun())):
        for nfe in (8, 16, 32):
            x = pf.generate(field, 50, solver=solver, nfe=nfe, seed=1)
            want = float((x - truth).square().mean().sqrt())
            assert result.errors[name][nfe] == pytest.approx(want, rel=1e-2)
    assert set(result.errors["rk4"]) == {8, 16, 32}  # four calls a step
    for name, order in (("euler", 1), ("heun", 2), ("rk4", 4)):
        row = result.errors[name]
        assert abs(math.log2(row[16] / row[32]) - order) < 0.45, name
    assert result.scale == pytest.approx(float(truth.square().mean().sqrt()), rel=1e-4)


def test_methods_with_noise_have_distances_and_no_errors_and_what_is_not_finite_is_null() -> None:
    field = GAUSSIAN.field(pf.CondOT())

    class Broken(pf.solvers.Euler):
        def step(self, *args, **cond):
            x, state = super().step(*args, **cond)
            return x * math.nan, state

    class Sampler:
        solver, grid = Broken(), pf.times.uniform(4)

    methods = named(field, "heun", "ddpm") | {"broken": Method(lambda nfe: Sampler())}
    methods["ddpm"] = methods["ddpm"]._replace(exact=False)
    distance = distance_to(GAUSSIAN, None, 60, seed=5)
    result = compare(field, methods, (8,), 60, distance, seed=5)
    assert set(result.errors) == {"heun", "broken"}
    assert set(result.distances) == {"heun", "ddpm", "broken"}
    got = result.as_json()
    json.dumps(got, allow_nan=False)
    assert got["errors"]["broken"] == {"8": None} == got["distances"]["broken"]
    real, other = (GAUSSIAN.sample(60, seed=seed) for seed in (6, 7))
    x = pf.generate(field, 60, solver=pf.solvers.Heun(), nfe=8, seed=5)
    assert result.distances["heun"][8] == pytest.approx(energy_distance(x, real))
    assert result.floor == energy_distance(other, real)
    assert result.reference_distance == pytest.approx(energy_distance(ends(60, 5), real), abs=1e-4)
    assert Image.open(io.BytesIO(png(comparison(result), {"seed": 5}))).size[0] > 1000


def test_the_distance_to_data_held_out_is_frechets() -> None:
    train, held_out = load_digits().halves(seed=0)
    distance = distance_to(train, held_out, 100, 0)
    apart_, seen = everything(held_out, 10_000)[0], everything(train, 100)[0]
    assert distance.floor == pytest.approx(frechet_distance(seen, apart_))
    assert distance.to(apart_ + 1) == pytest.approx(64, rel=1e-3)  # |mean difference|^2
    with pytest.raises(pf.InputError, match="kept no data apart"):
        distance_to(train, None, 100, 0)


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=5))
def test_names_are_moved_as_little_as_keeps_them_apart(places: list[float]) -> None:
    places, room = sorted(places), 0.1
    found = apart(places, room)
    assert min(found) >= 0
    assert max(found) <= 1 + 1e-12
    assert all(b - a >= room - 1e-9 for a, b in pairwise(found))
    best = minimize(
        lambda y: ((y - places) ** 2).sum(),
        np.linspace(0.1, 0.9, len(places)),
        bounds=[(0, 1)] * len(places),
        constraints=[
            {"type": "ineq", "fun": lambda y: np.diff(y) - room}
        ] if len(places) > 1 else [],
        method="SLSQP",
    )  # fmt: skip
    assert ((np.array(found) - places) ** 2).sum() <= best.fun + 1e-6


def test_ticks_that_are_close_have_one_label() -> None:
    assert labels_apart((5, 8, 10, 11, 50)) == ["5", "8", "10", "", "50"]
    assert labels_apart((7,)) == ["7"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny = "--device cpu --width 8 --batch-size 8 --steps 2 --sample-every 0 --out"
    for name, recipe in (
        ("plane", "toy2d --depth 1"),
        ("digits", "digits"),
        ("classifier", "digits-classifier"),
    ):
        assert main(["train", *recipe.split(), *tiny.split(), str(place / name)]) == 0
    return place


@pytest.mark.parametrize("name", ["plane", "digits"])
def test_a_comparison_is_a_table_json_and_a_picture_with_how_it_was_made(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / name
    options = "--compare --solvers auto heun ddpm --grids auto karras --nfes 3 6 1 --num 12 --seed 2 --distance"
    assert main(["evaluate", str(run), *options.split()]) == 0
    said = capsys.readouterr().out
    got = json.loads((run / "comparison.json").read_text())
    assert got["nfes"] == [1, 3, 6]
    exact = {"learned", "learned, karras", "heun", "heun, karras"}
    assert set(got["errors"]) == exact
    assert set(got["distances"]) == exact | {"ddpm", "ddpm, karras"}
    assert set(got["errors"]["heun"]) == {"3", "6"}
    assert all(word in said for word in exact)
    model = pf.load(run)
    label = None if model.classes is None else torch.arange(12) % 10
    x, steps, _ = reference(model, 12, seed=2, label=label)
    y = pf.generate(model, 12, nfe=6, seed=2, label=label)
    want = float((x - y).double().square().mean().sqrt())
    assert got["errors"]["learned"]["6"] == pytest.approx(want, rel=1e-3)
    assert got["reference"]["steps"] == steps
    settings = {"num": 12, "guidance": None, "seed": 2, "model": model.provenance.sha256}
    assert got["settings"] == settings
    picture = Image.open(run / "comparison.png")
    assert json.loads(picture.text["pushforward"]) == {"version": pf.__version__, **settings}


def test_a_classifier_is_judged_by_its_accuracy_on_held_out_data_at_each_noise(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "classifier"
    assert main(["evaluate", str(run), "--num", "200", "--seed", "4", "--device", "cpu"]) == 0
    got = json.loads((run / "evaluation.json").read_text())
    model = load_classifier(run)
    x, label = everything(load_digits().halves(seed=0)[1], 200)
    for t in (0.0, 0.3, 1.0):
        want = noisy_accuracy(model, x, label, t, 4)
        assert got["figures"][f"accuracy at t = {t:g}"] == want
    assert len(got["figures"]) == 11
    assert got["settings"] == {"num": 200, "seed": 4, "model": model.provenance.sha256}
    assert "200 held-out samples" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--compare"]) == 1
    assert "holds a classifier" in capsys.readouterr().err
    for option in (["--nfe", "4"], ["--solver", "heun"]):
        assert main(["evaluate", str(run), *option]) == 2
        assert f"there is no option {option[0]}" in capsys.readouterr().err
