"""The gradient of one step: what an objective returns, brought to the parameters of each optimiser.

grad_k mean_{i < B} loss_k,i          for each key k, with respect to the parameters of its optimiser alone
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.base import ModelBase
from pushforward.objectives.matching import Objective
from pushforward.runtime.processes import Processes
from pushforward.train.optimizers import Optimizers
from pushforward.train.parallel import average, gathering
from pushforward.train.settings import Settings

FIGURES = "figures"


def needs_whole_batch(objective: Any) -> bool:
    """Whether a loss depends on the other samples of the batch, as contrastive ones do. Such an objective says so by
    `whole_batch = True`; it gets all rows of a process at once, and those of others by `Processes.gather_rows`."""
    return bool(getattr(objective, "whole_batch", False))


@dataclass
class Losses:
    """What an objective returned for the rows of this process.

    by_key:  losses (b,) of each optimiser. figures: sums over rows of what is only logged, by name.
    """

    by_key: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Tensor] = field(default_factory=dict)


class Gradient:
    """Takes the losses of a batch in parts and adds their gradients up in the parameters."""

    def __init__(
        self,
        objective: Objective,
        model: ModelBase,
        optimizers: Optimizers,
        settings: Settings,
        processes: Processes,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.objective, self.optimizers = objective, optimizers
        self.networks = list(model.networks().values()) if processes.count > 1 else []
        self.settings, self.processes, self.device = settings, processes, device
        self.batch_size = batch_size
        # As many in each process: where networks are sharded, all take part in each call.
        parts = min(settings.accumulate, batch_size // processes.count)
        self.parts = 1 if needs_whole_batch(objective) else parts
        networks = {id(p) for net in model.networks().values() for p in net.parameters()}
        several = len(optimizers.rules) > 1
        # What no wrapped network averages over the processes.
        self.loose = [p for p in optimizers.parameters.values() if several or id(p) not in networks]

    def __call__(self, batch: Batch, noise: Noise, step: int) -> Losses:
        """The losses of this process's rows of the batch; their gradient is then in the parameters."""
        settings = self.settings
        found: dict[str, list[Tensor]] = {}
        out = Losses()
        cuts = [len(batch) * k // self.parts for k in range(self.parts + 1)]
        for number, (start, end) in enumerate(pairwise(cuts), start=1):
            rows, place = slice(start, end), int(noise.ids[start])
            with (
                gathering(self.networks, last=number == self.parts),
                torch.autocast(
                    self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ),
                keyed(settings.seed, step, place, self.device),
            ):
                answer = dict(self.objective(batch[rows], noise[rows]))
                figures = answer.pop(FIGURES, {})
                losses = self._checked(answer, end - start)
            self._backward(losses)
            for key, loss in losses.items():
                found.setdefault(key, []).append(loss.detach())
            for name, value in figures.items():
                total = figure(name, value, end - start)
                out.figures[name] = out.figures[name] + total if name in out.figures else total
        out.by_key = {key: torch.cat(parts) for key, parts in found.items()}
        if self.loose and self.processes.count > 1:
            average(self.loose, self.processes)
        return out

    def _checked(self, answer: Mapping[str, Any], size: int) -> dict[str, Tensor]:
        known = self.optimizers.rules
        name = type(self.objective).__name__
        if not answer or not answer.keys() <= known.keys():
            raise InputError(
                f"{name} returned losses under {', '.join(map(repr, answer)) or 'no key'}; the optimisers are "
                f"{', '.join(map(repr, known))}. What is only logged goes under {FIGURES!r}"
            )
        for key, loss in answer.items():
            if loss.shape != (size,):
                raise InputError(
                    f"{name} returned {key!r} of shape {tuple(loss.shape)} for {size} samples; it must return one loss "
                    f"for each, ({size},)"
                )
        return {
            key: loss.to(torch.promote_types(loss.dtype, torch.float32))
            for key, loss in answer.items()
        }

    def _backward(self, losses: Mapping[str, Tensor]) -> None:
        # Processes are averaged over.
        scale = self.processes.count / self.batch_size
        if len(self.optimizers.rules) == 1:
            for loss in losses.values():
                (loss.sum() * scale).backward()
            return
        for left, (key, loss) in zip(range(len(losses))[::-1], losses.items(), strict=True):
            own = list(self.optimizers.of_key[key].values())
            (loss.sum() * scale).backward(inputs=own, retain_graph=left > 0)


def figure(name: str, value: Any, size: int) -> Tensor:
    """The sum over `size` samples of a figure: a number for all of them, or one for each."""
    value = torch.as_tensor(value).detach().double()
    if value.shape == (size,):
        return value.sum()
    if value.ndim == 0:
        return value * size
    raise InputError(
        f"the figure {name!r} has shape {tuple(value.shape)}; it must be a number, or one for each of {size} samples"
    )


@contextmanager
def keyed(seed: int, step: int, place: int, device: torch.device) -> Iterator[None]:
    """Makes what a network draws by itself, as for dropout, a function of the seed, the step and the first sample."""
    digest = hashlib.blake2b(f"{seed} {step} {place}".encode(), digest_size=7).digest()
    key = int.from_bytes(digest)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # As torch.manual_seed does, which takes a third of a millisecond for devices that are not there.
        torch.default_generator.manual_seed(key)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        elif device.type != "cpu":
            torch.manual_seed(key)
        yield
