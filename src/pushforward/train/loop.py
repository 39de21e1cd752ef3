"""The training loop.

One step: batch at this step, losses (B,), mean, backward, check, clip, AdamW, EMA. All of it is a function of the
seed and the step, so that a run that was killed and resumed ends in the same bits as one that was not (on one kind of
processor, with the same number of threads).
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pushforward.core.errors import (
    CheckpointError,
    DivergenceError,
    InputError,
    NonFiniteError,
)
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.objectives.matching import Objective, Stateful
from pushforward.train.checkpoint import Checkpoints, State, prefixed, under
from pushforward.train.ema import EMA
from pushforward.train.files import clear_leftovers, explain, write_file
from pushforward.train.log import JSONLines, Reporter
from pushforward.train.schedules import Decay, learning_rate
from pushforward.train.share import Shared, load_into, save
from pushforward.train.stream import Stream
from pushforward.train.watch import Watch

Preview = Callable[[Any], bytes]


@dataclass(frozen=True)
class Settings:
    """How to train.

    lr, warmup, decay: see `learning_rate`. clip: largest norm of the gradient. ema: decay of the average.
    *_every: steps between log lines, sample pictures (0 for none) and checkpoints. keep: checkpoints kept.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 100
    decay: Decay = "constant"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    log_every: int = 50
    sample_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup", "weight_decay", "sample_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive and finite")


class Trainer:
    """A run in a folder.

    objective: losses from a batch; model: what it trains. stream: batches by step. folder: exists already.
    identity:  what must be the same for the run to go on (its configuration, its data), by name.
    preview:   a PNG of samples from the EMA model, drawn every `sample_every` steps into samples/.
    """

    def __init__(
        self,
        objective: Objective,
        model: Shared,
        stream: Stream,
        settings: Settings,
        folder: Path,
        identity: Mapping[str, str] | None = None,
        preview: Preview | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.objective, self.model, self.stream, self.settings = objective, model, stream, settings
        self.folder, self.identity, self.preview = folder, dict(identity or {}), preview
        self.reporter = reporter or Reporter(settings.steps, quiet=True)
        self.device = next(model.parameters()).device
        self.ema = EMA(model, settings.ema)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.stateful = objective if isinstance(objective, Stateful) else None
        self.watch = Watch()
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
        self.log, self.speed = JSONLines(folder / "log.jsonl"), JSONLines(folder / "speed.jsonl")
        self.step = 0
        self.loss_sum, self.loss_count = 0.0, 0
        self.signal = 0  # the number of the signal that asked to stop, if one did

    def start(self) -> None:
        """Write the checkpoint of step 0, so that there is one whenever the run is killed."""
        if self.checkpoints.steps():
            raise CheckpointError(
                f"{self.folder} already holds a run; go on with --resume, or choose another --out"
            )
        self.save()

    def resume(self) -> None:
        """Take up the newest checkpoint and drop from the log what came after it."""
        state, tensors = self.checkpoints.read(self.identity)
        load_into(self.model, under("model", tensors), "the checkpoint")
        load_into(self.ema.model, under("ema", tensors), "the checkpoint's EMA")
        if self.stateful is not None and self.stateful.state is not None:
            load_into(
                self.stateful.state, under("objective", tensors), "the checkpoint's objective"
            )
        moments = under("optimizer", tensors)
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(self.device)
                for key, value in under(name, moments).items()
                if "." not in key
            }
        self.log.truncate(state.log_bytes)
        self.watch = Watch()
        for entry in self.log.read():
            self.watch.take(entry["loss"])
        self.step, self.loss_sum, self.loss_count = state.step, state.loss_sum, state.loss_count
        # The run may have been killed in the middle of writing, or between the checkpoint and the model to share.
        for folder in (self.folder, self.folder / "samples"):
            clear_leftovers(folder)
        self.checkpoints.prune()
        self._share()

    def save(self) -> None:
        """A checkpoint of the present step, and the EMA model to share. Weights that are not finite are not kept."""
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise NonFiniteError(
                f"the weights are not finite after step {self.step}{self._kept()}. Lower --lr in a new run"
            )
        moments: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            moments |= prefixed(name, self.optimizer.state.get(parameter, {}))
        own = None if self.stateful is None else self.stateful.state
        state = State(self.step, self.loss_sum, self.loss_count, self.log.sync(), self.identity)
        self.checkpoints.write(
            state,
            prefixed("model", self.model.state_dict())
            | prefixed("ema", self.ema.model.state_dict())
            | prefixed("objective", {} if own is None else own.state_dict())
            | prefixed("optimizer", moments),
        )
        self._share()

    def _share(self) -> None:
        self.ema.model.info["step"] = self.step
        save(self.ema.model, self.folder)

    def run(self) -> bool:
        """Train to the last step. False if a signal asked to stop before it; a checkpoint is then written first."""
        settings = self.settings
        began, since = time.perf_counter(), self.step
        with self._signals(), self.reporter:
            while self.step < settings.steps and not self.signal:
                entry = self._one_step()
                if self.step % settings.log_every == 0 or self.step == settings.steps:
                    entry["loss"] = self.loss_sum / self.loss_count
                    self.log.append(entry)
                    self.loss_sum, self.loss_count = 0.0, 0
                    if self.watch.take(entry["loss"]):
                        raise DivergenceError(self._diverged(entry["loss"]))
                    now = time.perf_counter()
                    speed = (self.step - since) * self.stream.batch_size / (now - began)
                    self.speed.append({"step": self.step, "samples_per_second": round(speed, 1)})
                    self.reporter.entry(entry, speed)
                    began, since = now, self.step
                self.reporter.advance(self.step)
                if self._due(settings.sample_every) and self.preview is not None:
                    self._picture(self.preview)
                if self._due(settings.checkpoint_every):
                    self.save()
            if self.signal:
                self.save()
        return self.step == settings.steps

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.settings.steps)

    def _one_step(self) -> dict[str, Any]:
        settings, step = self.settings, self.step
        batch = self.stream.at(step).to(self.device)
        noise = Noise.batch(len(batch), settings.seed, step, device=self.device)
        rate = learning_rate(step, settings.steps, settings.lr, settings.warmup, settings.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with _keyed(settings.seed, step, self.device):
            losses = self.objective(batch, noise)["loss"]
        loss = losses.mean()
        loss.backward()
        norm = clip_grad_norm_(self.model.parameters(), settings.clip)
        value, size = torch.stack((loss.detach().double(), norm.double())).tolist()  # one transfer
        if not (abs(value) < float("inf") and size < float("inf")):
            raise NonFiniteError(self._complaint(losses.detach(), batch))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, step)
        if self.stateful is not None:
            self.stateful.advance()
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        return {"step": self.step, "loss": value, "lr": rate, "grad_norm": size}

    def _complaint(self, losses: Tensor, batch: Batch) -> str:
        ids = torch.arange(len(batch)) if batch.ids is None else batch.ids.cpu()
        bad = ids[~losses.isfinite().cpu()].tolist()
        which = (
            f"the loss of {len(bad)} samples is not finite (data ids {_some(bad)})"
            if bad
            else f"the gradient is not finite (batch of data ids {_some(ids.tolist())})"
        )
        return (
            f"step {self.step}: {which}. Stopped before the step{self._kept()}. "
            f"Look at these data, or lower --lr or --clip in a new run"
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
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise explain(path.parent, error) from error
        write_file(path, preview(self.ema.model))

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
def _keyed(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """What a network draws by itself, as for dropout, becomes a function of the seed and the step too."""
    key = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=7).digest()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(key))
        yield


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
