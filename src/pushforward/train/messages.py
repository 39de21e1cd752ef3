"""What stops a run, in words, with what to change."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.data.batch import Batch
from pushforward.runtime.processes import Processes
from pushforward.train.divergence import Watch
from pushforward.train.settings import Settings


def not_finite(step: int, losses: Tensor, batch: Batch, kept: str, processes: Processes) -> str:
    """losses: of this process's rows. All processes call it alike."""
    ids = torch.arange(len(batch)) if batch.ids is None else batch.ids.cpu()
    bad = ids[~losses.isfinite().cpu()].tolist()
    every = processes.everybody((bad, ids.tolist()))
    bad = [number for numbers, _ in every for number in numbers]
    which = (
        f"the loss of {len(bad)} samples is not finite (data ids {_some(bad)})"
        if bad
        else f"the gradient is not finite (batch of data ids {_some([n for _, ns in every for n in ns])})"
    )
    return (
        f"step {step}: {which}. Stopped before the step{kept}. "
        f"Look at these data, or lower --lr or --clip in a new run"
    )


def too_large(
    step: int,
    error: BaseException,
    settings: Settings,
    size: int,
    device: torch.device,
    recomputes: bool,
    kept: str,
) -> str:
    """size: samples at a time. recomputes: whether the networks can recompute activations."""
    less = f"--accumulate {2 * settings.accumulate}, which takes half as many samples at a time"
    if not settings.checkpointing and recomputes:
        less += "; with --checkpointing, which recomputes activations"
    bits = ", with --precision bf16" if settings.precision == "fp32" else ""
    return (
        f"step {step}: out of memory on {device} with {size} samples at a time ({str(error).splitlines()[0]}){kept}. "
        f"Go on by --resume with {less}. Or start a new run{bits} with a smaller --batch-size or network"
    )


def diverged(step: int, loss: float, watch: Watch, log: str, kept: str) -> str:
    return (
        f"step {step}: training has diverged. The loss was {watch.first:.3g} at first and {watch.least:.3g} at best; "
        f"it is {loss:.3g}, and has been that high for the last {watch.above} entries of {log}{kept}. Lower --lr or "
        f"--clip in a new run"
    )


def prolonged(settings: Settings, step: int, before: int) -> str:
    """A run of `before` steps that goes on to settings.steps: what becomes of its learning rate."""
    words = f"prolonged from {before} to {settings.steps} steps"
    changes = []
    for key, rule in settings.rules().items():
        was, now = rule.rate(max(0, step - 1), before), rule.rate(step, settings.steps)
        if rule.decay != "constant":
            whose = (
                "the learning rate" if len(settings.rules()) == 1 else f"the learning rate of {key}"
            )
            changes.append(f"{whose} goes from {was:.2e} to {now:.2e}")
    if not changes:
        return f"{words}; the learning rate stays as it is"
    return f"{words}; from here on it is that of a run of this length: {', '.join(changes)}"


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
