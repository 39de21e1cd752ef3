"""Finitely many weighted components: what Gaussian mixtures and finite data sets have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pushforward.core.conditions import check_size
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.noise import COMPONENT, DATA, Noise
from pushforward.laws.components import Components, Moments, Traces
from pushforward.laws.law import check_states

# Numbers held at once by one evaluation: 2^24 in float64 are 128 MiB.
BUDGET = 1 << 24

T = TypeVar("T", Moments, Traces)


class FiniteMixture:
    """Components with weights, and a class each if there are labels."""

    components: Components
    shape: tuple[int, ...]
    log_weights: Tensor
    labels: Tensor | None

    def _setup(self, shape: tuple[int, ...], weights: Any, labels: Any) -> None:
        means = self.components.means
        count = len(means)
        w = torch.ones(count) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        w = w.detach().to(means.device, torch.float64)
        if w.shape != (count,) or not bool((w > 0).all()) or not bool(w.isfinite().all()):
            raise InputError(f"weights must be {count} positive numbers, got {w.tolist()[:8]}")
        if weights is not None and abs(float(w.sum()) - 1) > 1e-5:
            raise InputError(
                f"weights must sum to 1, and these {count} sum to {float(w.sum()):.6g}: pass weights / weights.sum() "
                f"if they are relative"
            )
        self.shape = shape
        self.log_weights = (w / w.sum()).log()
        self.labels = None if labels is None else torch.as_tensor(labels).to(w.device, torch.int64)
        if self.labels is not None and (
            self.labels.shape != (count,) or int(self.labels.min()) < 0
        ):
            raise InputError(
                f"labels must be {count} integers >= 0, got {self.labels.tolist()[:8]}"
            )

    def draw(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """(B, *shape) float64 samples, each a function of (seed, id, step). label: (B,) int64, -1 for any class."""
        cdf = self._log_prior(label, len(noise)).exp().cumsum(-1)
        u = noise.uniform((1,), COMPONENT).to(cdf.device) * cdf[..., -1:]
        component = torch.searchsorted(cdf, u if cdf.ndim == 2 else u.flatten()).reshape(-1)
        component = component.clamp(max=len(self.log_weights) - 1)
        z = noise.normal(self.shape, DATA, torch.float64).flatten(1).to(cdf.device)
        return self.components.draw(component, z).reshape(-1, *self.shape)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, *shape) float64 samples, those with ids 0, ..., n - 1."""
        return self.draw(Noise.batch(n, seed))

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(B,) log density of the data law itself, in nats."""
        if self.components.smallest_variance() == 0:
            raise UndefinedError(
                "a finite data set, or a mixture with a singular covariance, has no density; "
                "ask its field along a path, field.log_prob(x, t), at a t where sigma > 0"
            )
        check_states(x, self.shape, self.components.means.device)
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return self.moments(x, one, torch.zeros_like(one), label).log_prob.to(x.dtype)

    def moments(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Moments:
        """Of x_t = alpha x1 + sigma x0, in float64. x: (B, *shape), alpha and sigma: (B,) float64."""
        return self._in_parts(self.components.moments, Moments, x, alpha, sigma, label)

    def traces(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Traces:
        """Arguments as of `moments`."""
        return self._in_parts(self.components.traces, Traces, x, alpha, sigma, label)

    def _in_parts(
        self, evaluate: Callable[..., T], kind: type[T], x: Tensor, alpha: Tensor, sigma: Tensor,
        label: Tensor | None,
    ) -> T:  # fmt: skip
        """So many rows at a time that the memory of an evaluation is bounded."""
        check_states(x, self.shape, self.components.means.device)
        flat, prior = x.flatten(1).double(), self._log_prior(label, len(x))
        spread = self.components.spread if kind is Moments else 4 * flat.shape[1]
        rows = max(1, BUDGET // (len(self.log_weights) * spread))
        parts = [
            evaluate(
                flat[i : i + rows],
                alpha[i : i + rows],
                sigma[i : i + rows],
                prior if prior.ndim == 1 else prior[i : i + rows],
            )
            for i in range(0, max(len(x), 1), rows)
        ]
        return parts[0] if len(parts) == 1 else kind(*map(torch.cat, zip(*parts, strict=True)))

    def _log_prior(self, label: Tensor | None, size: int) -> Tensor:
        """Log weights (K,), or (B, K) given labels: those of a class, normalised."""
        if label is None:
            return self.log_weights
        if self.labels is None:
            raise InputError("this law has no labels: pass labels= when it is built")
        if not isinstance(label, Tensor) or label.is_floating_point() or label.ndim > 1:
            kind = (
                f"{label.dtype} {tuple(label.shape)}"
                if isinstance(label, Tensor)
                else type(label).__name__
            )
            raise InputError(f"label is a tensor (B,) of integers, one for each sample, not {kind}")
        check_size({"label": label}, size)
        label = label.to(self.labels.device)
        allowed = (label[:, None] == self.labels) | (label[:, None] == -1)
        if not bool(allowed.any(1).all()):
            known = sorted(set(self.labels.tolist()))
            raise InputError(
                f"label must be one of {known} or -1 for any, got {label.tolist()[:8]}"
            )
        return self.log_weights.masked_fill(~allowed, -math.inf).log_softmax(1)
