"""A server in a process of its own, on a free port of the loopback address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import torch
from talk import start, stop

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install -e '.[serve]'")

import pushforward as pf


class Served(NamedTuple):
    """A running server. url: with its last slash. pid: of the server's process. folder: where it was started."""

    url: str
    pid: int
    folder: Path

    @property
    def live(self) -> str:
        return self.url.replace("http", "ws") + "api/live"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small untrained models: pictures with classes, pictures by prompt, points of the plane."""
    from pushforward.models.text import Words
    from pushforward.nets import Prompted, UViT, WordTransformer

    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)

    def shaken(net: torch.nn.Module) -> torch.nn.Module:
        for p in net.parameters():  # the last layers start at 0, and pictures would stay noise
            p.data += 0.05 * torch.randn_like(p)
        return net

    path = pf.CondOT()
    net = shaken(pf.nets.UNet(1, 16, (1,), 1, classes=3))
    spec = pf.DataSpec(
        (1, 8, 8), "image", value_range=(-1, 1), classes=3, class_names=("a", "b", "c")
    )
    pf.save(pf.Model(net, path, spec=spec), root / "marks")
    words = Words.of(["a red circle", "a blue square"])
    canvas = shaken(
        UViT(3, (8, 16), width=32, depth=1, heads=1, context=32, features={"sentence": 32})
    )
    texts = WordTransformer(words.size, width=32)
    artist = pf.Model(
        Prompted(canvas, {"words": texts}),
        path,
        spec=pf.DataSpec((3, 16, 16), "image", value_range=(-1, 1)),
        encoders={"prompt": words},
    )
    pf.save(artist, root / "scenes")
    plane = pf.DataSpec((2,), "plane", law="moons", extent=6.0)
    pf.save(pf.Model(shaken(pf.nets.MLP(2, 16, 2)), path, spec=plane), root / "points")
    return [root / "marks", root / "scenes", root / "points"]


@pytest.fixture(scope="session")
def served(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("started")
    process, url = start(*map(str, runs), folder=folder)
    try:
        httpx.get(url + "api/catalogue", timeout=120).raise_for_status()
        yield Served(url, process.pid, folder)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with `run:edges` alone: digits that are steered by edges, hardly trained."""
    pytest.importorskip("skimage", reason="edges need scikit-image: pip install -e '.[control]'")
    from pushforward.cli import main

    folder = tmp_path_factory.mktemp("steered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUSHFORWARD_QUICK", "1")
        assert main(["train", "digits", "--out", str(folder / "base")]) == 0
        words = ["train", "control", str(folder / "base"), "--control", "edges"]
        assert main([*words, "--out", str(folder / "edges")]) == 0
    process, url = start(str(folder / "edges"))
    try:
        httpx.get(url + "api/catalogue", timeout=120).raise_for_status()
        yield Served(url, process.pid, folder)
    finally:
        stop(process)
