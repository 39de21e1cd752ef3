"""Guidance by a classifier that was trained on noisy data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from pushforward.core.ends import away, check_margin
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, breaks_of, within
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined
from pushforward.core.shapes import as_time, expand
from pushforward.guidance.interval import acting, breaks, check_interval, inside
from pushforward.guidance.score_weight import score_weight


@dataclass(frozen=True)
class ClassifierGuidance:
    """Push a field towards what a classifier takes for the class asked for.

        score_w(x) = score(x) + w grad_x ln p_t(y | x)         noise_w = noise - w sigma grad_x ln p_t(y | x)

    and the other predictions by their relation to the score. Around an unconditional field w = 1 is the conditional one
    exactly, if the classifier is exact; w > 1 samples p_t(x) p_t(y | x)^w, a sharpened class.

    field:       any field on a Gaussian path; called once a step, the classifier once forward and once backward.
    classifier:  (x, t) -> logits (B, K). One with a `path` of its own is asked at the state of equal log-SNR on it.
    interval:    (low, high) times within which guidance acts; outside, the field alone is used.
    conditional: whether the field is given the label too: a conditional field under guidance w is one of w + 1.
    margin:      where alpha(0) = 0 the gradient goes to 0 and its weight sigma^2/alpha to infinity at t = 0; that point
                 alone is asked at `margin`: 1e-6 in float64 and 1e-2 below, where a network's errors are larger.

    Samples of label -1, and all of them without a label, are not guided. Derivatives of the guided field are those of
    the whole, the push included.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 4, alg. 1 and 2; Song et al. 2021 (arXiv 2011.13456), eq. 14.
    """

    field: Field
    classifier: Callable[[Tensor, Tensor], Tensor]
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)
    conditional: bool = False
    margin: float | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        check_defined("score", self.path)
        check_margin(self.margin)

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the guided field jumps in time."""
        own = () if self.scale == 0 else breaks(self.interval)
        return tuple(sorted({*own, *breaks_of(self.field)}))

    def within(self, start: float, end: float) -> ClassifierGuidance:
        """The guided field between two neighbouring breaks."""
        interval = acting(self.interval, start, end)
        return replace(self, field=within(self.field, start, end), interval=interval)

    @property
    def classes(self) -> int | None:
        """How many classes the classifier knows."""
        return getattr(self.classifier, "classes", None)

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t, label = as_time(t, x), cond.get("label")
        given = cond if self.conditional else {k: v for k, v in cond.items() if k != "label"}
        plain = self.field(x, t, want, **given)
        if label is None or self.scale == 0:
            return plain
        acts = inside(self.interval, t) & (label >= 0)
        if not bool(acts.any()):
            return plain
        margin = self.margin or (1e-6 if x.dtype == torch.float64 else 1e-2)
        at = away(t, (self._starts_without_data, False), margin)
        push = expand(self.scale * score_weight(self.path, want, at), x) * self._gradient(
            x, at, label
        )
        return plain + torch.where(expand(acts, x).bool(), push, torch.zeros_like(push))

    @property
    def _starts_without_data(self) -> bool:
        return float(self.path.alpha(torch.zeros((), dtype=torch.float64))) == 0

    def _gradient(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """grad_x ln p_t(y | x), (B, ...); label -1 counts as 0 here."""
        graph = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            state = x if graph else x.detach().requires_grad_()
            logits = self._logits(state, t)
            if logits.ndim != 2 or int(label.max()) >= logits.shape[1]:
                raise InputError(
                    f"label {int(label.max())}: the classifier returns logits {tuple(logits.shape)}"
                )
            chosen = log_softmax(logits, dim=1).gather(1, label.clamp(min=0)[:, None])
            (gradient,) = torch.autograd.grad(chosen.sum(), state, create_graph=graph)
        return gradient

    def _logits(self, x: Tensor, t: Tensor) -> Tensor:
        own: Path = getattr(self.classifier, "path", self.path)
        if own == self.path:
            return self.classifier(x, t)
        there = own.time_of_log_snr(self.path.log_snr(t))
        ratio = torch.hypot(own.alpha(there), own.sigma(there))
        ratio = ratio / torch.hypot(self.path.alpha(t), self.path.sigma(t))
        return self.classifier(expand(ratio, x) * x, there)
