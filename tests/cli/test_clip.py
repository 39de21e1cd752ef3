"""CLIP on the command line: trained, judged, judging prompts, and what is said where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.saving.folder import load_clip

SMALL = ["--number", "100", "--batch-size", "16", "--depth", "1", "--width", "64", "--dim", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "run"
    words = ["train", "clip", *SMALL, "--steps", "8", "--lr", "0.003", "--log-every", "1"]
    assert main([*words, "--out", str(folder)]) == 0
    return folder


def test_a_run_learns_to_match_and_is_judged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries]
    assert losses[-1] < losses[0]
    assert {"scale", "right"} <= entries[-1].keys()
    assert main(["evaluate", str(run), "--num", "20"]) == 0
    figures = json.loads((run / "evaluation.json").read_text())["figures"]
    assert {"text_R@1", "image_R@5", "zero_shot", "zero_shot_error"} <= figures.keys()
    assert "a CLIP, which compares pictures with texts" in (run / "README.md").read_text()
    assert "text_R@1" in capsys.readouterr().out


def test_a_run_goes_on_where_it_stopped_in_the_same_bits(run: Path, tmp_path: Path) -> None:
    words = ["train", "clip", *SMALL, "--lr", "0.003", "--log-every", "1", "--decay", "constant"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*words, "--steps", "4", "--out", str(whole)]) == 0
    assert main([*words, "--steps", "2", "--out", str(cut)]) == 0
    assert main(["train", "clip", "--steps", "4", "--out", str(cut), "--resume"]) == 0
    a, b = (load_clip(folder).state_dict() for folder in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loaded_clip_has_the_vectors_of_the_one_that_was_saved(run: Path, tmp_path: Path) -> None:
    clip = load_clip(run)
    pf.save(clip, tmp_path)
    again = load_clip(tmp_path)
    x, lines = torch.rand(3, 3, 32, 32) * 2 - 1, ["a red circle", "blue", "zebra"]
    assert torch.equal(clip.images(x), again.images(x))
    assert torch.equal(clip.texts(lines), again.texts(lines))
    assert torch.allclose(clip.images(x).norm(dim=1), torch.ones(3))
    with pytest.raises(pf.Error, match="holds a CLIP, which draws nothing by itself"):
        pf.load(run)


def test_a_clip_judges_the_pictures_of_prompts(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    words = ["train", "text-to-image", "--number", "100", "--steps", "1", "--batch-size", "4"]
    net = [
        "--levels",
        "8",
        "8",
        "--width",
        "64",
        "--depth",
        "1",
        "--sample-every",
        "0",
        "--validate-every",
        "0",
    ]
    assert main([*words, *net, "--out", str(model)]) == 0
    assert main(["evaluate", str(model), "--num", "6", "--nfe", "1", "--clip", str(run)]) == 0
    found = json.loads((model / "evaluation.json").read_text())
    assert {"clip_text_R@1", "clip_text_R@5", "clip_cosine", "seen_mean"} <= found["figures"].keys()
    assert -1 <= found["figures"]["clip_cosine"] <= 1
    assert found["settings"]["clip"] == load_clip(run).provenance.sha256


def test_what_does_not_fit_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert main(list(words)) in (1, 2)
        return capsys.readouterr().err

    assert "draws nothing by itself" in said("sample", str(run))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(4):
        Image.new("RGB", (12, 8), (i, 0, 0)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text("a dark picture")
    out = ["--out", str(tmp_path / "new"), "--steps", "1"]
    assert "CLIP sees squares: give --size" in said(
        "train", "clip", "--data", str(pictures), "--held-out", "0.5", *out
    )
    (pictures / "1.txt").unlink()
    assert "1.png" in said("train", "clip", "--data", str(pictures), "--size", "8", *out)
    assert "patches of 5" in said("train", "clip", "--patch", "5", *SMALL, *out)
    assert not (tmp_path / "new").exists()
