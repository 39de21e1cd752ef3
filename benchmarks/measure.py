"""How times are taken, and what is written down beside them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import pushforward as pf

Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Report:
    """Rows of a benchmark with what else it found: Markdown, and files by name."""

    rows: list[Row]
    more: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


def medians(
    calls: Mapping[str, Callable[[], object]], repeats: int = 15, least: float = 0.02
) -> dict[str, float]:
    """Seconds per call, the median over rounds in which all calls take turns.

    Whatever else the machine does then falls on all of them alike, so that ratios within one table hold better than the
    times themselves. Each turn repeats its call for at least `least` seconds. With one thread it is processor time that
    counts, which leaves out the waiting while other processes run.
    """
    counts = {}
    for name, call in calls.items():
        call()  # what is set up at the first call
        counts[name] = max(1, round(least / _seconds(call, 1)))
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            rounds[name].append(_seconds(call, counts[name]))
    return {name: statistics.median(values) for name, values in rounds.items()}


def _clock() -> Callable[[], float]:
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _seconds(call: Callable[[], object], count: int) -> float:
    clock = _clock()
    began = clock()
    for _ in range(count):
        call()
    return (clock() - began) / count


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that tensors allocated during the call took at one time, in bytes, on the CPU."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    ]
    held = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        most = max(most, held)
    return most


def matmul_flops(size: int = 1024, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A matrix product of 2 size^3 operations, to measure the peak with."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    out = torch.empty(size, size, dtype=dtype)
    return lambda: torch.mm(a, b, out=out)


def circumstances(command: str, note: str) -> dict[str, Any]:
    """What a reader needs to judge figures: command, versions, machine, date."""
    facts: dict[str, Any] = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "pushforward": f"{pf.__version__}, commit {_commit()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": _peers(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "processor time" if _clock() is time.process_time else "wall clock",
        "load": f"{os.getloadavg()[0]:.1f} processes wanted to run, mean of the minute before",
    }
    return facts | ({"note": note} if note else {})


def _peers() -> str:
    found = []
    for name in ("diffusers", "flow_matching", "azula", "k-diffusion", "torchcfm"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found) or "not in this environment"


def _commit() -> str:
    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/src")
        return git("rev-parse", "--short", "HEAD") + (" with changes in src" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(
    folder: Path, name: str, text: str, report: Report, facts: Mapping[str, Any], seconds: float
) -> None:
    """results/<name>.md to read and results/<name>.json to compare. text: what was measured, and how."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"benchmark": name, **facts, "seconds": round(seconds, 1), "rows": report.rows}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    for file, content in report.files.items():
        (folder / file).write_bytes(content)
    lines = [f"# {name}", "", text, "", *table(report.rows), ""]
    lines += [report.more, ""] if report.more else []
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines.append(f"- took: {seconds:.0f} s")
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def table(rows: list[Row]) -> list[str]:
    """Rows as a Markdown table; columns in the order in which they first come up."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "-|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    return lines


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
