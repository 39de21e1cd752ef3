"""What a recipe builds, and how a run is started, taken up and opened again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
import torch
from pydantic import ValidationError
from torch import Tensor

from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.fields import FlowMap
from pushforward.core.noise import Noise
from pushforward.data.arrays import Dataset
from pushforward.evaluate import kinds
from pushforward.evaluate.figures import png
from pushforward.evaluate.labels import shown_labels, spec_of
from pushforward.evaluate.report import judge_dataset, judge_law, judge_transport
from pushforward.laws.law import Law
from pushforward.laws.plane import LAWS
from pushforward.models.classifier import NoisyClassifier
from pushforward.models.model import Model
from pushforward.objectives import Classification, Matching, Objective
from pushforward.recipes.objectives import NetFactory, find_coupling, find_objective, find_path
from pushforward.recipes.options import MACHINE, PLACE, Recipe
from pushforward.runtime.device import find_device, has_bfloat16, seeded
from pushforward.runtime.files import locked, write_file
from pushforward.runtime.processes import Processes
from pushforward.sampling.generate import generate_together
from pushforward.sampling.sampler import default_nfe, default_sampler
from pushforward.solvers import Learned
from pushforward.streams.drawn import Drawn
from pushforward.streams.shuffled import Shuffled
from pushforward.streams.stream import Stream
from pushforward.train.log import Reporter
from pushforward.train.settings import Settings
from pushforward.train.trainer import Trainer, Validate

CONFIG = "config.toml"
# The folder in that of a distilled run which holds those of its earlier stages.
STAGES = "stages"
# Held-out data whose loss is taken, at a step of noise that no training run comes to.
VALIDATED, VALIDATION_STEP = 2048, 2**32 - 2
# The seed of all sample pictures of a run, so that they show the same noise growing into better samples.
PICTURE_SEED = 0


@dataclass(frozen=True)
class Experiment:
    """The parts of a run.

    held_out: data kept apart for evaluation; None where the data are a law. fingerprint: of the data.
    source: what samples start from; None for Gaussian noise.
    prepare: what is to be done before the first step, and again when a run is taken up; told how to say what it does.
    """

    model: Any
    objective: Objective
    stream: Stream
    data: Dataset | Law
    held_out: Dataset | None
    fingerprint: str
    source: Law | None = None
    prepare: Callable[[Callable[[str], None]], None] | None = None

    def picture(self, samples: Tensor, label: Tensor | None, title: str) -> Any:
        """Samples as a figure."""
        spec = spec_of(self.model)
        return kinds.of(spec).draw(samples, spec, label, title)

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, Tensor | None]:
        """Figures, samples and labels; see evaluate.report."""
        sampling = {"source": self.source} | sampling
        if isinstance(self.data, Dataset):
            if self.held_out is None:
                raise InputError(
                    "this run kept no data apart, so there is nothing to evaluate against"
                )
            return judge_dataset(self.model, self.data, self.held_out, num, **sampling)
        return judge_law(self.model, self.data, num, **sampling)

    def transport(self, num: int, seed: int = 0) -> dict[str, float]:
        """The probability flow as a transport of `num` samples; see evaluate.report.judge_transport."""
        return judge_transport(self.model, self.data, self.held_out, num, seed, self.source)


@dataclass(frozen=True)
class Classifying:
    """The parts of a run that trains a noisy classifier."""

    model: NoisyClassifier
    objective: Classification
    stream: Stream
    held_out: Dataset
    fingerprint: str


def assemble(
    recipe: Recipe,
    net: NetFactory,
    data: Dataset | Law,
    held_out: Dataset | None,
    shape: tuple[int, ...],
    classes: int | None,
    fingerprint: str,
    info: dict[str, Any],
    condition_dropout: float = 0.0,
    source: Law | None = None,
    stream: Stream | None = None,
) -> Experiment:
    """The parts of a run from a recipe's options, its network and its data.

    net: builds the network with so many answers for each channel. source: what x0 is drawn from, None for Gaussian
    noise. stream: batches, if they are not plain draws of the data and the source.
    """
    coupling = find_coupling(recipe)
    path = find_path(recipe, source is None and coupling is None)
    device = find_device(recipe.device)
    model, objective = seeded(
        lambda: find_objective(
            recipe,
            net,
            path,
            data,
            condition_dropout if classes else 0.0,
            shape=shape,
            classes=classes,
            info=info | {"data": fingerprint},
        ),
        recipe.seed,
    )
    model.to(device)
    if stream is None:
        if isinstance(data, Dataset):
            stream = Shuffled(data, recipe.batch_size, recipe.seed)
        else:
            stream = Drawn(data, recipe.batch_size, recipe.seed)
        if source is not None:
            from pushforward.streams.drawn import Sourced

            stream = Sourced(stream, source, recipe.seed)
    if coupling is not None:
        from pushforward.streams.coupled import Coupled
        from pushforward.streams.prefetch import Prefetch

        stream = Prefetch(Coupled(stream, coupling, recipe.seed))
    return Experiment(model, objective, stream, data, held_out, fingerprint, source)


Made = TypeVar("Made")


def find_source(model: Any, folder: Path) -> Law | None:
    """What samples of the model in a run folder start from; None for Gaussian noise."""
    name = model.info.get("source")
    if name is None:
        return None
    return LAWS[name]() if name in LAWS else experiment_of(folder).source


def preview(experiment: Experiment) -> Callable[[Model], bytes]:
    """PNGs of the model in training: the same noise every time."""
    spec = spec_of(experiment.model)
    num = kinds.of(spec).number(spec)

    def drawn(model: Model) -> bytes:
        label = shown_labels(num, spec)
        calls = default_nfe(model) if isinstance(model, FlowMap) else 20
        solver = default_sampler(model, calls)
        samples = generate_together(
            model,
            num,
            solver=solver,
            nfe=calls,
            source=experiment.source,
            seed=PICTURE_SEED,
            label=label,
            batch_size=1024,
        )
        learned = isinstance(solver, Learned)
        settings = {
            "seed": PICTURE_SEED,
            "nfe": calls,
            "solver": "learned" if learned else type(solver).__name__,
            "grid": "learned" if learned else "its own",
            "weights": "EMA, in training",
        }
        return png(experiment.picture(samples, label, ""), settings)

    return drawn


def train(name: str, recipe: Recipe, quiet: bool = False) -> tuple[Path, int]:
    """Start or resume the run of a recipe. Returns its folder, and 0 or the number of the signal that stopped it."""
    from pushforward.recipes.card import write_card

    folder = recipe.out or Path("runs") / name
    processes = Processes.current()
    if recipe.resume:
        recipe = _resumed(name, recipe, folder)
    else:
        processes.first(lambda: require_new(folder))
    recipe = settle(recipe)
    experiment = recipe.build()
    chosen = {
        key: getattr(recipe, key) for key in Settings.__dataclass_fields__ if hasattr(recipe, key)
    }
    settings = Settings(**chosen | {"compile": recipe.compile == "on"})
    recorded = recipe.recorded()
    identity = {
        "recipe": name,
        "SHA-256 of the data": experiment.fingerprint[:16],
        **{key: json.dumps(value) for key, value in recorded.items() if key not in MACHINE},
    }
    drawable = kinds.of(spec_of(experiment.model)).drawable
    reporter = Reporter(recipe.steps, quiet=quiet or not processes.lead)
    stream = experiment.stream
    if recipe.workers:
        from pushforward.streams.prefetch import Prefetch

        stream = Prefetch(stream, 2 * recipe.workers, recipe.workers)
    trainer = Trainer(
        experiment.objective,
        experiment.model,
        stream,
        settings,
        folder,
        identity,
        preview(experiment) if isinstance(experiment, Experiment) and drawable else None,
        reporter,
        validation(experiment),
    )
    if not recipe.resume:
        processes.first(lambda: create(folder))
    with locked(folder) if processes.lead else nullcontext():
        if recipe.resume:
            trainer.resume()
            reporter.say(f"resuming {folder} at step {trainer.step} of {recipe.steps}")
        else:
            config = tomli_w.dumps({"recipe": name, **recorded}).encode()
            processes.first(lambda: write_file(folder / CONFIG, config))
            trainer.start()
            reporter.say(f"training {name} in {folder}: {described(experiment, recipe, processes)}")
        if recipe.tensorboard and processes.lead:
            trainer.watchers = (tensorboard(folder, trainer.step),)
        if isinstance(experiment, Experiment) and experiment.prepare is not None:
            experiment.prepare(reporter.say)
        done = trainer.run()
        processes.first(lambda: write_card(folder))
        return folder, 0 if done else trainer.stopping


def settle(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to its data, and to the machine at hand, decided: precision and compiling."""
    recipe = recipe.settled()
    device = find_device(recipe.device)
    chosen: dict[str, Any] = {}
    if recipe.precision == "auto":
        quick = recipe.objective == "matching" and has_bfloat16(device)
        chosen["precision"] = "bf16" if quick else "fp32"
    if recipe.compile == "auto":
        quick = recipe.objective == "matching" and device.type == "cuda"
        chosen["compile"] = "on" if quick else "off"
    return recipe.model_copy(update=chosen)


def described(experiment: Experiment | Classifying, recipe: Recipe, processes: Processes) -> str:
    """A run in one line."""
    count = sum(p.numel() for p in experiment.model.parameters())
    words = [f"{count / 1e6:.2f} M parameters", f"{recipe.steps} steps"]
    words.append(f"{recipe.precision} on {find_device(recipe.device)}")
    if recipe.compile == "on":
        words.append("compiled")
    if processes.count > 1:
        words.append(f"{processes.count} processes ({recipe.parallel})")
    return ", ".join(words)


def create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create the run folder {folder}: {error.strerror or error}"
        ) from error


def validation(experiment: Experiment | Classifying) -> Validate | None:
    """The loss of a regression on held-out data, at times and with noise that are the same at every step."""
    objective, held_out = experiment.objective, experiment.held_out
    if not isinstance(objective, Matching) or held_out is None:
        return None

    def loss(model: Model, processes: Processes) -> tuple[float, int]:
        count = min(len(held_out), VALIDATED)
        rows = processes.share(count)
        # As many calls in each process: where networks are sharded, all take part in each of them.
        parts = -(-count // (processes.count * 256))
        size, total = rows.stop - rows.start, 0.0
        device = next(model.parameters()).device
        own = replace(objective, model=model, condition_dropout=0.0)
        with torch.no_grad():
            for k in range(parts):
                ids = torch.arange(
                    rows.start + size * k // parts, rows.start + size * (k + 1) // parts
                )
                noise = Noise(0, ids.to(device), VALIDATION_STEP)
                total += float(own(held_out[ids].to(device), noise)["loss"].double().sum())
        return total / max(size, 1), size

    return loss


def tensorboard(folder: Path, step: int) -> Callable[[Mapping[str, Any]], None]:
    """Writes entries of the log for TensorBoard; those after `step`, of before the run was taken up, are hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the package tensorboard: pip install -e '.[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name != "step":
                writer.add_scalar(name, value, entry["step"])
        writer.flush()

    return write


def require_new(folder: Path) -> None:
    """A new run takes a folder that is empty or not there yet, but for the stages that led to it."""
    try:
        taken = folder.exists() and any(part.name != STAGES for part in folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be a run folder: {error.strerror or error}; choose another --out"
        ) from error
    if taken and (folder / CONFIG).is_file():
        raise InputError(
            f"{folder} already holds a run: go on with it by --resume, or choose another --out"
        )
    if taken:
        raise InputError(f"{folder} already holds files that are not a run: choose another --out")


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The recipe's name and its recorded options, from a run folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run folder: it has no {CONFIG}")
    try:
        options = tomllib.loads(path.read_text())
        return str(options.pop("recipe")), options
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def recipe_of(folder: Path, **place: Any) -> Recipe:
    """The recipe of a run folder, as recorded; `place` gives out, resume and device."""
    from pushforward.recipes import RECIPES

    name, options = read_config(folder)
    if name not in RECIPES:
        raise CheckpointError(
            f"{folder / CONFIG} names the recipe {name!r}; known are {', '.join(RECIPES)}"
        )
    misplaced = sorted(PLACE & options.keys())
    if misplaced:
        raise CheckpointError(
            f"{folder / CONFIG}: option {misplaced[0]} is for the command line, take it out"
        )
    try:
        return RECIPES[name](**options, **place)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{folder / CONFIG}: option {where}: {first['msg']}") from error


def experiment_of(folder: Path, **place: Any) -> Experiment:
    """The experiment of a run folder, its network untrained."""
    experiment = recipe_of(folder, **place).build()
    if not isinstance(experiment, Experiment):
        raise InputError(f"{folder} is the run of a classifier: its model draws no samples")
    return experiment


def _resumed(name: str, given: Recipe, folder: Path) -> Recipe:
    """The recorded recipe, after a look for options on the command line that contradict it."""
    recorded_name, recorded = read_config(folder)
    if recorded_name != name:
        raise InputError(f"{folder} holds a run of the recipe {recorded_name}, not {name}")
    recipe = recipe_of(
        folder, out=folder, resume=True, device=given.device, tensorboard=given.tensorboard
    )
    changed = [
        f"--{key.replace('_', '-')} {getattr(given, key)} (the run has {recorded.get(key, 'none')})"
        for key, field in type(given).model_fields.items()
        if key not in PLACE | MACHINE
        and getattr(given, key) not in (field.default, getattr(recipe, key))
    ]
    if changed:
        raise InputError(
            f"--resume goes on with the options of {folder}; these differ: {', '.join(changed)}. "
            f"Leave them out, or start a new run in another --out"
        )
    fields = type(given).model_fields
    anew = {key for key in MACHINE if getattr(given, key) != fields[key].default}
    return recipe.model_copy(update={key: getattr(given, key) for key in anew})
