"""The command line: `pushforward train | sample | evaluate | likelihood | info`.

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
    from torch import Tensor

    from pushforward.core.fields import Field as ModelField
    from pushforward.core.fields import Model
    from pushforward.core.oracle import Law
    from pushforward.recipes.experiment import Experiment

SolverName = Literal[
    "euler", "midpoint", "heun", "rk4", "dopri5", "ab2", "ab3", "ab4", "deis2", "deis3", "dpm++2m", "dpm++3m",
    "dpm++2m-sde", "dpm++3m-sde", "dpm2", "dpm3", "dpm++2s", "dpm++3s", "dpm++2s-ancestral", "dpm++sde",
    "unipc2", "unipc3", "ddim", "ddpm", "euler-maruyama",
    "stochastic-heun", "euler-ancestral", "edm", "edm-churn", "annealed-langevin", "predictor-corrector",
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
        if name.endswith("classifier"):
            say(f"done: {folder}. Guide a model with: pushforward sample RUN --classifier {folder}")
            return 0
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
    classifier: Path | None = Field(
        None, description="Run folder of a noisy classifier that guides towards --label."
    )
    classifier_scale: float = Field(
        1.0, description="Scale of its guidance; more is stronger. Needs --classifier."
    )
    out: Path | None = Field(None, description="Folder for the results. Left out: RUN/generated.")

    def guided(self, model: Model) -> ModelField:
        """The model under the guidance of the classifier, if there is one: the unconditional model then."""
        from pushforward.core.errors import InputError
        from pushforward.guidance import ClassifierGuidance
        from pushforward.train.share import load_classifier

        if self.classifier is None:
            if self.classifier_scale != 1:
                raise InputError("--classifier-scale needs --classifier")
            return model
        if self.guidance is not None:
            raise InputError("give either --guidance or --classifier, not both")
        classifier = load_classifier(self.classifier, next(model.parameters()).device)
        if classifier.shape != model.shape:
            raise InputError(
                f"the classifier takes samples {classifier.shape}, the model draws {model.shape}"
            )
        return ClassifierGuidance(model, classifier, self.classifier_scale)

    def run(self) -> int:
        import torch

        from pushforward.core.errors import InputError
        from pushforward.evaluate.pictures import png
        from pushforward.recipes.experiment import draw
        from pushforward.sampling import generate
        from pushforward.train.files import write_file

        model = self.model()
        field = self.guided(model)
        known = getattr(field, "classes", None)
        classes = self.label or (tuple(range(known)) if known else ())
        if self.label and known is None:
            raise InputError("--label needs a model with classes, and this one has none")
        num = self.num or (8 * len(classes) if classes else 4000 if len(model.shape) == 1 else 64)
        label = torch.tensor([classes[i % len(classes)] for i in range(num)]) if classes else None
        samples = generate(field, num, label=label, **self.arguments(model)).cpu()
        out = self.out or self.folder / "generated"
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create {out}: {error.strerror or error}") from error
        settings = self.settings(model) | {"num": num, "label": list(classes)}
        if field is not model:
            settings["classifier"] = field.classifier.info["sha256"]  # type: ignore[attr-defined]
            settings["classifier_scale"] = self.classifier_scale
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


class Likelihood(Command):
    """How likely held-out data are to a run's model: a table, and likelihood.json in the run folder.

    Images in bits per dimension, dequantised by uniform noise; points in nats.
    """

    folder: RunFolder = Field(description="Run folder, or any folder with a model.")
    data: str = Field(
        "held-out",
        description="A folder of images or a .npy or .npz file; held-out is what the run kept apart, "
        "or fresh draws from its law.",
    )
    num: int = Field(200, ge=2, description="Samples, the first of the data.")
    probes: int | None = Field(
        None,
        ge=1,
        description="Random probes of the divergence for each sample. Left out: 4, and none, exact, in up to "
        "8 dimensions.",
    )
    tolerance: float = Field(1e-4, gt=0, description="Relative tolerance of the ODE solver.")
    bound: bool = Field(False, description="Work out the variational bound of DDPM, too.")
    bound_terms: int | None = Field(
        None, ge=1, description="Random terms of the bound for each sample. Left out: all."
    )
    bound_steps: int | None = Field(
        None,
        ge=2,
        description="Steps of the bound. Left out: those of a discrete path, or 1000.",
    )
    variance: Literal["beta", "beta-tilde", "learned"] = Field(
        "beta-tilde", description="Variance of the steps of the bound."
    )
    unconditional: bool = Field(False, description="Leave the labels of the data out.")
    seed: int = Field(0, ge=0, lt=2**64, description="Key of probes and noise.")
    batch_size: int = Field(256, ge=1, description="Samples at a time.")
    device: str = Field(
        "auto", description="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."
    )

    def run(self) -> int:
        import json

        from pushforward.evaluate.likelihood import Settings, judge
        from pushforward.recipes.experiment import find_device
        from pushforward.train.files import write_file
        from pushforward.train.share import load

        model = load(self.folder, find_device(self.device))
        x, label, law = self.samples(model)
        if self.unconditional or model.classes is None:
            label = None
        settings = Settings(
            self.probes,
            self.tolerance,
            self.bound,
            self.bound_terms,
            self.bound_steps,
            self.variance,
            self.seed,
            self.batch_size,
        )
        figures, facts = judge(model, x, label, settings)
        if law is not None:
            figures["law"] = -float(law.log_prob(x.double()).mean())
        facts = facts | {"data": self.data, "num": len(x), "model": model.info["sha256"]}
        facts["conditional"] = label is not None
        report = {"figures": figures, "settings": facts}
        write_file(self.folder / "likelihood.json", (json.dumps(report, indent=1) + "\n").encode())
        unit = "nats" if facts["bin_width"] is None else "bits per dimension"
        show(figures, f"{len(x)} samples of {self.data}, in {unit}, seed {self.seed}")
        return 0

    def samples(self, model: Model) -> tuple[Tensor, Tensor | None, Law | None]:
        """The data, their labels if they have any, and the law that they are drawn from if it is known."""
        from pushforward.core.errors import InputError
        from pushforward.data import Dataset, load_array, load_folder
        from pushforward.evaluate.agreement import everything

        if self.data == "held-out":
            experiment = reopen(self.folder, self.device, model)
            if not isinstance(experiment.data, Dataset):
                # A seed apart from those of training and sampling.
                draws = experiment.data.sample(self.num, seed=(self.seed + 1) % 2**64)
                return draws.float(), None, experiment.data
            if experiment.held_out is None:
                raise InputError("this run kept no data apart: give some with --data")
            data = experiment.held_out
        else:
            place = Path(self.data)
            if place.suffix in (".npy", ".npz") and not place.is_dir():
                data = load_array(place)
            elif len(model.shape) == 3:
                channels = 1 if model.shape[0] == 1 else 3
                data = load_folder(place, model.shape[1], channels)
            else:
                raise InputError(f"--data must be a .npy or .npz file of samples {model.shape}")
        if data.shape != model.shape:
            raise InputError(
                f"{self.data} holds samples {data.shape}; the model's are {model.shape}"
            )
        x, label = everything(data, self.num)
        if len(x) < 2:
            raise InputError(f"{self.data} holds {len(x)} sample; a mean with its error takes 2")
        return x, label, None


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
    from pushforward.recipes.experiment import experiment_of

    experiment = experiment_of(folder, device=device)
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
        "likelihood": Likelihood,
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
