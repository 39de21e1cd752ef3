from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import Row

STEPS, EVERY, ROUNDS = 40, 10, 3
# name: (processes, threads of each)
WAYS = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def processes() -> list[Row]:
    """Training by two processes of one thread each (DDP, gloo), against one process of two threads: images per second.

    `pushforward train images` on 512 random images 1 x 28 x 28, batches of 64, the U-Net of size XS as shipped; the
    rate over the last 30 of 40 steps, as the run's speed.jsonl has it. The ways take turns, three times; medians.
    """
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        numbers = np.random.default_rng(0).integers(0, 256, (512, 28, 28), np.uint8)
        np.savez(folder / "data.npz", image=numbers, label=np.arange(512) % 10)
        for turn in range(ROUNDS):
            for name, (count, threads) in WAYS.items():
                rates[name].append(rate(folder, f"{turn}-{count}", count, threads))
    first = statistics.median(next(iter(rates.values())))
    return [
        {
            "training by": name,
            "images/s": round(statistics.median(found), 1),
            "over the first": statistics.median(found) / first,
        }
        for name, found in rates.items()
    ]


def rate(folder: Path, name: str, count: int, threads: int) -> float:
    command = [sys.executable, "-m"]
    if count > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    command += ["pushforward", "train", "images", "--data", str(folder / "data.npz")]
    command += ["--out", str(folder / name), "--steps", str(STEPS), "--log-every", str(EVERY)]
    command += ["--sample-every", "0", "--validate-every", "0", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    lines = (folder / name / "speed.jsonl").read_text().splitlines()
    return statistics.harmonic_mean([json.loads(line)["samples_per_second"] for line in lines[1:]])
