"""Tables and figures of the lectures, one command each: python -m benchmarks.lectures NAME [NAME ...]

Runs are kept in --runs and not trained again: the command can be stopped and taken up. Results go to
benchmarks/results/lectures_NAME.md and .json, the picture to docs/images/lectures_NAME.png.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lectures import (
    consistency,
    dpm_solver,
    five_ways,
    paths,
    precision,
    scaling,
    trajectories,
)
from benchmarks.lectures.chart import Found
from benchmarks.lectures.common import DATA, Work
from benchmarks.measure import circumstances, table, write
from benchmarks.run import RESULTS
from pushforward.evaluate.figures import png

# Each makes a table and a picture; ABOUT of its module says what of.
FIGURES: dict[str, Callable[[Work], Found]] = {
    "five_ways": five_ways.five_ways,
    "paths": paths.paths,
    "consistency": consistency.consistency,
    "precision": precision.precision,
    "trajectories": trajectories.trajectories,
    "dpm_solver": dpm_solver.dpm_solver,
    "scaling": scaling.scaling,
}
SIZES = {
    "runs": "folder of the runs",
    "seeds": "seeds of training",
    "steps": "steps of a training",
    "batch": "samples in a step",
    "width": "of the MLP",
    "num": "samples that are judged",
    "points": "held-out data whose likelihood is taken",
}
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def main(arguments: Sequence[str] | None = None) -> None:
    usual = Work()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", choices=FIGURES, help=", ".join(FIGURES)
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--note", default="", help="a remark to keep with the results")
    for name, about in SIZES.items():
        value = getattr(usual, name)
        several = isinstance(value, tuple)
        kind = Path if isinstance(value, Path) else int
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, nargs="+" if several else None, default=value,
            help=f"{about}. Default: {shown(value)}",
        )  # fmt: skip
    options = parser.parse_args(arguments)
    chosen = {name: getattr(options, name) for name in SIZES}
    work = Work(**{n: tuple(v) if isinstance(v, list) else v for n, v in chosen.items()})
    torch.set_num_threads(1)
    for name in options.names:
        one(name, work, options)


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def one(name: str, work: Work, options: Any) -> None:
    """Make one figure, and write its table and picture."""
    usual = Work()
    changed = {
        f.name: shown(getattr(work, f.name))
        for f in fields(Work)
        if f.name != "runs" and getattr(work, f.name) != getattr(usual, f.name)
    }
    flags = [f" --{key.replace('_', '-')} {value}" for key, value in changed.items()]
    command = f"python -m benchmarks.lectures {name}{''.join(flags)}"
    facts = circumstances(command, options.note) | {
        "seeds": ", ".join(map(str, work.seeds)),
        "sizes": ", ".join(
            f"{key} {getattr(work, key)}" for key in SIZES if key not in ("runs", "seeds")
        ),
    }
    began = time.perf_counter()
    found = FIGURES[name](work)
    seconds = time.perf_counter() - began
    picture = options.images / f"lectures_{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(png(found.figure, {"benchmark": f"lectures {name}", **changed}))
    where = os.path.relpath(picture, options.out)
    more = f"![{name}]({where})\n\n{found.report.more}"
    about = f"{inspect.getmodule(FIGURES[name]).ABOUT}\n\n{DATA}"  # type: ignore[union-attr]
    write(options.out, f"lectures_{name}", about, replace(found.report, more=more), facts, seconds)
    sys.stdout.write(
        "\n".join((f"{name}, {seconds:.0f} s", *table(found.report.rows), "", more, ""))
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
