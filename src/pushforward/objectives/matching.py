"""Regression of a posterior mean: flow matching, denoising score matching, noise prediction.

    L(theta) = E_{t, x0, x1} w(t) | prediction_theta(x_t, t) - target |^2,   x_t = alpha x1 + sigma x0

The target is the conditional velocity, score, ... of the pair; its mean given x_t is the marginal one, so that this
loss and the one against the marginal field differ by a constant and have the same gradients (Lipman et al. 2023,
arXiv 2210.02747, thm. 2; Vincent 2011 for the score).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.core import conditions
from pushforward.core.conditions import Nulls
from pushforward.core.errors import InputError
from pushforward.core.fields import nulls_of, require_field
from pushforward.core.interpolants import Interpolant
from pushforward.core.noise import DROP, LATENT, SOURCE, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, target
from pushforward.core.shapes import mean_data
from pushforward.core.times import TimeDraw, Uniform
from pushforward.couplings import Coupling, independent
from pushforward.data.batch import Batch
from pushforward.models.model import Model
from pushforward.objectives.weights import Weight


class Objective(Protocol):
    """What the training loop minimises.

    Returns per-sample losses (B,), under one key for each optimiser; under "figures" what is only logged, by name, each
    a number or one for each sample. An objective may also have these attributes, True where they hold:

    whole_batch: a loss depends on the other samples of the batch. It gets all rows of its process at once, and those of
                 other processes by `Processes.gather_rows`.
    shardable:   it only calls its networks, and takes no other derivative of them, so that FSDP2 can split them.
    """

    def __call__(self, batch: Batch, noise: Noise) -> Mapping[str, Any]: ...


@runtime_checkable
class Stateful(Protocol):
    """An objective that keeps something from step to step, such as a slow copy of its model.

    state: the module that holds it, which a run saves and takes up again; None if there is none. `advance` is called
    after every optimiser step.
    """

    @property
    def state(self) -> nn.Module | None: ...

    def advance(self) -> None: ...


class Drawn(NamedTuple):
    """Pairs x0, x1 (B, ...), their times (B,), what the network is conditioned on, and which entries are data."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    cond: dict[str, Any]
    mask: Tensor | None


# A probability for all conditions that may be dropped, which are then dropped together; or one by name.
Dropout = float | Mapping[str, float]


def draw(
    model: Any,
    batch: Batch | Tensor,
    noise: Noise,
    times: TimeDraw,
    dropout: Dropout = 0.0,
    coupling: Coupling = independent,
    *,
    masks: bool = False,
) -> Drawn:
    """What an objective along a model's path draws for a batch: source, pairs, times, and which conditions are dropped.

    masks: whether the objective minds `batch.mask`; a batch with one is an InputError otherwise.
    """
    path: Path = model.path
    batch = as_batch(batch)
    if len(noise) != len(batch):
        raise InputError(f"{len(noise)} noise ids for a batch of {len(batch)}")
    if batch.mask is not None and not masks:
        refuse_mask(batch)
    noise, x0, x1 = noise.to(batch.x1.device), batch.x0, batch.x1
    cond, mask = dict(batch.cond), batch.mask
    if mask is not None:
        noise, x1, cond["mask"] = noise.masked(mask), torch.where(mask, x1, 0.0), mask
        x0 = None if x0 is None else torch.where(mask, x0, 0.0)
        if coupling is not independent:
            raise InputError("samples with masks differ in length: pair them independently")
    if x0 is None:
        x0 = noise.normal(x1.shape[1:], SOURCE, x1.dtype)
    elif path.gaussian_source:
        raise InputError(
            f"the batch brings its own source samples, and {path} says the source is Gaussian "
            f"noise: build the model on a path with gaussian_source=False"
        )
    if coupling is not independent:
        i, j = coupling(x0, x1, noise, cond)
        x0, x1, cond = x0[i], x1[j], conditions.take(cond, j)
    cond, _ = drop_some(cond, nulls_of(model), dropout, noise)
    return Drawn(x0, x1, times(noise), cond, mask)


def as_batch(batch: Any) -> Batch:
    """A Batch; or data (B, ...) alone, as a tensor."""
    batch = Batch(batch) if isinstance(batch, Tensor) else batch
    x1 = getattr(batch, "x1", None)
    if not isinstance(x1, Tensor) or not x1.is_floating_point():
        what = f"a tensor of {x1.dtype}" if isinstance(x1, Tensor) else f"a {type(batch).__name__}"
        raise InputError(
            f"a batch is a tensor of floating numbers (B, ...), or a pf.Batch of one with its conditions; this is "
            f"{what}"
        )
    return batch


def drop_some(
    cond: dict[str, Any], nulls: Nulls, dropout: Dropout, noise: Noise
) -> tuple[dict[str, Any], Tensor]:
    """Conditions with some samples' made none, and (B,) in which of them all that may be dropped was."""
    names = [name for name in nulls if name in cond]
    if not names or not dropout:
        return cond, torch.zeros(len(noise), dtype=torch.bool, device=noise.ids.device)
    if isinstance(dropout, Mapping):
        u = noise.uniform((len(nulls),), DROP)
        which = {n: u[:, k] < dropout.get(n, 0.0) for k, n in enumerate(nulls) if n in cond}
        free = torch.stack([which[name] for name in names]).all(0)
        return conditions.drop(cond, nulls, which), free
    free = noise.uniform((), DROP) < dropout
    return conditions.drop(cond, nulls, free), free


def refuse_mask(batch: Batch | Tensor) -> None:
    if isinstance(batch, Batch) and batch.mask is not None:
        raise InputError(
            "this objective does not mind masks, so that padding would count as data: train on samples of one length, "
            "or by an objective that does, such as FlowMatching"
        )


def weighted(loss: Tensor, weight: Callable[[Tensor], Tensor] | None, t: Tensor) -> Tensor:
    return loss if weight is None else weight(t).to(loss.dtype) * loss


def check_weight(
    weight: Callable[[Tensor], Tensor] | None, loss_in: Prediction, path: Path
) -> None:
    """That a published weight was made for this loss_in of errors and this path."""
    if isinstance(weight, Weight) and (weight.loss_in, weight.path) != (loss_in, path):
        raise InputError(
            f"{type(weight).__name__} was made for errors of the {weight.loss_in} on {weight.path}, and they are "
            f"measured in the {loss_in} on {path}: pass {type(weight).__name__}(model.path, {loss_in!r})"
        )


def check_dropout(dropout: Dropout, model: Any) -> None:
    """That the probabilities are such, and that the model says what may be dropped."""
    nulls = nulls_of(model)
    parts = dropout if isinstance(dropout, Mapping) else {"": dropout}
    for name, value in parts.items():
        if not 0 <= value <= 1:
            raise InputError(f"condition_dropout is {value}; it is a probability")
        if name and name not in nulls:
            raise InputError(
                f"condition_dropout names {name!r}, and the model says nothing of what stands for none of it: "
                f"Model(..., nulls={{{name!r}: ...}})"
            )
        if value > 0 and not nulls:
            raise InputError(
                "condition_dropout drops conditions, and this model names none that may be: say what stands for none, "
                'as in Model(..., nulls={"label": -1})'
            )


@dataclass(frozen=True)
class Matching:
    """Regress any prediction, with the loss measured in any.

        loss_i = w(t_i) mean_over_dimensions (model(x_t, t, loss_in) - (p x1 + q x0))^2

    model:    whatever its network predicts, it is asked for `loss_in`.
    loss_in:  the prediction in which errors are squared; None for the model's own.
    times:    the law of t.
    weight:   w(t), from (B,) to (B,); None for 1.
    coupling: how x0 and x1 are paired. Any but the independent one, and any source that comes with the batch, needs a
              path with gaussian_source=False.
    condition_dropout: probability of training a sample without its conditions, for classifier-free guidance (Ho &
              Salimans 2022): one for all that the model's `nulls` name, dropped together, or one by name.
    """

    model: Model
    loss_in: Prediction | None = None
    times: TimeDraw = field(default_factory=Uniform)
    weight: Callable[[Tensor], Tensor] | None = None
    coupling: Coupling = independent
    condition_dropout: Dropout = 0.0

    # Networks are only called, so that their weights can be split over processes.
    shardable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_field(self.model)
        check_defined(self.measured, self.model.path)
        check_dropout(self.condition_dropout, self.model)
        check_weight(self.weight, self.measured, self.model.path)
        if self.coupling is not independent and self.model.path.gaussian_source:
            raise InputError(
                f"a coupling makes x0 depend on x1, and {self.model.path} says they are independent: "
                f"build the model on a path with gaussian_source=False"
            )

    @property
    def measured(self) -> Prediction:
        return self.model.prediction if self.loss_in is None else self.loss_in

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        path, measured = self.model.path, self.measured
        x0, x1, t, cond, mask = draw(
            self.model, batch, noise, self.times, self.condition_dropout, self.coupling, masks=True
        )
        if isinstance(path, Interpolant):
            z = noise.to(x1.device).masked(mask).normal(x1.shape[1:], LATENT, x1.dtype)
            x_t, goal = path.mix(x0, x1, z, t)
        else:
            x_t, goal = path.sample(x0, x1, t), target(measured, x0, x1, t, path)
        loss = mean_data((self.model(x_t, t, measured, **cond) - goal) ** 2, mask)
        return {"loss": weighted(loss, self.weight, t)}


@dataclass(frozen=True)
class FlowMatching(Matching):
    """`E | u_theta(x_t, t) - (alpha' x1 + sigma' x0) |^2` (Lipman et al. 2023; Liu et al. 2022)."""

    loss_in: Prediction | None = "velocity"


@dataclass(frozen=True)
class DenoisingScoreMatching(Matching):
    """`E | s_theta(x_t, t) + x0/sigma |^2`, which grows without bound as sigma -> 0 (Vincent 2011)."""

    loss_in: Prediction | None = "score"


@dataclass(frozen=True)
class NoisePrediction(Matching):
    """`E | eps_theta(x_t, t) - x0 |^2`: score matching weighted by sigma^2, DDPM's L_simple (Ho et al. 2020)."""

    loss_in: Prediction | None = "noise"
