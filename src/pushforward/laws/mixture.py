"""Laws whose velocity, score, density and divergence are known exactly, on any Gaussian path.

They are Fields: whatever takes a model takes them, so that a solver, an objective or a likelihood can be tested
against the truth.

    law = GaussianMixture(means, covariances, weights)
    field = law.field(path)
    field(x, t, "score"), field.log_prob(x, t), field.divergence(x, t)

If x1 comes from component k with mean m_k and covariance C_k, x_t is N(alpha m_k, alpha^2 C_k + sigma^2 I), and
given x_t both x1 and x0 are Gaussian; mixing over k with the posterior weights r_k(x_t) gives the marginal field.
All of it is worked out in float64 and returned in x's dtype.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.noise import COMPONENT, DATA, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined
from pushforward.core.shapes import as_time

if TYPE_CHECKING:
    from pushforward.laws.flow_map import ExactMap

# Numbers held at once by one evaluation: 2^24 in float64 are 128 MiB.
BUDGET = 1 << 24


class Moments(NamedTuple):
    """What the components add up to at x_t under their posterior weights, for each sample."""

    log_prob: Tensor  # ln p_t(x)
    score: Tensor  # grad ln p_t(x)
    data: Tensor  # E[x1 | x_t = x]
    laplacian: Tensor  # lap ln p_t(x)
    divergence: Tensor  # div E[x1 | x_t = x]


class _Components(ABC):
    """K Gaussian components in D dimensions, seen along a path.

    With s_k = grad ln N_k, D_k = E[x1 | x, k] and posterior weights r_k, whose gradient is r_k (s_k - score):

        score = sum r_k s_k                data = sum r_k D_k
        lap ln p = sum r_k (div s_k + |s_k|^2) - |score|^2
        div data = sum r_k (div D_k + s_k . D_k) - score . data
    """

    means: Tensor  # (K, D)
    spread: int  # numbers per sample and component that an evaluation holds

    @abstractmethod
    def evaluate(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Moments:
        """x: (B, D), alpha and sigma: (B,), log_weights: (K,) or (B, K)."""

    @abstractmethod
    def draw(self, component: Tensor, z: Tensor) -> Tensor:
        """A draw from each given component, from standard normals z (B, D)."""

    @abstractmethod
    def smallest_variance(self) -> float: ...


def _mix(log_joint: Tensor, reduce: Any) -> Moments:
    """Moments from ln(w_k N_k) (B, K) and the components' own sums under weights r (B, K)."""
    log_prob = log_joint.logsumexp(1)
    r = (log_joint - log_prob[:, None]).exp()
    score, data, laplacian, divergence = reduce(r)
    return Moments(
        log_prob,
        score,
        data,
        laplacian - (score**2).sum(1),
        divergence - (score * data).sum(1),
    )


class _Isotropic(_Components):
    """C_k = v_k I. All sums over k are matrix products; only the distances need x - alpha m_k itself."""

    def __init__(self, means: Tensor, variances: Tensor) -> None:
        self.means, self.variances = means, variances
        self.spread = means.shape[1]

    def evaluate(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Moments:
        dim = x.shape[1]
        a, s = alpha[:, None], sigma[:, None]
        var = a**2 * self.variances + s**2
        square = (x[:, None] - a[:, None] * self.means).square().sum(2)
        log_joint = log_weights - (square / var + dim * (2 * math.pi * var).log()) / 2

        def reduce(r: Tensor) -> tuple[Tensor, ...]:
            w = r / var
            gain = a * self.variances / var  # D_k = m_k + gain_k (x - alpha m_k)
            score = a * (w @ self.means) - w.sum(1, keepdim=True) * x
            data = (r * (1 - a * gain)) @ self.means + (r * gain).sum(1, keepdim=True) * x
            laplacian = (w * (square / var - dim)).sum(1)
            # s_k . D_k = -(m_k . y + gain_k |y|^2) / var_k with y = x - alpha m_k
            inner = x @ self.means.T - a * self.means.square().sum(1)
            divergence = (r * gain * dim - w * (inner + gain * square)).sum(1)
            return score, data, laplacian, divergence

        return _mix(log_joint, reduce)

    def draw(self, component: Tensor, z: Tensor) -> Tensor:
        return self.means[component] + self.variances[component, None].sqrt() * z

    def smallest_variance(self) -> float:
        return float(self.variances.min())


class _General(_Components):
    """Any covariances, by their eigenvectors Q_k and eigenvalues l_k; diagonal ones need no Q."""

    def __init__(self, means: Tensor, eigenvalues: Tensor, basis: Tensor | None) -> None:
        self.means, self.eigenvalues, self.basis = means, eigenvalues, basis
        self.spread = means.shape[1] * 4

    def _turn(self, y: Tensor, back: bool) -> Tensor:
        if self.basis is None:
            return y
        return torch.einsum("kij,bkj->bki" if back else "kji,bkj->bki", self.basis, y)

    def evaluate(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Moments:
        a, s = alpha[:, None, None], sigma[:, None, None]
        var = a**2 * self.eigenvalues + s**2
        y = self._turn(x[:, None] - a * self.means, back=False)
        log_joint = log_weights - (y**2 / var + (2 * math.pi * var).log()).sum(2) / 2

        def reduce(r: Tensor) -> tuple[Tensor, ...]:
            gain = a * self.eigenvalues / var
            scores = self._turn(-y / var, back=True)
            datas = self.means + self._turn(gain * y, back=True)
            return (
                torch.einsum("bk,bkd->bd", r, scores),
                torch.einsum("bk,bkd->bd", r, datas),
                (r * (scores**2 - 1 / var).sum(2)).sum(1),
                (r * (gain + scores * datas).sum(2)).sum(1),
            )

        return _mix(log_joint, reduce)

    def draw(self, component: Tensor, z: Tensor) -> Tensor:
        scaled = self.eigenvalues[component].sqrt() * z
        if self.basis is not None:
            scaled = torch.einsum("bij,bj->bi", self.basis[component], scaled)
        return self.means[component] + scaled

    def smallest_variance(self) -> float:
        return float(self.eigenvalues.min())


class _Mixture:
    """What a Gaussian mixture and a finite data set have in common."""

    components: _Components
    shape: tuple[int, ...]
    log_weights: Tensor
    labels: Tensor | None

    def _setup(self, shape: tuple[int, ...], weights: Any, labels: Any) -> None:
        count = len(self.components.means)
        w = torch.ones(count) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        w = w.detach().to(self.components.means.device, torch.float64)
        if w.shape != (count,) or not bool((w > 0).all()) or not bool(w.isfinite().all()):
            raise InputError(f"weights must be {count} positive numbers, got {w.tolist()[:8]}")
        self.shape = shape
        self.log_weights = (w / w.sum()).log()
        self.labels = None if labels is None else torch.as_tensor(labels).to(w.device, torch.int64)
        if self.labels is not None and (
            self.labels.shape != (count,) or int(self.labels.min()) < 0
        ):
            raise InputError(
                f"labels must be {count} integers >= 0, got {self.labels.tolist()[:8]}"
            )

    def field(self, path: Path) -> ExactField:
        """The exact Field of this law on `path`."""
        return ExactField(self, path)

    def flow_map(self, path: Path) -> ExactMap:
        """The exact flow map of this law on `path`: of one Gaussian, or on the line."""
        from pushforward.laws.flow_map import ExactMap

        return ExactMap(self, path)

    def draw(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """(B, *shape) float64 samples, each a function of (seed, id, step). label: (B,), -1 for any."""
        cdf = self._log_prior(label).exp().cumsum(-1)
        u = noise.uniform((1,), COMPONENT).to(cdf.device) * cdf[..., -1:]
        component = torch.searchsorted(cdf, u if cdf.ndim == 2 else u.flatten()).reshape(-1)
        component = component.clamp(max=len(self.log_weights) - 1)
        z = noise.normal(self.shape, DATA, torch.float64).flatten(1).to(cdf.device)
        return self.components.draw(component, z).reshape(-1, *self.shape)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, *shape) float64 samples."""
        return self.draw(Noise.batch(n, seed))

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(B,) log density of the data law itself, in nats."""
        if self.components.smallest_variance() == 0:
            raise UndefinedError(
                "a finite data set, or a mixture with a singular covariance, has no density; "
                "ask its field along a path, field.log_prob(x, t), at a t where sigma > 0"
            )
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return self._evaluate(x, one, torch.zeros_like(one), label).log_prob.to(x.dtype)

    def _log_prior(self, label: Tensor | None) -> Tensor:
        """Log weights (K,), or (B, K) given labels: those of a class, normalised."""
        if label is None:
            return self.log_weights
        if self.labels is None:
            raise InputError("this law has no labels: it was made without `labels=`")
        label = torch.as_tensor(label, device=self.labels.device)
        allowed = (label[:, None] == self.labels) | (label[:, None] == -1)
        if not bool(allowed.any(1).all()):
            known = sorted(set(self.labels.tolist()))
            raise InputError(
                f"label must be one of {known} or -1 for any, got {label.tolist()[:8]}"
            )
        return self.log_weights.masked_fill(~allowed, -math.inf).log_softmax(1)

    def _evaluate(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Moments:
        if x.shape[1:] != self.shape:
            raise InputError(
                f"x has shape {tuple(x.shape)}; this law has samples of shape {self.shape}"
            )
        flat = x.flatten(1).double()
        prior = self._log_prior(label)
        rows = max(1, BUDGET // (len(self.log_weights) * self.components.spread))
        parts = [
            self.components.evaluate(
                flat[i : i + rows],
                alpha[i : i + rows],
                sigma[i : i + rows],
                prior if prior.ndim == 1 else prior[i : i + rows],
            )
            for i in range(0, max(len(x), 1), rows)
        ]
        return Moments(*(torch.cat(part) for part in zip(*parts, strict=True)))


class GaussianMixture(_Mixture):
    """A mixture of Gaussians with any covariances.

    means:       (K, D), or (K, *shape) for data of any shape, D being its size.
    covariances: (K, D, D); or variances (K, D) of diagonal ones, (K,) of isotropic ones, or one number.
                 Singular ones are allowed; the law then has no density, but its fields exist where sigma > 0.
    weights:     (K,) positive, normalised here; equal if left out.
    labels:      (K,) class of each component, for fields and samples under a condition `label`.
    """

    def __init__(
        self, means: Any, covariances: Any = 1.0, weights: Any = None, labels: Any = None
    ) -> None:
        centres = torch.as_tensor(means, dtype=torch.float64).detach()
        if centres.ndim < 2 or 0 in centres.shape:
            raise InputError(
                f"means must have shape (K, D) or (K, *shape), got {tuple(centres.shape)}"
            )
        if not bool(centres.isfinite().all()):
            raise InputError("means must be finite")
        flat = centres.flatten(1)
        count, dim = flat.shape
        cov = torch.as_tensor(covariances, dtype=torch.float64).detach().to(flat.device)
        if cov.ndim == 0:
            cov = cov.expand(count)
        if cov.shape not in ((count,), (count, dim), (count, dim, dim)):
            raise InputError(
                f"covariances of {count} components in {dim} dimensions must have shape (), ({count},), "
                f"({count}, {dim}) or ({count}, {dim}, {dim}), got {tuple(cov.shape)}"
            )
        values, basis = cov, None
        if cov.ndim == 3:
            if not torch.allclose(cov, cov.mT, rtol=1e-9, atol=1e-12):
                raise InputError("covariances must be symmetric matrices")
            values, basis = torch.linalg.eigh((cov + cov.mT) / 2)
            # Rounding alone makes the zero eigenvalues of a singular matrix slightly negative.
            floor = 1e-12 * values.abs().amax(1, keepdim=True)
            values = torch.where(values.abs() <= floor, 0.0, values)
        if not bool(values.isfinite().all()) or bool((values < 0).any()):
            raise InputError("covariances must be finite and positive semi-definite")
        self.components = (
            _Isotropic(flat, values) if values.ndim == 1 else _General(flat, values, basis)
        )
        self._setup(tuple(centres.shape[1:]), weights, labels)


class Empirical(_Mixture):
    """A finite data set, each point with equal weight: what a network of unlimited capacity would learn.

    data: (N, *shape). labels: (N,) class of each point, optional. Its denoiser is the softmax-weighted mean
    `sum_i r_i x1_i`, r_i ~ exp(-|x - alpha x1_i|^2 / 2 sigma^2) (Karras et al. 2022, app. B.3).
    """

    def __init__(self, data: Any, labels: Any = None, weights: Any = None) -> None:
        points = torch.as_tensor(data, dtype=torch.float64).detach()
        if points.ndim < 2 or 0 in points.shape:
            raise InputError(f"data must have shape (N, *shape), got {tuple(points.shape)}")
        if not bool(points.isfinite().all()):
            raise InputError("data must be finite")
        flat = points.flatten(1)
        self.components = _Isotropic(flat, flat.new_zeros(len(flat)))
        self._setup(tuple(points.shape[1:]), weights, labels)


@dataclass(frozen=True)
class ExactField:
    """The exact Field of a mixture or a finite data set on a path.

    Takes `label` (B,) if the law has labels, -1 standing for any. Where sigma = 0 and the law has no density
    (a finite data set at t = 1) only the data prediction exists.
    """

    law: _Mixture
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.law.shape

    def __call__(
        self,
        x: Tensor,
        t: Tensor | float,
        want: Prediction = "velocity",
        **cond: Any,
    ) -> Tensor:
        check_defined(want, self.path)
        t, m = self._moments(x, t, _label(cond), want)
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        noise = -sigma * m.score
        match want:
            case "data":
                out = m.data
            case "score":
                out = m.score
            case "noise":
                out = noise
            case "v":
                out = alpha * noise - sigma * m.data
            case "velocity":
                a, b, f, half = (value[:, None] for value in self._velocity_terms(t))
                out = a * m.data - b * m.score + (f * x.flatten(1) + half * m.score)
        return out.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """(B,) ln p_t(x), in nats."""
        return self._moments(x, t, label, "log density")[1].log_prob.to(x.dtype)

    def divergence(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """(B,) div u_t(x), the divergence of the velocity."""
        t, m = self._moments(x, t, label, "divergence")
        a, b, f, half = self._velocity_terms(t)
        out = a * m.divergence - b * m.laplacian + (f * x[0].numel() + half * m.laplacian)
        return out.to(x.dtype)

    def _velocity_terms(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(a, b, f, h), each (B,), with `velocity = a data - b score + f x + h score`, all finite.

        a = alpha', b = sigma sigma' and the rest 0; where sigma' is infinite (variance-preserving paths at t = 1),
        a = b = 0 and f, h = g^2/2 are those of `Path.forward_sde`. What is not used is 0 and not left out
        afterwards, so that gradients are finite too. Raises UndefinedError where the path gives neither.
        """
        c = self.path.coefficients(t)
        usual = c.d_sigma.isfinite()
        f, g2 = self.path.forward_sde(t)
        zero = torch.zeros_like(t)
        if not bool((usual | (f.isfinite() & g2.isfinite())).all()):
            raise UndefinedError(
                f"the derivative of sigma is infinite at a time asked for, and {self.path} gives no velocity there: "
                f"write its forward_sde, whose f and g^2 are finite, or stop short of that time"
            )
        return (
            torch.where(usual, c.d_alpha, zero),
            torch.where(usual, c.sigma * c.d_sigma, zero),
            torch.where(usual, zero, f),
            torch.where(usual, zero, g2 / 2),
        )

    def _moments(
        self, x: Tensor, t: Tensor | float, label: Tensor | None, want: str
    ) -> tuple[Tensor, Moments]:
        t = as_time(t, x).double()
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if self.law.components.smallest_variance() == 0 and bool((sigma == 0).any()):
            if want != "data":
                raise UndefinedError(
                    f"at sigma = 0 a law without density has no {want}: stop before the end of the path, "
                    f"for instance with times.uniform(n, end=0.999), or use a path whose sigma stays positive"
                )
            sigma = sigma.clamp(min=1e-15)
        return t, self.law._evaluate(x, alpha, sigma, label)


def _label(cond: dict[str, Any]) -> Tensor | None:
    """The only condition that an exact law knows."""
    unknown = cond.keys() - {"label"}
    if unknown:
        raise InputError(
            f"an exact law takes the condition label, not {', '.join(sorted(unknown))}"
        )
    return cond.get("label")
