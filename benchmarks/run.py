"""Run benchmarks and keep their results: python -m benchmarks.run [NAME ...] [--threads N]"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.cells import cells
from benchmarks.control_convergence import control_convergence
from benchmarks.couplings import couplings, couplings_images
from benchmarks.decoding import decoding
from benchmarks.derivatives import derivatives
from benchmarks.diffflow import diffflow
from benchmarks.encodings import encodings
from benchmarks.exported import exported
from benchmarks.few_steps_digits import few_steps_digits
from benchmarks.gallery import gallery
from benchmarks.gaussian_bridge import gaussian_bridge
from benchmarks.maximum_likelihood import maximum_likelihood
from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.multimodal import multimodal
from benchmarks.normals import normals
from benchmarks.overhead import overhead
from benchmarks.page import page
from benchmarks.processes import processes
from benchmarks.reflow import reflow
from benchmarks.solver_error import solver_error
from benchmarks.solver_error_models import solver_error_models
from benchmarks.superresolution import superresolution
from benchmarks.throughput import throughput
from benchmarks.training import training

# A benchmark is a function that returns rows, or a Report; its docstring says what was measured, and how.
BENCHMARKS: dict[str, Callable[[], list[Row] | Report]] = {
    function.__name__: function
    for function in (
        cells,
        control_convergence,
        couplings,
        couplings_images,
        decoding,
        derivatives,
        diffflow,
        encodings,
        exported,
        few_steps_digits,
        gallery,
        gaussian_bridge,
        maximum_likelihood,
        multimodal,
        normals,
        overhead,
        page,
        processes,
        reflow,
        solver_error,
        solver_error_models,
        superresolution,
        throughput,
        training,
    )
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all of them by default"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--note", default="", help="a remark to keep with the results")
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of torch; its own choice by default"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    threads = f" --threads {options.threads}" if options.threads else ""
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        facts = circumstances(f"python -m benchmarks.run {name}{threads}", options.note)
        began = time.perf_counter()
        found = BENCHMARKS[name]()
        report = found if isinstance(found, Report) else Report(found)
        seconds = time.perf_counter() - began
        write(options.out, name, inspect.getdoc(BENCHMARKS[name]) or "", report, facts, seconds)
        sys.stdout.write("\n".join((f"{name}, {seconds:.0f} s", *table(report.rows), "", "")))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
