"""What the figures of the lectures share: the data, runs that are kept, and how samples are judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pushforward as pf
from benchmarks.measure import Row
from pushforward.data import Dataset, load_digits
from pushforward.evaluate.compare import rmse
from pushforward.evaluate.labels import balanced_labels
from pushforward.evaluate.metrics.coverage import Coverage, coverage
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.likelihood.flow import dequantise
from pushforward.recipes import Array
from pushforward.recipes.recipe import Recipe
from pushforward.recipes.run import train
from pushforward.solvers import DormandPrince

# Grey levels of the digits are 1/8 apart in [-1, 1].
BIN = 1 / 8
# Draws of the noise that spreads each training image over its bins.
DRAWS = 8
QUIET: Mapping[str, Any] = {"sample_every": 0, "validate_every": 0, "device": "cpu"}

DATA = """Data: scikit-learn's digits, 8 x 8 pixels of 17 grey levels, by class, one half to train on and the other
held out. Networks (residual MLPs of width 256 and depth 3, 0.76 million weights, on vectors of 64 unless said
otherwise) are trained on the values spread evenly over their bins, 8 draws for each image, as a density needs them,
and samples are rounded to the grey levels again before they are judged. Distances are on the pixels: Frechet
distance, precision and recall (k = 5) of samples with labels in equal shares to the held-out half."""


@dataclass(frozen=True)
class Work:
    """Where runs are kept and how large everything is; the defaults are those of the results.

    steps, batch, width: of a training, and of its MLP. num: samples that are judged. points: held-out data whose
    likelihood is taken.
    """

    runs: Path = Path("runs/lectures")
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 1500
    batch: int = 128
    width: int = 256
    num: int = 900
    points: int = 200

    def kept(self, name: str, recipe: Recipe) -> Path:
        """The run folder `name`, trained or taken up unless it is there. A signal that stops it stops everything."""
        folder = self.runs / name
        there = (folder / "config.toml").is_file()
        _, signal = train(recipe.changed(out=folder, resume=there), quiet=True)
        if signal:
            raise SystemExit(128 + signal)
        return folder

    def model(self, name: str, recipe: Recipe) -> Any:
        return pf.load(self.kept(name, recipe))

    def recipe(self, seed: int, **options: Any) -> Array:
        """A run on the digits as vectors: a residual MLP, AdamW at 2e-3 with a cosine, averages of 0.995."""
        images = str(options.get("network", "mlp")) != "mlp"
        usual: dict[str, Any] = {
            "data": self.data(images), "held_out": 0, "seed": seed, "steps": self.steps,
            "batch_size": self.batch, "lr": 2e-3, "ema": 0.995, "checkpoint_every": self.steps,
        }  # fmt: skip
        network = {} if images else {"network": "mlp", "width": self.width}
        return Array.of(**dict(QUIET) | usual | network | options)

    def data(self, images: bool = False) -> Path:
        """The training half, spread over its bins, with labels: as vectors of 64, or as images."""
        file = self.runs / ("images.npz" if images else "vectors.npz")
        if not file.is_file():
            batch = everything(halves()[0])
            noise = [pf.Noise.batch(len(batch), seed=0, step=k) for k in range(DRAWS)]
            x = torch.cat([dequantise(batch.x1, BIN, n) for n in noise])
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as out:
                values = x if images else x.flatten(1)
                np.savez(out, x=values.numpy(), label=batch.cond["label"].repeat(DRAWS).numpy())
        return file


@dataclass(frozen=True)
class Judge:
    """Samples against the held-out half."""

    real: Tensor = field(default_factory=lambda: everything(halves()[1]).x1)

    def frechet(self, x: Tensor) -> float:
        return frechet_distance(rounded(x), self.real)

    def near(self, x: Tensor) -> Coverage:
        """Precision, recall and the like, of as many samples as there are data: labels come in turn."""
        return coverage(self.real.flatten(1), rounded(x)[: len(self.real)].flatten(1), k=5)

    def figures(self, x: Tensor) -> dict[str, float]:
        near = self.near(x)
        return {
            "Frechet distance": self.frechet(x), "precision": near.precision, "recall": near.recall,
        }  # fmt: skip

    def floor(self) -> dict[str, float]:
        """The same figures of the training half itself."""
        return self.figures(everything(halves()[0]).x1)


def halves() -> tuple[Dataset, Dataset]:
    return load_digits().halves(seed=0)


def everything(data: Dataset) -> pf.Batch:
    return data[torch.arange(len(data))]


def rounded(x: Tensor) -> Tensor:
    """As images (N, 1, 8, 8) of the 17 grey levels, as a file has them."""
    return ((x.reshape(-1, 1, 8, 8).clamp(-1, 1) + 1) / BIN).round() * BIN - 1


def labels(num: int) -> Tensor:
    return balanced_labels(num, 10)


@contextmanager
def counting(model: Any) -> Iterator[list[int]]:
    """Counts in how many rows the networks of a model are asked: [rows]."""
    rows = [0]

    def count(net: Any, given: tuple[Any, ...]) -> None:
        rows[0] += len(given[0])

    hooks = [net.register_forward_pre_hook(count) for net in model.networks().values()]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def ends(field: Any, num: int, **sampling: Any) -> tuple[Tensor, float]:
    """Where the flow ends, by steps of order 5 with an error of 1e-5 each, and how far it is from there with 1e-4."""
    found = [
        pf.generate(field, num, solver=DormandPrince(tolerance, tolerance), **sampling)
        for tolerance in (1e-5, 1e-4)
    ]
    return found[0], rmse(*found)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error (nan of one value)."""
    x = torch.tensor(values, dtype=torch.float64)
    spread = float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return float(x.mean()), spread


def cell(values: Sequence[float], digits: int = 3) -> str:
    """`mean ± standard error` for a table."""
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def rows_of(
    found: Mapping[str, Sequence[Mapping[str, float]]], first: str, digits: Mapping[str, int]
) -> list[Row]:
    """A row for each name: the mean over seeds of each figure, with its standard error."""
    rows: list[Row] = []
    for name, runs in found.items():
        row: Row = {first: name}
        for key in runs[0]:
            row[key] = cell([run[key] for run in runs], digits.get(key, 3))
        rows.append(row)
    return rows
