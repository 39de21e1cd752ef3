"""Rehearsals take a few steps, also of a run that is prolonged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushforward.cli.rehearse import QUICK, rehearsal
from pushforward.cli.train import Train
from pushforward.recipes.config import CONFIG, written
from pushforward.recipes.toy2d import Toy2D


@pytest.mark.parametrize(("asked", "steps"), [(3000, 104), (102, 102)])
def test_a_rehearsal_prolongs_a_run_by_four_steps_at_most(
    asked: int, steps: int, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / CONFIG).write_bytes(written(Toy2D.of(steps=100)))
    command = Train(name="toy2d", options={"resume": True, "out": tmp_path, "steps": asked})
    assert rehearsal(command).options["steps"] == asked
    monkeypatch.setenv(QUICK, "1")
    assert rehearsal(command).options == {"resume": True, "out": tmp_path, "steps": steps}
