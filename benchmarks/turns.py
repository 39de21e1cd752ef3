"""Speed of two trees in alternating turns, by one process for each tree.

A turn is some training steps of the command line, or some calls of a sampler. The processes wait for each other: both
see the same load of the machine and never compete for a core.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from benchmarks.against import Tree
    from benchmarks.measure import Row

ROUNDS = 15
# What is measured, in steps or calls a turn, and the bound on new / old: a time, so that less is faster.
ASKED: dict[str, tuple[int, float]] = {
    "training step, digits": (10, 1.0),
    "training step, U-Net of Fashion-MNIST": (2, 1.0),
    "default sampler, 50 calls of -x": (3, 0.6),
    "Euler-Maruyama, 50 calls of -x": (1, 0.25),
}
TRAINING = {
    "training step, digits": ("digits",),
    "training step, U-Net of Fashion-MNIST": ("fashion",),
}


def ratios(new: Tree, old: Tree) -> list[Row]:
    """A row for each thing measured: seconds of processor time in both trees, and the median ratio of turns."""
    rows: list[Row] = []
    for name, (count, bound) in ASKED.items():
        with tempfile.TemporaryDirectory() as folder:
            trees = [_Process(tree, name, count, Path(folder)) for tree in (new, old)]
            found: list[tuple[float, float]] = []
            for turn in range(ROUNDS + 1):
                order = trees if turn % 2 else trees[::-1]
                seconds = {process: process.turn() for process in order}
                found.append((seconds[trees[0]], seconds[trees[1]]))
            for process in trees:
                process.end()
        found = found[1:]  # what is set up at the first call
        unit = 50 * count if "calls" in name else count
        rows.append(
            {
                "measured": name,
                "new": f"{1e3 * statistics.median(a for a, _ in found) / unit:.3g} ms",
                "old": f"{1e3 * statistics.median(b for _, b in found) / unit:.3g} ms",
                "new / old": statistics.median(a / b for a, b in found),
                "asked": f"<= {bound}",
            }
        )
    return rows


class _Process:
    """A process that imports one tree, and takes a turn when told to."""

    def __init__(self, tree: Tree, name: str, count: int, folder: Path) -> None:
        out = folder / ("old" if tree.old else "new")
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(count), str(out)],
            env=tree.environment | {"OMP_WAIT_POLICY": "passive"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def turn(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        assert self.process.stderr is not None
        raise RuntimeError(f"a process ended: {self.process.stderr.read()[-2000:]}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def work(name: str, count: int, out: str) -> None:
    """Do the work of one tree, turn by turn. Only the tree's public names are used, old or new."""
    import torch

    torch.set_num_threads(1)
    replies = sys.stdout
    if name in TRAINING:
        train(TRAINING[name], count, out, replies)
    else:
        sample(name, count, replies)


def train(recipe: tuple[str, ...], count: int, out: str, replies: TextIO) -> None:
    """The training loop of the command line; it waits after so many steps of the optimiser."""
    import io

    from torch.optim.optimizer import register_optimizer_step_post_hook

    from pushforward.cli import main

    taken, began = 0, 0.0

    def after(*_: Any) -> None:
        nonlocal taken, began
        taken += 1
        if taken % count == 0:
            if taken > count:
                replies.write(f"took {time.process_time() - began}\n")
                replies.flush()
            sys.stdin.readline()
            began = time.process_time()

    register_optimizer_step_post_hook(after)
    sys.stdout = io.StringIO()
    never = "1000000"
    code = main(
        [
            "train", *recipe, "--out", out, "--steps", never, "--log-every", never,
            "--sample-every", "0", "--validate-every", "0", "--checkpoint-every", never, "--device", "cpu",
        ]
    )  # fmt: skip
    raise SystemExit(code)


def sample(name: str, count: int, replies: TextIO) -> None:
    """Calls of a sampler on a field that costs next to nothing."""
    import torch
    from torch import Tensor, nn

    import pushforward as pf

    class Trivial(nn.Module):
        path = pf.CondOT()

        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(
            self, x: Tensor, t: Tensor | float, want: str = "velocity", **cond: Any
        ) -> Tensor:
            return -x

    field = Trivial()
    shape = (3, 32, 32)
    call: Callable[[], object]
    if name.startswith("default"):

        def call() -> object:
            return pf.generate(field, 64, shape=shape, nfe=50)
    else:
        x, grid = torch.randn(64, *shape), pf.times.uniform(50)

        def call() -> object:
            return pf.integrate(pf.solvers.EulerMaruyama(0.5), field, x, grid)

    while sys.stdin.readline():
        began = time.process_time()
        for _ in range(count):
            call()
        replies.write(f"took {time.process_time() - began}\n")
        replies.flush()


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
