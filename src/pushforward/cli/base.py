"""What commands share."""

from __future__ import annotations

import functools
import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pushforward.models.model import Model
    from pushforward.recipes.experiment import Experiment

RunFolder = Annotated[Path, tyro.conf.Positional]
Device = Annotated[
    str, Field(description="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one.")
]


def subcommands(table: Mapping[str, type[BaseModel]]) -> Any:
    """The union of the classes in a table, each a subcommand under its name."""
    return functools.reduce(
        operator.or_,
        (Annotated[cls, tyro.conf.subcommand(name)] for name, cls in table.items()),
    )


class Command(BaseModel, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    # Whether several processes can do it together.
    shareable: ClassVar[bool] = False

    @property
    def place(self) -> str:
        """The device that was asked for."""
        return str(getattr(self, "device", "cpu"))

    @abstractmethod
    def run(self) -> int:
        """Do it; returns the exit code."""


def reopen(folder: Path, device: str, model: Model) -> Experiment:
    """The experiment of a run folder, with its trained model in place of a fresh one."""
    from dataclasses import replace

    from pushforward.recipes.experiment import experiment_of

    experiment = experiment_of(folder, device=device, resume=True)
    require_same_data(folder, model.info, experiment.fingerprint)
    return replace(experiment, model=model)


def require_same_data(folder: Path, info: Mapping[str, Any], fingerprint: str) -> None:
    from pushforward.core.errors import InputError

    if info.get("data") != fingerprint:
        raise InputError(
            f"the data of {folder} are not those that its model was trained on (their SHA-256 differs), "
            f"so that what was held out may have been seen: restore them to evaluate"
        )


def show(figures: dict[str, Any], title: str) -> None:
    """A table of names and values under a title."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    say(title)
    Console(highlight=False).print(table)


def say(text: str) -> None:
    print(text, flush=True)


def write_json(path: Path, value: Any) -> None:
    from pushforward.runtime.files import write_file

    write_file(path, (json.dumps(value, indent=1) + "\n").encode())
