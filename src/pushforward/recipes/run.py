"""Starting, resuming and prolonging a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import FlowMap
from pushforward.core.noise import Noise
from pushforward.evaluate import kinds
from pushforward.evaluate.figures import png
from pushforward.evaluate.labels import shown_labels
from pushforward.models.model import Model
from pushforward.objectives import Matching, NextBucket, Reflow
from pushforward.recipes.buckets import padded, share
from pushforward.recipes.config import CONFIG, STAGES, read_config, recipe_of, written
from pushforward.recipes.experiment import (
    PICTURE_SEED,
    AnyExperiment,
    Classifying,
    Contrasting,
    Experiment,
    Reconstructing,
)
from pushforward.recipes.flat import OptionError, flag_of, leaves, no_option, values
from pushforward.recipes.recipe import Recipe
from pushforward.runtime.device import find_device, has_bfloat16
from pushforward.runtime.files import locked, write_file
from pushforward.runtime.processes import Processes
from pushforward.runtime.show import shown
from pushforward.sampling.generate import generate_together
from pushforward.sampling.sampler import default_nfe, find_sampler
from pushforward.train.log import Reporter
from pushforward.train.settings import Settings
from pushforward.train.start import start_from
from pushforward.train.trainer import Trainer, Validate

# Held-out data whose loss is taken, at a step of noise that no training run comes to.
VALIDATED, VALIDATION_STEP = 2048, 2**32 - 2


def train(recipe: Recipe, quiet: bool = False) -> tuple[Path, int]:
    """Start the run of a recipe, or resume it if its place says so.

    Returns its folder, and 0 or the number of the signal that stopped it.
    """
    folder = folder_of(recipe)
    if recipe.place.resume:
        return resume(folder, {"device": recipe.place.device}, quiet)
    processes = Processes.current()
    processes.first(lambda: require_room(recipe, folder))
    recipe = settle(recipe)
    experiment = recipe.build()
    origin = recipe.place.from_
    taken = None if origin is None else start_from(experiment.model, origin)
    trainer = trainer_of(recipe, experiment, folder, quiet)
    say = trainer.reporter.say
    processes.first(lambda: create(folder))
    with locked(folder) if processes.lead else nullcontext():
        # Only now, when the new run is known to begin, and no other trains there.
        processes.first(lambda: clear(folder) if replaces(recipe, folder) else None)
        processes.first(lambda: write_file(folder / CONFIG, written(recipe)))
        if taken is not None:
            say(f"from the weights of {origin}: {taken}")
        trainer.start()
        say(f"training {recipe.name()} in {folder}: {described(experiment, recipe, processes)}")
        return folder, finish(trainer, recipe, experiment, folder)


def resume(
    folder: Path, given: Mapping[str, Any] | None = None, quiet: bool = False
) -> tuple[Path, int]:
    """Continue the run in a folder with its own options.

    given: options by flat name. Those of the place and of the machine may change; `steps` prolongs the run; any other
    must be what the run has. Returns as `train` does.
    """
    processes = Processes.current()
    recipe = settle(resumed(folder, given or {}))
    experiment = recipe.build()
    trainer = trainer_of(recipe, experiment, folder, quiet)
    say = trainer.reporter.say
    with locked(folder) if processes.lead else nullcontext():
        trainer.resume()
        # With the number of steps of a run that is prolonged.
        processes.first(lambda: write_file(folder / CONFIG, written(recipe)))
        say(f"resuming {folder} at step {trainer.step} of {recipe.optimiser.steps}")
        return folder, finish(trainer, recipe, experiment, folder)


def finish(
    trainer: Trainer,
    recipe: Recipe,
    experiment: AnyExperiment,
    folder: Path,
) -> int:
    """Train to the last step; returns 0, or the number of the signal that stopped it."""
    from pushforward.recipes.card import write_card

    processes = Processes.current()
    if recipe.place.tensorboard and processes.lead:
        trainer.watchers = (tensorboard(folder, trainer.step),)
    if isinstance(experiment, Experiment) and experiment.prepare is not None:
        with nullcontext() if trainer.reporter.quiet else shown():
            experiment.prepare(trainer.reporter.say)
    done = trainer.run()
    processes.first(lambda: write_card(folder))
    return 0 if done else trainer.stopping


def trainer_of(recipe: Recipe, experiment: AnyExperiment, folder: Path, quiet: bool) -> Trainer:
    processes = Processes.current()
    chosen = values(recipe)
    settings = {f.name: chosen[f.name] for f in fields(Settings) if f.name in chosen}
    settings["compile"] = recipe.machine.compile == "on"
    settings["optimizers"] = recipe.rules()
    stream = experiment.stream
    if recipe.machine.workers:
        from pushforward.streams.prefetch import Prefetch

        stream = Prefetch(stream, 2 * recipe.machine.workers, recipe.machine.workers)
    drawable = kinds.of(experiment.model.spec).drawable
    return Trainer(
        experiment.objective,
        experiment.model,
        stream,
        Settings(**settings),
        folder,
        identity(recipe, experiment.fingerprint),
        preview(experiment) if drawable else None,
        Reporter(recipe.optimiser.steps, quiet=quiet or not processes.lead),
        validation(experiment),
        references=experiment.references if isinstance(experiment, Experiment) else None,
    )


def require_recipe(folder: Path, name: str) -> None:
    """InputError if the folder holds a run of another recipe."""
    there = read_config(folder)[0]
    if there != name:
        raise InputError(f"{folder} holds a run of the recipe {there}, not {name}")


def identity(recipe: Recipe, fingerprint: str) -> dict[str, str]:
    """What must be the same for a run to be resumed, by name: all that changes what is computed, but for its length."""
    kind, chosen = type(recipe), values(recipe)
    lasting = [
        leaf.flag
        for leaf in leaves(kind, chosen)
        if leaf.place[0] != "place" and not leaf.free and leaf.flag != "steps"
    ]
    return {
        "recipe": recipe.name(),
        "SHA-256 of the data": fingerprint[:16],
        **{name: json.dumps(chosen[name], default=str) for name in lasting},
    }


def resumed(folder: Path, given: Mapping[str, Any]) -> Recipe:
    """The recorded recipe with what may change changed; InputError for all else that differs from it."""
    recorded = recipe_of(folder, out=folder, resume=True)
    kind, chosen = type(recorded), values(recorded)
    there = {leaf.flag: leaf for leaf in leaves(kind, chosen)}
    changes: dict[str, Any] = {}
    differ = []
    for name, value in given.items():
        if name not in there:
            raise OptionError(no_option(kind, chosen, name))
        leaf = there[name]
        if leaf.place[0] == "place" and name in ("device", "tensorboard"):
            changes[name] = value
        elif leaf.place[0] == "place":
            continue
        elif leaf.free or name == "steps":
            changes[name] = value
        elif str(value) != str(chosen[name]):
            differ.append(f"{flag_of(name)} {value} (the run has {chosen[name]})")
    if differ:
        raise InputError(
            f"--resume continues with the options of {folder}, and these differ: {', '.join(differ)}. Omit them, or "
            f"start another run in another --out, --from {folder} if it should begin with these weights"
        )
    return recorded.changed(changes)


def settle(recipe: Recipe) -> Recipe:
    """The recipe with what depends on its data and on this machine decided: precision and compiling."""
    recipe.require()
    recipe = recipe.settled()
    device = find_device(recipe.place.device)
    matching = getattr(getattr(recipe, "objective", None), "name", "matching") == "matching"
    chosen: dict[str, Any] = {}
    if recipe.machine.precision == "auto":
        chosen["precision"] = "bf16" if matching and has_bfloat16(device) else "fp32"
    if recipe.machine.compile == "auto":
        chosen["compile"] = "on" if matching and device.type == "cuda" else "off"
    return recipe.changed(chosen) if chosen else recipe


def folder_of(recipe: Recipe) -> Path:
    return recipe.place.out or Path("runs") / recipe.name()


def require_room(recipe: Recipe, folder: Path) -> None:
    """A new run takes a folder that is empty or not there yet, but for the stages that led to it; or, if it is asked to
    replace a run, that of a run with nothing in it that the new one needs.
    """
    if not replaces(recipe, folder):
        return require_new(folder)
    for name, value in values(recipe).items():
        if name != "out" and isinstance(value, Path) and _deleted(value, folder):
            raise InputError(
                f"--overwrite would delete {value}, which {flag_of(name)} names: choose another --out"
            )


def replaces(recipe: Recipe, folder: Path) -> bool:
    return recipe.place.overwrite and (folder / CONFIG).is_file()


def clear(folder: Path) -> None:
    """Delete a run, but not the stages that led to it."""
    try:
        for part in folder.iterdir():
            if part.name == STAGES:
                continue
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()
    except OSError as error:
        raise InputError(f"cannot delete the run in {folder}: {error}") from error


def _deleted(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, but not among its stages, which are kept."""
    path, folder = path.resolve(), folder.resolve()
    return path.is_relative_to(folder) and not path.is_relative_to(folder / STAGES)


def require_new(folder: Path) -> None:
    try:
        taken = folder.exists() and any(part.name != STAGES for part in folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be a run folder: {error.strerror or error}; choose another --out"
        ) from error
    if taken and (folder / CONFIG).is_file():
        raise InputError(
            f"{folder} already holds a run: continue it with --resume, replace it with --overwrite, or choose another "
            f"--out"
        )
    if taken:
        raise InputError(f"{folder} already holds files that are not a run: choose another --out")


def create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create the run folder {folder}: {error.strerror or error}"
        ) from error


def described(experiment: AnyExperiment, recipe: Recipe, processes: Processes) -> str:
    """A run in one line."""
    count = sum(p.numel() for p in experiment.model.parameters())
    words = [f"{count / 1e6:.2f} M parameters", f"{recipe.optimiser.steps} steps"]
    words.append(f"{recipe.machine.precision} on {find_device(recipe.place.device)}")
    if recipe.machine.compile == "on":
        words.append("compiled")
    if processes.count > 1:
        words.append(f"{processes.count} processes ({recipe.machine.parallel})")
    return ", ".join(words)


def preview(
    experiment: AnyExperiment,
) -> Callable[[Any], bytes] | None:
    """PNGs of the model in training: the same noise every time. None of a classifier."""
    if isinstance(experiment, Classifying | Contrasting):
        return None
    if isinstance(experiment, Reconstructing):
        return lambda model: png(experiment.picture(model), {"weights": "EMA, in training"})
    spec = experiment.model.spec
    num = kinds.of(spec).number(spec)
    shapes: list[Any] = [frame.shape for frame in experiment.frames] or [None]

    def drawn(model: Model) -> bytes:
        label = shown_labels(num, spec)
        calls = default_nfe(model) if isinstance(model, FlowMap) else 20
        sampler = find_sampler(model, nfe=calls)
        cond = experiment.columns(num, PICTURE_SEED, label)
        parts = []
        for k, shape in enumerate(shapes):
            rows = share(num, len(shapes), k)
            own = rows.stop - rows.start
            if not own:
                continue
            parts.append(
                generate_together(
                    model,
                    own,
                    solver=sampler.solver,
                    grid=sampler.grid,
                    source=experiment.source,
                    seed=PICTURE_SEED,
                    start=rows.start,
                    label=None if label is None else label[rows],
                    batch_size=1024,
                    shape=shape,
                    **conditions.take(cond, rows),
                )
            )
        samples = parts[0]
        if len(parts) > 1:
            sides = tuple(max(part.shape[d] for part in parts) for d in (2, 3))
            ground = (spec.value_range or (-1.0, 1.0))[1]
            samples = torch.cat([padded(part, sides, ground) for part in parts])  # type: ignore[arg-type]
        solver, grid = sampler.names
        settings = {
            "seed": PICTURE_SEED,
            "nfe": calls,
            "solver": solver,
            "grid": grid,
            "weights": "EMA, in training",
        }
        return png(experiment.picture(samples, label, ""), settings)

    return drawn


def validation(experiment: AnyExperiment) -> Validate | None:
    """The loss of a regression on held-out data, at times and with noise that are the same at every step."""
    if isinstance(experiment, Reconstructing | Contrasting):
        return experiment.validate
    objective, held_out = experiment.objective, experiment.held_out
    if isinstance(experiment, Experiment) and experiment.validated:
        sets = experiment.validated
    else:
        sets = () if held_out is None else (held_out,)
    # Pairs that a flow joins are made, and not held out.
    known = isinstance(objective, Matching | NextBucket) and not isinstance(objective, Reflow)
    if not known or not sets:
        return None
    everything = sum(map(len, sets))

    def loss(model: Model, processes: Processes) -> tuple[float, int]:
        device = next(model.parameters()).device
        own: Any = replace(objective, model=model, condition_dropout=0.0)  # type: ignore[type-var]
        total, number, before = 0.0, 0, 0
        for data in sets:
            # Of each its share.
            count = len(data)
            if everything > VALIDATED:
                count = max(1, VALIDATED * count // everything)
            rows = processes.share(count)
            # As many calls in each process: where networks are sharded, all take part in each of them.
            parts = -(-count // (processes.count * 256))
            size = rows.stop - rows.start
            with torch.no_grad():
                for k in range(parts):
                    ids = torch.arange(
                        rows.start + size * k // parts, rows.start + size * (k + 1) // parts
                    )
                    # With fewer samples than processes one is taken along, and not counted.
                    asked = ids if len(ids) else torch.tensor([count - 1])
                    noise = Noise(0, (asked + before).to(device), VALIDATION_STEP)
                    found = own(data[asked].to(device), noise)["loss"][: len(ids)]
                    total += float(found.double().sum())
            number, before = number + size, before + len(data)
        return total / max(number, 1), number

    return loss


def tensorboard(folder: Path, step: int) -> Callable[[Mapping[str, Any]], None]:
    """Writes entries of the log for TensorBoard; those after `step`, from before the run was resumed, are hidden."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name != "step":
                writer.add_scalar(name, value, entry["step"])
        writer.flush()

    return write
