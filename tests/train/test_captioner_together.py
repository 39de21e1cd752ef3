"""A captioner and a CLIP that several processes train: as one does, and in the same bits after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from zygote import Zygote

from pushforward.saving.folder import load_any

COMMON = (
    "--number", 100, "--batch-size", 9, "--width", 64, "--depth", 1, "--dim", 8, "--text-length", 12, "--warmup", 0,
    "--lr", 0.003, "--decay", "constant", "--log-every", 1, "--device", "cpu",
)  # fmt: skip
RECIPES = {
    "captioner": ("--text-depth", 1, "--looking-depth", 1, "--queries", 4, "--short-steps", 2),
    "clip": (),
}


def losses(folder: Path) -> list[float]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_as_one_and_go_on_in_the_same_bits(
    name: str, zygote: Zygote, tmp_path: Path
) -> None:
    words = ("train", name, *COMMON, *RECIPES[name])
    alone = (*words, "--steps", 4, "--validate-every", 4, "--out", "alone")
    assert zygote.run(*alone, cwd=tmp_path) == 0, zygote.said
    both = (*words, "--steps", 4, "--validate-every", 4, "--out", "both")
    assert zygote.run_group(2, *both, cwd=tmp_path) == [0, 0], zygote.said
    one, two = losses(tmp_path / "alone"), losses(tmp_path / "both")
    assert two == pytest.approx(one, rel=1e-4)
    a, b = (load_any(tmp_path / f).state_dict() for f in ("alone", "both"))
    for key, value in a.items():
        # Adam's first steps take the sign of gradients that are 0 but for rounding.
        assert torch.allclose(value, b[key], atol=4 * 0.003), key
        assert (value - b[key]).abs().mean() < 1e-4, key
    cut = (*words, "--steps", 3, "--validate-every", 4, "--out", "cut")
    assert zygote.run_group(2, *cut, cwd=tmp_path) == [0, 0], zygote.said
    more = ("train", name, "--steps", 4, "--out", "cut", "--resume", "--device", "cpu")
    assert zygote.run_group(2, *more, cwd=tmp_path) == [0, 0], zygote.said
    c = load_any(tmp_path / "cut").state_dict()
    assert all(torch.equal(c[key], b[key]) for key in b)
    assert losses(tmp_path / "cut") == two
