"""From the command line to files: train, sample, evaluate, info, for every recipe and every choice."""

from __future__ import annotations

import itertools
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes import Digits, Toy2D
from pushforward.recipes.choices import GAUSSIAN_PATHS
from pushforward.recipes.run import train as train_recipe
from pushforward.runtime.files import sha256
from pushforward.solvers import Learned
from pushforward.train.settings import Settings
from pushforward.train.trainer import Trainer

TINY = [
    "--device",
    "cpu",
    "--width",
    "8",
    "--batch-size",
    "8",
    "--steps",
    "3",
    "--log-every",
    "2",
    "--sample-every",
    "3",
]


def call(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny run of every recipe: images from a folder by class, grey from .npz, colour from .npy without labels."""
    place = tmp_path_factory.mktemp("runs")
    numbers = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / "data" / name).mkdir(parents=True)
        for i in range(6):
            pixels = numbers.integers(0, 255, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "data" / name / f"{i}.png")
    np.savez(
        place / "grey.npz",
        image=numbers.integers(0, 255, (12, 6, 7), dtype=np.uint8),
        label=np.arange(12) % 3,
    )
    np.save(place / "colour.npy", numbers.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8))
    call("train", "toy2d", "--depth", 1, *TINY, "--out", place / "toy2d")
    call("train", "digits", *TINY, "--out", place / "digits")
    images = ("train", "images", "--multipliers", 1, "--held-out", 0.3, *TINY)
    call(*images, "--data", place / "data", "--size", 8, "--out", place / "folder")
    call(*images, "--data", place / "grey.npz", "--out", place / "npz")
    call(*images, "--data", place / "colour.npy", "--out", place / "npy")
    return place


RUNS = {
    "toy2d": ((2,), None),
    "digits": ((1, 8, 8), 10),
    "folder": ((3, 8, 8), 2),
    "npz": ((1, 6, 7), 3),
    "npy": ((3, 8, 8), None),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_holds_its_options_log_pictures_checkpoints_and_model(
    runs: Path, name: str
) -> None:
    run = runs / name
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["recipe"] == (name if name in ("toy2d", "digits") else "images")
    assert (config["optimiser"]["steps"], config["network"]["width"], config["seed"]) == (3, 8, 0)
    assert "place" not in config
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    # A law keeps no data apart, whose loss could be taken at the last step.
    last = set() if name == "toy2d" else {"validation_loss"}
    for line, more in zip(lines, (set(), last), strict=True):
        assert set(line) == {"step", "loss", "lr", "grad_norm"} | more
    assert len((run / "speed.jsonl").read_text().splitlines()) == 2
    assert [p.name for p in (run / "samples").iterdir()] == ["step-00000003.png"]
    picture = Image.open(run / "samples" / "step-00000003.png")
    assert json.loads(picture.text["pushforward"]) == {
        "version": pf.__version__, "seed": 0, "nfe": 20, "solver": "learned", "grid": "learned",
        "weights": "EMA, in training",
    }  # fmt: skip
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["00000000", "00000003"]
    shape, classes = RUNS[name]
    model = pf.load(run)
    assert (model.shape, model.classes) == (shape, classes)
    assert model.provenance.step == 3
    assert model.provenance.sha256 == sha256(run / "model.safetensors")
    assert not list(run.rglob(".*"))


@pytest.mark.parametrize("name", RUNS)
def test_samples_come_with_how_they_were_made_and_are_the_same_bytes_again(
    runs: Path, name: str, tmp_path: Path
) -> None:
    options = ["--nfe", "4", "--num", "12", "--seed", "5", "--device", "cpu", "--out"]
    for out in ("a", "b"):
        call("sample", runs / name, *options, tmp_path / out)
    for file in ("samples.png", "samples.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    shape, classes = RUNS[name]
    arrays = np.load(tmp_path / "a" / "samples.npz")
    assert arrays["samples"].shape == (12, *shape)
    assert np.isfinite(arrays["samples"]).all()
    want = {
        "solver": "learned", "grid": "learned", "nfe": 4, "guidance": None, "seed": 5, "num": 12,
        "model": sha256(runs / name / "model.safetensors"), "label": list(range(classes or 0)),
    }  # fmt: skip
    assert json.loads(str(arrays["settings"])) == want
    picture = Image.open(tmp_path / "a" / "samples.png")
    assert json.loads(picture.text["pushforward"]) == {"version": pf.__version__, **want}
    assert ("label" in arrays) == (classes is not None)
    if classes is not None:
        assert arrays["label"].tolist() == [i % classes for i in range(12)]
    label = None if classes is None else torch.from_numpy(arrays["label"])
    again = pf.generate(pf.load(runs / name), 12, nfe=4, seed=5, label=label)
    assert np.array_equal(again.numpy(), arrays["samples"])


@pytest.mark.parametrize("name", ["toy2d", "digits"])
def test_samples_on_the_command_line_do_not_depend_on_the_batch_size(
    runs: Path, name: str, tmp_path: Path
) -> None:
    found = []
    for size in (256, 5, 1):
        line = ("sample", runs / name, "--nfe", 6, "--num", 11, "--batch-size", size)
        call(*line, "--overwrite", "--out", tmp_path)
        found.append(np.load(tmp_path / "samples.npz")["samples"])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-5)


def test_labels_and_guidance_and_solver_of_the_command_line_are_those_of_generate(
    runs: Path, tmp_path: Path
) -> None:
    options = "--nfe 6 --solver euler-maruyama --guidance 2.5 --label 7 -1 2 --num 5 --seed 3"
    call("sample", runs / "digits", *options.split(), "--out", tmp_path)
    arrays = np.load(tmp_path / "samples.npz")
    assert arrays["label"].tolist() == [7, -1, 2, 7, -1]
    model = pf.load(runs / "digits")
    want = pf.generate(
        model, 5, solver=pf.solvers.EulerMaruyama(model.path.sigma), nfe=6, guidance=2.5,
        label=[7, -1, 2, 7, -1], seed=3,
    )  # fmt: skip
    assert np.array_equal(arrays["samples"], want.numpy())
    assert json.loads(str(arrays["settings"]))["label"] == [7, -1, 2]


def test_solver_and_grid_by_name_are_those_of_the_tables_and_are_written_down(
    runs: Path, tmp_path: Path
) -> None:
    model = pf.load(runs / "toy2d")
    for solver, grid in (("heun", "karras"), ("abm3", "auto"), ("auto", "log-snr")):
        line = f"--nfe 6 --num 5 --solver {solver} --grid {grid}"
        call("sample", runs / "toy2d", *line.split(), "--overwrite", "--out", tmp_path)
        arrays = np.load(tmp_path / "samples.npz")
        settings = json.loads(str(arrays["settings"]))
        method, times = {
            "heun": (pf.solvers.Heun(), pf.times.karras(3, model.path)),
            "abm3": (Learned(None), Learned(None).grid(6, model.path)),
            "auto": (Learned(None), pf.times.log_snr(6, model.path)),
        }[solver]
        want = pf.generate(model, 5, solver=method, grid=times)
        assert np.array_equal(arrays["samples"], want.numpy())
        names = {
            "heun": ("heun", "karras"),
            "abm3": ("abm3", "angle"),
            "auto": ("abm3", "log-snr"),
        }
        assert (settings["solver"], settings["grid"]) == names[solver]


def test_an_adaptive_solver_has_neither_calls_nor_times(runs: Path, tmp_path: Path) -> None:
    call("sample", runs / "toy2d", "--num", 5, "--solver", "dopri5", "--out", tmp_path)
    settings = json.loads(str(np.load(tmp_path / "samples.npz")["settings"]))
    assert (settings["solver"], settings["grid"], settings["nfe"]) == ("dopri5", None, None)


@pytest.mark.parametrize(("name", "num"), [("toy2d", 4000), ("digits", 80), ("npy", 64)])
def test_samples_are_counted_by_kind_where_no_number_is_given(
    runs: Path, name: str, num: int
) -> None:
    call("sample", runs / name, "--nfe", 2)
    arrays = np.load(runs / name / "generated" / "samples.npz")
    shutil.rmtree(runs / name / "generated")
    assert len(arrays["samples"]) == num


@pytest.mark.parametrize("name", RUNS)
def test_evaluation_writes_its_figures_with_how_they_were_made(
    runs: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call("evaluate", runs / name, "--nfe", 4, "--num", 40, "--seed", 2)
    report = json.loads((runs / name / "evaluation.json").read_text())
    assert report["settings"] == {
        "solver": "learned", "grid": "learned", "nfe": 4, "guidance": None, "seed": 2, "num": 40,
        "model": sha256(runs / name / "model.safetensors"),
    }  # fmt: skip
    keys = {"energy", "energy_error", "energy_law", "log_density", "log_density_law", "outside"}
    if name != "toy2d":
        keys = {"frechet", "frechet_train", "frechet_ratio"}
        keys |= set() if name == "npy" else {"classifier_accuracy", "agreement"}
        keys |= set() if name == "digits" else {"frechet_ratio_equal"}  # 40 samples are too few
    assert set(report["figures"]) == keys
    said = capsys.readouterr().out
    assert all(key in said for key in keys)
    first = (runs / name / "evaluation.json").read_bytes()
    call("evaluate", runs / name, "--nfe", 4, "--num", 40, "--seed", 2)
    assert (runs / name / "evaluation.json").read_bytes() == first


def test_info_says_what_is_in_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    call("info", runs / "digits")
    said = capsys.readouterr().out
    loss = json.loads((runs / "digits" / "log.jsonl").read_text().splitlines()[-1])["loss"]
    digest = sha256(runs / "digits" / "model.safetensors")[:16]
    for part in (
        "UNet",
        "CondOT",
        "velocity",
        "8 x 8, 1 channel",
        "10",
        "digits",
        "3 of 3 steps",
        f"{loss:.5f}",
        f"EMA at step 3, SHA-256 {digest}",
    ):
        assert part in said


def test_a_folder_with_a_model_alone_can_be_sampled_and_looked_at(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(runs / "digits" / name, tmp_path / name)
    call("sample", tmp_path, "--nfe", 2, "--num", 2)
    call("info", tmp_path)
    assert main(["evaluate", str(tmp_path), "--nfe", "2"]) == 1
    assert "is not a run folder: it has no config.toml" in capsys.readouterr().err


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name) % 1000)
        call("train", "digits", *TINY, "--seed", seed, "--out", tmp_path / name)
    for file in ("model.safetensors", "checkpoints/00000000/state.safetensors"):
        a, b, c = (sha256(tmp_path / name / file) for name in "abc")
        assert a == b != c


def test_the_number_of_the_stopping_signal_is_what_training_returns(tmp_path: Path) -> None:
    folder, number = train_recipe(
        Toy2D.of(out=tmp_path / "run", device="cpu", width=8, depth=1, steps=2, sample_every=0),
        quiet=True,
    )
    assert (folder, number) == (tmp_path / "run", 0)


CHOICES = [
    *itertools.product(GAUSSIAN_PATHS, ("velocity", "data", "noise", "score", "v", "edm")),
    ("tube", "velocity"),
    ("smooth-bridge", "velocity"),
]


@pytest.mark.parametrize(("path", "prediction"), CHOICES)
def test_every_path_and_prediction_trains_and_samples_without_a_nan(
    path: str, prediction: str, tmp_path: Path
) -> None:
    recipe = Toy2D.of(
        path=path, prediction=prediction, batch_size=64, width=16, depth=1, device="cpu"
    )
    experiment = recipe.build()
    settings = Settings(steps=5, warmup=0, sample_every=0)
    trainer = Trainer(experiment.objective, experiment.model, experiment.stream, settings, tmp_path)
    trainer.start()
    assert trainer.run()
    assert all(bool(p.isfinite().all()) for p in experiment.model.parameters())
    assert any(bool((p != 0).any()) for p in experiment.model.net.conv_out.parameters())
    model = pf.load(tmp_path)
    assert model.prediction == ("data" if prediction == "edm" else prediction)
    assert (model.preconditioning is not None) == (prediction == "edm")
    for solver in (pf.solvers.Euler(), pf.solvers.Heun()):
        x = pf.generate(model, 16, solver=solver, nfe=12)
        assert bool(x.isfinite().all())


@pytest.mark.parametrize("measure", ["velocity", "data", "noise", "v"])
def test_a_loss_measured_in_another_prediction_trains(measure: str, tmp_path: Path) -> None:
    call("train", "toy2d", "--depth", 1, *TINY, "--sample-every", 0, "--path", "cosine", "--prediction", "v",
         "--loss-in", measure, "--out", tmp_path / "run")  # fmt: skip


def test_a_recipe_of_digits_holds_half_of_them_apart() -> None:
    experiment = Digits.of(device="cpu", width=8).build()
    assert (len(experiment.data), len(experiment.held_out)) == (898, 899)
    assert experiment.objective.condition_dropout == 0.1
    assert experiment.stream.data is experiment.data
