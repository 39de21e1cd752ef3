"""A file of lines over several runs: whatever ends a run, all lines are there once, in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pushforward.core.errors import CheckpointError, InputError
from pushforward.runtime.lines import Lines

ABOUT = {"model": "abc", "seed": 0}


def ids(path: Path) -> list[int]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def write(path: Path, upto: int, **options: object) -> None:
    with Lines(path, ABOUT, **options) as lines:
        while lines.next < upto:
            rows = range(lines.next, min(lines.next + 3, upto))
            lines.append({"id": i, "text": f"ä {i}"} for i in rows)


def test_a_file_is_continued_and_a_finished_one_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.jsonl"
    write(path, 4)
    write(path, 10)
    assert ids(path) == list(range(10))
    before = path.read_bytes()
    write(path, 10)
    assert path.read_bytes() == before
    assert "ä 3" in before.decode()
    write(path, 2, overwrite=True)
    assert ids(path) == [0, 1]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_last_line_that_is_cut_off_anywhere_is_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "c.jsonl"
    write(path, 5)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    write(path, 5)
    assert path.read_bytes() == whole


def test_a_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pushforward.runtime.lines import Lines\n"
        "with Lines(Path(sys.argv[1]), {'model': 'abc', 'seed': 0}) as lines:\n"
        "    while True:\n"
        "        lines.append({'id': i, 'text': 'x' * 300} for i in range(lines.next, lines.next + 3))\n"
        "        print(lines.next, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen = int(line)
        if seen >= 30:
            process.send_signal(signal.SIGKILL)
            break
    with process:
        pass
    with Lines(path, ABOUT) as lines:
        assert lines.next >= seen
        assert ids(path) == list(range(lines.next))


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write(path, 3)
    before = path.read_bytes()
    with (
        pytest.raises(InputError, match=r"begun otherwise \(seed\)"),
        Lines(path, ABOUT | {"seed": 1}),
    ):
        pass
    (tmp_path / "c.jsonl.about.json").unlink()
    with (
        pytest.raises(InputError, match=r"was not begun here, for c\.jsonl\.about\.json"),
        Lines(path, ABOUT),
    ):
        pass
    assert path.read_bytes() == before


def test_a_damaged_file_and_one_that_is_being_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write(path, 3)
    lines = path.read_text().splitlines(keepends=True)
    for damaged in ([lines[0], lines[2]], [*lines, lines[2]], [*lines, "nonsense\n"], ["\n"]):
        path.write_text("".join(damaged))
        with pytest.raises(CheckpointError, match="is damaged"), Lines(path, ABOUT):
            pass
    path.write_text("".join(lines))
    with Lines(path, ABOUT), pytest.raises(InputError, match="another process is writing"):
        write(path, 4)
    write(path, 4)
    with pytest.raises(InputError, match="cannot write"), Lines(tmp_path, ABOUT):
        pass


def test_names_that_are_no_unicode_are_escaped(tmp_path: Path) -> None:
    path, name = tmp_path / "c.jsonl", os.fsdecode(b"\xff.png")
    with Lines(path, ABOUT) as lines:
        lines.append([{"id": 0, "file_name": name}, {"id": 1, "file_name": "é"}])
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [entry["file_name"] for entry in found] == [name, "é"]
