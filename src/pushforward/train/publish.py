"""The averages of a run as models to load, in its folder: the first at the top, others in emas/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pushforward.models.base import ModelBase
from pushforward.runtime.processes import Processes
from pushforward.saving.description import describe
from pushforward.saving.folder import describe_checked, read_description, write
from pushforward.train.ema import EMA
from pushforward.train.frozen import is_frozen
from pushforward.train.parallel import to_lead


class Publisher:
    """Writes the averages of a model. All processes call `write` alike.

    averages: by their folders. references: names of frozen parts that are not written, by place. Frozen parts without a
    name are written once. Raises CheckpointError, when it is made, for a model that could not be loaded.
    """

    def __init__(
        self,
        model: ModelBase,
        averages: Mapping[Path, EMA],
        processes: Processes,
        references: Mapping[str, str] | None = None,
    ) -> None:
        self.averages, self.processes = dict(averages), processes
        self.references = dict(references or {})
        described = describe_checked(model, self.references)
        self.frozen = {place for place, net in described.modules.items() if is_frozen(net)}
        self.known = {place: described.parts[place]["digest"] for place in self.references}
        self.written: dict[Path, Mapping[str, Any]] | None = None

    def write(self, step: int) -> None:
        done: dict[Path, Mapping[str, Any]] = {}
        for folder, average in self.averages.items():
            model = average.model
            model.provenance = replace(model.provenance, step=step)
            described = describe(model, self.references, self.known)
            kept = {} if self.written is None else self.written[folder]
            tensors = {
                place: to_lead(own.items(), self.processes)
                for place, own in described.tensors()
                if self.written is None or place not in self.frozen
            }
            self.processes.first(partial(write, described, folder, tensors, kept))
            if self.written is None and self.processes.lead:
                parts = read_description(folder).parts
                kept = {
                    place: parts[place]["weights"]
                    for place in self.frozen
                    if "weights" in parts[place]
                }
            done[folder] = kept
        self.written = done
