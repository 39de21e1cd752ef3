"""The commands of README and guide run as printed, in order, in an empty folder, cut down by PUSHFORWARD_QUICK."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from docpages import blocks
from PIL import Image

PAGES = ("README.md", "docs/guide.md")
# What readers have themselves: their own data, and weights to be fetched.
LACKING = ("my/plate", "pt_inception", "my/stable-diffusion", "runs/imported")


def commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """(place, words) of every command that a page prints, in order."""
    for block in blocks(page, "", "bash"):
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            words = shlex.split(line, comments=True)
            if words:
                yield f"{page}:{number}", words


def ours(page: str) -> list[tuple[str, list[str]]]:
    """Those that start a process of this library."""
    return [(at, words) for at, words in commands(page) if words[0] in ("pushforward", "torchrun")]


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty folder with what a reader has: photographs with captions, of two kinds and several sizes, and arrays."""
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "photographs" / kind).mkdir(parents=True)
        for index in range(60):
            size = tuple(generator.integers(16, 40, 2))
            pixels = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photographs" / kind / f"{index}.png")
            caption = f"one of the {kind}, number {index}"
            (tmp_path / "photographs" / kind / f"{index}.txt").write_text(caption)
    for name in ("picture", "mask", "sketch", "depth"):
        pixels = generator.integers(0, 2, (32, 32)).astype(np.uint8) * 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    waves = generator.normal(size=(400, 1, 32)).astype(np.float32)
    label = np.arange(400) % 2
    np.savez(tmp_path / "signals.npz", x=waves, phase=generator.random(400), label=label)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(400, 3)).astype(np.float32))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_commands_run_as_printed_in_order(page, folder):
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PUSHFORWARD_QUICK": "1", "OMP_NUM_THREADS": "1", "PATH": f"{scripts}:{os.environ['PATH']}",
    }  # fmt: skip
    failed = []
    for place, words in ours(page):
        if any(lacking in word for lacking in LACKING for word in words):
            continue
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode and not is_excused(words, done.stderr):
            failed.append(f"{place}: {shlex.join(words)}\n{(done.stdout + done.stderr)[-800:]}")
    assert not failed, "\n\n".join(failed)


def is_excused(words: list[str], said: str) -> bool:
    """Data that are fetched from elsewhere, on a machine without a network."""
    fetched = "cells" in words or "runs/cells" in words or "fashion" in " ".join(words)
    return (
        fetched and re.search("could not fetch|are not at hand|no run|nothing in", said) is not None
    )
