"""Damaged, foreign and missing runs: one error that names the file or the difference, and nothing changed on disk."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from tinyrun import IDENTITY, trainer, tree

from pushforward.cli import main
from pushforward.core.errors import CheckpointError
from pushforward.train.checkpoint import Checkpoints

NAMES = ("state.safetensors", "state.json", "manifest.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = trainer(folder, steps=8, checkpoint_every=4)
    run.start()
    run.run()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def newest(run: Path) -> Path:
    return run / "checkpoints" / "00000008"


def refusal(run: Path, **settings) -> str:
    """The message with which a run is not resumed, having left everything as it was."""
    before = tree(run)
    with pytest.raises(CheckpointError) as caught:
        trainer(run, **{"steps": 8, "checkpoint_every": 4} | settings).resume()
    assert tree(run) == before
    return str(caught.value)


def flipped(content: bytes, bit: int) -> bytes:
    place = bit // 8
    return content[:place] + bytes([content[place] ^ 1 << bit % 8]) + content[place + 1 :]


def test_an_untouched_run_is_resumed(run: Path) -> None:
    resumed = trainer(run, steps=8, checkpoint_every=4)
    resumed.resume()
    assert resumed.step == 8


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_bit_of_a_checkpoint_is_found(run: Path, name: str) -> None:
    path = newest(run) / name
    content = path.read_bytes()
    bits = range(8 * len(content))
    if len(bits) > 3000:
        bits = random.Random(0).sample(bits, 300)
    checkpoints = Checkpoints(run / "checkpoints")
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(CheckpointError, match="00000008"):
            checkpoints.open(IDENTITY)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_checkpoint_names_the_file_and_what_to_do(run: Path, name: str) -> None:
    path = newest(run) / name
    path.write_bytes(flipped(path.read_bytes(), 800))
    message = refusal(run)
    assert str(newest(run)) in message
    if name != "manifest.json":
        assert f"{path} is damaged: its SHA-256 is not that of the manifest" in message
    assert f"The checkpoint of step 4 is still there: remove {newest(run)} to go on from it" in message  # fmt: skip
    shutil.rmtree(newest(run))
    resumed = trainer(run, steps=8, checkpoint_every=4)
    resumed.resume()
    assert resumed.step == 4


def test_the_advice_for_the_last_checkpoint_left_is_that_there_is_no_other(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "00000004")
    (newest(run) / "state.json").write_bytes(b"{}")
    assert refusal(run).endswith("There is no earlier one")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, -1, None], ids=["empty", "one byte", "cut", "missing"])
def test_a_truncated_or_missing_file_of_a_checkpoint_is_found(
    run: Path, name: str, size: int | None
) -> None:
    path = newest(run) / name
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[: size if size >= 0 else len(content) // 2])
    assert str(newest(run)) in refusal(run)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "1", "null", '{"a": 1}', "\x00"])
def test_a_manifest_that_is_something_else_is_refused(run: Path, content: str) -> None:
    (newest(run) / "manifest.json").write_text(content)
    assert str(newest(run)) in refusal(run)


@pytest.mark.parametrize("what", ["folder", "contents"])
def test_a_run_without_checkpoints_is_not_resumed(run: Path, what: str) -> None:
    shutil.rmtree(run / "checkpoints")
    if what == "contents":
        (run / "checkpoints").mkdir()
    assert refusal(run) == (
        f"there is no checkpoint in {run / 'checkpoints'}, so there is nothing to resume; "
        f"to start anew, choose another --out or remove the run's folder"
    )


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(
    run: Path, tmp_path: Path
) -> None:
    other = trainer(tmp_path / "other", steps=8)
    other.identity = {"recipe": "images", "width": "9"}
    other.start()
    other.run()
    shutil.rmtree(newest(run))
    shutil.copytree(newest(tmp_path / "other"), newest(run))
    assert refusal(run) == (
        f"{newest(run)} belongs to another run (recipe: images there, tiny here; "
        f"seed: None there, 0 here; width: 9 there, None here)"
    )


def test_a_checkpoint_that_does_not_fit_the_model_is_refused_by_name_and_shape(run: Path) -> None:
    before = tree(run)
    mismatched = trainer(run, images=True, steps=8, checkpoint_every=4)
    with pytest.raises(CheckpointError, match=r"does not fit the model .*missing: model\.net\."):  # fmt: skip
        mismatched.resume()
    assert tree(run) == before


def test_a_checkpoint_of_another_format_is_refused(run: Path) -> None:
    import hashlib

    state = json.loads((newest(run) / "state.json").read_text()) | {"format": 7}
    content = json.dumps(state).encode()
    (newest(run) / "state.json").write_bytes(content)
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    manifest["state.json"] = hashlib.sha256(content).hexdigest()
    (newest(run) / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(run) == f"{newest(run)} has format 7; this version reads 2"


@pytest.mark.parametrize("size", [None, 0, 10])
def test_a_log_that_was_cut_or_removed_is_found(run: Path, size: int | None) -> None:
    log = run / "log.jsonl"
    length = log.stat().st_size
    log.unlink() if size is None else log.write_bytes(log.read_bytes()[:size])
    assert refusal(run) == (
        f"{log} has {size or 0} bytes, and had {length} when the checkpoint was written: it was cut or replaced"
    )


def test_a_run_is_not_started_over_another(run: Path) -> None:
    before = tree(run)
    with pytest.raises(CheckpointError, match="already holds a run; go on with --resume"):
        trainer(run, steps=8, checkpoint_every=4).start()
    assert tree(run) == before


def test_checkpoints_that_are_kept_are_the_newest(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", steps=20, checkpoint_every=3, keep=3)
    run.start()
    run.run()
    assert run.checkpoints.steps() == [15, 18, 20]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "00000015", "00000018", "00000020",
    ]  # fmt: skip


# Of the command line: a run that was made by it and then changed by hand.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    options = "--device cpu --width 8 --depth 1 --batch-size 8 --steps 4 --sample-every 0 --out"
    assert main(["train", "toy2d", *options.split(), str(folder / "run")]) == 0
    return folder / "run"


def edit(run: Path, old: str, new: str) -> None:
    config = (run / "config.toml").read_text()
    assert old in config
    (run / "config.toml").write_text(config.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 0.002", "lr = 0.5", "run/checkpoints/00000004 belongs to another run (lr: 0.002 there, 0.5 here)"),
        ('target = "8gaussians"', 'target = "moons"', "run/checkpoints/00000004 belongs to another run (SHA-256 of "),
        ("lr = 0.002", "lr = -1", "run/config.toml: optimiser.lr -1: must be greater than 0"),
        ("lr = 0.002", 'lr = "fast"', "run/config.toml: optimiser.lr fast: must be a valid number, "),
        ("lr = 0.002", "rate = 0.002", "run/config.toml: optimiser.rate 0.002: there is no such option"),
        ("lr = 0.002", "lr = ", "cannot read run/config.toml: Invalid value (at line "),
        ("lr = 0.002", 'out = "/tmp"', "run/config.toml: optimiser.out /tmp: there is no such option"),
        ("[optimiser]", '[place]\ndevice = "cpu"\n[optimiser]', "run/config.toml: options of place "),
        ("seed = 0", "seed = 0\nsteps = 4", "run/config.toml is of an older version of pushforward"),
        ('recipe = "toy2d"', 'recipe = "os.system"', "run holds a run of the recipe os.system, not toy2d"),
        ('recipe = "toy2d"', "", "cannot read run/config.toml: 'recipe'"),
    ],
)  # fmt: skip
def test_a_configuration_edited_by_hand_is_refused_and_the_difference_named(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    message: str,
) -> None:
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    edit(tmp_path / "run", old, new)
    before = tree(tmp_path)
    assert main(["train", "toy2d", "--device", "cpu", "--out", "run", "--resume"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"pushforward: {message}")
    assert said.err.count("\n") == 1
    assert tree(tmp_path) == before


def test_the_checkpoint_of_a_run_with_other_options_is_refused_by_the_command_line(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    options = "--device cpu --width 8 --depth 1 --batch-size 8 --sample-every 0 --steps 5 --seed 3"
    assert main(["train", "toy2d", *options.split(), "--out", "other"]) == 0
    shutil.copytree("other/checkpoints/00000005", "run/checkpoints/00000005")
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(["train", "toy2d", "--device", "cpu", "--out", "run", "--resume"]) == 1
    assert capsys.readouterr().err == (
        "pushforward: run/checkpoints/00000005 belongs to another run (seed: 3 there, 0 here)\n"
    )
    assert tree(tmp_path) == before


def test_other_data_under_the_same_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    np.save("data.npy", pictures)
    options = (
        "--device cpu --width 8 --multipliers 1 --batch-size 4 --steps 2 --sample-every 0 --out run"
    )
    assert main(["train", "images", "--data", "data.npy", *options.split()]) == 0
    pictures[3, 3, 3] ^= 1
    np.save("data.npy", pictures)
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(["train", "images", "--device", "cpu", "--out", "run", "--resume"]) == 1
    said = capsys.readouterr().err
    assert "belongs to another run (SHA-256 of the data: " in said
    assert tree(tmp_path) == before
