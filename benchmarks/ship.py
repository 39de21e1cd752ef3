"""A trained run as a model that comes with the library:

    python -m benchmarks.ship RUN NAME --guidance 2 --nfe 20 [--num 1000]

Weights in float16 under src/pushforward/shipped/NAME, with the options of the run, figures of `pushforward evaluate` of
exactly these weights, and a card. The guidance is to be chosen on other prompts than these figures' (seed 0).
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes.card import write_card
from pushforward.recipes.config import CONFIG
from pushforward.runtime.shipped import SHIPPED

LIMIT = 12e6  # bytes
LICENCE = "apache-2.0"


def ship(run: Path, name: str, guidance: float | None, nfe: int, num: int) -> None:
    model = pf.load(run)
    model.sampling = replace(model.sampling, nfe=nfe, prompt_guidance=guidance)
    model.provenance = replace(model.provenance, licence=LICENCE)
    folder = SHIPPED / name
    shutil.rmtree(folder, ignore_errors=True)
    pf.save(model, folder, storage=torch.float16)
    shutil.copy(run / CONFIG, folder / CONFIG)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT:
        shutil.rmtree(folder)
        raise SystemExit(f"{size / 1e6:.1f} MB are more than {LIMIT / 1e6:.0f} MB")
    if num and main(["evaluate", str(folder), "--num", str(num), "--nfe", str(nfe)]):
        raise SystemExit("it could not be evaluated")
    write_card(folder)
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--nfe", type=int, default=20)
    parser.add_argument("--num", type=int, default=1000)
    options = parser.parse_args()
    ship(options.run, options.name, options.guidance, options.nfe, options.num)
