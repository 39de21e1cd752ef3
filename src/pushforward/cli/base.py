"""What commands share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pushforward.cli.parse import parse
from pushforward.recipes import flat
from pushforward.recipes.options import Options, option

if TYPE_CHECKING:
    from rich.table import Table

    from pushforward.core.spec import DataSpec
    from pushforward.recipes.experiment import Experiment, Sampled

DEVICE = "cpu, cuda, cuda:1, ...; auto: CUDA if there is one."
SEED = "Sample i is a function of the seed and i."


def run_folder(
    description: str = "Run folder, or any folder with a model; scenes, which is shipped; or hub:OWNER/NAME.",
) -> Any:
    """The field of a run folder, a `RunFolder`, the first argument."""
    return option(..., description, positional=True)


class Command(Options, ABC):
    """A command: its options are its fields."""

    # Whether several processes can do it together.
    shareable: ClassVar[bool] = False
    # Whether it trains, which shows progress of its own.
    trains: ClassVar[bool] = False

    def opening(self) -> str | None:
        """What is said at once, before torch is imported; None for what is done in no time."""
        return None

    @property
    def place(self) -> str:
        """The device that was asked for."""
        return str(getattr(self, "device", "cpu"))

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Self:
        """The command that these words give."""
        return flat.make(cls, parse(cls, words, prog))

    def cut(self, above: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        """The fields to change for a rehearsal. above: those of some options that are too large for one."""
        return above(self)

    @abstractmethod
    def run(self) -> int:
        """Do it; returns the exit code."""


def reopen(folder: Path, device: str, model: Sampled) -> Experiment:
    """The experiment of a run folder, with its trained model in place of a fresh one."""
    from dataclasses import replace

    from pushforward.recipes.config import experiment_of
    from pushforward.recipes.latents import require_same_codec

    experiment = experiment_of(folder, device=device, resume=True)
    require_same_data(folder, model.spec, experiment.fingerprint)
    require_same_codec(folder, model, experiment)
    return replace(experiment, model=model)


def require_same_data(folder: Path, spec: DataSpec, fingerprint: str) -> None:
    from pushforward.core.errors import InputError

    if spec.fingerprint != fingerprint:
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


def print_wide(table: Table) -> None:
    """A table, wider than a narrow terminal rather than cut."""
    from rich.console import Console

    wide = Console(width=1000).measure(table).maximum
    Console(highlight=False, width=max(Console().width, wide)).print(table)


def say(text: str) -> None:
    print(text, flush=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    from pushforward.runtime.files import write_file

    write_file(path, (json.dumps(value, indent=1) + "\n").encode())
