"""Error by calls: the distance from the ends of the exact flow, from the same noise."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from torch import Tensor

from pushforward.core.errors import InputError, NonFiniteError, UndefinedError
from pushforward.core.fields import FlowMap
from pushforward.evaluate.compare import reference, rmse
from pushforward.laws.exact_field import ExactField
from pushforward.laws.flow_map import ExactMap
from pushforward.recipes.choices import SOLVERS
from pushforward.sampling.generate import generate
from pushforward.serve import pipe
from pushforward.serve.job import Job, checked, given, sampler, source
from pushforward.serve.subjects import Subject

CALLS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
NUM = 200
# References that are kept.
KEPT = 8

Truth = tuple[Tensor, float]


class References:
    """Ends of exact flows, kept by all that they depend on."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Truth] = OrderedDict()

    def of(self, job: Job, subject: Subject, field: Any) -> Truth:
        """(ends (NUM, 2), an upper estimate of their own RMSE; 0 for a closed form)."""
        same = ("subject", "components", "path", "guidance", "label", "seed", "second", "mix")
        key = job.settings.model_dump_json(include=set(same))
        if key not in self._kept:
            self._kept[key] = self._find(job, subject, field)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _find(self, job: Job, subject: Subject, field: Any) -> Truth:
        settings = job.settings
        start = source(subject, settings, NUM)
        exact = getattr(field, "field", field)
        if isinstance(exact, ExactField) and settings.guidance == 1:
            try:
                flow = ExactMap(exact.law, exact.path)
            except UndefinedError:
                pass
            else:
                start = generate(flow, NUM, source=start, seed=settings.seed, nfe=1)
                return start, 0.0
        ends, _, accuracy = reference(
            field, NUM, **given(subject, settings, NUM), seed=settings.seed, source=start
        )
        return ends, accuracy


def draw(job: Job, subject: Subject, kept: References) -> None:
    """Send a point for each number of calls, as soon as it is known."""
    why = undefined(job, subject)
    if why is not None:
        job.send(pipe.JSON, pipe.text({"type": "curve", "none": why}))
        return
    settings = job.settings
    with checked(subject.field, job.check) as field:
        ends, accuracy = kept.of(job, subject, field)
        scale = rmse(ends)
        start = {"type": "curve", "accuracy": accuracy, "scale": scale, "closed": accuracy == 0}
        job.send(pipe.JSON, pipe.text(start))
        for calls in CALLS:
            try:
                chosen = sampler(subject, settings, calls)
                if calls % chosen["solver"].calls:
                    continue  # the same as with the calls of whole steps
                x = generate(
                    field, NUM, **chosen, **given(subject, settings, NUM), seed=settings.seed,
                    source=source(subject, settings, NUM),
                )  # fmt: skip
                error = rmse(x, ends)
            except InputError:
                continue  # fewer calls than one step takes
            except NonFiniteError:
                error = math.inf
            found = {
                "type": "curve",
                "calls": calls,
                "error": error if math.isfinite(error) else None,
            }
            job.send(pipe.JSON, pipe.text(found))


def undefined(job: Job, subject: Subject) -> str | None:
    """Why there is no such curve, or None."""
    settings = job.settings
    if isinstance(subject.field, FlowMap):
        return "a flow map has no number of steps to converge in"
    solver = sampler(subject, settings)["solver"]
    if solver.stochastic:
        return "a solver with noise does not follow the flow: its samples are those of the law, not of this noise"
    if (
        settings.solver != "auto"
        and SOLVERS[settings.solver].make(path=subject.field.path).calls == 0
    ):
        return "this solver chooses its own steps, by its tolerance"
    return None
