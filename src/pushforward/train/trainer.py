"""The training loop.

One step: batch at this step, losses (B,), mean, backward, check, clip, optimiser, EMA. All of it is a function of the
seed and the step, so that a run that was killed and resumed ends in the same bits as one that was not (on one kind of
processor, with the same number of threads).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import CheckpointError, DivergenceError, InputError, NonFiniteError
from pushforward.core.noise import Noise
from pushforward.models.base import ModelBase
from pushforward.objectives.matching import Objective, Stateful
from pushforward.runtime.files import clear_leftovers, explain, write_file
from pushforward.runtime.processes import Processes
from pushforward.streams.stream import Stream, part
from pushforward.train import messages
from pushforward.train.checkpoint import Checkpoints, State
from pushforward.train.divergence import Watch
from pushforward.train.ema import EMA
from pushforward.train.frozen import check_frozen, digests, frozen_modules, names_of_frozen
from pushforward.train.gradient import Gradient, Losses
from pushforward.train.log import JSONLines, Reporter
from pushforward.train.memory import peak_memory, within_memory
from pushforward.train.optimizers import Optimizers
from pushforward.train.parallel import clip, local, replicate, require_shardable, shard
from pushforward.train.publish import Publisher
from pushforward.train.settings import Settings
from pushforward.train.sharded import Sharded
from pushforward.train.signals import Signals
from pushforward.train.state import load_state, prefixed
from pushforward.train.tally import Tally

Preview = Callable[[Any], bytes]
Validate = Callable[[Any, Processes], tuple[float, int]]


class Trainer:
    """A run in a folder.

    objective: losses from a batch; model: what it trains. stream: batches by step. folder: exists already.
    identity:  what must be the same for the run to go on (its configuration, its data), by name. "steps" need not be: a
               run may be prolonged.
    preview:   a PNG of samples from the EMA model, drawn every `sample_every` steps into samples/.
    validate:  the loss of the EMA model on data it has not seen: a mean over this process's share, and of how many.
    watchers:  called with every entry of the log.
    references: names of frozen parts that the saved model holds by reference, by place; see `pf.save`.

    Where torch.distributed is set up, all processes take part: each makes a Trainer alike, with the whole stream, and
    calls its methods. The first one writes and speaks.
    """

    def __init__(
        self,
        objective: Objective,
        model: ModelBase,
        stream: Stream,
        settings: Settings,
        folder: Path,
        identity: Mapping[str, str] | None = None,
        preview: Preview | None = None,
        reporter: Reporter | None = None,
        validate: Validate | None = None,
        watchers: Sequence[Callable[[Mapping[str, Any]], None]] = (),
        references: Mapping[str, str] | None = None,
    ) -> None:
        self.processes = Processes.current()
        self.objective, self.model, self.settings = objective, model, settings
        self.stream = part(stream, self.processes)
        self.folder, self.preview = folder, preview
        self.identity = {key: value for key, value in (identity or {}).items() if key != "steps"}
        self.validate, self.watchers = validate, tuple(watchers)
        self.reporter = reporter or Reporter(settings.steps, quiet=True)
        self.device = next(model.parameters()).device
        self.emas = {decay: EMA(model, decay) for decay in (settings.ema, *settings.more_emas)}
        self.ema = self.emas[settings.ema]
        places = {
            folder if ema is self.ema else folder / "emas" / str(decay): ema
            for decay, ema in self.emas.items()
        }
        self.publisher = Publisher(model, places, self.processes, references)
        self.stateful = objective if isinstance(objective, Stateful) else None
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
        self.sharded: Sharded | None = None
        self._prepare_networks()
        # One pass over memory for each weight; of sharded ones it takes the plain way.
        fused = self.sharded is None and self.device.type in ("cpu", "cuda")
        self.optimizers = Optimizers(settings.rules(), self.model, self.parameters, fused)
        self.gradient = Gradient(
            objective,
            model,
            self.optimizers,
            settings,
            self.processes,
            stream.batch_size,
            self.device,
        )
        # How the losses of each key are called in the log.
        keys = list(self.optimizers.rules)
        self.names = {key: "" if keys == ["loss"] else f"/{key}" for key in keys}
        kinds = ("loss", "lr", "grad_norm")
        self.reserved = {f"{kind}{name}" for kind in kinds for name in self.names.values()}
        self.reserved |= {"step", "loss", "validation_loss"}
        self.watches = {key: Watch() for key in keys}
        self.log, self.speed = JSONLines(folder / "log.jsonl"), JSONLines(folder / "speed.jsonl")
        self.step, self.tally, self.signals = 0, Tally(), Signals()
        self.stopping = (
            0  # the number of the signal that asked to stop, once all processes know of it
        )

    def _prepare_networks(self) -> None:
        """Hand the networks to the processes. Weights keep the names that they have in a network alone."""
        settings, networks = self.settings, self.model.networks().values()
        for net in networks:
            if settings.checkpointing:
                if not hasattr(net, "checkpointing"):
                    raise InputError(
                        f"{type(net).__name__} keeps its activations: omit checkpointing, or lower the batch size"
                    )
                net.checkpointing = True  # type: ignore[assignment]
            if settings.compile:
                net.compile()
        self.recomputes = all(hasattr(net, "checkpointing") for net in networks)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise InputError("all parameters of the model are frozen, so there is nothing to train")
        frozen = names_of_frozen(self.model)
        self.frozen = digests(self.model) if frozen else {}
        if settings.parallel == "fsdp" and self.processes.count > 1:
            require_shardable(self.objective, len(settings.rules()))
            for model in (self.model, *(ema.model for ema in self.emas.values())):
                shard(model)
            self.sharded = Sharded(self.checkpoints, self.processes)
        self.frozen_modules = [module for _, module in frozen_modules(self.model)]
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.weights = {n: x for n, x in self.model.state_dict().items() if n not in frozen}
        if self.sharded is None and len(settings.rules()) == 1:
            replicate(self.model, self.processes)

    def start(self) -> None:
        """Write the checkpoint of step 0, so that there is one whenever the run is killed."""
        if self.processes.first(self.checkpoints.steps):
            raise CheckpointError(
                f"{self.folder} already holds a run; go on with --resume, or choose another --out"
            )
        with self._saving():
            self.save()

    def resume(self) -> None:
        """Take up the newest checkpoint and drop from the log what came after it.

        A larger number of steps prolongs the run: from here on the learning rate is that of a run of the new length,
        and the reporter prints how it changes.
        """
        state, path = self.processes.first(lambda: self.checkpoints.open(self.identity))
        check_frozen(state.frozen, self.frozen, str(path))
        if self.settings.steps < state.steps:
            raise CheckpointError(
                f"{path} belongs to a run of {state.steps} steps, which can be prolonged and not cut to "
                f"{self.settings.steps}"
            )
        self.optimizers.take(
            load_state(
                path,
                self._tensors(),
                lambda given: self.optimizers.wanted(given, state.untrained),
                self.sharded is not None,
            )
        )
        # What comes from here on changes files: all have read theirs.
        self.processes.wait()
        entries = self.processes.first(lambda: self._tidy(state))
        self.watches = {key: Watch() for key in self.watches}
        for entry in entries:
            self._diverges(entry)
        self.step, self.tally = state.step, Tally(state.sums)
        if self.settings.steps > state.steps:
            self.reporter.say(messages.prolonged(self.settings, self.step, state.steps))
        self.publisher.write(self.step)

    def _tidy(self, state: State) -> list[dict[str, Any]]:
        """Bring the folder back to where the checkpoint was written; returns the entries logged until then."""
        self.log.truncate(state.log_bytes)
        # The run may have been killed in the middle of writing, or between the checkpoint and the model to share.
        averages = self.folder / "emas"
        for folder in (self.folder, self.folder / "samples", *averages.glob("*")):
            clear_leftovers(folder)
        self.checkpoints.prune()
        return self.log.read()

    def _tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, but what the optimisers keep, by name."""
        own = None if self.stateful is None else self.stateful.state
        averages: dict[str, Tensor] = {}
        for decay, ema in self.emas.items():
            name = "ema" if ema is self.ema else f"ema-{decay}"
            state = ema.model.state_dict()
            averages |= prefixed(name, {key: state[key] for key in self.weights})
        return (
            prefixed("model", self.weights)
            | averages
            | prefixed("objective", {} if own is None else own.state_dict())
        )

    def save(self) -> None:
        """A checkpoint of the present step, and the EMA model to load. Weights that are not finite are not kept."""
        bad = torch.tensor(
            float(not all(bool(local(p).isfinite().all()) for p in self.parameters.values())),
            device=self.device,
        )
        if self.processes.sum(bad) > 0:
            self._finish_saving()
            raise NonFiniteError(
                f"the weights are not finite after step {self.step}{self._kept()}. Lower --lr in a new run"
            )
        moments, untrained = self.optimizers.kept()
        tensors = self._tensors() | prefixed("optimizer", moments)
        state = State(
            step=self.step,
            steps=self.settings.steps,
            sums=self.tally.sums,
            log_bytes=self.processes.first(self.log.sync),
            identity=self.identity,
            untrained=untrained,
            frozen=self.frozen,
        )
        if self.sharded is not None:
            self.sharded.begin(state, tensors)
        else:
            self.processes.first(lambda: self.checkpoints.write(state, tensors))
        self.publisher.write(self.step)

    def _finish_saving(self) -> None:
        if self.sharded is not None:
            self.sharded.finish()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """What was begun in it is finished at its end, and dropped where something fails."""
        try:
            yield
            self._finish_saving()
        except Exception:
            if self.sharded is not None:
                self.sharded.drop()
            raise

    def run(self) -> bool:
        """Train to the last step. False if a signal asked to stop before it; a checkpoint is then written first."""
        settings = self.settings
        began, since = time.perf_counter(), self.step
        with self.signals.watched(), self.reporter, self._saving():
            while self.step < settings.steps and not self._stopped():
                with within_memory(self._too_large):
                    entry = self._one_step()
                if self.step % settings.log_every == 0 or self.step == settings.steps:
                    entry |= self.tally.take()
                    if self._due(settings.validate_every) and self.validate is not None:
                        entry["validation_loss"] = self._validation(self.validate)
                    now = time.perf_counter()
                    speed = (self.step - since) * self.stream.batch_size / (now - began)
                    self._tell(entry, speed)
                    if words := self._diverges(entry):
                        self._finish_saving()
                        raise DivergenceError(words)
                    began, since = time.perf_counter(), self.step
                self.reporter.advance(self.step)
                if self._due(settings.sample_every) and self.preview is not None:
                    self._picture(self.preview)
                if self._due(settings.checkpoint_every):
                    self.save()
            if self.stopping:
                self.save()
        return self.step == settings.steps

    def _stopped(self) -> bool:
        """Whether to end before the next step: at once if this process is alone, or when all know."""
        if self.processes.count == 1:
            self.stopping = self.signals.number
        return bool(self.stopping)

    def _one_step(self) -> dict[str, Any]:
        settings, step = self.settings, self.step
        rows = self.processes.share(self.stream.batch_size)
        batch = self.stream.at(step).to(self.device)
        noise = Noise.batch(len(batch), settings.seed, step, start=rows.start, device=self.device)
        rates = self.optimizers.set_rates(step, settings.steps)
        self.model.train()
        for module in self.frozen_modules:
            module.eval()
        losses = self.gradient(batch, noise, step)
        norms = {
            key: clip(self.optimizers.of_key[key].values(), rule.clip)
            for key, rule in self.optimizers.rules.items()
            if key in losses.by_key
        }
        values = self._exchange(losses)
        sizes = {key: float(norm) for key, norm in norms.items()}
        found = [*(values[f"loss{self.names[key]}"] for key in sizes), *sizes.values()]
        if not all(abs(value) < float("inf") for value in found):
            self._finish_saving()
            total = torch.stack(list(losses.by_key.values())).sum(0)
            words = messages.not_finite(step, total, batch, self._kept(), self.processes)
            raise NonFiniteError(words)
        self.optimizers.step()
        for ema in self.emas.values():
            ema.update(self.model, step)
        if self.stateful is not None:
            self.stateful.advance()
        self.step += 1
        self.tally.add(values)
        if self.all_written:
            self._finish_saving()
        entry = {"step": self.step, **values}
        for key, size in sizes.items():
            entry |= {f"lr{self.names[key]}": rates[key], f"grad_norm{self.names[key]}": size}
        return entry

    def _exchange(self, losses: Losses) -> dict[str, float]:
        """The means of losses and figures over the whole batch, by their names in the log.

        One message between the processes, and one transfer: these, and who was asked to stop, or has saved.
        """
        sums = {
            f"loss{self.names[key]}": loss.double().sum() for key, loss in losses.by_key.items()
        }
        if "loss" not in sums:
            sums = {"loss": torch.stack(list(sums.values())).sum()} | sums
        if clash := sorted(losses.figures.keys() & self.reserved):
            raise InputError(f"the figure {clash[0]!r} has a name that the log takes for itself")
        sums |= losses.figures
        words = torch.zeros(len(sums) + 3, dtype=torch.float64, device=self.device)
        for k, value in enumerate(sums.values()):
            words[k] = value / self.stream.batch_size
        words[-3] = self.signals.number == signal.SIGINT
        words[-2] = self.signals.number == signal.SIGTERM
        words[-1] = self.sharded is not None and self.sharded.written
        *means, interrupted, terminated, written = self.processes.sum(words).tolist()
        self.stopping = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
        self.all_written = written == self.processes.count
        return dict(zip(sums, means, strict=True))

    def _diverges(self, entry: Mapping[str, Any]) -> str:
        """Follow the losses of an entry of the log; what to say if one of them has diverged."""
        for key, watch in self.watches.items():
            loss = entry.get(f"loss{self.names[key]}")
            if loss is not None and watch.take(loss):
                return messages.diverged(self.step, loss, watch, self.log.path.name, self._kept())
        return ""

    def _tell(self, entry: dict[str, Any], speed: float) -> None:
        if not self.processes.lead:
            return
        self.log.append(entry)
        memory = peak_memory(self.device)
        self.speed.append(
            {
                "step": self.step,
                "samples_per_second": round(speed, 1),
                "peak_memory_mib": round(memory / 2**20),
            }
        )
        self.reporter.entry(entry, speed)
        for watcher in self.watchers:
            watcher(entry | {"samples_per_second": speed, "peak_memory_mib": memory / 2**20})

    def _validation(self, validate: Validate) -> float:
        mean, count = validate(self.ema.model, self.processes)
        sums = torch.tensor([mean * count, count], dtype=torch.float64, device=self.device)
        total, number = self.processes.sum(sums).tolist()
        return total / number

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.settings.steps)

    def _too_large(self, error: BaseException) -> str:
        rows = self.processes.share(self.stream.batch_size)
        size = -(-(rows.stop - rows.start) // self.gradient.parts)
        return messages.too_large(
            self.step, error, self.settings, size, self.device, self.recomputes, self._kept()
        )

    def _kept(self) -> str:
        steps = self.checkpoints.steps()
        return f"; the checkpoint of step {steps[-1]} is kept" if steps else ""

    def _picture(self, preview: Preview) -> None:
        path = self.folder / "samples" / f"step-{self.step:08d}.png"
        content = preview(self.ema.model)

        def write() -> None:
            try:
                path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise explain(path.parent, error) from error
            write_file(path, content)

        self.processes.first(write)
