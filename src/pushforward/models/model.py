"""A network as a Field."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.fields import regular_times
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, convert
from pushforward.core.shapes import as_time, expand
from pushforward.models.preconditioning import Preconditioning


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
        self._low, self._high = regular_times(prediction, path, margin)

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
