"""A network as a Field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pushforward.core.conditions import Null
from pushforward.core.ends import Ends, away, check_margin, margin_for, singular_ends
from pushforward.core.errors import InputError
from pushforward.core.network import ask, takes
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined, convert
from pushforward.core.shapes import as_time, expand
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import Codec, Encoder, ModelBase, check_outputs, split_outputs
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
    margin:     where a conversion has no value at an end of time itself (from data at sigma = 0, from noise at
                alpha = 0, into the velocity of a variance-preserving path at t = 1), that point is asked at distance
                `margin` from it: 1e-6 in float64 and 1e-3 below, unless given. No other time is ever moved.
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
        margin: float | None = None,
        outputs: Sequence[str] = ("prediction",),
        shape: Sequence[int] = (),
        classes: int | None = None,
        spec: DataSpec | None = None,
        nulls: Mapping[str, Null | float | str] | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        codec: Codec | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise InputError(f"net is {net!r}: it must be a torch.nn.Module, an object of it")
        check_defined(prediction, path)
        if preconditioning is not None and prediction != preconditioning.prediction:
            raise InputError(
                f"{type(preconditioning).__name__} predicts the {preconditioning.prediction}, "
                f"not the {prediction}: pass prediction={preconditioning.prediction!r}"
            )
        check_margin(margin)
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
        if nulls is None and spec is None and classes is None:
            known = getattr(net, "config", {}).get("classes")
            nulls = {"label": -1} if known else None
        self.set_records(
            shape,
            classes,
            spec=spec,
            nulls=nulls,
            sampling=sampling,
            provenance=provenance,
            encoders=encoders,
            codec=codec,
        )
        self._ends: dict[Prediction, Ends] = {}

    @property
    def takes_masks(self) -> bool:
        """Whether padded samples may be asked about."""
        return takes(self.net, "mask")

    def to_config(self) -> dict[str, Any]:
        return {
            "net": self.net,
            "path": self.path,
            "prediction": self.prediction,
            "preconditioning": self.preconditioning,
            "margin": self.margin,
            "outputs": self.outputs,
            **self.records(),
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
        if want not in self._ends:
            self._ends[want] = singular_ends(self.prediction, want, self.path)
        t = away(t, self._ends[want], margin_for(self.margin, x.dtype))
        c = None if self.preconditioning is None else self.preconditioning(self.path, t)
        if c is None:
            raw = ask(self.net, x, t, cond)
        else:
            raw = ask(self.net, expand(c.input, x) * x, c.noise, cond)
        raw, *more = split_outputs(self.net, raw, x, self.outputs)
        if c is not None:
            raw = expand(c.skip, x) * x + expand(c.out, x) * raw
        return convert(raw, x, t, self.path, self.prediction, want), more[0] if more else None
