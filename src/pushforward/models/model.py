"""A network as a Field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pushforward.core.conditions import Null
from pushforward.core.errors import InputError
from pushforward.core.fields import regular_times
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, convert
from pushforward.core.shapes import as_time, expand
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import ModelBase, check_outputs, split_outputs
from pushforward.models.preconditioning import Preconditioning

# What a network may give for each channel: the prediction alone, or with the v of a learned variance after it.
OUTPUTS = (("prediction",), ("prediction", "variance"))


class Model(ModelBase):
    """A network with what it takes to be a Field: its path, what it predicts, how it is wrapped.

        raw  = net(x, t, **cond)                                  or, with preconditioning,
        raw  = c_skip x + c_out net(c_in x, c_noise, **cond)
        want = a x + b raw                                        (see predictions.conversion)

    net:        (x (B, C, ...), t (B,), **cond) -> (B, C, ...), or (B, 2C, ...) with a learned variance.
    outputs:    what the network gives for each channel, in this order along dimension 1: ("prediction",), or
                ("prediction", "variance"), the second half being the v of `VarianceField`.
    prediction: what `raw` stands for; "data" under EDM preconditioning.
    margin:     where the conversion into a velocity does not exist at an end of time (data at sigma = 0, noise
                at alpha = 0, a variance-preserving path at t = 1), the model is asked at distance `margin` from it.
                Velocity models, and predictions on paths without that singularity, are never moved.
    spec, nulls, sampling, provenance: see `ModelBase`. shape, classes: those of `spec`, for a model of which no more is
                known.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        prediction: Prediction = "velocity",
        preconditioning: Preconditioning | None = None,
        *,
        margin: float = 1e-3,
        outputs: Sequence[str] = ("prediction",),
        shape: Sequence[int] = (),
        classes: int | None = None,
        spec: DataSpec | None = None,
        nulls: Mapping[str, Null | float | str] | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
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
        self.outputs = tuple(outputs)
        if self.outputs not in OUTPUTS:
            raise InputError(
                f"outputs are {' or '.join(map(str, OUTPUTS))}, in this order, not {self.outputs}"
            )
        check_outputs(
            net,
            self.outputs,
            "pass outputs=('prediction', 'variance') for a learned variance, or build the network with outputs=1"
            if len(self.outputs) == 1
            else "build the network with outputs=2",
        )
        self.net = net
        self.path = path
        self.prediction: Prediction = prediction
        self.preconditioning = preconditioning
        self.margin = margin
        self._describe(
            shape,
            classes,
            spec=spec,
            nulls=nulls,
            sampling=sampling,
            provenance=provenance,
            info=info,
        )
        self._low, self._high = regular_times(prediction, path, margin)

    def to_config(self) -> dict[str, Any]:
        return {
            "net": self.net,
            "path": self.path,
            "prediction": self.prediction,
            "preconditioning": self.preconditioning,
            "margin": self.margin,
            "outputs": self.outputs,
            **self._records(),
        }

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
                f"{type(self.net).__name__} gives no variance: that takes a network with two outputs for each channel, "
                f"and a Model with outputs=('prediction', 'variance')"
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
        raw, *more = split_outputs(self.net, raw, x, self.outputs)
        if c is not None:
            raw = expand(c.skip, x) * x + expand(c.out, x) * raw
        return convert(raw, x, t, self.path, self.prediction, want), more[0] if more else None
