"""Points of the plane as they are carried along, with the field's arrows and the density around them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import UndefinedError
from pushforward.core.fields import FlowMap
from pushforward.laws.exact_field import ExactField
from pushforward.sampling.generate import generate
from pushforward.serve import frames, pipe
from pushforward.serve.job import Job, checked, given, guided, labels, sampler, source
from pushforward.serve.subjects import Subject

# Arrows on a side of the square; points of the density there, fewer of laws with many components.
ARROWS, FINE, COARSE = 23, 64, 40
# At most so many states of one drawing have arrows and a density.
PICTURED = 32


@dataclass(frozen=True)
class Window:
    """The square [-extent, extent]^2, in which a state x at noise level sigma is shown at c x.

        c = min(1, extent/(3 sigma))

    so that noise of large variance, as that of VE and EDM, fits.
    """

    path: Any
    extent: float

    def shrink(self, t: Tensor) -> float:
        sigma = float(self.path.coefficients(t[:1].double()).sigma)
        return min(1.0, self.extent / (3 * sigma)) if sigma > 0 else 1.0

    def square(self, side: int, t: Tensor) -> Tensor:
        """(side^2, 2) states at the middles of side x side cells, rows from the top."""
        line = (torch.arange(side, dtype=torch.float64) + 0.5) * (
            2 * self.extent / side
        ) - self.extent
        y, x = torch.meshgrid(-line, line, indexing="ij")
        return torch.stack((x, y), -1).reshape(-1, 2) / self.shrink(t)


def draw(job: Job, subject: Subject) -> tuple[Tensor, dict[str, Any]]:
    """Send all frames; returns the points, and for the end: calls, seconds, mean ln p beside that of the law."""
    settings, num = job.settings, job.settings.num
    window = Window(subject.field.path, subject.extent)
    began = time.monotonic()
    with checked(subject.field, job.check) as field:
        chosen = sampler(subject, settings)
        steps = chosen["grid"].shape[-1] - 1
        every = -(-(steps + 1) // PICTURED)

        def seen(i: int, t: Tensor, x: Tensor) -> None:
            job.check()
            c = window.shrink(t)
            shown = (x.double() * c).cpu().numpy()
            job.send(pipe.FRAME, frames.points(shown, job.tag, i, steps, float(t[0])))
            if i % every == 0 or i == steps:
                around(job, subject, field, window, i, steps, t[:1])

        x = generate(
            field, num, **chosen, **given(subject, settings, num), callback=seen, seed=settings.seed,
            source=source(subject, settings, num), batch_size=num,
        )  # fmt: skip
    calls = steps * chosen["solver"].calls
    found: dict[str, Any] = {
        "calls": calls or None, "steps": steps, "seconds": time.monotonic() - began,
        "stochastic": bool(chosen["solver"].stochastic),
    }  # fmt: skip
    return x.cpu(), found | quality(job, subject, x)


def quality(job: Job, subject: Subject, x: Tensor) -> dict[str, Any]:
    """Mean ln p of the samples in nats, and of as many of the law itself."""
    law, settings = subject.truth, job.settings
    if law is None or settings.num < 2:
        return {}
    cond: dict[str, Any] = {}
    if subject.exact and settings.label is not None and settings.label >= 0:
        cond = {"label": torch.full((len(x),), settings.label)}
        from pushforward.core.noise import Noise

        real = law.draw(Noise.batch(len(x), settings.seed + 1), **cond)
    else:
        real = law.sample(len(x), seed=settings.seed + 1)
    found, ought = law.log_prob(x.double().cpu(), **cond), law.log_prob(real.double(), **cond)
    if not bool(found.isfinite().all()):
        return {"off": float((~found.isfinite()).double().mean())}
    return {"log_p": float(found.mean()), "log_p_law": float(ought.mean())}


def around(
    job: Job, subject: Subject, field: Any, window: Window, i: int, steps: int, t: Tensor
) -> None:
    """The arrows of the field, and the density at time t where it is known."""
    if isinstance(field, FlowMap):
        return
    settings = job.settings
    device = next((p.device for p in getattr(field, "parameters", list)()), torch.device("cpu"))
    dtype = torch.float64 if subject.exact else torch.float32
    where = window.square(ARROWS, t).to(device, dtype)
    at = t.expand(len(where)).to(device)
    label = labels(subject, settings, len(where)) if settings.label is not None else None
    cond = {} if label is None else {"label": label.to(device)}
    try:
        with torch.no_grad():
            arrows = guided(subject, settings, field)(where, at, settings.show, **cond)
    except UndefinedError:
        return
    arrows = arrows.double().cpu() * window.shrink(t)
    if settings.show in ("data", "noise"):
        # From where one stands to the mean of the data, or of the noise.
        arrows = arrows - (
            where.double().cpu() * window.shrink(t) if settings.show == "data" else 0
        )
    if bool(arrows.isfinite().all()):
        square = arrows.reshape(ARROWS, ARROWS, 2).numpy()
        job.send(pipe.FRAME, frames.field(square, job.tag, i, steps, float(t)))
    exact = getattr(field, "field", field)
    if not isinstance(exact, ExactField):
        return
    side = FINE if len(exact.law.components.means) <= 200 else COARSE
    where = window.square(side, t)
    cond = {} if label is None else {"label": label[:1].expand(len(where))}
    job.check()
    log_p = exact.log_prob(where, t.expand(len(where)), **cond)
    if bool(log_p.isfinite().all()):
        square = log_p.reshape(side, side).numpy()
        job.send(pipe.FRAME, frames.density(square, job.tag, i, steps, float(t)))
