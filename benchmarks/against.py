"""Compare this tree with another one: the numbers of every recipe, and speed in alternating turns.

    python -m benchmarks.against OLD_TREE                         # numbers and speed
    python -m benchmarks.against OLD_TREE --demo                  # and `make demo`, once in each tree
    python -m benchmarks.against OLD_TREE --only digits reflow    # some recipes, no speed

OLD_TREE is a checkout (or a git worktree) of another commit. Each recipe trains 50 steps from seed 0 on one thread, in
a process that imports one of the trees; the loss log and 64 samples are compared bit for bit. Speed is measured by two
processes, one for each tree, that take turns. Runs of a tree are kept in --keep, so that a second call trains the
old tree no more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.recipes import CASES, STEPS, Case
from benchmarks.turns import ratios

HERE = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
SAMPLES = 64
# Words that were renamed: how an older tree spells those of this one.
RENAMED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--condition-dropout",): ("--drop",),
    ("--prediction", "edm"): ("--edm",),
    ("superresolution", "--batch-size", "32", "--coupling"): (
        "superresolution", "--batch-size", "32", "--unpaired", "--coupling",
    ),
}  # fmt: skip


def example_data(folder: Path) -> None:
    """Two classes of 30 images in folders, 80 images in an array, and two sets of vectors."""
    from PIL import Image

    if (folder / "b.npy").is_file():
        return
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16] / 15.0
    for number, (kind, slope) in enumerate({"left": rows, "right": columns}.items()):
        (folder / "folder" / kind).mkdir(parents=True, exist_ok=True)
        for index in range(30):
            colour = generator.uniform(0.3, 1, 3)
            noise = generator.normal(0, 0.05, (16, 16, 3))
            pixels = np.clip(slope[..., None] * colour + noise + 0.1 * number, 0, 1)
            image = Image.fromarray((255 * pixels).astype(np.uint8))
            image.save(folder / "folder" / kind / f"{index:02d}.png")
    np.save(folder / "images.npy", generator.integers(0, 256, (80, 3, 16, 16)).astype(np.uint8))
    np.save(folder / "a.npy", generator.normal(0, 1, (400, 3)).astype(np.float32))
    np.save(folder / "b.npy", generator.normal(1, 0.5, (300, 3)).astype(np.float32))


def renamed(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words as an older tree spells them."""
    for new, old in RENAMED.items():
        for k in range(len(words) - len(new) + 1):
            if words[k : k + len(new)] == new:
                words = (*words[:k], *old, *words[k + len(new) :])
                break
    return words


class Commands:
    """A process that runs commands of one tree, one after the other: torch is imported once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, arguments: list[str]) -> str | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        code, text = json.loads(line) if line else (1, "the process ended")
        lines = text.strip().splitlines()
        return " ".join(line.strip(" │╭╮╰╯─") for line in lines[-6:])[-500:] if code else None


COMMANDS = """
import contextlib, io, json, sys, traceback
from pushforward.cli import main
for line in sys.stdin:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(json.loads(line))
        except SystemExit as leaving:
            code = leaving.code
        except Exception:
            code = 1
            traceback.print_exc()
    print(json.dumps([code or 0, text.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Tree:
    """A checkout, and the folder that holds its runs."""

    root: Path
    runs: Path
    data: Path
    old: bool

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to import this tree, on one thread."""
        return os.environ | {"PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}

    def commit(self) -> str:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or "unknown"

    def arguments(self, words: tuple[str, ...]) -> list[str]:
        """The command line as this tree spells it."""
        words = tuple(
            word.replace("DATA", str(self.data)).replace("RUNS", str(self.runs)) for word in words
        )
        return list(renamed(words) if self.old else words)

    def call(self, words: tuple[str, ...]) -> str | None:
        """Run a command of `pushforward`; what it complains of if it fails."""
        return self.commands(self.arguments(words))

    @cached_property
    def commands(self) -> Commands:
        return Commands(self.environment)

    def run(self, name: str, case: Case) -> str | None:
        """Train and sample, unless it was done before; what went wrong."""
        folder = self.runs / name
        if (folder / "done").is_file():
            return None
        shutil.rmtree(folder, ignore_errors=True)
        first, rest = case.train[:2], case.train[2:]
        problem = self.call((*first, *case.common, *rest, "--out", str(folder)))
        for how, words in (case.samples or {}).items():
            if problem is None:
                out = folder / "drawn" / how.replace(" ", "-")
                num = ("--num", str(SAMPLES), "--batch-size", "32")
                problem = self.call(("sample", str(folder), *num, *words, "--out", str(out)))
        if problem is None:
            (folder / "done").write_text(json.dumps(self.digests(name, case), indent=1) + "\n")
        return problem

    def log(self, name: str) -> list[dict[str, float]]:
        lines = (self.runs / name / "log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def drawn(self, name: str, how: str) -> np.ndarray[Any, Any]:
        with np.load(
            self.runs / name / "drawn" / how.replace(" ", "-") / "samples.npz", allow_pickle=False
        ) as file:
            return np.asarray(file["samples"])

    def digests(self, name: str, case: Case) -> dict[str, str]:
        """SHA-256 of the losses and of each set of samples."""
        losses = json.dumps([entry["loss"] for entry in self.log(name)]).encode()
        found = {"losses": hashlib.sha256(losses).hexdigest()}
        for how in case.samples or {}:
            content = np.ascontiguousarray(self.drawn(name, how)).tobytes()
            found[how] = hashlib.sha256(content).hexdigest()
        return found


def relative(new: np.ndarray[Any, Any], old: np.ndarray[Any, Any]) -> float:
    """Largest difference over the largest value; infinite where shapes differ."""
    if new.shape != old.shape:
        return float("inf")
    scale = max(float(np.abs(old).max()), 1e-30)
    return float(np.abs(new.astype(np.float64) - old.astype(np.float64)).max()) / scale


def words(difference: float) -> str:
    return "equal bits" if difference == 0 else f"{difference:.1e}"


def compare(name: str, case: Case, new: Tree, old: Tree) -> Row:
    """One row: the loss log and the samples of two runs, as the largest relative difference."""
    row: Row = {"recipe": name}
    problems = {tree.old: tree.run(name, case) for tree in (old, new)}
    for is_old, problem in problems.items():
        if problem is not None:
            return row | {"loss log": f"{'old' if is_old else 'new'} tree fails: {problem}"}
    logs = [tree.log(name) for tree in (new, old)]
    keys = [key for key in ("loss", "grad_norm", "lr", "validation_loss") if key in logs[1][-1]]
    differences = {
        key: relative(*(np.array([e.get(key, np.nan) for e in log if key in e]) for log in logs))
        for key in keys
    }
    row["loss log"] = words(max(differences.values()))
    first = [
        a["step"] for a, b in zip(*logs, strict=False) if any(a.get(k) != b.get(k) for k in keys)
    ]
    if first:
        row["first step that differs"] = int(first[0])
        row["loss log"] = "; ".join(f"{k} {words(d)}" for k, d in differences.items() if d)
    drawn = {
        how: relative(new.drawn(name, how), old.drawn(name, how)) for how in case.samples or {}
    }
    if len(set(drawn.values())) > 1:
        row["samples"] = "; ".join(f"{how}: {words(d)}" for how, d in drawn.items())
    elif drawn:
        row["samples"] = words(next(iter(drawn.values())))
    return row


def demo(new: Tree, old: Tree) -> list[Row]:
    """`make demo` in both trees, one after the other and back: seconds of processors, and its figures."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    figures: dict[bool, dict[str, Any]] = {}
    for tree in (old, new, new, old):
        out = tree.runs / "demo"
        environment = tree.environment | {"OMP_WAIT_POLICY": "passive"}
        began = os.times()
        subprocess.run(
            [sys.executable, "-m", "pushforward.demo", "--out", str(out), "--overwrite"],
            env=environment,
            check=True,
            capture_output=True,
        )
        ended = os.times()
        seconds[tree.old].append(
            ended.children_user
            + ended.children_system
            - began.children_user
            - began.children_system
        )
        figures[tree.old] = json.loads((out / "figures.json").read_text())
    rows: list[Row] = []
    best = {is_old: min(values) for is_old, values in seconds.items()}
    rows.append(
        {
            "measured": "make demo, seconds of processor",
            "new": best[False],
            "old": best[True],
            "new / old": best[False] / best[True],
            "asked": "<= 1.05",
        }
    )
    for group in ("digits", "plane"):
        for name, value in figures[True][group].items():
            now = figures[False][group].get(name)
            if now != value:
                rows.append({"measured": f"demo {group}: {name}", "new": now, "old": value})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD_TREE", help="checkout to compare with")
    parser.add_argument("--new", type=Path, default=HERE, help="checkout that is judged")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--no-numbers", action="store_true", help="speed alone")
    parser.add_argument("--no-speed", action="store_true", help="numbers alone")
    parser.add_argument("--demo", action="store_true", help="time make demo as well (minutes)")
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/against"), help="folder of the runs"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--note", default="", help="a remark to keep with the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep = options.keep.resolve()
    data = keep / "data"
    data.mkdir(parents=True, exist_ok=True)
    example_data(data)
    old = Tree(options.old.resolve(), keep / "old", data, True)
    new = Tree(options.new.resolve(), keep / "new", data, False)
    # What this tree computed may have changed since the last call; the old one stays as it is.
    shutil.rmtree(new.runs, ignore_errors=True)
    facts = circumstances("python -m benchmarks.against OLD_TREE", options.note)
    facts |= {"old tree": f"commit {old.commit()}", "new tree": f"commit {new.commit()}"}
    began = time.perf_counter()
    wanted = (
        list(CASES) if options.only is None else [n for n in CASES if n in needed(options.only)]
    )
    rows: list[Row] = []
    for name in [] if options.no_numbers else wanted:
        row = compare(name, CASES[name], new, old)
        rows.append(row)
        sys.stdout.write("  ".join(f"{value}" for value in row.values()) + "\n")
        sys.stdout.flush()
    speed: list[Row] = []
    if not options.no_speed and options.only is None:
        speed += ratios(new, old)
    if options.demo:
        speed += demo(new, old)
    if speed:
        sys.stdout.write("\n".join(table(speed)) + "\n")
    report = Report(rows or speed, more="\n".join(table(speed)) if rows and speed else "")
    write(options.out, "against", TEXT, report, facts, time.perf_counter() - began)


def needed(names: list[str]) -> set[str]:
    """The cases of these names, and those whose runs they take."""
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise SystemExit(f"no recipe {', '.join(unknown)}; there are {', '.join(CASES)}")
    found = set(names)
    for name in names:
        case = CASES[name]
        all_words = [*case.train, *(w for ws in (case.samples or {}).values() for w in ws)]
        found |= {word.removeprefix("RUNS/") for word in all_words if word.startswith("RUNS/")}
    return found


TEXT = f"""This tree against an older one: what each recipe computes, and how fast.

{STEPS} training steps from seed 0 on one thread, and {SAMPLES} samples, by the command line of each tree.
Loss log: loss, gradient norm, learning rate and validation loss at every fifth step.
Differences are relative to the largest value. Speed: processor time of one thread, two processes (one for each
tree) in alternating turns, medians."""


if __name__ == "__main__":
    main()
