"""Runs that begin, go on, are prolonged, start from others' weights, and replace others."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes import Array, Toy2D
from pushforward.recipes.config import recipe_of
from pushforward.recipes.flat import OptionError
from pushforward.recipes.run import resume, train
from pushforward.runtime.files import locked

TINY = {
    "width": 8, "batch_size": 8, "steps": 4, "warmup": 1, "device": "cpu", "log_every": 1, "sample_every": 0,
    "checkpoint_every": 2,
}  # fmt: skip


def toy(out: Path, **options: object) -> Toy2D:
    return Toy2D.of(out=out, **TINY | options)


def losses(folder: Path) -> dict[int, float]:
    entries = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {entry["step"]: entry["loss"] for entry in entries}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return pf.load(folder).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class TestProlonged:
    def test_a_finished_run_goes_on_to_more_steps(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(toy(tmp_path / "whole", steps=8, decay="constant"), quiet=True)
        train(toy(tmp_path / "part", decay="constant"), quiet=True)
        words = f"train toy2d --out {tmp_path / 'part'} --resume --steps 8"
        assert main(words.split()) == 0
        said = capsys.readouterr().out
        assert "prolonged from 4 to 8 steps; the learning rate stays as it is" in said
        assert losses(tmp_path / "part") == losses(tmp_path / "whole")
        assert same(weights(tmp_path / "part"), weights(tmp_path / "whole"))
        assert recipe_of(tmp_path / "part").optimiser.steps == 8

    def test_the_schedule_is_that_of_a_run_of_this_length_from_there_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(toy(tmp_path), quiet=True)
        resume(tmp_path, {"steps": 8})
        said = capsys.readouterr().out
        assert (
            "prolonged from 4 to 8 steps; from here on it is that of a run of this length" in said
        )

    def test_a_run_is_not_cut_short(self, tmp_path: Path) -> None:
        train(toy(tmp_path), quiet=True)
        before = snapshot(tmp_path)
        with pytest.raises(pf.CheckpointError, match="can be prolonged and not cut to 3"):
            resume(tmp_path, {"steps": 3}, quiet=True)
        assert snapshot(tmp_path) == before

    def test_a_finished_run_that_is_resumed_as_it_is_stays_as_it_is(self, tmp_path: Path) -> None:
        train(toy(tmp_path), quiet=True)
        before = snapshot(tmp_path)
        assert resume(tmp_path, quiet=True) == (tmp_path, 0)
        after = snapshot(tmp_path)
        assert {file: after[file] for file in before} == before


class TestResumed:
    def test_choices_that_were_recorded_are_known_to_the_command_line(self, tmp_path: Path) -> None:
        options = {"objective": "sf2m", "path": "brownian", "std": 0.5, "coupling": "ot"}
        train(toy(tmp_path, **options), quiet=True)
        # --std is an option of the path of this run; of that of a fresh one it is not.
        words = f"train toy2d --out {tmp_path} --resume --steps 6 --std 0.5"
        assert main(words.split()) == 0
        assert max(losses(tmp_path)) == 6
        assert main(["train", "toy2d", "--out", str(tmp_path / "new"), "--std", "0.5"]) == 2

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"lr": 0.5}, r"--lr 0.5 \(the run has 0.002\)"),
            ({"path": "vp"}, r"--path vp \(the run has condot\)"),
            (
                {"seed": 1, "ema": 0.9},
                r"--seed 1 \(the run has 0\), --ema 0.9 \(the run has 0.99\)",
            ),
        ],
    )
    def test_what_a_run_is_does_not_change(
        self, options: dict[str, object], words: str, tmp_path: Path
    ) -> None:
        train(toy(tmp_path, ema=0.99), quiet=True)
        before = snapshot(tmp_path)
        with pytest.raises(pf.InputError, match=f"and these differ: {words}. Omit them"):
            resume(tmp_path, options, quiet=True)
        assert snapshot(tmp_path) == before

    def test_nor_is_there_an_option_that_the_run_does_not_have(self, tmp_path: Path) -> None:
        train(toy(tmp_path), quiet=True)
        with pytest.raises(OptionError, match="--std"):
            resume(tmp_path, {"std": 1.0}, quiet=True)

    def test_how_the_machine_works_may_change(self, tmp_path: Path) -> None:
        train(toy(tmp_path / "a", decay="constant"), quiet=True)
        train(toy(tmp_path / "b", decay="constant", steps=8, accumulate=2), quiet=True)
        resume(tmp_path / "a", {"accumulate": 2, "steps": 8}, quiet=True)
        assert recipe_of(tmp_path / "a").machine.accumulate == 2
        assert losses(tmp_path / "a")[8] == pytest.approx(losses(tmp_path / "b")[8], rel=1e-5)


class TestFrom:
    def test_a_run_starts_from_the_weights_of_another(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(toy(tmp_path / "first", ema=0.0), quiet=True)
        first = pf.load(tmp_path / "first")
        words = "train toy2d --width 8 --steps 1 --lr 1e-12 --warmup 0 --ema 0 --target moons --device cpu "
        words += f"--from {tmp_path / 'first'} --out {tmp_path / 'second'}"
        assert main(words.split()) == 0
        assert f"from the weights of {tmp_path / 'first'}: " in capsys.readouterr().out
        second = pf.load(tmp_path / "second")
        assert second.provenance.started_from == first.provenance.sha256
        for name, value in first.state_dict().items():
            torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=1e-9)
        recorded = tomllib.loads((tmp_path / "second" / "config.toml").read_text())
        assert "place" not in recorded

    def test_classes_are_taken_by_name(self, tmp_path: Path) -> None:
        numbers = np.random.default_rng(0)
        for name, classes in (("old", ["cat", "dog"]), ("new", ["dog", "emu", "cat"])):
            label = np.arange(60) % len(classes)
            np.savez(
                tmp_path / f"{name}.npz", x=numbers.normal(size=(60, 3)).astype(np.float32), label=label,
                class_names=classes,
            )  # fmt: skip
        same_way = {**TINY, "network": "mlp", "ema": 0.0, "condition_dropout": 0.0}
        old = Array.of(data=tmp_path / "old.npz", out=tmp_path / "old", **same_way)
        train(old, quiet=True)
        begun = Array.of(
            data=tmp_path / "new.npz", out=tmp_path / "new", from_=tmp_path / "old",
            **same_way | {"steps": 1, "lr": 1e-12, "warmup": 0},
        )  # fmt: skip
        train(begun, quiet=True)
        name = next(name for name in weights(tmp_path / "old") if "label" in name)
        theirs, mine = weights(tmp_path / "old")[name], weights(tmp_path / "new")[name]
        torch.testing.assert_close(mine[[2, 0]], theirs[:2], rtol=0, atol=1e-9)

    def test_a_run_that_started_from_another_is_resumed_without_it(self, tmp_path: Path) -> None:
        train(toy(tmp_path / "first"), quiet=True)
        train(toy(tmp_path / "second", from_=tmp_path / "first", target="moons"), quiet=True)
        (tmp_path / "first").rename(tmp_path / "gone")
        resume(tmp_path / "second", {"steps": 6}, quiet=True)
        assert max(losses(tmp_path / "second")) == 6

    def test_nothing_is_begun_if_nothing_fits(self, tmp_path: Path) -> None:
        with pytest.raises(pf.CheckpointError, match=r"there is no folder .*nowhere"):
            train(toy(tmp_path / "new", from_=tmp_path / "nowhere"), quiet=True)
        assert not (tmp_path / "new").exists()


class TestOverwrite:
    def test_a_run_is_replaced(self, tmp_path: Path) -> None:
        train(toy(tmp_path / "a"), quiet=True)
        (tmp_path / "a" / "generated").mkdir()
        (tmp_path / "a" / "generated" / "old").write_text("")
        train(toy(tmp_path / "a", overwrite=True, target="moons", steps=2), quiet=True)
        train(toy(tmp_path / "b", target="moons", steps=2), quiet=True)
        assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
        assert losses(tmp_path / "a") == losses(tmp_path / "b")
        assert not (tmp_path / "a" / "generated").exists()

    def test_a_run_stays_if_there_is_none_to_replace_it(self, tmp_path: Path) -> None:
        train(toy(tmp_path / "a"), quiet=True)
        before = snapshot(tmp_path)
        for options in ({"device": "nowhere"}, {"from_": tmp_path / "nowhere"}):
            with pytest.raises(pf.Error, match="nowhere"):
                train(toy(tmp_path / "a", overwrite=True, **options), quiet=True)
            assert snapshot(tmp_path) == before

    def test_a_run_stays_while_it_trains(self, tmp_path: Path) -> None:
        train(toy(tmp_path / "a"), quiet=True)
        before = snapshot(tmp_path)
        with (
            locked(tmp_path / "a"),
            pytest.raises(pf.CheckpointError, match="another process is training in"),
        ):
            train(toy(tmp_path / "a", overwrite=True), quiet=True)
        assert snapshot(tmp_path) == before

    def test_what_the_new_run_needs_is_not_deleted(self, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        train(toy(folder), quiet=True)
        before = snapshot(tmp_path)
        with pytest.raises(pf.InputError, match=f"--overwrite would delete {folder}, which --from"):
            train(toy(folder, overwrite=True, from_=folder), quiet=True)
        np.save(folder / "x.npy", np.zeros((20, 2), np.float32))
        own = {name: value for name, value in TINY.items() if name != "width"}
        with pytest.raises(pf.InputError, match=r"--overwrite would delete .*x.npy, which --data"):
            train(Array.of(data=folder / "x.npy", out=folder, overwrite=True, **own), quiet=True)
        (folder / "x.npy").unlink()
        assert snapshot(tmp_path) == before

    def test_other_files_are_not_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(pf.InputError, match="already holds files that are not a run"):
            train(toy(tmp_path, overwrite=True), quiet=True)
        assert (tmp_path / "thesis.tex").exists()

    def test_a_link_is_removed_and_not_what_it_leads_to(self, tmp_path: Path) -> None:
        train(toy(tmp_path / "a"), quiet=True)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "kept").write_text("")
        (tmp_path / "a" / "link").symlink_to(tmp_path / "data")
        train(toy(tmp_path / "a", overwrite=True), quiet=True)
        assert not (tmp_path / "a" / "link").exists()
        assert (tmp_path / "data" / "kept").exists()
