"""What a user may ask of a model that it was not trained for, and what data may lack: one clear sentence each."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.core.conditions import Tokens
from pushforward.core.errors import DataError
from pushforward.data import load_folder

TINY = (
    "--number", 100, "--steps", 2, "--batch-size", 4, "--warmup", 0, "--sample-every", 0, "--validate-every", 0,
    "--device", "cpu", "--precision", "fp32", "--text-width", 16, "--text-depth", 1, "--network", "uvit", "--levels", 8,
    "--width", 64, "--depth", 1,
)  # fmt: skip


def call(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "run"
    assert call("train", "text-to-image", *TINY, "--condition-dropout", 0, "--out", folder) == 0
    return folder


def test_a_model_that_always_had_its_conditions_is_not_guided(run, tmp_path, capsys):
    assert pf.load(run).sampling.condition_dropout == 0
    ask = (
        "sample",
        run,
        "--prompt",
        "a red circle",
        "--num",
        1,
        "--nfe",
        1,
        "--out",
        tmp_path / "x",
    )
    assert call(*ask, "--guidance", 2) == 1
    assert "this one was trained with all of them" in capsys.readouterr().err
    assert call("tune", run, "--nfe", 3, "--guidance", 2) == 1
    assert "--condition-dropout 0.1" in capsys.readouterr().err
    # Away from other words it may be, and without guidance nothing changes.
    assert call(*ask, "--guidance", 2, "--negative", "a cross") == 0
    assert call(*ask, "--guidance", 1, "--overwrite") == 0


def test_words_that_no_vocabulary_has_are_said(run):
    model = pf.load(run)
    size = model.net.texts["words"].words.num_embeddings
    for bad in (-1, size):
        words = Tokens(torch.tensor([[2, bad]]), torch.ones(1, 2, dtype=torch.bool))
        with pytest.raises(pf.InputError, match=rf"ids 0 to {size - 1}, and these go from"):
            pf.generate(model, 1, nfe=1, words=words)
    # Padding may hold anything.
    words = Tokens(torch.tensor([[2, size]]), torch.tensor([[True, False]]))
    assert pf.generate(model, 1, nfe=1, words=words).isfinite().all()


def test_fewer_prompts_than_tasks_are_refused(run, capsys):
    assert call("evaluate", run, "--num", 5, "--nfe", 1) == 1
    assert "5 prompts leave some of the 6 tasks out of their mean" in capsys.readouterr().err


def test_an_empty_prompt_is_said(run, tmp_path, capsys):
    assert call("sample", run, "--prompt", " ", "--nfe", 1, "--out", tmp_path / "x") == 1
    assert "a prompt is empty" in capsys.readouterr().err


def picture(path, colour=0):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16), (colour, 0, 0)).save(path)


def test_captions_that_are_numbers_missing_or_empty_are_said(tmp_path, capsys):
    for i in range(12):
        picture(tmp_path / "data" / f"{i}.png", i)
    lines = [json.dumps({"file_name": f"{i}.png", "caption": i}) for i in range(12)]
    table = tmp_path / "data" / "metadata.jsonl"
    table.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"line 1: its caption is 0, not a string"):
        load_folder(tmp_path / "data")
    train = (
        "train",
        "text-to-image",
        "--data",
        tmp_path / "data",
        *TINY[2:],
        "--out",
        tmp_path / "run",
    )
    assert call(*train) == 1
    assert "its caption is 0, not a string" in capsys.readouterr().err
    table.unlink()
    assert call(*train) == 1
    assert (
        "these data have no captions. Put a text file beside each picture"
        in capsys.readouterr().err
    )
    for i in range(12):
        (tmp_path / "data" / f"{i}.txt").write_text("" if i == 3 else "a picture")
    assert call(*train) == 1
    assert "1 of 12 captions are empty, rows" in capsys.readouterr().err
    (tmp_path / "data" / "3.txt").write_text(" ".join(["long"] * 70))
    assert call(*train) == 0
    assert (
        "1 of 11 captions are longer than Words takes, and cut between words"
        in capsys.readouterr().err
    )


def emoji(path, n=40):
    numbers = np.random.default_rng(0)
    np.savez(
        path, image=numbers.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8),
        caption=[f"face number {i}" for i in range(n)], category=["A", "B"] * (n // 2),
    )  # fmt: skip
    return path


def test_a_model_of_emoji_names_their_source(tmp_path):
    train = (
        "train",
        "text-to-image",
        "--data",
        "emoji",
        "--package",
        emoji(tmp_path / "e.npz"),
        "--size",
        16,
    )
    assert call(*train, "--held-out", 0.3, *TINY[2:], "--out", tmp_path / "run") == 0
    assert "Twemoji" in pf.load(tmp_path / "run").spec.credit
    assert "licensed under CC-BY 4.0" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("data", ["emoji", "digits", "folder"])
def test_autoencoders_of_all_kinds_of_data_carry_models_of_their_latents(
    data, tmp_path, monkeypatch
):
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    ae, out = tmp_path / "ae", tmp_path / "model"
    common = ("--steps", 2, "--batch-size", 4, "--device", "cpu")
    given = ("--data", data)
    if data == "emoji":
        given += ("--package", emoji(tmp_path / "e.npz"), "--size", 16)
    numbers = np.random.default_rng(0)
    for i in range(40):
        place = tmp_path / "pictures" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels if data != "digits" else pixels[:8, :8, 0]).save(place / f"{i}.png")
    if data == "folder":
        given = ("--data", tmp_path / "pictures")
    assert (
        call(
            "train",
            "autoencoder",
            *given,
            *common,
            "--factor",
            2,
            "--width",
            8,
            "--held-out",
            0.2,
            "--out",
            ae,
        )
        == 0
    )
    assert call("evaluate", ae, "--num", 4) == 0
    if data == "emoji":
        assert "Twemoji" in (ae / "README.md").read_text()
    channels = ("--channels", 1) if data == "digits" else ()
    small = (
        "--network",
        "uvit",
        "--levels",
        8,
        "--width",
        64,
        "--depth",
        1,
        "--precision",
        "fp32",
        "--sample-every",
        2,
    )
    train = (
        "train",
        "images",
        "--data",
        tmp_path / "pictures",
        *channels,
        "--latents",
        ae,
        *small,
        *common,
    )
    assert call(*train, "--held-out", 0.3, "--out", out) == 0
    model = pf.load(out)
    assert model.shape == (4, *(side // 2 for side in model.spec.shape[1:]))
    assert call("sample", out, "--label", "a", "--num", 2, "--nfe", 2) == 0
    with np.load(out / "generated" / "samples.npz") as file:
        assert file["samples"].shape == (2, *model.spec.shape)
    assert call("evaluate", out, "--num", 8, "--nfe", 1) == 0
