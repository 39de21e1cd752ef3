"""A finished run that goes on: the steps are those of a longer run, and the learning rate is that of its new length."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tinyrun import newest, outcome, trainer

import pushforward as pf
from pushforward.train.log import Reporter
from pushforward.train.schedules import learning_rate


def run_of(folder: Path, steps: int, resume: bool = False, **options):
    run = trainer(folder, steps=steps, log_every=1, **options)
    run.reporter = Reporter(steps, Console(file=io.StringIO(), width=200))
    run.resume() if resume else run.start()
    return run


def said(run) -> str:
    return run.reporter.console.file.getvalue()


def rates(folder: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_with_a_constant_rate_a_prolonged_run_ends_in_the_bits_of_one_of_that_length(
    tmp_path: Path,
) -> None:
    options = {"decay": "constant", "checkpoint_every": 5, "keep": 9}
    assert run_of(tmp_path / "whole", 20, **options).run()
    first = run_of(tmp_path / "cut", 10, **options)
    assert first.run()
    longer = run_of(tmp_path / "cut", 20, True, **options)
    assert said(longer) == "prolonged from 10 to 20 steps; the learning rate stays as it is\n"
    assert longer.run()
    ends = [outcome(tmp_path / name) for name in ("cut", "whole")]
    # What was written before it was prolonged says 10 steps.
    for end in ends:
        for name in [name for name in end if name.endswith(("state.json", "manifest.json"))]:
            if "00000020" not in name and "00000015" not in name:
                del end[name]
    assert ends[0] == ends[1]


def test_with_a_rate_that_falls_it_is_that_of_the_new_length_from_there_on_and_that_is_said(
    tmp_path: Path,
) -> None:
    assert run_of(tmp_path, 10, decay="cosine", lr=0.5).run()
    longer = run_of(tmp_path, 20, True, decay="cosine", lr=0.5)
    was, now = learning_rate(9, 10, 0.5, 5, "cosine"), learning_rate(10, 20, 0.5, 5, "cosine")
    assert said(longer) == (
        f"prolonged from 10 to 20 steps; from here on it is that of a run of this length: the learning rate goes from "
        f"{was:.2e} to {now:.2e}\n"
    )
    assert longer.run()
    assert rates(tmp_path) == [
        *(learning_rate(step, 10, 0.5, 5, "cosine") for step in range(10)),
        *(learning_rate(step, 20, 0.5, 5, "cosine") for step in range(10, 20)),
    ]
    assert newest(tmp_path, longer.identity)[0].steps == 20


def test_a_prolonged_run_that_is_killed_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        assert run_of(tmp_path / name, 10).run()
    assert run_of(tmp_path / "whole", 21, True).run()
    cut = run_of(tmp_path / "cut", 21, True)
    for _ in range(6):
        cut._one_step()
        if cut.step == 14:
            cut.save()
    again = run_of(tmp_path / "cut", 21, True)
    assert again.step == 14
    assert said(again) == ""
    assert again.run()
    ends = [outcome(tmp_path / name) for name in ("cut", "whole")]
    for name in ("model.safetensors", "model.json", "checkpoints/00000021/state.safetensors"):
        assert ends[0][name] == ends[1][name]


def test_a_run_is_not_cut_short_by_fewer_steps(tmp_path: Path) -> None:
    assert run_of(tmp_path, 10).run()
    with pytest.raises(
        pf.CheckpointError, match="of 10 steps, which can be prolonged and not cut to 9"
    ):
        run_of(tmp_path, 9, True)
    run_of(tmp_path, 10, True)


def test_the_number_of_steps_is_no_part_of_what_makes_a_run(tmp_path: Path) -> None:
    first = trainer(tmp_path, steps=3)
    first.start()
    second = trainer(tmp_path, steps=4)
    second.identity = type(second)(
        second.objective, second.model, second.stream, second.settings, tmp_path,
        {**first.identity, "steps": "4"},
    ).identity  # fmt: skip
    assert second.identity == first.identity
    second.resume()
