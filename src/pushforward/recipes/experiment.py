"""The parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset
from pushforward.evaluate import kinds
from pushforward.evaluate.labels import judged_labels
from pushforward.evaluate.reconstruction import reconstructed
from pushforward.evaluate.report import judge_dataset, judge_law, judge_transport
from pushforward.laws.law import Law
from pushforward.models.autoencoder import AutoencoderModel
from pushforward.models.base import Codec
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.captioner import CaptionModel
from pushforward.models.classifier import NoisyClassifier
from pushforward.models.clip import CLIPModel
from pushforward.models.diffflow import DiffFlowModel
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.model import Model
from pushforward.objectives import (
    Autoencoding,
    Classification,
    Contrastive,
    ContrastiveCaptioning,
    Objective,
)
from pushforward.recipes.conditions import Columns
from pushforward.runtime.processes import Processes
from pushforward.streams.stream import Stream

# Pairs of picture and caption that are compared together in validation.
PAIRS = 64
# The seed of all sample pictures of a run, so that they show the same noise growing into better samples.
PICTURE_SEED = 0

Sampled = Model | FlowMapModel | BridgeModel | HalfBridges | DiffFlowModel


@dataclass(frozen=True)
class States:
    """What a model is trained on instead of its data: their latents. codec: of the model."""

    codec: Codec
    train: Dataset
    held_out: Dataset | None


@dataclass(frozen=True)
class Frame:
    """Pictures of one shape among those of several. shape: of the model's states for them."""

    shape: tuple[int, ...]
    train: Dataset
    held_out: Dataset | None


@dataclass(frozen=True)
class Experiment:
    """The parts of a run that trains what draws samples.

    held_out: data kept apart for evaluation; None where the data are a law. fingerprint: of the data.
    source:   what samples start from; None for Gaussian noise.
    prepare:  what must be done before the first step, and again when a run is resumed; given a way to report progress.
    conditions: which continuous conditions samples are drawn for; None without any.
    references: names of frozen parts that the saved model holds by reference, by place; see `pf.save`.
    validated: what the loss is taken on, if not on held_out: its latents, or its parts by shape.
    frames:   the data by shape, where pictures have several; `data` and `held_out` have all in the most usual one.
    """

    model: Sampled
    objective: Objective
    stream: Stream
    data: Dataset | Law
    held_out: Dataset | None
    fingerprint: str
    source: Law | None = None
    prepare: Callable[[Callable[[str], None]], None] | None = None
    conditions: Columns | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    validated: tuple[Dataset, ...] = ()
    frames: tuple[Frame, ...] = ()

    def columns(self, num: int, seed: int, label: Tensor | None = None) -> dict[str, Any]:
        """Continuous conditions (num, ...) by name, for samples of these labels: those of data, keyed by the seed."""
        return {} if self.conditions is None else self.conditions(num, seed, label)

    def picture(self, samples: Tensor, label: Tensor | None, title: str) -> Any:
        """A matplotlib figure of samples that were drawn with PICTURE_SEED, by the kind of data."""
        spec = self.model.spec
        return kinds.of(spec).draw(samples, spec, label, title)

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, Tensor | None]:
        """Figures, samples and labels; see evaluate.report. Of pictures of several shapes by `_judge_frames`."""
        if self.frames:
            return self._judge_frames(num, **sampling)
        sampling = {"source": self.source} | sampling
        if self.conditions is not None:
            seed = int(sampling.get("seed", 0))
            train = self.data if isinstance(self.data, Dataset) else None
            # Of the labels that samples are then drawn with.
            label = judged_labels(num, self.model.spec, train, seed)
            sampling = self.columns(num, seed, label) | sampling
        if isinstance(self.data, Dataset):
            if self.held_out is None:
                raise InputError(
                    "this run kept no data apart, so there is nothing to evaluate against"
                )
            return judge_dataset(self.model, self.data, self.held_out, num, **sampling)
        return judge_law(self.model, self.data, num, **sampling)

    def _judge_frames(
        self, num: int, **sampling: Any
    ) -> tuple[dict[str, float], Tensor, Tensor | None]:
        """Figures of each shape, with its width and height behind their names: of its share of `num` samples against
        its own data. What is written, samples and labels are those of the first, most usual one.

        Shapes with fewer than two samples, or data, on either side are not judged.
        """
        total = sum(len(frame.train) for frame in self.frames)
        figures: dict[str, float] = {}
        first: tuple[Tensor, Tensor | None] | None = None
        for frame in self.frames:
            own = round(num * len(frame.train) / total)
            if frame.held_out is None or min(own, len(frame.train), len(frame.held_out)) < 2:
                continue
            part = replace(self, data=frame.train, held_out=frame.held_out, frames=())
            options = sampling | {"shape": frame.shape}
            if first is not None:
                options = {name: value for name, value in options.items() if name != "write"}
            found, samples, label = part.judge(own, **options)
            height, width = frame.train.shape[1:]
            figures |= {f"{name}_{width}x{height}": value for name, value in found.items()}
            first = (samples, label) if first is None else first
        if first is None:
            raise InputError(
                "no shape of these pictures has two that are held out and two samples: raise --num, or hold out more"
            )
        return figures, *first

    def transport(self, num: int, seed: int = 0) -> dict[str, float]:
        """The probability flow as a transport of `num` samples; see evaluate.report.judge_transport."""
        return judge_transport(self.model, self.data, self.held_out, num, seed, self.source)


@dataclass(frozen=True)
class Classifying:
    """The parts of a run that trains a classifier."""

    model: NoisyClassifier
    objective: Classification
    stream: Stream
    held_out: Dataset
    fingerprint: str


@dataclass(frozen=True)
class Reconstructing:
    """The parts of a run that trains an autoencoder. scenes: whether its pictures can be read back."""

    model: AutoencoderModel
    objective: Autoencoding
    stream: Stream
    held_out: Dataset
    fingerprint: str
    scenes: bool = False

    def picture(self, model: AutoencoderModel, num: int = 24) -> Any:
        """A matplotlib figure of held-out pictures, each with its reconstruction behind it."""
        apart = self.held_out.sample(num)
        x = apart[torch.arange(len(apart))].x1
        pairs = torch.stack((x, reconstructed(model, x).clamp(x.min(), x.max())), 1).flatten(0, 1)
        spec = model.spec
        return kinds.of(spec).draw(pairs, spec, None, "Pictures, each with its reconstruction")

    def validate(self, model: AutoencoderModel, processes: Any) -> tuple[float, int]:
        """The mean of |x - x'| over this process's share of held-out pictures, and of how many."""
        rows = processes.share(min(len(self.held_out), 1024))
        x = self.held_out[torch.arange(rows.start, rows.stop)].x1
        return float((x - reconstructed(model, x)).abs().double().mean()), len(x)


@dataclass(frozen=True)
class Contrasting:
    """The parts of a run that trains pictures and captions to find each other."""

    model: CLIPModel | CaptionModel
    objective: Contrastive | ContrastiveCaptioning
    stream: Stream
    held_out: Dataset
    fingerprint: str

    def validate(self, model: Any, processes: Any) -> tuple[float, int]:
        """The mean loss of this process's share of held-out pairs, 64 together, and of how many."""
        own = replace(self.objective, model=model)
        count = min(len(self.held_out), 1024)
        rows = processes.share(count)
        # As many calls in each process: where networks are sharded, all take part in each of them.
        parts, size = -(-count // (processes.count * PAIRS)), rows.stop - rows.start
        total, device = 0.0, model.net.logit_scale.device
        with torch.no_grad():
            for k in range(parts):
                start, end = (rows.start + size * j // parts for j in (k, k + 1))
                batch = self.held_out[torch.arange(start, max(end, start + 1))].to(device)
                found = own.among(batch, Processes())["loss"][: end - start]
                total += float(found.double().sum())
        return total / max(size, 1), size


@dataclass(frozen=True)
class Captioning(Contrasting):
    """The parts of a run that trains what writes captions, and compares them with pictures."""

    model: CaptionModel
    objective: ContrastiveCaptioning


AnyExperiment = Experiment | Classifying | Reconstructing | Contrasting
