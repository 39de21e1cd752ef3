"""Pictures as they are solved: drawn from noise, or changed by noise, a mask and a prompt."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.fields import find_inside
from pushforward.data.images.save import to_bytes
from pushforward.sampling.edit import edit
from pushforward.sampling.generate import generate
from pushforward.saving.control import strengthened
from pushforward.serve import frames, pipe
from pushforward.serve.job import Job, checked, given, sampler, source
from pushforward.serve.settings import bytes_of
from pushforward.serve.subjects import Subject, check_encoded

# Seconds between two frames, and states that are decoded on the way by a model of latents.
PAUSE, DECODED = 0.06, 8


def draw(job: Job, subject: Subject) -> tuple[Tensor, dict[str, Any]]:
    """Send frames; returns the pictures (n, C, H, W) and what is said at the end."""
    settings, num = job.settings, job.settings.num
    began = time.monotonic()
    if strange := check_encoded(subject, f"{settings.prompt} {settings.negative}"):
        words = ", ".join(strange)
        job.send(
            pipe.JSON,
            pipe.text({"type": "note", "note": f"words that this model never saw: {words}"}),
        )
    steered, hint = with_hint(job, subject)
    with checked(steered.field, job.check) as field:
        cond = given(steered, settings, num, hint)
        if settings.picture is not None:
            x, calls = changed(job, steered, field, cond)
        else:
            chosen = sampler(steered, settings)
            steps = chosen["grid"].shape[-1] - 1
            calls = steps * chosen["solver"].calls
            x = generate(
                field, num, **chosen, **cond, callback=Seen(job, steered, steps), seed=settings.seed,
                source=source(steered, settings, num), batch_size=num,
            )  # fmt: skip
    show(job, x, subject, 1, 1, 1.0)
    return x.cpu(), {"calls": calls or None, "seconds": time.monotonic() - began}


def changed(job: Job, subject: Subject, field: Any, cond: dict[str, Any]) -> tuple[Tensor, int]:
    """The picture that was sent, edited in so many versions, with the solver of the settings or the usual one."""
    settings, (channels, height, width) = job.settings, subject.spec.shape
    assert settings.picture is not None
    low, high = subject.spec.value_range or (-1.0, 1.0)
    raw = np.frombuffer(bytes_of(settings.picture, (height, width, channels), "picture"), np.uint8)
    image = torch.from_numpy(raw.reshape(1, height, width, channels).copy()).movedim(3, 1)
    image = image.float() / 255 * (high - low) + low
    mask = None
    if settings.mask is not None:
        found = np.frombuffer(bytes_of(settings.mask, (height, width), "mask"), np.uint8)
        mask = torch.from_numpy(found.reshape(1, 1, height, width) > 0)
    solver = None if settings.solver == "auto" else sampler(subject, settings)["solver"]
    x = edit(
        field, image.expand(settings.num, -1, -1, -1), strength=settings.strength, mask=mask, solver=solver,
        nfe=settings.calls, seed=settings.seed, batch_size=settings.num,
        callback=Seen(job, subject, settings.calls), **cond,
    )  # fmt: skip
    return x, settings.calls


def with_hint(job: Job, subject: Subject) -> tuple[Subject, Tensor | None]:
    """The subject at the strength that was asked for, and the hint that steers it."""
    settings = job.settings
    if settings.control is None or subject.hint is None:
        return subject, None
    height, width = subject.spec.shape[1:]
    grey = np.frombuffer(bytes_of(settings.control, (height, width), "control"), np.uint8)
    hint, how = subject.hint(torch.from_numpy(grey.reshape(height, width).copy()).float() / 255)
    job.send(pipe.JSON, pipe.text({"type": "note", "note": f"the hint is taken {how}"}))
    from dataclasses import replace

    from pushforward.saving.control import controls_of

    (name,) = controls_of(subject.field)
    model = strengthened(subject.field, {name: settings.control_strength})
    return replace(subject, field=model), hint


class Seen:
    """A callback that sends the states, scaled to be seen, at most so often."""

    def __init__(self, job: Job, subject: Subject, steps: int) -> None:
        self.job, self.subject, self.steps = job, subject, steps
        self.codec = find_inside(subject.field, "codec")
        self.every = 1 if self.codec is None else -(-steps // DECODED)
        self.last = 0.0

    def __call__(self, i: int, t: Tensor, x: Tensor) -> None:
        self.job.check()
        now = time.monotonic()
        steps = max(self.steps, i)
        progress = {"type": "progress", "done": i, "total": steps}
        self.job.send(pipe.JSON, pipe.text(progress))
        if i % self.every or now - self.last < PAUSE:
            return
        self.last = now
        with torch.no_grad():
            sigma = float(self.subject.field.path.coefficients(t[:1].double()).sigma)
            seen = x / max(1.0, sigma) if self.codec is None else self.codec.decode(x)
        show(self.job, seen, self.subject, i, steps, float(t[0]))


def show(job: Job, x: Tensor, subject: Subject, i: int, steps: int, t: float) -> None:
    seen = np.stack(to_bytes(x.nan_to_num(), subject.spec.value_range or (-1.0, 1.0)))
    if seen.ndim == 3:
        seen = seen[..., None]
    job.send(pipe.FRAME, frames.pictures(seen, job.tag, i, steps, t))
