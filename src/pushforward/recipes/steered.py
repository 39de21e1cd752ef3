"""What a run of a control has besides other runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset
from pushforward.data.hints import Edges
from pushforward.data.scenes import read_all
from pushforward.evaluate.control import judge_edges, share, shows
from pushforward.evaluate.labels import judged_labels
from pushforward.evaluate.prompts import pictures
from pushforward.evaluate.samples import drawn
from pushforward.recipes.conditions import rows_for
from pushforward.recipes.experiment import Experiment
from pushforward.runtime.processes import Processes
from pushforward.saving.control import strengthened


@dataclass(frozen=True)
class Steered(Experiment):
    """The parts of a run of a control. name: of its hint. edges: how edges are found, None where they are no hint.
    scenes: whether pictures can be read back.
    """

    name: str = "edges"
    edges: Edges | None = None
    scenes: bool = False

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, Tensor | None]:
        """Figures of pictures drawn under the hints of held-out ones, each with its standard error.

        edge_f1, edge_f1_base: `edge_f1` of their edges and those of the hint, at full strength, and of the base with
                      the same noise and other conditions.
        layout, scene: of scenes, the share that reads back as the one whose hint was given, by number, shape, size and
                      place, and by colour too, which the caption may say; layout_base, scene_base.

        And, but for scenes, those of other data.
        """
        data = self.held_out
        if data is None or not isinstance(self.data, Dataset):
            raise InputError("this run kept no data apart, so there is nothing to evaluate against")
        seed = int(sampling.get("seed", 0))
        label = judged_labels(num, self.model.spec, self.data, seed)
        given = self.columns(num, seed, label)
        hint: Tensor = given["control"][self.name]
        base = strengthened(self.model, {self.name: 0.0})  # type: ignore[arg-type]
        figures: dict[str, float] = {}
        options = {"source": self.source} | given | sampling
        if self.scenes:
            samples = drawn(self.model, num, label=label, **options)
        else:
            figures, samples, label = super().judge(num, **sampling)
        plain = drawn(base, num, label=label, **options)
        if not Processes.current().lead:
            return figures, samples, label
        found = {"": samples, "_base": plain}
        if self.edges is not None:
            for end, those in found.items():
                value = judge_edges(those, hint, self.edges)
                figures |= {
                    f"edge_f1{end}": value.value,
                    f"edge_f1{end}_error": value.standard_error,
                }
        if self.scenes:
            graphs: Any = data.values
            truth = graphs.graphs.scenes(rows_for(data, num, seed, label).numpy())
            for end, those in found.items():
                seen = list(zip(read_all(pictures(those)), truth, strict=True))
                for name, colours in (("layout", False), ("scene", True)):
                    value = share([shows(objects, scene, colours) for objects, scene in seen])
                    figures |= {
                        f"{name}{end}": value.value,
                        f"{name}{end}_error": value.standard_error,
                    }
        return figures, samples, label
