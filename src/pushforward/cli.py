"""The command line: `pushforward train | sample | evaluate | info`.

Only what a command needs is imported, so that help is quick. Exit codes: 0 done, 1 an error of the kind that
`pushforward.Error` stands for, 2 a command line that cannot be understood, 130 and 143 stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
# Threads that wait by spinning slow training tenfold as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import tyro
from pydantic import BaseModel, ConfigDict, Field

from pushforward.recipes import RECIPES

if TYPE_CHECKING:
    from pushforward.core.fields import Model
    from pushforward.recipes.experiment import Experiment

SolverName = Literal[
    "euler", "midpoint", "heun", "rk4", "dopri5", "ab2", "ab3", "deis2", "deis3", "dpm++2m", "dpm++3m",
    "unipc2", "unipc3", "ddim", "ddpm", "euler-maruyama",
]  # fmt: skip
RunFolder = Annotated[Path, tyro.conf.Positional]


def subcommands(table: Mapping[str, type[BaseModel]]) -> Any:
    """The union of the classes in a table, each a subcommand under its name."""
    return functools.reduce(
        operator.or_,
        (Annotated[cls, tyro.conf.subcommand(name)] for name, cls in table.items()),
    )


AnyRecipe: Any = Annotated[subcommands(RECIPES), tyro.conf.arg(name="")]


class Command(BaseModel, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @abstractmethod
    def run(self) -> int:
        """Do it; returns the exit code."""


class Train(Command):
    """Train a model by a recipe, in a run folder."""

    recipe: AnyRecipe

    def run(self) -> int:
        from pushforward.recipes.experiment import train

        name = next(name for name, recipe in RECIPES.items() if type(self.recipe) is recipe)
        folder, signal = train(name, self.recipe)
        if signal:
            say(f"stopped; go on with: pushforward train {name} --out {folder} --resume")
            return 128 + signal
        look = f" Look at {folder / 'samples'}." if (folder / "samples").is_dir() else ""
        say(f"done: {folder}.{look} Draw more with: pushforward sample {folder}")
        return 0


class Sampling(Command):
    """How samples are drawn from a run."""

    folder: RunFolder = Field(description="Run folder, or any folder with a model.")
    solver: SolverName = Field("ab2", description="Solver.")
    nfe: int | None = Field(
        None,
        ge=1,
        description="Network calls for each sample, a guided call counting as one. Left out: 50; "
        "dopri5 makes as many as it takes.",
    )
    guidance: float | None = Field(
        None, description="Scale of classifier-free guidance; 1 is none, more is stronger."
    )
    seed: int = Field(0, ge=0, lt=2**64, description="Sample i is a function of the seed and i.")
    batch_size: int = Field(256, ge=1, description="Samples drawn at a time.")
    device: str = Field(
        "auto", description="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."
    )

    @property
    def budget(self) -> int | None:
        """Network calls; None for a solver that makes as many as it takes."""
        return 50 if self.nfe is None and self.solver != "dopri5" else self.nfe

    def settings(self, model: Model) -> dict[str, Any]:
        """What goes into pictures and reports: enough to draw the same samples again."""
        return {
            "solver": self.solver,
            "nfe": self.budget,
            "guidance": self.guidance,
            "seed": self.seed,
            "model": model.info["sha256"],
        }

    def arguments(self, model: Model) -> dict[str, Any]:
        from pushforward.recipes.tables import SOLVERS

        return {
            "solver": SOLVERS[self.solver](model.path),
            "nfe": self.budget,
            "guidance": self.guidance,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    def model(self) -> Model:
        from pushforward.core.errors import InputError
        from pushforward.recipes.experiment import find_device
        from pushforward.train.share import load

        model = load(self.folder, find_device(self.device))
        if self.guidance is not None and model.classes is None:
            raise InputError("--guidance needs a model with classes, and this one has none")
        return model


class Sample(Sampling):
    """Draw samples from a trained model: samples.png (images and points of the plane) and samples.npz."""

    num: int | None = Field(
        None, ge=1, description="How many. Left out: 8 of each class, 64, or 4000 points."
    )
    label: tuple[int, ...] = Field(
        (), description="Classes to draw, in turn; -1 for no class. Left out: all."
    )
    out: Path | None = Field(None, description="Folder for the results. Left out: RUN/generated.")

    def run(self) -> int:
        import torch

        from pushforward.core.errors import InputError
        from pushforward.evaluate.pictures import png
        from pushforward.recipes.experiment import draw
        from pushforward.sampling import generate
        from pushforward.train.files import write_file

        model = self.model()
        classes = self.label or (tuple(range(model.classes)) if model.classes else ())
        if self.label and model.classes is None:
            raise InputError("--label needs a model with classes, and this one has none")
        num = self.num or (8 * len(classes) if classes else 4000 if len(model.shape) == 1 else 64)
        label = torch.tensor([classes[i % len(classes)] for i in range(num)]) if classes else None
        samples = generate(model, num, label=label, **self.arguments(model)).cpu()
        out = self.out or self.folder / "generated"
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create {out}: {error.strerror or error}") from error
        settings = self.settings(model) | {"num": num, "label": list(classes)}
        arrays = {"samples": samples.numpy()} | ({} if label is None else {"label": label.numpy()})
        write_file(out / "samples.npz", npz(arrays, settings))
        written = [out / "samples.npz"]
        if len(model.shape) == 3 or model.shape == (2,):
            picture = draw(samples, model.info, label, "")
            write_file(out / "samples.png", png(picture, settings))
            written.append(out / "samples.png")
        say(f"{num} samples in " + " and ".join(map(str, written)))
        return 0


class Evaluate(Sampling):
    """Judge a run's model against its data: a table, and evaluation.json in the run folder."""

    num: int = Field(5000, ge=2, description="Samples to judge.")

    def run(self) -> int:
        import json

        from pushforward.train.files import write_file

        model = self.model()
        experiment = reopen(self.folder, self.device, model)
        figures, _, _ = experiment.judge(self.num, **self.arguments(model))
        settings = self.settings(model) | {"num": self.num}
        report = {"figures": figures, "settings": settings}
        write_file(self.folder / "evaluation.json", (json.dumps(report, indent=1) + "\n").encode())
        calls = f"{self.budget or 'adaptive'} calls"
        show(figures, f"{self.num} samples, {self.solver}, {calls}, seed {self.seed}")
        return 0


class Info(Command):
    """Say what is in a run folder."""

    folder: RunFolder = Field(description="Run folder, or any folder with a model.")

    def run(self) -> int:
        from pushforward.recipes.experiment import CONFIG, read_config
        from pushforward.train.checkpoint import Checkpoints
        from pushforward.train.log import JSONLines
        from pushforward.train.share import load

        model = load(self.folder)
        count = sum(p.numel() for p in model.parameters())
        facts: dict[str, Any] = {
            "network": f"{type(model.net).__name__}, {count / 1e6:.3f} M parameters",
            "path": str(model.path),
            "predicts": model.prediction
            + (" (EDM preconditioning)" if model.preconditioning else ""),
            "sample shape": " x ".join(map(str, model.shape)),
            "classes": model.classes or "none",
            "weights": f"EMA at step {model.info.get('step', '?')}, SHA-256 {model.info['sha256'][:16]}",
        }
        if (self.folder / CONFIG).is_file():
            name, options = read_config(self.folder)
            steps = Checkpoints(self.folder / "checkpoints").steps()
            facts["recipe"] = name
            facts["trained"] = f"{steps[-1] if steps else 0} of {options.get('steps', '?')} steps"
            entries = JSONLines(self.folder / "log.jsonl").read()
            if entries:
                facts["last loss"] = f"{entries[-1]['loss']:.5f}"
        show(facts, str(self.folder))
        return 0


def npz(arrays: dict[str, Any], settings: dict[str, Any]) -> bytes:
    """Arrays as an .npz file, with the settings as JSON under "settings"."""
    import io
    import json

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, settings=np.array(json.dumps(settings)), **arrays)
    return buffer.getvalue()


def reopen(folder: Path, device: str, model: Model) -> Experiment:
    """The experiment of a run folder, with its trained model in place of a fresh one."""
    from dataclasses import replace

    from pushforward.core.errors import InputError
    from pushforward.recipes.experiment import recipe_of

    experiment = recipe_of(folder, device=device).build()
    if model.info.get("data") != experiment.fingerprint:
        raise InputError(
            f"the data of {folder} are not those that its model was trained on (their SHA-256 differs), "
            f"so that what was held out may have been seen: restore them to evaluate"
        )
    return replace(experiment, model=model)


def show(figures: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    say(title)
    Console(highlight=False).print(table)


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    commands: dict[str, type[Command]] = {
        "train": Train,
        "sample": Sample,
        "evaluate": Evaluate,
        "info": Info,
    }
    command: Command = tyro.cli(
        subcommands(commands),
        prog="pushforward",
        description="Flow matching and diffusion models: train, sample, evaluate.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    from pushforward.core.errors import Error

    try:
        return command.run()
    except Error as error:
        print(f"pushforward: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pushforward: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
