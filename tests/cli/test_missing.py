"""What cannot be done is said before work starts: packages that are missing, guidance without classes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import pushforward as pf
from pushforward.cli import main
from pushforward.evaluate import samples

RUN = "train toy2d --width 8 --steps 1 --batch-size 8 --device cpu --sample-every 0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in the plane, and one of vectors with classes."""
    place = tmp_path_factory.mktemp("place")
    np.savez(
        place / "x.npz",
        x=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
        label=np.arange(40) % 2,
    )
    options = (
        f"--network mlp --width 8 --steps 1 --batch-size 8 --device cpu --data {place / 'x.npz'}"
    )
    assert main([*RUN.split(), "--out", str(place / "plane")]) == 0
    assert main(["train", "array", *options.split(), "--out", str(place / "vectors")]) == 0
    return place


MISSING = {
    "train toy2d --coupling ot --out new": ("ot", "transport"),
    "train toy2d --objective sf2m --coupling conditional-ot --condition horizontal --out new": ("ot", "transport"),
    "train toy2d --coupling ot --steps 1 --out new": ("scipy", "transport"),
    "train toy2d --tensorboard --out new": ("tensorboard", "tensorboard"),
    "train digits --out new": ("sklearn", "demo"),
    "train cells --data cells --out new": ("flowio", "cells"),
    "evaluate plane --transport": ("ot", "transport"),
    "evaluate plane --students plane": ("ot", "transport"),
    "evaluate vectors": ("sklearn", "demo"),
    "evaluate vectors --students vectors": ("sklearn", "demo"),
}  # fmt: skip


@pytest.mark.parametrize("line", MISSING)
def test_a_missing_package_is_said_first_with_how_to_install_it(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, extra = MISSING[line]
    (place / "cells").mkdir(exist_ok=True)
    (place / "cells" / "CFP_A1.fcs").write_bytes(b"FCS3.0")
    monkeypatch.chdir(place)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    if package == "tensorboard":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(samples, "generate_batches", None)
    assert main(line.split()) == 1
    said = capsys.readouterr().err
    assert f"pip install -e '.[{extra}]'" in said
    assert said.count("\n") == 1
    assert not (place / "new").exists()


GUIDED = (
    "sample {}", "evaluate {}", "evaluate {} --compare", "tune {} --nfe 4", "reflow {} --out new",
    "distill {} --out new",
)  # fmt: skip


@pytest.mark.parametrize("line", GUIDED)
def test_guidance_without_classes_is_refused_alike(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(pf.InputError) as error:
        pf.generate(pf.load("plane"), 2, guidance=2.0)
    assert main([*line.format("plane").split(), "--guidance", "2"]) == 1
    assert capsys.readouterr().err == f"pushforward: {error.value}\n"
    assert not (place / "new").exists()
