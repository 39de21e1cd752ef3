"""Fields: what solvers, guidance and likelihood see of a model or of an exact law."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, conversion, convert
from pushforward.core.shapes import as_time, expand


@runtime_checkable
class Field(Protocol):
    """A posterior mean on a path, under any of its five names.

    x: (B, ...) the state x_t; t: one time or (B,); cond: what the law is conditioned on, tensors (B, ...).
    Returns a tensor of x's shape.
    """

    @property
    def path(self) -> Path: ...

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor: ...


@runtime_checkable
class VarianceField(Field, Protocol):
    """A Field that also says how large the steps of `DDPM("learned")` scatter."""

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The prediction `want` and v, both of x's shape, by one call: variance beta^v beta-tilde^(1 - v)."""


def require_variance(field: Field) -> VarianceField:
    if not isinstance(field, VarianceField):
        raise InputError(
            f"{type(field).__name__} has no variance to give: DDPM('learned') takes a field with `with_variance`, "
            f"such as a Model whose network has two outputs for each channel; or choose 'beta' or 'beta-tilde'"
        )
    return field


class Scales(NamedTuple):
    """c_skip, c_out, c_in and c_noise of a preconditioned network, each (B,)."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


class Preconditioning(Protocol):
    """How a network is wrapped: `prediction = c_skip x + c_out net(c_in x, c_noise)`."""

    @property
    def prediction(self) -> Prediction: ...

    def __call__(self, path: Path, t: Tensor) -> Scales: ...


@dataclass(frozen=True)
class EDMPreconditioning:
    """Unit-variance inputs and targets at every noise level, on any Gaussian path.

        c_in   = 1 / sqrt(alpha^2 s^2 + sigma^2)              s = sigma_data
        c_skip = alpha s^2 c_in^2
        c_out  = sigma s c_in
        c_noise = ln(sigma/alpha) / 4

    For alpha = 1 these are table 1 of Karras et al. 2022 (arXiv 2206.00364); c_skip is the least-squares
    estimate of data of standard deviation s from x_t, and c_out that of its error. Predicts the data.
    c_noise is kept within [-5, 5], since sigma/alpha runs from infinity to 0 on some paths.
    """

    sigma_data: float = 0.5
    prediction: Prediction = "data"

    def __post_init__(self) -> None:
        if self.sigma_data <= 0:
            raise InputError(f"sigma_data is {self.sigma_data}; it must be positive")
        if self.prediction != "data":
            raise InputError("EDM preconditioning predicts the data")

    def __call__(self, path: Path, t: Tensor) -> Scales:
        alpha, sigma = path.alpha(t), path.sigma(t)
        scale = 1 / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        return Scales(
            skip=alpha * self.sigma_data**2 * scale**2,
            out=sigma * self.sigma_data * scale,
            input=scale,
            noise=(-path.log_snr(t) / 8).clamp(-5, 5),
        )


def _regular_times(prediction: Prediction, path: Path, margin: float) -> tuple[float, float]:
    """The times at which `prediction` gives a velocity: [0, 1], less `margin` at an end where it does not."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, b = conversion(prediction, "velocity", path.coefficients(ends))
    first, last = (prediction == "velocity" or bool(ok) for ok in a.isfinite() & b.isfinite())
    return (0.0 if first else margin), (1.0 if last else 1 - margin)


class Model(nn.Module):
    """A network with what it takes to be a Field: its path, what it predicts, how it is wrapped.

        raw  = net(x, t, **cond)                                  or, with preconditioning,
        raw  = c_skip x + c_out net(c_in x, c_noise, **cond)
        want = a x + b raw                                        (see predictions.conversion)

    net:        (x (B, ...), t (B,), **cond) -> (B, ...); or (B, 2C, ...) for x (B, C, ...), whose second half is
                the v of a learned variance (see `VarianceField`), left out of any other answer.
    prediction: what `raw` stands for; "data" under EDM preconditioning.
    margin:     where the conversion into a velocity does not exist at an end of time (data at sigma = 0, noise
                at alpha = 0, a variance-preserving path at t = 1), the model is asked at distance `margin` from it.
                Velocity models, and predictions on paths without that singularity, are never moved.
    shape:      shape of one sample, () if not known. Kept so that samples can be drawn from a saved model.
    classes:    number of labels the network knows, or None.
    info:       anything else that should travel with it (JSON values): value range, class names, how it was trained.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        prediction: Prediction = "velocity",
        preconditioning: Preconditioning | None = None,
        *,
        margin: float = 1e-3,
        shape: tuple[int, ...] = (),
        classes: int | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_defined(prediction, path)
        if preconditioning is not None and prediction != preconditioning.prediction:
            raise InputError(
                f"{type(preconditioning).__name__} predicts the {preconditioning.prediction}, "
                f"not the {prediction}: pass prediction={preconditioning.prediction!r}"
            )
        if not 0 < margin < 0.5:
            raise InputError(f"margin is {margin}; it must lie in (0, 0.5)")
        self.net = net
        self.path = path
        self.prediction: Prediction = prediction
        self.preconditioning = preconditioning
        self.margin = margin
        self.shape = tuple(shape)
        self.classes = classes
        self.info = dict(info or {})
        self._low, self._high = _regular_times(prediction, path, margin)

    def forward(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        return self._answer(x, t, want, cond)[0]

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The prediction `want`, and the v of `DDPM("learned")`, by one call of the network."""
        value, v = self._answer(x, t, want, cond)
        if v is None:
            raise InputError(
                f"{type(self.net).__name__} gives no variance: that takes a network with two outputs for each channel"
            )
        return value, v

    def _answer(
        self, x: Tensor, t: Tensor | float, want: Prediction, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        t = as_time(t, x)
        if self._low > 0 or self._high < 1:
            t = t.clamp(self._low, self._high)
        c = None if self.preconditioning is None else self.preconditioning(self.path, t)
        if c is None:
            raw = self.net(x, t, **cond).to(x.dtype)
        else:
            raw = self.net(expand(c.input, x) * x, c.noise, **cond).to(x.dtype)
        v = None
        if raw.ndim > 1 and raw.shape[1] == 2 * x.shape[1]:
            raw, v = raw.chunk(2, dim=1)
        if c is not None:
            raw = expand(c.skip, x) * x + expand(c.out, x) * raw
        return convert(raw, x, t, self.path, self.prediction, want), v


@dataclass(frozen=True)
class ScheduleTransfer:
    """A Field of one Gaussian path, asked along another: same law, other alpha and sigma.

    States of equal log-SNR differ only by a scale. With r = hypot(alpha, sigma), x/r and v/r (v the prediction of
    that name) are then the same on both paths, and from them everything else follows without loss of digits.
    Where the new path's log-SNR leaves the range of the old one, the nearest end is asked; where v does not give the
    velocity (a variance-preserving path at t = 1), the field is asked at distance `margin` from there.

    Karras et al. 2022 (arXiv 2206.00364), sec. 4; Pokle et al. 2023 (arXiv 2310.04432).
    """

    field: Field
    path: Path
    margin: float = 1e-3

    def __post_init__(self) -> None:
        for path in (self.field.path, self.path):
            path.require_gaussian("transfer to another path")

    @cached_property
    def _times(self) -> tuple[float, float]:
        return _regular_times("v", self.path, self.margin)

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t, old_t, ratio = self._there(x, t)
        v = self.field(ratio * x, old_t, "v", **cond) / ratio
        return convert(v, x, t, self.path, "v", want)

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The variance's v is the field's own: the same steps between paths of one alpha^2 + sigma^2.

        Between others beta, unlike beta-tilde, is not the same step, by a factor that goes to 1 with the steps.
        """
        t, old_t, ratio = self._there(x, t)
        v, variance = require_variance(self.field).with_variance(ratio * x, old_t, "v", **cond)
        return convert(v / ratio, x, t, self.path, "v", want), variance

    def _there(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """(t, the field's own time, the factor that takes x there)."""
        t = as_time(t, x).clamp(*self._times)
        old_t = self.field.path.time_of_log_snr(self.path.log_snr(t))
        old = torch.hypot(self.field.path.alpha(old_t), self.field.path.sigma(old_t))
        return t, old_t, expand(old / torch.hypot(self.path.alpha(t), self.path.sigma(t)), x)


def null_condition(cond: dict[str, Tensor], mask: Tensor | None = None) -> dict[str, Tensor]:
    """`cond` with the samples in `mask` (B,) made unconditional; all of them without a mask.

    Integer tensors (labels) become -1 there and floating tensors (embeddings) 0: what the networks of this library
    take for "no condition".
    """
    out = {}
    for name, value in cond.items():
        null = torch.zeros_like(value) if value.is_floating_point() else torch.full_like(value, -1)
        out[name] = (
            null
            if mask is None
            else torch.where(mask.reshape(-1, *[1] * (value.ndim - 1)), null, value)
        )
    return out
