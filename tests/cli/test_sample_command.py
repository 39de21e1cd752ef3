"""`pushforward sample`: what is drawn, and the files that it is written to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes import Array
from pushforward.recipes.run import train

TINY = {
    "steps": 1, "batch_size": 8, "warmup": 0, "sample_every": 0, "device": "cpu", "condition_dropout": 0.2,
}  # fmt: skip
NAMES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes with a dose, images of five channels, and points."""
    place = tmp_path_factory.mktemp("runs")
    numbers = np.random.default_rng(0)
    arrays = {
        "images": {
            "image": numbers.uniform(-1, 1, (40, 3, 4, 4)).astype(np.float32), "label": np.arange(40) % 3,
            "class_names": NAMES, "dose": numbers.uniform(size=40).astype(np.float32),
        },
        "deep": {"x": numbers.uniform(-1, 1, (40, 5, 8, 8)).astype(np.float32)},
        "points": {"x": numbers.normal(size=(40, 2)).astype(np.float32)},
    }  # fmt: skip
    for name, data in arrays.items():
        np.savez(place / f"{name}.npz", **data)
        unet = {"network": "unet-XS", "blocks": 1, "multipliers": (1,)}
        network = {"network": "mlp"} if name == "points" else unet
        recipe = Array.of(
            data=place / f"{name}.npz", out=place / name, width=8, **network, **TINY,
            **({"columns": ("dose",)} if name == "images" else {}),
        )  # fmt: skip
        train(recipe, quiet=True)
    return place


def call(*words: object) -> int:
    return main([str(word) for word in words])


def sample(run: Path, out: Path, *words: object) -> int:
    return call("sample", run, "--nfe", 2, "--device", "cpu", "--out", out, *words)


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "samples.npz") as file:
        return dict(file)


def test_formats(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "npz": {"samples.npz"}, "grid": {"samples.png"}, "png": {f"{i:06d}.png" for i in range(5)},
    }  # fmt: skip
    for chosen in (("npz",), ("grid",), ("png",), ("npz", "png"), ("npz", "grid", "png")):
        out = tmp_path / "-".join(chosen)
        assert sample(runs / "images", out, "--num", 5, "--format", *chosen) == 0
        assert {file.name for file in out.iterdir()} == set().union(*(files[c] for c in chosen))
    assert f"{out}/000000.png to 000004.png" in capsys.readouterr().out
    values = arrays(out)["samples"]
    pixels = np.stack([np.asarray(Image.open(out / f"{i:06d}.png")) for i in range(5)])
    spec = pf.load(runs / "images").spec
    low, high = spec.value_range or (-1.0, 1.0)
    expected = np.clip(np.round(255 * (values.astype(float) - low) / (high - low)), 0, 255)
    np.testing.assert_array_equal(pixels, np.moveaxis(expected, 1, 3))


def test_without_a_format_there_is_an_array_and_a_picture(runs: Path, tmp_path: Path) -> None:
    assert sample(runs / "points", tmp_path, "--num", 5) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"samples.npz", "samples.png"}
    settings = json.loads(str(arrays(tmp_path)["settings"]))
    shown = json.loads(Image.open(tmp_path / "samples.png").info["pushforward"])
    assert shown == settings | {"version": pf.__version__}
    assert (settings["num"], settings["nfe"], settings["seed"]) == (5, 2, 0)


@pytest.mark.parametrize(
    ("run", "formats", "words"),
    [
        ("points", ["png"], "--format png is for images of 1, 3 or 4 channels, and these samples are (2,)"),
        ("deep", ["npz", "png"], "--format png is for images of 1, 3 or 4 channels, and these samples are (5, 8, 8)"),
    ],
)  # fmt: skip
def test_what_has_no_picture_is_said_before_it_is_drawn(
    run: str, formats: list[str], words: str, runs: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pf.Model, "forward", None, raising=False)
    assert sample(runs / run, tmp_path / "new", "--format", *formats) == 1
    assert capsys.readouterr().err == f"pushforward: {words}\n"
    assert not (tmp_path / "new").exists()


def test_older_samples_stay_unless_they_may_be_replaced(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(runs / "images", tmp_path, "--num", 3, "--format", "npz", "png") == 0
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for formats, name in ((["npz"], "samples.npz"), (["grid", "png"], "000000.png")):
        capsys.readouterr()
        line = ("--num", 2, "--seed", 1, "--format", *formats)
        assert sample(runs / "images", tmp_path, *line) == 1
        assert capsys.readouterr().err == (
            f"pushforward: {tmp_path / name} is there already: replace it with --overwrite, or choose another --out\n"
        )
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert sample(runs / "images", tmp_path, "--num", 2, "--seed", 1, "--overwrite") == 0
    assert len(arrays(tmp_path)["samples"]) == 2


def test_classes_by_name_or_number(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, line in enumerate((["emu", "cat"], [2, 0], ["emu", 0])):
        assert sample(runs / "images", tmp_path / str(number), "--num", 5, "--label", *line) == 0
        found = arrays(tmp_path / str(number))
        assert found["label"].tolist() == [2, 0, 2, 0, 2]
        assert found["class_names"].tolist() == list(NAMES)
    capsys.readouterr()
    assert sample(runs / "images", tmp_path / "new", "--label", "dgo") == 1
    said = capsys.readouterr().err
    assert "dgo" in said
    assert "dog" in said
    assert sample(runs / "points", tmp_path / "new", "--label", "cat") == 1
    assert "--label needs a model with classes" in capsys.readouterr().err


def test_conditions_by_name(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(runs / "images", tmp_path / "a", "--num", 4, "--condition", "dose=0.25") == 0
    assert arrays(tmp_path / "a")["dose"].tolist() == [0.25] * 4
    # Without one, that of samples of the class.
    assert sample(runs / "images", tmp_path / "b", "--num", 20, "--label", "dog") == 0
    with np.load(runs / "images.npz") as data:
        assert set(arrays(tmp_path / "b")["dose"]) <= set(data["dose"][data["label"] == 1])
    for words, message in {
        "dsoe=1": "did you mean dose?",
        "dose=much": "--condition dose=much: give numbers, as in dose=0.5",
    }.items():
        capsys.readouterr()
        assert sample(runs / "images", tmp_path / "new", "--condition", words) == 1
        assert message in capsys.readouterr().err
    assert sample(runs / "points", tmp_path / "new", "--condition", "dose=1") == 1
    assert "and this one has none" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_samples_are_those_of_generate(runs: Path, tmp_path: Path) -> None:
    line = ("--num", 6, "--label", "dog", "--condition", "dose=0.5", "--seed", 3, "--guidance", 2)
    assert sample(runs / "images", tmp_path, *line, "--solver", "heun") == 0
    expected = pf.generate(
        pf.load(runs / "images"), 6, nfe=2, label="dog", dose=0.5, seed=3, guidance=2.0, solver=pf.solvers.Heun()
    )  # fmt: skip
    np.testing.assert_array_equal(arrays(tmp_path)["samples"], expected.numpy())
