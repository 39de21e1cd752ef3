"""The training loop.

One step: batch at this step, losses (B,), mean, backward, check, clip, AdamW, EMA. All of it is a function of the
seed and the step, so that a run that was killed and resumed ends in the same bits as one that was not (on one kind of
processor, with the same number of threads).
"""

from __future__ import annotations

import hashlib
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pushforward.core.errors import (
    CheckpointError,
    DivergenceError,
    Error,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
)
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.base import ModelBase
from pushforward.objectives.matching import Objective, Stateful
from pushforward.runtime.files import clear_leftovers, explain, write_file
from pushforward.runtime.processes import Processes
from pushforward.saving.description import describe
from pushforward.saving.folder import describe_checked, write
from pushforward.saving.tensors import check_fit
from pushforward.streams.stream import Stream, part
from pushforward.train.checkpoint import TENSORS, Checkpoints, State, prefixed
from pushforward.train.divergence import Watch
from pushforward.train.ema import EMA
from pushforward.train.log import JSONLines, Reporter
from pushforward.train.parallel import (
    Strategy,
    gathering,
    local,
    networks,
    replicate,
    require_shardable,
    shard,
    whole,
)
from pushforward.train.schedules import Decay, learning_rate
from pushforward.train.sharded import Sharded

Preview = Callable[[Any], bytes]
Validate = Callable[[Any, Processes], tuple[float, int]]
Precision = Literal["fp32", "bf16"]
# What AdamW keeps of each weight.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Settings:
    """How to train.

    lr, warmup, decay: see `learning_rate`. clip: largest norm of the gradient. ema: decay of the average that is shared
    and sampled; more_emas: of others, kept in emas/.
    precision:     "bf16" runs the networks in bfloat16; weights, moments and averages are float32 all the same.
    compile:       the networks by torch.compile.
    accumulate:    parts in which a batch is taken, one after the other: the same gradient, for less memory.
    checkpointing: work activations out again in the backward pass in place of keeping them.
    parallel:      what processes share a step by: "ddp", whole copies of the networks; "fsdp", parts of each.
    *_every: steps between log lines, sample pictures, validation losses (0 for none) and checkpoints. keep: checkpoints
    kept.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 100
    decay: Decay = "constant"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    more_emas: tuple[float, ...] = ()
    seed: int = 0
    precision: Precision = "fp32"
    compile: bool = False
    accumulate: int = 1
    checkpointing: bool = False
    parallel: Strategy = "ddp"
    log_every: int = 50
    sample_every: int = 500
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup", "weight_decay", "sample_every", "validate_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive and finite")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}; it must be fp32 or bf16")
        if self.ema in self.more_emas or len(set(self.more_emas)) < len(self.more_emas):
            raise InputError("the decays of all EMAs must differ")


class Trainer:
    """A run in a folder.

    objective: losses from a batch; model: what it trains. stream: batches by step. folder: exists already.
    identity:  what must be the same for the run to go on (its configuration, its data), by name.
    preview:   a PNG of samples from the EMA model, drawn every `sample_every` steps into samples/.
    validate:  the loss of the EMA model on data it has not seen: a mean over this process's share, and of how many.
    watchers:  told of every entry of the log.

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
    ) -> None:
        self.processes = Processes.current()
        self.objective, self.model, self.settings = objective, model, settings
        self.stream = part(stream, self.processes)
        self.folder, self.identity, self.preview = folder, dict(identity or {}), preview
        self.validate, self.watchers = validate, tuple(watchers)
        self.reporter = reporter or Reporter(settings.steps, quiet=True)
        self.device = next(model.parameters()).device
        self.emas = {decay: EMA(model, decay) for decay in (settings.ema, *settings.more_emas)}
        self.ema = self.emas[settings.ema]
        describe_checked(self.ema.model)  # What could not be saved is not trained.
        self.stateful = objective if isinstance(objective, Stateful) else None
        self.watch = Watch()
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
        self.sharded: Sharded | None = None
        self._prepare_networks()
        # One pass over memory for each weight; of sharded ones it takes the plain way.
        self.fused = self.sharded is None and self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=self.fused,
        )
        self.log, self.speed = JSONLines(folder / "log.jsonl"), JSONLines(folder / "speed.jsonl")
        self.step = 0
        self.loss_sum, self.loss_count = 0.0, 0
        self.signal = 0  # the number of the signal that asked to stop, if one did
        self.stopping = 0  # the same, once all processes know of it

    def _prepare_networks(self) -> None:
        """Hand the networks to the processes. Weights keep the names that they have in a network alone."""
        settings = self.settings
        for net in networks(self.model):
            if settings.checkpointing:
                if not hasattr(net, "checkpointing"):
                    raise InputError(
                        f"{type(net).__name__} keeps its activations: leave checkpointing out, or lower the batch size"
                    )
                net.checkpointing = True  # type: ignore[assignment]
            if settings.compile:
                net.compile()
        if settings.parallel == "fsdp" and self.processes.count > 1:
            require_shardable(self.objective, self.model)
            for model in (self.model, *(ema.model for ema in self.emas.values())):
                shard(model)
            self.sharded = Sharded(self.checkpoints, self.processes)
        self.parameters = dict(self.model.named_parameters())
        self.weights = self.model.state_dict()
        if self.sharded is None:
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
        """Take up the newest checkpoint and drop from the log what came after it."""
        state, path = self.processes.first(lambda: self.checkpoints.open(self.identity))
        self._load(path, state)
        # What comes from here on changes files: all have read theirs.
        self.processes.wait()
        losses = self.processes.first(lambda: self._tidy(state))
        self.watch = Watch()
        for loss in losses:
            self.watch.take(loss)
        self.step, self.loss_sum, self.loss_count = state.step, state.loss_sum, state.loss_count
        self._share()

    def _tidy(self, state: State) -> list[float]:
        """Bring the folder back to where the checkpoint was written; returns the losses logged until then."""
        self.log.truncate(state.log_bytes)
        # The run may have been killed in the middle of writing, or between the checkpoint and the model to share.
        averages = self.folder / "emas"
        for folder in (self.folder, self.folder / "samples", *averages.glob("*")):
            clear_leftovers(folder)
        self.checkpoints.prune()
        return [entry["loss"] for entry in self.log.read()]

    def _load(self, path: Path, state: State) -> None:
        """Fill weights, averages and moments, after everything that does not fit has been listed."""
        from pushforward.train.sharded import described, read_into, read_whole

        stored = (path / TENSORS).is_file()
        given = self.checkpoints.tensors(path) if stored else described(path)
        mine = self._tensors()
        moments = self._moments(given, state)
        check_fit(mine | moments, given, "the checkpoint")
        if self.sharded is not None:
            fresh = {name: torch.zeros_like(value) for name, value in moments.items()}
            read_into(path, mine | fresh)
        else:
            given = given if stored else read_whole(path)
            with torch.no_grad():
                for name, tensor in mine.items():
                    tensor.copy_(given[name])
            fresh = {name: given[name] for name in moments}
        for name, parameter in self.parameters.items():
            for key in MOMENTS:
                value = fresh.get(f"optimizer.{name}.{key}")
                if value is not None:
                    place = "cpu" if key == "step" and not self.fused else self.device
                    self.optimizer.state[parameter][key] = value.clone().to(place)

    def _moments(self, given: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
        """What a checkpoint must hold of the optimiser, by name, as tensors of the same kind."""
        moments: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            whole = {
                f"optimizer.{name}.{key}": torch.zeros(()) if key == "step" else parameter.detach()
                for key in MOMENTS
            }
            if any(key in given for key in whole) or (
                state.untrained is not None and name not in state.untrained
            ):
                moments |= whole
        return moments

    def _tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, but the optimiser's moments, by name."""
        own = None if self.stateful is None else self.stateful.state
        averages: dict[str, Tensor] = {}
        for decay, ema in self.emas.items():
            name = "ema" if ema is self.ema else f"ema-{decay}"
            averages |= prefixed(name, ema.model.state_dict())
        return (
            prefixed("model", self.weights)
            | averages
            | prefixed("objective", {} if own is None else own.state_dict())
        )

    def save(self) -> None:
        """A checkpoint of the present step, and the EMA model to share. Weights that are not finite are not kept."""
        bad = torch.tensor(
            float(not all(bool(local(p).isfinite().all()) for p in self.parameters.values())),
            device=self.device,
        )
        if self.processes.sum(bad) > 0:
            self._finish_saving()
            raise NonFiniteError(
                f"the weights are not finite after step {self.step}{self._kept()}. Lower --lr in a new run"
            )
        tensors, untrained = self._tensors(), []
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= prefixed(f"optimizer.{name}", moments)
            untrained += [] if moments else [name]
        position = self.processes.first(self.log.sync)
        state = State(
            self.step, self.loss_sum, self.loss_count, position, self.identity, untrained=untrained
        )
        if self.sharded is not None:
            self.sharded.begin(state, tensors)
        else:
            self.processes.first(lambda: self.checkpoints.write(state, tensors))
        self._share()

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

    def _share(self) -> None:
        for decay, ema in self.emas.items():
            folder = self.folder if ema is self.ema else self.folder / "emas" / str(decay)
            model = ema.model
            model.provenance = replace(model.provenance, step=self.step)
            model.info["step"] = self.step
            described = describe(model)
            tensors = {
                place: {name: whole(value) for name, value in own.items()}
                for place, own in described.tensors()
            }
            self.processes.first(partial(write, described, folder, tensors))

    def run(self) -> bool:
        """Train to the last step. False if a signal asked to stop before it; a checkpoint is then written first."""
        settings = self.settings
        began, since = time.perf_counter(), self.step
        with self._signals(), self.reporter, self._saving():
            while self.step < settings.steps and not self._stopped():
                with self._within_memory():
                    entry = self._one_step()
                if self.step % settings.log_every == 0 or self.step == settings.steps:
                    entry["loss"] = self.loss_sum / self.loss_count
                    if self._due(settings.validate_every) and self.validate is not None:
                        entry["validation_loss"] = self._validation(self.validate)
                    self.loss_sum, self.loss_count = 0.0, 0
                    now = time.perf_counter()
                    speed = (self.step - since) * self.stream.batch_size / (now - began)
                    self._tell(entry, speed)
                    if self.watch.take(entry["loss"]):
                        self._finish_saving()
                        raise DivergenceError(self._diverged(entry["loss"]))
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
            self.stopping = self.signal
        return bool(self.stopping)

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

    def _one_step(self) -> dict[str, Any]:
        settings, step = self.settings, self.step
        rows = self.processes.share(self.stream.batch_size)
        batch = self.stream.at(step).to(self.device)
        noise = Noise.batch(len(batch), settings.seed, step, start=rows.start, device=self.device)
        rate = learning_rate(step, settings.steps, settings.lr, settings.warmup, settings.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        losses = self._gradient(batch, noise)
        norm = whole(clip_grad_norm_(list(self.parameters.values()), settings.clip))
        # One message between the processes, and one transfer: the loss, and who was asked to stop, or has saved.
        words = torch.zeros(4, dtype=torch.float64, device=self.device)
        words[0] = losses.double().sum() / self.stream.batch_size
        words[1], words[2] = self.signal == signal.SIGINT, self.signal == signal.SIGTERM
        words[3] = self.sharded is not None and self.sharded.written
        value, interrupted, terminated, written = self.processes.sum(words).tolist()
        size = float(norm)
        if not (abs(value) < float("inf") and size < float("inf")):
            self._finish_saving()
            raise NonFiniteError(self._complaint(losses, batch))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for ema in self.emas.values():
            ema.update(self.model, step)
        if self.stateful is not None:
            self.stateful.advance()
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        self.stopping = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
        if written == self.processes.count:
            self._finish_saving()
        return {"step": self.step, "loss": value, "lr": rate, "grad_norm": size}

    def _gradient(self, batch: Batch, noise: Noise) -> Tensor:
        """The gradient of the mean loss of the whole batch, by this process's rows of it; their losses (b,)."""
        settings, found = self.settings, []
        # As many in each process: where networks are sharded, all take part in each call.
        parts = min(settings.accumulate, self.stream.batch_size // self.processes.count)
        cuts = [len(batch) * k // parts for k in range(parts + 1)]
        for number, (start, end) in enumerate(pairwise(cuts), start=1):
            rows, place = slice(start, end), int(noise.ids[start])
            with (
                gathering(self.model, last=number == parts),
                torch.autocast(
                    self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ),
                _keyed(settings.seed, self.step, place, self.device),
            ):
                losses = self.objective(batch[rows], noise[rows])["loss"]
                losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
            # Processes are averaged over.
            (losses.sum() * (self.processes.count / self.stream.batch_size)).backward()
            found.append(losses.detach())
        return torch.cat(found)

    def _complaint(self, losses: Tensor, batch: Batch) -> str:
        ids = torch.arange(len(batch)) if batch.ids is None else batch.ids.cpu()
        bad = ids[~losses.isfinite().cpu()].tolist()
        every = self.processes.everybody((bad, ids.tolist()))
        bad = [number for numbers, _ in every for number in numbers]
        which = (
            f"the loss of {len(bad)} samples is not finite (data ids {_some(bad)})"
            if bad
            else f"the gradient is not finite (batch of data ids {_some([n for _, ns in every for n in ns])})"
        )
        return (
            f"step {self.step}: {which}. Stopped before the step{self._kept()}. "
            f"Look at these data, or lower --lr or --clip in a new run"
        )

    def _too_large(self, error: BaseException) -> str:
        settings, rows = self.settings, self.processes.share(self.stream.batch_size)
        size = -(-(rows.stop - rows.start) // settings.accumulate)
        less = f"--accumulate {2 * settings.accumulate}, which takes half as many samples at a time"
        if not settings.checkpointing and all(
            hasattr(net, "checkpointing") for net in networks(self.model)
        ):
            less += "; with --checkpointing, which works activations out again"
        bits = ", with --precision bf16" if settings.precision == "fp32" else ""
        return (
            f"step {self.step}: out of memory on {self.device} with {size} samples at a time "
            f"({str(error).splitlines()[0]}){self._kept()}. Go on by --resume with {less}. Or start a new run{bits} "
            f"with a smaller --batch-size or network"
        )

    def _diverged(self, loss: float) -> str:
        return (
            f"step {self.step}: training has diverged. The loss was {self.watch.first:.3g} at first and "
            f"{self.watch.least:.3g} at best; it is {loss:.3g}, and has been that high for the last "
            f"{self.watch.above} entries of {self.log.path.name}{self._kept()}. Lower --lr or --clip in a new run"
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

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        """What is said of memory that could not be had, with what to change."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, Error) or not out_of_memory(error):
                raise
            raise OutOfMemoryError(self._too_large(error)) from error

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step at hand, with a checkpoint; a second one at once."""

        def ask(number: int, frame: object) -> None:
            self.signal = number
            signal.signal(number, signal.SIG_DFL)

        try:
            before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are somebody else's
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _keyed(seed: int, step: int, place: int, device: torch.device) -> Iterator[None]:
    """What a network draws by itself, as for dropout, becomes a function of the seed, the step and the first sample."""
    key = hashlib.blake2b(f"{seed} {step} {place}".encode(), digest_size=7).digest()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(key))
        yield


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, in the words of any allocator."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


def peak_memory(device: torch.device) -> int:
    """The most that was taken so far, in bytes: of the device's memory, or of the machine's by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
