from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from benchmarks.exact import Denoiser, Problem
from benchmarks.laws import laws
from benchmarks.measure import Report, Row
from benchmarks.solver_error import BUDGETS, INSTANCE, POINTS, SEEDS, Case, load, starts
from pushforward.core.predictions import PREDICTIONS

MEASURED = "solver_error.cases.json"


class Perfect(nn.Module):
    """A network that has learned its prediction exactly."""

    def __init__(self, field: pf.ExactField, prediction: pf.Prediction) -> None:
        super().__init__()
        self.field, self.prediction = field, prediction

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.field(x, t, self.prediction, **cond)


def solver_error_models() -> Report:
    """The default sampler on models of every prediction, over the best peer: solver_error for what users have.

    A model here is a `pf.Model` around a network that gives one prediction of an exact law without error; its
    conversion into a velocity, near the ends of time too, is part of what is measured. Laws, starting points, truth
    and peers are those of solver_error.md, whose peers were not run again: their errors are taken from its file. The
    table has the median over eight laws of error over the best peer's, geometric mean over two seeds, by network calls;
    "exact field" is the same without a model. Worst: the largest error of a model over that of the exact field, of all
    laws, seeds and numbers of calls.
    """
    from benchmarks.run import RESULTS

    measured = {
        (case.path, case.law, case.seed, case.nfe): case
        for case in load((RESULTS / MEASURED).read_bytes())
    }
    rows: list[Row] = []
    for path in (pf.CondOT(), pf.VP()):
        problems = {
            name: (law, Problem(Denoiser(law), path, starts(path, law.shape, POINTS)))
            for name, law in laws(INSTANCE).items()
        }
        exact = errors(path, None, problems)
        rows.append(row(path, "exact field", exact, exact, measured))
        for prediction in PREDICTIONS:
            found = errors(path, prediction, problems)
            rows.append(row(path, prediction, found, exact, measured))
    return Report(rows)


Key = tuple[str, int, int]  # law, seed, network calls


def errors(
    path: pf.Path,
    prediction: pf.Prediction | None,
    problems: dict[str, tuple[pf.GaussianMixture, Problem]],
) -> dict[Key, float]:
    """Of the default sampler, by law, seed and network calls."""
    found: dict[Key, float] = {}
    for name, (law, problem) in problems.items():
        field: Any = law.field(path)
        if prediction is not None:
            field = pf.Model(Perfect(field, prediction), path, prediction, shape=law.shape)
        for nfe in BUDGETS:
            x = pf.generate(
                field, len(problem.x0), nfe=nfe, source=problem.x0, batch_size=len(problem.x0)
            )
            for i, seed in enumerate(SEEDS):
                found[name, seed, nfe] = problem.error(x, slice(i * POINTS, (i + 1) * POINTS))
    return found


def row(
    path: pf.Path,
    model: str,
    found: dict[Key, float],
    exact: dict[Key, float],
    measured: dict[tuple[str, str, int, int], Case],
) -> Row:
    name = type(path).__name__
    ratios: dict[int, dict[str, list[float]]] = {}
    for (law, seed, nfe), error in found.items():
        best = measured[name, law, seed, nfe].best()
        assert best is not None
        ratios.setdefault(nfe, {}).setdefault(law, []).append(error / best[0])
    out: Row = {"path": name, "model predicts": model}
    for nfe, by_law in ratios.items():
        geometric = [torch.tensor(v).log().mean().exp().item() for v in by_law.values()]
        out[str(nfe)] = median(geometric)
    out["worst"] = max(error / exact[key] for key, error in found.items())
    return out
