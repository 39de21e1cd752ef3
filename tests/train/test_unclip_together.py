"""The stages of an unCLIP by several processes: as by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from zygote import Zygote

import pushforward as pf

COMMON = (
    "train", "unclip", "--number", 100, "--sizes", 8, 16, "--clip-steps", 2, "--clip-batch", 9, "--clip-width", 64,
    "--clip-depth", 1, "--clip-dim", 8, "--prior-steps", 2, "--prior-batch", 9, "--prior-width", 64, "--prior-depth", 1,
    "--steps", 2, "--batch-size", 5, "--upsampler-steps", 2, "--upsampler-batch", 5, "--upsampler-width", 8,
    "--levels", 8, "--width", 64, "--depth", 1, "--sample-every", 0, "--validate-every", 2, "--precision", "fp32",
    "--lr", 0.003, "--log-every", 1, "--device", "cpu",
)  # fmt: skip


def test_two_processes_train_and_draw_the_chain_as_one(zygote: Zygote, tmp_path: Path) -> None:
    assert zygote.run(*COMMON, "--out", "alone", cwd=tmp_path) == 0, zygote.said
    assert zygote.run_group(2, *COMMON, "--out", "both", cwd=tmp_path) == [0, 0], zygote.said
    for name in ("clip", "prior", "decoder", "upsampler-16"):
        logs = [
            (tmp_path / run / "stages" / name / "log.jsonl").read_text().splitlines()
            for run in ("alone", "both")
        ]
        one, two = ([json.loads(line) for line in log] for log in logs)
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=2e-3)
            assert a.keys() == b.keys()
    a, b = (pf.load(tmp_path / run).state_dict() for run in ("alone", "both"))
    for key, value in a.items():
        # Adam's first steps take the sign of gradients that are 0 but for rounding.
        assert torch.allclose(value.double(), b[key].double(), atol=4 * 0.003), key
    words = (
        "sample",
        "both",
        "--prompt",
        "a red circle",
        "--num",
        3,
        "--nfe",
        2,
        "--format",
        "npz",
    )
    assert zygote.run(*words, "--out", "one", cwd=tmp_path) == 0, zygote.said
    assert zygote.run_group(2, *words, "--out", "two", cwd=tmp_path) == [0, 0], zygote.said
    import numpy as np

    x, y = (np.load(tmp_path / out / "samples.npz")["samples"] for out in ("one", "two"))
    assert np.allclose(x, y, atol=1e-4)
