"""MeanFlow: a flow map learned from the law that its start may move along its trajectory.

    d/dt X(x_t, t, s) = 0,      dx_t/dt = v

On CondOT X = x + (s - t) U, and this is the MeanFlow identity

    U(x, t, s) = v + (s - t) dU/dt,      dU/dt = v . grad_x U + dU/dt at fixed x

of the mean velocity U between t and s. For any path and prediction, with U the prediction as a velocity,

    target = U + dX/dt,  held fixed

has the same meaning, and is the same on CondOT: dX/dt = v - U + (s - t) dU/dt. dX/dt is one derivative in forward mode,
along (v, 1) in (x, t), of the network as it is; the gradient is that of U alone. v may be the velocity of the pair
(x0, x1), whose mean given x_t is the field's, since the target is linear in it; or a teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core import conditions
from pushforward.core.adjoint import generators, repeatable
from pushforward.core.derivatives import jvp
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, FlowMap, nulls_of
from pushforward.core.noise import SPAN, Noise
from pushforward.core.shapes import expand, mean_data
from pushforward.core.times import LogitNormal, TimeDraw
from pushforward.data.batch import Batch
from pushforward.models.flow_map import FlowMapModel
from pushforward.objectives.matching import Drawn, Dropout, check_dropout, draw, drop_some


@dataclass(frozen=True)
class MeanFlow:
    """Regress the mean velocity on the MeanFlow identity, from scratch or by a teacher.

        loss_i = |U - target|^2 / (|U - target|^2 + floor)^power,    target = U + dX/dt


    target and weight held fixed, |.|^2 the mean over dimensions. The value that is returned is the error itself, |U -
    target|^2, whose gradient is
    weighted: what a log shows is by how much the identity fails (and, without a teacher, the variance of v).

    model:    a FlowMapModel of any jumps.
    teacher:  a Field whose velocity v is, guided or not; without one, the pair's own: training from scratch.
    times:    the law of two times, of which the smaller is t and the larger s.
    share:    of samples with s = t, which learn the velocity: flow matching.
    arrive:   share of the others that go all the way, s = 1.
    power, floor: of the adaptive weight; power 0 is none, 1 the weight of the paper.
    guidance: scale w of classifier-free guidance folded into the target, v <- w v + (1 - w) u(x_t, t | none) with the
              model's own unconditional velocity: one call of the trained map then is a guided one. With a teacher leave
              it at 1, and give a guided teacher.
    condition_dropout: probability of training a sample without its condition; it is then not guided.
    compiled: compute the derivative by torch.compile: the loss of an MLP is then 1.7 times as fast, after 10 to 40 s
              (benchmarks/results/derivatives.md). Convolutional networks with GroupNorm cannot be compiled in forward
              mode by torch 2.13.

    Geng et al. 2025 (arXiv 2505.13447), alg. 1, eq. 6-8, 19 and 22; p and c in appendix B.1. Their time runs from the
    data to the noise, which is why (t - r) has the other sign there; LogitNormal(0.4) here is their lognorm(-0.4, 1).
    """

    model: FlowMapModel
    teacher: Field | None = None
    times: TimeDraw = field(default_factory=lambda: LogitNormal(0.4, 1.0))
    share: float = 0.75
    arrive: float = 0.0
    power: float = 1.0
    floor: float = 1e-3
    guidance: float = 1.0
    condition_dropout: Dropout = 0.0
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.model.jumps != "any":
            raise InputError("MeanFlow learns jumps between any two times: FlowMapModel(model)")
        check_teacher(self.model, self.teacher)
        check_dropout(self.condition_dropout, self.model)
        for name in ("share", "arrive"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it lies in [0, 1]")
        if self.power < 0 or self.floor <= 0:
            raise InputError(
                f"power is {self.power} and floor {self.floor}: need power >= 0 and floor > 0"
            )
        if self.guidance != 1 and self.teacher is not None:
            raise InputError(
                "a teacher's velocity is what is learned: guide the teacher (ClassifierFree(teacher, w)), and leave "
                "guidance out"
            )
        if self.guidance != 1 and not self.condition_dropout:
            raise InputError(
                "guidance takes the model's unconditional velocity, which it learns from dropped conditions: "
                "condition_dropout > 0"
            )

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        drawn = draw(self.model, batch, noise, self.times, masks=True)
        noise, mask = noise.to(drawn.x1.device), drawn.mask
        cond, free = drop_some(drawn.cond, nulls_of(self.model), self.condition_dropout, noise)
        t, s = self._times(drawn.t, noise)
        x_t = self.model.path.sample(drawn.x0, drawn.x1, t)
        v = self._velocity(x_t, t, drawn, cond, free)
        u, rate = mean_velocity(self.model, x_t, t, s, v, cond, self.compiled)
        error = mean_data((u - (u.detach() + rate)) ** 2, mask)
        weight = (error.detach() + self.floor) ** -self.power
        return {"loss": with_value(weight * error, error)}

    def _times(self, first: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """t <= s, (B,) each."""
        u, same, arrives = noise.uniform((3,), SPAN).unbind(1)
        second = self.times.quantile(u)
        t, s = torch.minimum(first, second), torch.maximum(first, second)
        # One that goes all the way starts from the time that was drawn first, whose law is that of `times`.
        arrives = arrives < self.arrive
        t, s = torch.where(arrives, first, t), torch.where(arrives, 1.0, s)
        alone = same < self.share
        return torch.where(alone, first, t), torch.where(alone, first, s)

    def _velocity(
        self, x_t: Tensor, t: Tensor, drawn: Drawn, cond: dict[str, Any], dropped: Tensor
    ) -> Tensor:
        if self.teacher is not None:
            with torch.no_grad():
                return self.teacher(x_t, t, "velocity", **cond)
        v = self.model.path.velocity(drawn.x0, drawn.x1, t)
        nulls = nulls_of(self.model)
        if self.guidance == 1 or not any(name in cond for name in nulls):
            return v
        with held_fixed(self.model):
            free = self.model.predict(x_t, t, t, "velocity", **conditions.drop(cond, nulls))
        guided = self.guidance * v + (1 - self.guidance) * free
        return torch.where(expand(dropped, x_t).bool(), v, guided)


def mean_velocity(
    model: FlowMapModel,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    v: Tensor,
    cond: dict[str, Any],
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """U at (x_t, t; s), with its gradient, and dX/dt where x_t moves along v, without; (B, ...) each.

    compiled: compute the derivative by torch.compile.
    """
    drawn = generators(x_t.device)
    with held_fixed(model):
        rate = (_compiled() if compiled else _rate)(model, x_t, t.clone(), s, v, cond)
    # What the network draws by itself, as for dropout, is the same in both passes.
    with repeatable(x_t.device) as repeat:
        repeat(drawn)
        return model.predict(x_t, t, s, "velocity", **cond), rate


def _rate(
    model: FlowMapModel, x_t: Tensor, t: Tensor, s: Tensor, v: Tensor, cond: dict[str, Tensor]
) -> Tensor:
    return jvp(lambda x, time: model(x, time, s, **cond), (x_t, t), (v, torch.ones_like(t)))[1]


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_rate)


@contextmanager
def held_fixed(model: nn.Module) -> Iterator[None]:
    """Calls of a model whose answer is a target: no graph, and no word between processes.

    Under DistributedDataParallel a forward pass sends buffers around first. In forward mode that is an error, as they
    are written in place, and where only some processes make such a call their messages would not match. The pass that
    the gradient goes through is left as it is, so that gradients are averaged as ever.
    """
    wrapped = [m for m in model.modules() if isinstance(m, nn.parallel.DistributedDataParallel)]
    before = [m.require_forward_param_sync for m in wrapped]
    for m in wrapped:
        m.require_forward_param_sync = False
    try:
        with torch.no_grad():
            yield
    finally:
        for m, value in zip(wrapped, before, strict=True):
            m.require_forward_param_sync = value


def with_value(loss: Tensor, value: Tensor) -> Tensor:
    """(B,) the gradient of `loss` under another value."""
    return loss + (value - loss).detach()


def check_teacher(model: FlowMapModel, teacher: Field | FlowMap | None) -> None:
    """That the teacher's flow is one on the model's path."""
    if teacher is not None and (
        type(teacher.path) is not type(model.path)
        or any(
            not torch.equal(f(at), g(at))
            for f, g in (
                (model.path.alpha, teacher.path.alpha),
                (model.path.sigma, teacher.path.sigma),
            )
            for at in (torch.linspace(0, 1, 5, dtype=torch.float64),)
        )
    ):
        raise InputError(
            f"the teacher flows along {teacher.path} and the student along {model.path}: give both one path, or take "
            f"ScheduleTransfer(teacher, {model.path})"
        )
