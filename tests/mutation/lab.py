"""Runs tests against a changed copy of the source, in forks of a process that has imported what is slow to import."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401
import mpmath  # noqa: F401
import numpy as np  # noqa: F401
import ot  # noqa: F401
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[2]
# The outcome of a run of tests that was ended because it took too long.
TIMEOUT = -1


class Lab:
    """A copy of src/ that may be changed, and forks that test it."""

    def __init__(self, folder: Path) -> None:
        assert "pushforward" not in sys.modules
        torch.set_num_threads(1)
        self.folder, self.source = folder, folder / "src"
        if self.source.exists():
            shutil.rmtree(self.source)
        shutil.copytree(ROOT / "src", self.source, ignore=shutil.ignore_patterns("__pycache__"))

    def run(
        self,
        tests: list[str],
        limit: float,
        more: list[str] | None = None,
        around: Callable | None = None,
    ) -> int:
        """pytest's exit status for these files or ids, or TIMEOUT."""
        pid = os.fork()
        if pid == 0:
            self._child(tests, more or [], around)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return TIMEOUT

    def _child(self, tests: list[str], more: list[str], around: Callable | None) -> None:
        os.setsid()
        status = 70
        try:
            out = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(ROOT)
            sys.dont_write_bytecode = True
            os.environ["PYTHONPATH"] = str(self.source)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.path.insert(0, str(self.source))
            arguments = [
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "-m",
                "not slow",
                *more,
                *tests,
            ]
            status = int(pytest.main(arguments)) if around is None else int(around(arguments))
        finally:
            sys.stdout.flush()
            os._exit(status)


@dataclass
class Cover:
    """Which tests of a file run which lines, and how long each test takes."""

    seconds: dict[str, float]
    failed: list[str]
    lines: dict[str, dict[int, list[str]]]  # by source file, below src
    hashes: dict[str, str]  # of these source files


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def cover(lab: Lab, test_file: str, cache: Path, limit: float) -> Cover:
    """The cover of one test file, from the cache where neither it nor the source files it runs have changed."""
    name = cache / (test_file.replace("/", "_") + ".json")
    key = digest(ROOT / test_file)
    if name.exists():
        kept = json.loads(name.read_text())
        fresh = kept["key"] == key and all(
            (ROOT / "src" / file).exists() and digest(ROOT / "src" / file) == value
            for file, value in kept["hashes"].items()
        )
        if fresh:
            lines = {f: {int(k): v for k, v in d.items()} for f, d in kept["lines"].items()}
            return Cover(kept["seconds"], kept["failed"], lines, kept["hashes"])
    measured = lab.folder / "cover.json"
    measured.unlink(missing_ok=True)
    lab.run([test_file], limit, around=lambda arguments: _measure(arguments, lab.source, measured))
    if not measured.exists():
        print(f"  {test_file}: not measured within {limit:g} s", flush=True)
        return Cover({}, [], {}, {})
    found = json.loads(measured.read_text())
    found["hashes"] = {file: digest(ROOT / "src" / file) for file in found["lines"]}
    found["key"] = key
    cache.mkdir(parents=True, exist_ok=True)
    name.write_text(json.dumps(found))
    lines = {f: {int(k): v for k, v in d.items()} for f, d in found["lines"].items()}
    return Cover(found["seconds"], found["failed"], lines, found["hashes"])


def _measure(arguments: list[str], source: Path, out: Path) -> int:
    """Run the tests under coverage, with the test as context."""
    import coverage

    measuring = coverage.Coverage(data_file=None, include=[f"{source}/*"], config_file=False)
    watch = _Watch(measuring)
    measuring.start()
    status = pytest.main(arguments, plugins=[watch])
    measuring.stop()
    data = measuring.get_data()
    lines: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        by_line = {
            line: sorted(c for c in contexts if c)
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        lines[str(Path(file).relative_to(source))] = {k: v for k, v in by_line.items() if v}
    lines = {file: by_line for file, by_line in lines.items() if by_line}
    out.write_text(json.dumps({"seconds": watch.seconds, "failed": watch.failed, "lines": lines}))
    return int(status)


class _Watch:
    """Tells coverage which test is running."""

    def __init__(self, measuring) -> None:
        self.measuring, self.seconds, self.failed = measuring, {}, []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.measuring.switch_context(nodeid)

    def pytest_runtest_logfinish(self) -> None:
        self.measuring.switch_context("")

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)
