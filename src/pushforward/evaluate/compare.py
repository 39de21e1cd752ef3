"""Samplers against each other: error and distance to the data against network calls."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pushforward import __version__
from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field
from pushforward.data.arrays import Dataset
from pushforward.evaluate.agreement import everything
from pushforward.evaluate.energy import energy_distance
from pushforward.evaluate.frechet import frechet_distance
from pushforward.evaluate.report import MAX_DIMENSIONS
from pushforward.laws.law import Law
from pushforward.sampling.generate import generate
from pushforward.solvers import Learned, Solver

# Steps of the reference, doubled from the first to the last until it changes by less than this share.
STEPS, TOLERANCE = (64, 512), 1e-5


class Sampler(Protocol):
    """A solver and its times."""

    @property
    def solver(self) -> Solver: ...

    @property
    def grid(self) -> Tensor | None: ...


class Method(NamedTuple):
    """at: the sampler of a number of calls; None if there is none. exact: samples are a function of the first noise."""

    at: Callable[[int], Sampler | None]
    exact: bool = True


class Distance(NamedTuple):
    """How far samples are from data. floor: the same of other data."""

    name: str
    to: Callable[[Tensor], float]
    floor: float


@dataclass(frozen=True)
class Comparison:
    """Figures by method and number of calls.

    errors:    RMSE over samples and coordinates against the reference, from the same noise; infinite if not finite.
    scale:     root mean square of the reference's coordinates. steps, accuracy: of the reference, see `reference`.
    measure, distances, reference_distance, floor: of samples to data, those of the reference, and of data to data.
    """

    nfes: tuple[int, ...]
    errors: dict[str, dict[int, float]]
    scale: float
    steps: int
    accuracy: float
    measure: str | None = None
    distances: dict[str, dict[int, float]] | None = None
    reference_distance: float | None = None
    floor: float | None = None

    def as_json(self) -> dict[str, Any]:
        def finite(table: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
            return {
                name: {str(nfe): v if math.isfinite(v) else None for nfe, v in row.items()}
                for name, row in table.items()
            }

        found: dict[str, Any] = {"nfes": list(self.nfes), "errors": finite(self.errors)}
        found["reference"] = {"steps": self.steps, "accuracy": self.accuracy, "scale": self.scale}
        if self.distances is not None:
            found["distances"] = finite(self.distances)
            found["distance"] = {
                "name": self.measure, "reference": self.reference_distance, "data": self.floor,
            }  # fmt: skip
        return found


def distance_to(data: Law | Dataset, held_out: Dataset | None, num: int, seed: int) -> Distance:
    """Energy distance to a law, or Frechet distance to the data held out, of `num` samples."""
    if isinstance(data, Dataset):
        if held_out is None:
            raise InputError("this run kept no data apart, so there is no distance to them")
        if math.prod(data.shape) > MAX_DIMENSIONS:
            raise InputError(
                f"samples {data.shape} have more than {MAX_DIMENSIONS} dimensions: no distance is known for them"
            )
        apart, seen = everything(held_out, 10_000)[0], everything(data, num)[0]
        return Distance(
            "Frechet distance",
            lambda x: frechet_distance(x.cpu(), apart),
            frechet_distance(seen, apart),
        )
    # Seeds apart from the samples' own and from each other, as in `judge_law`.
    real, other = (data.sample(num, seed=(seed + k) % 2**64) for k in (1, 2))
    return Distance(
        "energy distance", lambda x: energy_distance(x.cpu(), real), energy_distance(other, real)
    )


def reference(model: Field, num: int, **sampling: Any) -> tuple[Tensor, int, float]:
    """Ends of the flow from the noise of `generate`, the number of steps, and an upper estimate of their RMSE.

    `Learned(None)`, of order 3, with steps doubled until an RMSE of 1e-5 of the root mean square, or to 512. The RMSE
    stated is that of half as many steps, against those returned.
    """
    solver, steps = Learned(None), STEPS[0]

    def ends() -> Tensor:
        grid = solver.grid(steps, model.path)
        return generate(model, num, solver=solver, grid=grid, **sampling)

    fine = ends()
    while True:
        coarse, steps = fine, 2 * steps
        fine = ends()
        change = rmse(fine, coarse)
        if change <= TOLERANCE * rmse(fine) or steps >= STEPS[1]:
            return fine, steps, change


def rmse(x: Tensor, y: Tensor | float = 0.0) -> float:
    return float((x - y).double().square().mean().sqrt())


def compare(
    model: Field,
    methods: Mapping[str, Method],
    nfes: Sequence[int],
    num: int,
    distance: Distance | None = None,
    **sampling: Any,
) -> Comparison:
    """Figures of all methods at all numbers of calls, from the same noise. sampling: options of `generate`."""
    truth, steps, accuracy = reference(model, num, **sampling)
    errors: dict[str, dict[int, float]] = {}
    distances: dict[str, dict[int, float]] = {}
    for name, method in methods.items():
        for nfe in nfes:
            sampler = method.at(nfe)
            if sampler is None:
                continue
            try:
                x = generate(model, num, solver=sampler.solver, grid=sampler.grid, **sampling)
            except NonFiniteError:
                x = torch.full_like(truth, math.inf)
            if method.exact:
                errors.setdefault(name, {})[nfe] = rmse(x, truth)
            if distance is not None:
                found = distance.to(x) if bool(x.isfinite().all()) else math.inf
                distances.setdefault(name, {})[nfe] = found
    common = (tuple(nfes), errors, rmse(truth), steps, accuracy)
    if distance is None:
        return Comparison(*common)
    return Comparison(*common, distance.name, distances, distance.to(truth), distance.floor)


# Of the learned method, of fitted ones, and of all others in turn; the first are Okabe and Ito's.
LEARNED, TUNED, QUIET = "#0072b2", "#d55e00", "#6b6b6b"
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#6a3d9a", "#a6bd0d")


def figure(result: Comparison, settings: Mapping[str, Any]) -> bytes:
    """A PNG: error against calls, and distance against calls if there is one, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogFormatter, NullLocator

    panels = [("error (RMSE)", result.errors)]
    if result.distances is not None:
        panels.append((result.measure or "", result.distances))
    names = list(dict.fromkeys(name for _, rows in panels for name in rows))
    colours = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    style: dict[str, dict[str, Any]] = {}
    for name in names:
        bold = {"learned": LEARNED, "tuned": TUNED}.get(name)
        style[name] = {
            "color": bold or next(colours),
            "lw": 2.2 if bold else 1.3,
            "zorder": 3 if bold else 2,
        }
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(6.6 * len(panels), 4.6), layout="constrained", squeeze=False
    )
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        axis.set(xscale="log", yscale="log", xlabel="network calls")
        axis.set_title(title, loc="left", fontsize=11)
        ends: list[tuple[float, str, str]] = []
        for name, row in rows.items():
            points = [(nfe, v) for nfe, v in row.items() if 0 < v < math.inf]
            if not points:
                continue
            # Where one was fitted: points, not a line.
            fitted = name == "tuned"
            marks: dict[str, Any] = (
                {"marker": "*", "ms": 11, "ls": ""} if fitted else {"marker": "o", "ms": 3}
            )
            ends.append((points[-1][1], "★ tuned" if fitted else name, style[name]["color"]))
            axis.plot(*zip(*points, strict=True), **marks, **style[name])
        if rows is result.distances and (result.reference_distance or 0) > 0:
            axis.axhline(result.reference_distance, color=QUIET, lw=1, ls="--", zorder=1)
            ends.append((result.reference_distance or 0, "reference", QUIET))
        else:
            note = f"reference: {result.steps} steps, precise to {result.accuracy:.0e}"
            axis.set_title(note, loc="right", fontsize=8, color=QUIET)
        axis.set_xlim(result.nfes[0] / 1.08, result.nfes[-1] * 1.08)
        axis.set_xticks(result.nfes, labels_apart(result.nfes), fontsize=9)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(LogFormatter())
        axis.tick_params(axis="y", which="both", labelsize=9)
        beside(axis, ends)
    buffer = io.BytesIO()
    text = json.dumps({"version": __version__, **settings}, sort_keys=True)
    drawn.savefig(buffer, format="png", dpi=120, metadata={"pushforward": text, "Software": None})
    plt.close(drawn)
    return buffer.getvalue()


def beside(axis: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names in their colours beside the ends of lines, (value, name, colour), moved apart where they would meet."""
    axis.set_ylim(axis.get_ylim())
    height = (axis.transData + axis.transAxes.inverted()).transform
    wanted = sorted((float(height((1.0, v))[1]), name, colour) for v, name, colour in ends)
    places = apart([y for y, _, _ in wanted], 0.05)
    for (_, name, colour), y in zip(wanted, places, strict=True):
        axis.annotate(
            name, (1.01, y), xycoords="axes fraction", va="center", fontsize=9, color=colour
        )


def apart(places: Sequence[float], room: float) -> list[float]:
    """The numbers y in [0, 1] nearest to the increasing `places`, by least squares, with y_{i+1} >= y_i + room.

    y_i - i room must not decrease: isotonic regression, by merging neighbours that do into their mean, then clipped.
    """
    groups: list[list[float]] = []
    for i, y in enumerate(places):
        groups.append([y - i * room])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    most = max(0.0, 1 - (len(places) - 1) * room)
    flat = [min(max(fmean(group), 0.0), most) for group in groups for _ in group]
    return [y + i * room for i, y in enumerate(flat)]


def labels_apart(nfes: Sequence[int]) -> list[str]:
    """A label for each tick, but for those too near to the one before."""
    room, last, labels = math.log(nfes[-1] / nfes[0]) / 20, -math.inf, []
    for nfe in nfes:
        shown = math.log(nfe) - last >= room
        labels.append(str(nfe) if shown else "")
        last = math.log(nfe) if shown else last
    return labels
