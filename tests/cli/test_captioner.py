"""A captioner on the command line: trained in stages, judged, writing captions that others learn from."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.cli import main
from pushforward.data.scenes import draw, load_scenes, render
from pushforward.recipes.captioner import Captioner
from pushforward.recipes.config import recipe_of
from pushforward.saving.folder import load_captioner

SMALL = (
    "--number", 100, "--batch-size", 8, "--width", 64, "--depth", 1, "--text-depth", 1, "--looking-depth", 1,
    "--queries", 4, "--dim", 8, "--lr", 0.003, "--warmup", 0, "--text-length", 12, "--validate-every", 0,
)  # fmt: skip


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner") / "run"
    options = ("--steps", 8, "--log-every", 1, "--validate-every", 8, "--out", folder)
    assert call("train", "captioner", *SMALL, *options) == 0
    return folder


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Training.


def test_a_run_learns_and_is_judged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = lines_of(run / "log.jsonl")
    assert entries[-1]["nats"] < entries[0]["nats"]
    assert {"scale", "right", "words", "validation_loss"} <= entries[-1].keys()
    assert call("evaluate", run, "--num", 10, "--decoding", "greedy") == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert {"right", "right_error", "BLEU4", "CIDEr", "text_R@1", "image_R@5"} <= found[
        "figures"
    ].keys()
    assert found["settings"]["decoding"] == {"name": "greedy"}
    assert len((run / "captions.txt").read_text().splitlines()) == 20
    assert "a captioner, which writes what pictures show" in (run / "README.md").read_text()
    assert "CIDEr" in capsys.readouterr().out


def test_short_captions_come_first_and_the_border_is_recorded(run: Path) -> None:
    recipe = recipe_of(run)
    assert tomllib.loads((run / "config.toml").read_text())["short_steps"] == 2
    experiment = recipe.build()
    data = load_scenes(100, 32)
    words = experiment.model.words
    for step in range(5):
        batch = experiment.stream.at(step)
        kind = "short" if step < 2 else "descriptive"
        want = [data.texts[kind][i] for i in batch.ids.tolist()]
        assert list(batch.texts["caption"]) == want
        assert torch.equal(batch.cond["words"].values, words(want)["words"].values)
    # Held out: combinations that are never seen, with descriptive captions.
    assert experiment.held_out.captions == load_scenes(20, 32, 1, "descriptive", True).captions
    assert Captioner.of(steps=4000).settled().short_steps == 1000
    assert Captioner.of(steps=4000, data="emoji").settled().short_steps == 0
    assert Captioner.of(steps=4000, short_steps=7).settled().short_steps == 7


def test_a_run_goes_on_in_the_same_bits_over_the_border_of_its_stages(tmp_path: Path) -> None:
    words = (
        "train",
        "captioner",
        *SMALL,
        "--decay",
        "constant",
        "--short-steps",
        3,
        "--log-every",
        1,
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call(*words, "--steps", 6, "--out", whole) == 0
    assert call(*words, "--steps", 2, "--out", cut) == 0
    for steps in (4, 6):
        assert call("train", "captioner", "--steps", steps, "--out", cut, "--resume") == 0
    a, b = (load_captioner(folder).state_dict() for folder in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert lines_of(whole / "log.jsonl") == lines_of(cut / "log.jsonl")


def test_a_run_on_a_folder_starts_from_one_on_scenes_word_by_word(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "pictures", 8)
    for i in range(8):
        (folder / f"{i}.txt").write_text(f"a red thing of kind {i}")
    out = tmp_path / "new"
    options = ("--size", 32, "--held-out", 0.25, "--steps", 1, "--from", run, "--out", out)
    assert call("train", "captioner", "--data", folder, *SMALL, *options, "--lr", 1e-12) == 0
    old, new = load_captioner(run), load_captioner(out)
    said = capsys.readouterr().out
    assert "3 taken by 3 words" in said  # a, of, red
    assert "fresh rows for" in said
    assert new.words.size != old.words.size
    a, b = (m.net.words.head.weight for m in (old, new))
    same = [(old.words.size - 1, new.words.size - 1)]  # the end
    same += [(old.words.ids[w], new.words.ids[w]) for w in ("a", "of", "red")]
    assert all(torch.allclose(a[i], b[j], atol=1e-9) for i, j in same)
    assert torch.allclose(old.net.pool.queries, new.net.pool.queries, atol=1e-9)


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(render([draw(0, i)[0]], 32)[0]).save(folder / f"{i}.png")
    return folder


# Captions.


def test_captions_of_scenes_and_of_their_files_are_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "scenes.jsonl", tmp_path / "files.jsonl"
    folder = pictures(tmp_path / "pictures", 9)
    # Captions beside some of the pictures are no problem: they are not read.
    (folder / "3.txt").write_text("something")
    assert (
        call("caption", run, "--data", "scenes", "--num", 9, "--batch-size", 4, "--out", out) == 0
    )
    assert call("caption", run, "--data", folder, "--batch-size", 2, "--out", other) == 0
    scenes, files = lines_of(out), lines_of(other)
    assert [line["id"] for line in scenes] == list(range(9))
    assert scenes[4]["file_name"] == "scenes/0/000004"
    assert files[4]["file_name"] == "4.png"
    assert [line["text"] for line in scenes] == [line["text"] for line in files]
    capsys.readouterr()
    assert call("caption", run, "--image", folder / "4.png") == 0
    assert capsys.readouterr().out.splitlines()[-1] == scenes[4]["text"]


@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
def test_captions_that_were_cut_off_go_on_to_the_same_file(
    run: Path, tmp_path: Path, decoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("caption", run, "--data", "scenes", "--batch-size", 4, "--decoding", decoding)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert call(*words, "--num", 11, "--out", whole) == 0
    assert call(*words, "--num", 6, "--out", cut) == 0
    content = cut.read_bytes()
    cut.write_bytes(content[:-9])
    assert call(*words, "--num", 11, "--out", cut) == 0
    assert "has the first 5 of 11" in capsys.readouterr().err
    assert cut.read_bytes() == whole.read_bytes()
    assert call(*words, "--num", 11, "--out", cut) == 0
    assert call(*words, "--num", 3, "--out", cut) == 0
    assert cut.read_bytes() == whole.read_bytes()
    capsys.readouterr()
    assert call(*words, "--num", 11, "--seed", 1, "--out", cut) == 1
    assert "was begun otherwise (seed), and is not continued" in capsys.readouterr().err
    assert call(*words, "--num", 2, "--seed", 1, "--out", cut, "--overwrite") == 0
    assert len(lines_of(cut)) == 2


def test_batches_are_those_of_a_run_that_was_not_interrupted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A product of matrices differs in its last bits by how many rows it has.
    asked = []

    def said(model, x, decoder, *, seed, start, batch_size):
        asked.append((start, len(x)))
        return [f"caption {start + i}" for i in range(len(x))]

    monkeypatch.setattr("pushforward.sampling.captions.captions", said)
    words = ("caption", run, "--data", "scenes", "--batch-size", 4, "--out", tmp_path / "c.jsonl")
    assert call(*words, "--num", 6) == 0
    assert call(*words, "--num", 13) == 0
    assert asked == [(0, 4), (4, 2), (4, 4), (8, 4), (12, 1)]
    texts = [line["text"] for line in lines_of(tmp_path / "c.jsonl")]
    assert texts == [f"caption {i}" for i in range(13)]


def test_pictures_that_cannot_be_read_stop_it_or_are_skipped(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = pictures(tmp_path / "pictures", 5), tmp_path / "c.jsonl"
    (folder / "2.png").write_bytes(b"")
    words = ("caption", run, "--data", folder, "--batch-size", 2, "--out", out)
    assert call(*words) == 1
    assert f"{folder}/2.png " in capsys.readouterr().err
    assert [line["id"] for line in lines_of(out)] == [0, 1]
    assert call(*words, "--on-bad", "skip") == 0
    assert "skipped 2.png" in capsys.readouterr().err
    found = lines_of(out)
    assert [("text" in line, "error" in line) for line in found] == [
        (i != 2, i == 2) for i in range(5)
    ]
    # A folder that has changed meanwhile has other numbers.
    (folder / "1.png").unlink()
    assert call(*words, "--on-bad", "skip") == 1
    assert "begun otherwise (pictures)" in capsys.readouterr().err


def test_arrays_have_numbers_and_no_names(run: Path, tmp_path: Path) -> None:
    x = render([draw(0, i)[0] for i in range(3)], 32)
    np.save(tmp_path / "bytes.npy", x)
    np.save(tmp_path / "floats.npy", (x / 255).astype(np.float32))
    texts = []
    for name in ("bytes", "floats"):
        out = tmp_path / f"{name}.jsonl"
        assert call("caption", run, "--data", tmp_path / f"{name}.npy", "--out", out) == 0
        found = lines_of(out)
        assert [sorted(line) for line in found] == [["id", "text"]] * 3
        texts.append([line["text"] for line in found])
    assert texts[0] == texts[1]


# Training on them.

TINY = (
    "--steps", 1, "--batch-size", 4, "--sample-every", 0, "--validate-every", 0, "--network", "uvit", "--levels", 8,
    "--width", 64, "--depth", 1, "--text-width", 16, "--text-depth", 1, "--precision", "fp32",
)  # fmt: skip


def test_text_to_image_learns_from_the_captions_that_were_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "c.jsonl", tmp_path / "model"
    assert call("caption", run, "--data", "scenes", "--num", 100, "--out", out) == 0
    words = ("train", "text-to-image", "--number", 100, "--captions", "noisy", *TINY)
    given = ("--recaptions", out, "--recaption-share", 0.5)
    assert call(*words, *given, "--out", model) == 0
    experiment = recipe_of(model, resume=True).build()
    batches = [experiment.stream.at(step) for step in range(40)]
    new, old = (
        [line["text"] for line in lines_of(out)],
        load_scenes(100, captioned="noisy").captions,
    )
    pairs = [p for b in batches for p in zip(b.ids.tolist(), b.texts["caption"], strict=True)]
    taken = [line == new[i] for i, line in pairs]
    assert all(line in (new[i], old[i]) for i, line in pairs)
    assert abs(sum(taken) / 160 - 0.5) < 4 * 0.5 / 160**0.5
    # Words of both kinds are known, and captions of the held-out scenes are those that they have.
    encoder = experiment.model.encoders["prompt"]
    assert not encoder.unknown(" ".join([*new, *old]))
    assert call("evaluate", model, "--num", 6, "--nfe", 1) == 0
    # Missing ones are named, before anything begins.
    capsys.readouterr()
    short = tmp_path / "short.jsonl"
    short.write_text("".join(out.read_text().splitlines(keepends=True)[:97]))
    assert call(*words, "--recaptions", short, "--out", tmp_path / "none") == 1
    assert (
        "no caption for 3 of 100 pictures, scenes/0/000097, scenes/0/000098"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()


def test_a_folder_without_captions_of_its_own_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "pictures", 4)
    options = ("--size", 32, "--steps", 1, "--out", tmp_path / "new")
    assert call("train", "captioner", "--data", folder, *SMALL, *options) == 1
    assert "these data have no captions. Put a text file beside each" in capsys.readouterr().err
    # What a captioner wrote is the metadata of a folder as it is.
    assert call("caption", run, "--data", folder, "--out", folder / "metadata.jsonl") == 0
    assert call("train", "text-to-image", "--data", folder, "--held-out", 0.25, "--size", 32, *TINY,
                "--out", tmp_path / "new") == 0  # fmt: skip


def test_what_does_not_fit_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> str:
        assert call(*words) in (1, 2)
        return capsys.readouterr().err

    out = ("--out", tmp_path / "c.jsonl")
    assert "holds a captioner, which draws nothing" in said("sample", run)
    assert "either --image or --data" in said("caption", run)
    assert "either --image or --data" in said(
        "caption", run, "--data", "scenes", "--image", "x.png"
    )
    assert "name a file by --out" in said("caption", run, "--data", "scenes")
    assert "for --data" in said("caption", run, "--image", "x.png", *out)
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    assert f"the picture {empty} " in said("caption", run, "--image", empty)
    assert "the picture nowhere.png" in said("caption", run, "--image", "nowhere.png")
    (tmp_path / "none").mkdir()
    assert "has no images" in said("caption", run, "--data", tmp_path / "none", *out)
    clip = tmp_path / "clip"
    small = (
        "--number",
        100,
        "--batch-size",
        4,
        "--depth",
        1,
        "--width",
        64,
        "--dim",
        8,
        "--steps",
        1,
    )
    assert call("train", "clip", *small, "--validate-every", 0, "--out", clip) == 0
    capsys.readouterr()
    assert "holds a CLIPModel, and no captioner" in said("caption", clip, "--data", "scenes", *out)
    assert "--temperature is an option of --decoding sampled" in said(
        "caption", run, "--data", "scenes", "--temperature", 2, *out
    )
    assert "--short-steps is for scenes" in said(
        "train", "captioner", "--data", "emoji", "--short-steps", 3, "--out", tmp_path / "new"
    )
    assert not (tmp_path / "c.jsonl").exists()
