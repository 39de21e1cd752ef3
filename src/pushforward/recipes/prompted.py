"""What a run of a model of prompts has besides other runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pushforward.evaluate.prompts import judge_scenes
from pushforward.recipes.conditions import of_data
from pushforward.recipes.experiment import Experiment


@dataclass(frozen=True)
class PromptedExperiment(Experiment):
    """The parts of a run that trains on captions. scenes: whether its pictures can be read back."""

    scenes: bool = False

    def columns(self, num: int, seed: int, label: Tensor | None = None) -> dict[str, Any]:
        """The conditions of captions that are held out, or else trained on."""
        lines = self.lines(num, seed)
        encoder = self.model.encoders["prompt"]
        return encoder([lines[i % len(lines)] for i in range(num)])

    def lines(self, num: int, seed: int) -> list[str]:
        """At most `num` captions that are held out, or else trained on."""
        data: Any = self.data if self.held_out is None else self.held_out
        return list(data.sample(min(num, len(data)), seed).captions)

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, Tensor | None]:
        """Of scenes, the share of prompts that are satisfied; else as of other data."""
        if self.scenes:
            return judge_scenes(self.model, num, **sampling)
        if self.frames:
            return self._judge_frames(num, **sampling)
        seed = int(sampling.get("seed", 0))
        return super().judge(num, **self.columns(num, seed) | sampling)


@dataclass(frozen=True)
class DecoderExperiment(PromptedExperiment):
    """The parts of a run that trains a decoder."""

    def columns(self, num: int, seed: int, label: Tensor | None = None) -> dict[str, Any]:
        """The vectors and texts of pictures that are held out, or else trained on."""
        data: Any = self.data if self.held_out is None else self.held_out
        return of_data(data)(num, seed, label)


@dataclass(frozen=True)
class PriorExperiment(Experiment):
    """The parts of a run that trains a prior, of either kind. Its data are vectors."""

    model: Any

    def columns(self, num: int, seed: int, label: Tensor | None = None) -> dict[str, Any]:
        """The texts of pictures that are held out, or else trained on."""
        data: Any = self.data if self.held_out is None else self.held_out
        return of_data(data)(num, seed, label)
