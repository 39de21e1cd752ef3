"""Folders of pictures of several shapes: trained on, resumed, judged and drawn by shape."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes import Images, TextToImage

QUICK = (
    "--batch-size", 4, "--warmup", 0, "--sample-every", 0, "--device", "cpu", "--precision", "fp32",
    "--decay", "constant", "--log-every", 1, "--size", 16, "--buckets", 3,
)  # fmt: skip
WORDS = ("--text-width", 16, "--text-depth", 1)
NETWORKS = {
    "uvit": ("--levels", 8, "--width", 64, "--depth", 1),
    "mmdit": ("--patch", 2, "--width", 64, "--depth", 1),
    "dit-nano": ("--patch", 4),
    "unet": ("--width", 8, "--multipliers", 1, 2),
}


def call(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mixed") / "data"
    numbers = np.random.default_rng(0)
    for i in range(48):
        height, width = ((20, 20), (16, 34), (30, 17))[(0, 1, 0, 2)[i % 4]]
        kind = place / ("cats", "dogs")[i % 2]
        kind.mkdir(parents=True, exist_ok=True)
        pixels = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(kind / f"{i}.png")
        (kind / f"{i}.txt").write_text(f"a {kind.name[:-1]} number {i}")
    return place


def same(a, b):
    one, two = (pf.load(folder).state_dict() for folder in (a, b))
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_trained_on_pictures_by_shape_and_draws_each(network, folder, tmp_path):
    out = tmp_path / "run"
    train = ("train", "text-to-image", "--data", folder, *QUICK, *WORDS, "--network", network)
    assert call(*train, *NETWORKS[network], "--steps", 6, "--out", out) == 0
    model = pf.load(out)
    assert model.shape == (3, 16, 16)
    assert model.spec.frames[0] == (16, 16)
    assert {h > w for h, w in model.spec.frames[1:]} == {True, False}
    for height, width in model.spec.frames:
        size = f"{width}x{height}"
        asked = ("--prompt", "a cat", "--num", 1, "--nfe", 2, "--size", size, "--format", "png")
        assert call("sample", out, *asked, "--overwrite") == 0
        assert Image.open(out / "generated" / "000000.png").size == (width, height)


def test_a_run_by_shape_goes_on_bit_for_bit_with_any_number_of_threads(folder, tmp_path):
    train = (
        "train",
        "text-to-image",
        "--data",
        folder,
        *QUICK,
        *WORDS,
        "--network",
        "uvit",
        *NETWORKS["uvit"],
    )
    assert call(*train, "--steps", 8, "--out", tmp_path / "whole") == 0
    assert call(*train, "--steps", 8, "--workers", 2, "--out", tmp_path / "threads") == 0
    assert call(*train, "--steps", 3, "--out", tmp_path / "parts") == 0
    assert (
        call(
            "train",
            "text-to-image",
            "--out",
            tmp_path / "parts",
            "--resume",
            "--steps",
            8,
            "--workers",
            2,
        )
        == 0
    )
    assert same(tmp_path / "whole", tmp_path / "threads")
    assert same(tmp_path / "whole", tmp_path / "parts")
    losses = [
        json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]
    # Of all shapes, in the mean over held-out pictures.
    assert losses[-1]["validation_loss"] > 0


def test_two_processes_take_the_same_steps_as_one(folder, tmp_path):
    train = (
        "train",
        "images",
        "--data",
        folder,
        *QUICK,
        "--network",
        "dit-nano",
        "--patch",
        4,
        "--steps",
        6,
    )
    assert call(*train, "--out", tmp_path / "one") == 0
    words = [str(word) for word in (*train, "--out", tmp_path / "two")]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
    ]
    done = subprocess.run(
        [*command, "pushforward", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (pf.load(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert logs[0][-1]["validation_loss"] == pytest.approx(logs[1][-1]["validation_loss"], rel=1e-4)


def test_classes_are_those_of_the_whole_and_pictures_of_all_shapes_are_drawn_and_judged(
    folder, tmp_path
):
    out = tmp_path / "run"
    train = (
        "train",
        "images",
        "--data",
        folder,
        *QUICK,
        "--held-out",
        0.4,
        "--network",
        "uvit",
        *NETWORKS["uvit"],
    )
    assert call(*train, "--steps", 2, "--sample-every", 2, "--out", out) == 0
    model = pf.load(out)
    assert model.spec.class_names == ("cats", "dogs")
    # A page of three shapes has cells as wide and as high as any of them.
    assert (out / "samples" / "step-00000002.png").is_file()
    assert call("evaluate", out, "--num", 40, "--nfe", 1) == 0
    figures = json.loads((out / "evaluation.json").read_text())["figures"]
    for height, width in model.spec.frames:
        assert figures[f"frechet_{width}x{height}"] > 0
    card = (out / "README.md").read_text()
    for height, width in model.spec.frames:
        assert f"{width} x {height}" in card


def test_latents_of_all_shapes_are_normalised_together(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    ae = tmp_path / "ae"
    first = ("--number", 100, "--steps", 2, "--batch-size", 4, "--device", "cpu", "--width", 8)
    assert call("train", "autoencoder", *first, "--factor", 2, "--out", ae) == 0
    options = {
        "data": str(folder),
        "size": 16,
        "buckets": 3,
        "batch_size": 4,
        "network": "dit-nano",
        "latents": ae,
        "patch": 2,
    }
    experiment = TextToImage.of(**options, out=tmp_path / "x", device="cpu").build()
    shapes, values = set(), []
    for frame in experiment.frames:
        assert frame.train.shape[1] == 2 * frame.shape[1]
        assert frame.train.shape[1] % 4 == 0
    for step in range(40):
        x = experiment.stream.at(step).x1
        shapes.add(tuple(x.shape[1:]))
    parts = experiment.stream.data
    values = torch.cat([p[torch.arange(len(p))].x1.movedim(1, 0).flatten(1) for p in parts], 1)
    assert shapes == {frame.shape for frame in experiment.frames}
    assert torch.allclose(values.mean(1), torch.zeros(4), atol=1e-4)
    assert torch.allclose(values.std(1), torch.ones(4), atol=1e-3)


def test_what_has_no_shapes_to_be_sorted_by_is_refused(tmp_path, capsys):
    assert call("train", "text-to-image", "--buckets", 3, "--out", tmp_path / "x") == 1
    assert "scenes are pictures of one size: omit --buckets" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 8, 8), np.uint8))
    assert (
        call(
            "train", "images", "--data", tmp_path / "x.npz", "--buckets", 3, "--out", tmp_path / "y"
        )
        == 1
    )
    assert "whose images have one size" in capsys.readouterr().err


def test_one_bucket_is_the_square_of_before(folder, tmp_path):
    options = {"data": folder, "size": 16, "batch_size": 4, "device": "cpu", "out": tmp_path / "x"}
    plain = Images.of(**options).build()
    assert not plain.frames
    assert plain.stream.at(0).x1.shape[1:] == (3, 16, 16)


def test_times_are_shifted_once_for_a_size_that_training_never_had(folder, tmp_path, capsys):
    out = tmp_path / "run"
    train = ("train", "images", "--data", folder, *QUICK, "--network", "dit-nano", "--patch", 2)
    assert call(*train, "--steps", 1, "--out", out) == 0
    width, height = 24, 48  # 4.5 times the pixels of 16 x 16
    capsys.readouterr()
    for words, shift in (
        (("--size", f"{width}x{height}"), 4.5**0.5), (("--size", "12x22"), 1), (("--shift", 2.0), 2),
        (("--size", f"{width}x{height}", "--grid", "uniform"), 1), ((), 1),
    ):  # fmt: skip
        assert call("sample", out, *words, "--num", 2, "--nfe", 4, "--overwrite") == 0
        said = capsys.readouterr()
        assert ("times the noise" in said.err) == (shift != 1), words
        with np.load(out / "generated" / "samples.npz") as file:
            samples = torch.from_numpy(file["samples"])
        model = pf.load(out)
        shape = samples.shape[1:]
        label = [0, 1]
        grid = None if shift == 1 else pf.times.shifted(4, shift)
        if "--grid" in words:
            grid = pf.times.uniform(4)
        nfe = 4 if grid is None else None
        truth = pf.generate(model, 2, shape=shape, grid=grid, nfe=nfe, label=label)
        assert torch.allclose(samples, truth, atol=1e-4), words


def test_models_of_captions_by_shape_are_judged_by_shape_and_steered_in_squares(folder, tmp_path):
    out, control = tmp_path / "run", tmp_path / "control"
    train = ("train", "text-to-image", "--data", folder, *QUICK, *WORDS, "--held-out", 0.4)
    assert call(*train, "--network", "uvit", *NETWORKS["uvit"], "--steps", 1, "--out", out) == 0
    assert call("evaluate", out, "--num", 40, "--nfe", 1) == 0
    figures = json.loads((out / "evaluation.json").read_text())["figures"]
    frames = pf.load(out).spec.frames
    assert {f"frechet_{width}x{height}" for height, width in frames} <= figures.keys()
    own = ("--steps", 1, "--batch-size", 4, "--device", "cpu", "--sample-every", 1)
    assert call("train", "control", out, *own, "--out", control) == 0
    assert call("sample", control, "--num", 2, "--nfe", 1) == 0
    with np.load(control / "generated" / "samples.npz") as file:
        assert file["samples"].shape == (2, 3, 16, 16)
