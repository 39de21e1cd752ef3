"""Commands speak at once, and say how long they take; on a terminal there is a bar."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import pushforward as pf
from pushforward.cli import COMMANDS, main, read
from pushforward.core.progress import counted, is_watched, tell, watched
from pushforward.runtime import show
from pushforward.runtime.show import Bars, Lines, duration, shown


def lines(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[Lines, io.StringIO]:
    out = io.StringIO()
    monkeypatch.setattr(show.time, "monotonic", lambda: clock[0])
    return Lines(Console(file=out, width=100)), out


def test_a_log_has_a_line_now_and_then_with_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    display, out = lines(clock, monkeypatch)
    for second in range(61):
        clock[0] = 100.0 + second
        display("samples", second, 60)
    assert out.getvalue().splitlines() == [
        "samples: 5%, about 57 s left",
        "samples: 38%, about 37 s left",
        "samples: 72%, about 17 s left",
    ]


def test_a_log_tells_of_the_outermost_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    display, out = lines(clock, monkeypatch)
    for k in range(4):
        display("solvers", k, 4)
        for i in range(10):
            display("samples", i, 10)
            clock[0] += 1
        display("samples", 10, 10)
    display("solvers", 4, 4)
    assert [line.split(":")[0] for line in out.getvalue().splitlines()] == ["samples", "solvers"]
    assert out.getvalue().splitlines()[1] == "solvers: 75%, about 10 s left"


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    display, out = lines(clock, monkeypatch)
    for _ in range(100):
        clock[0] += 1.5
        display("samples", 0, 2)
        clock[0] += 1.0
        display("samples", 1, 2)
        display("samples", 2, 2)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_terminal_has_a_bar_while_there_is_work() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=100))
    bars("samples", 0, 4)
    bars("figures", 0, 0)
    assert bars.progress is not None
    assert [task.total for task in bars.progress.tasks] == [4, None]
    bars("samples", 2, 4)
    assert [task.completed for task in bars.progress.tasks] == [2, 0]
    bars("samples", 4, 4)
    assert [task.description for task in bars.progress.tasks] == ["figures"]
    bars("figures", 1, 1)
    assert bars.progress is None
    assert "samples" in out.getvalue()
    bars("figures", 1, 1)
    bars.close()


def test_a_bar_goes_away_with_an_error() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)

    def fails() -> None:
        with shown(console):
            tell("samples", 1, 4)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not is_watched()
    # The cursor is back.
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l") >= 0


def test_nothing_is_shown_unless_someone_watches() -> None:
    tell("samples", 1, 2)
    told: list[tuple[str, int, int]] = []
    with watched(lambda *what: told.append(what)):
        assert is_watched()
        assert list(counted("letters", "ab")) == ["a", "b"]
    assert told == [("letters", 0, 2), ("letters", 1, 2), ("letters", 2, 2)]
    assert not is_watched()


@pytest.mark.parametrize("solver", [pf.solvers.Euler(), pf.solvers.DormandPrince()])
def test_samples_tell_how_many_are_done_and_are_the_same(solver: pf.Solver) -> None:
    torch.manual_seed(0)
    model = pf.Model(pf.nets.MLP(2, width=8), pf.CondOT(), shape=(2,))
    options = {"solver": solver, "nfe": 5} if solver.calls else {"solver": solver}
    told: list[tuple[str, int, int]] = []
    with watched(lambda *what: told.append(what)):
        found = pf.generate(model, 7, batch_size=4, **options)
    assert torch.equal(found, pf.generate(model, 7, batch_size=4, **options))
    samples = [done for what, done, _ in told if what == "samples"]
    assert samples == sorted(samples)
    assert samples[-1] == next(total for what, _, total in told if what == "samples")
    if not solver.calls:
        shares = [done for what, done, _ in told if what == "trajectories"]
        assert shares.count(1000) == 2
        assert all(0 <= share <= 1000 for share in shares)


WORDS = {
    "train": "toy2d", "sample": "run", "edit": "run --image x.png", "evaluate": "run",
    "caption": "run --image x.png",
    "likelihood": "run", "tune": "run --nfe 4",
    "distill": "run --out there", "reflow": "run --out there", "gallery": "run", "pack": "images --out there",
    "sizes": "", "info": "run", "import": "folder --out there", "export": "run --format diffusers --out there",
    "push": "run owner/name", "serve": "run",
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_takes_its_time_opens_with_a_line(name: str) -> None:
    opening = read([name, *WORDS[name].split()]).opening()
    # The first line of serve is the address of its page.
    assert (opening is None) == (name in ("sizes", "info", "serve"))
    if opening is not None:
        assert WORDS[name].split()[0] in opening or name == "gallery"


@pytest.mark.parametrize("words", ["evaluate run --compare", "evaluate run --students other"])
def test_so_do_other_evaluations(words: str) -> None:
    assert "run" in (read(words.split()).opening() or "")


def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "pushforward", "sample", str(tmp_path / "nowhere")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == f"drawing samples of {tmp_path / 'nowhere'}\n"
        first = time.monotonic() - began
        assert process.wait() == 1
    # Much less than torch takes; a second, on a machine that does nothing else.
    assert first < 0.7 * (time.monotonic() - began) or first < 1


def test_an_evaluation_says_what_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "FIRST", 0.0)
    monkeypatch.setattr(show, "EVERY", 0.0)
    run = str(tmp_path / "run")
    assert main(["train", "toy2d", "--steps", "2", "--width", "8", "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--num", "8", "--nfe", "4"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"judging 8 samples of {run}"
    assert [line.split(",")[0] for line in said[1:4]] == [
        "samples: 25%",
        "samples: 50%",
        "samples: 75%",
    ]
