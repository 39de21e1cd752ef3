"""Quality by the number of network calls: a teacher and its students, in one table and one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pushforward.core.fields import FlowMap
from pushforward.core.progress import counted

# What is drawn, where it was found: key of the figures, title, whether less is better.
DRAWN = (
    ("w2", "2-Wasserstein distance to the data", True),
    ("energy", "energy distance to the data", True),
    ("frechet", "Frechet distance to held-out data", True),
    ("agreement", "share of samples of the class asked for", False),
    ("seen_mean", "share of prompts satisfied", False),
    ("held_out_mean", "share of prompts of held-out combinations satisfied", False),
)
TEACHER = "teacher"


@dataclass(frozen=True)
class Quality:
    """figures: by model, number of calls and name of the figure. calls: the teacher's, in full."""

    figures: dict[str, dict[int, dict[str, float]]]
    calls: int

    def names(self) -> list[tuple[str, str, bool]]:
        """Of the figures that were found, as in DRAWN."""
        found = {name for rows in self.figures.values() for row in rows.values() for name in row}
        return [entry for entry in DRAWN if entry[0] in found]

    def ratio(self, model: str, nfe: int, name: str) -> float:
        """A figure over the teacher's at its full number of calls."""
        return self.figures[model][nfe][name] / self.figures[TEACHER][self.calls][name]

    def as_json(self) -> dict[str, Any]:
        return {"figures": self.figures, "teacher_calls": self.calls}


def quality(
    teacher: Any,
    students: Mapping[str, Any],
    judge: Callable[[Any, int], Mapping[str, float]],
    nfes: Sequence[int],
    calls: int = 100,
) -> Quality:
    """Figures of a teacher and its students at each number of calls.

    judge: figures of a model's samples at so many calls. A student of a fixed number of steps is judged at that one; a
    student that is a velocity, as of reflow, at the number that it was made for.
    """
    asked = [(TEACHER, nfe) for nfe in [*nfes, calls]]
    asked += [(name, nfe) for name, student in students.items() for nfe in known(student, nfes)]
    figures: dict[str, dict[int, dict[str, float]]] = {TEACHER: {}}
    for name, nfe in counted("models", asked):
        model = teacher if name == TEACHER else students[name]
        figures.setdefault(name, {})[nfe] = dict(judge(model, nfe))
    return Quality(figures, calls)


def known(student: Any, nfes: Sequence[int]) -> list[int]:
    """The numbers of calls at which a student is to be asked."""
    if isinstance(student, FlowMap):
        return [len(student.jumps) - 1] if isinstance(student.jumps, tuple) else list(nfes)
    fixed = student.sampling.nfe
    return list(nfes) if fixed is None else [int(fixed)]
