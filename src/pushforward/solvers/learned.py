"""Multistep methods whose coefficients are learned, and follow the history of each sample.

In the angle between noise and data every Gaussian path is one and the same (section 4.2 of Salimans & Ho 2022, arXiv
2202.00512):

    z = x/r,   r = hypot(alpha, sigma),   theta = atan2(alpha, sigma) in [0, pi/2],   dz/dtheta = w = -v/r

A step is written by Newton's divided differences d_m of the last four values of w, h = theta_s - theta_t:

    z_s = z_t + sum_{m=0}^{3} (1 + q_m) c_m h^{m+1} d_m

With q = 0 it is the method of Adams and Bashforth of order 3 whose every step is redone, at no call, by that of Adams
and Moulton once the value at its end is known: in this form the correction is one more term, in the highest difference.
A small network finds q from the shape of the history,

    q = e_m (C tanh(S s + F f + a) + c),   e_m = (8/(n + 2))^{3-m} min(1, 100/n)

f: cosines between z, w and the differences h^m d_m, and their sizes, of at most 64 coordinates; s: where in the grid of
n steps this one is. Each sample has its own f and so depends on no other; f is the same in rotated spaces of up to 64
dimensions. The factor e_m leaves the order of convergence what it is without a network, which was fitted to few steps.

The weights that come with the library were fitted once, for all paths and all numbers of steps, to the flows of many
random mixtures (benchmarks/universal.py); `pushforward.tune` fits others to one model. Related: the bespoke solvers of
Shaul et al. 2024 (arXiv 2403.01329), whose coefficients are fixed numbers for one model and one number of steps.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.solvers.multistep import combine, compact

VALUES = 4
# Coordinates of a sample that its history is described by; so many tell what all would.
COORDINATES = 64
# Least mean square that the description tells from 0.
FLOOR = 1e-9
# Pairs of the five vectors z, w, h d_1, h^2 d_2, h^3 d_3.
PAIRS = torch.triu_indices(VALUES + 1, VALUES + 1, 1)


@dataclass(frozen=True, repr=False)
class Weights:
    """What is learned; hidden width K.

    density: (3, P) how steps are spread: ln h_i is, up to a constant, sum_p (density[0] + density[1] (3/n) +
             density[2] (3/n)^2)_p T_p(y), T_p Chebyshev's polynomials and y the middle of the step in [-1, 1].
    step: S (K, 8), history: F (K, 14), bias: a (K,), out: C (4, K), constant: c (4,). With a leading dimension n, out
             and constant are those of each step of a grid of n.
    """

    density: Tensor
    step: Tensor
    history: Tensor
    bias: Tensor
    out: Tensor
    constant: Tensor

    def __repr__(self) -> str:
        return f"Weights(width={len(self.bias)})"

    def __post_init__(self) -> None:
        width = len(self.bias) if self.bias.ndim == 1 else -1
        shapes = {
            "step": (width, 8),
            "history": (width, PAIRS.shape[1] + VALUES),
            "out": (*self.out.shape[:-2], VALUES, width),
            "constant": (*self.out.shape[:-2], VALUES),
        }
        wrong = [name for name, shape in shapes.items() if getattr(self, name).shape != shape]
        if wrong or self.density.ndim != 2 or len(self.density) != 3 or self.out.ndim > 3:
            raise InputError(f"weights of a learned solver do not fit together: {wrong}")

    def as_json(self) -> dict[str, Any]:
        """As nested lists, to seven digits."""
        return {
            f.name: _rounded(getattr(self, f.name).detach().double().tolist()) for f in fields(self)
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Weights:
        try:
            tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in value.items()}
            return cls(**tensors)
        except (TypeError, ValueError) as error:
            raise InputError(f"not the weights of a learned solver: {error}") from error


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.7g}")


@functools.cache
def universal() -> Weights:
    """The weights that come with the library."""
    text = files("pushforward.solvers").joinpath("universal.json").read_text()
    return Weights.from_json(json.loads(text)["weights"])


class Network(NamedTuple):
    """The network of a grid of n steps, with all that does not depend on the samples; B samples or 1 row for all.

    frame:  (n, B, 5, 5) from x and values of v to z, w and differences over sqrt(P).    offset: (n, B, K) S s + a.
    inputs: (30, K) F, for all 25 cosines and 5 sizes.    outputs: (n, K, 4) and (n, 4) of 1 + q.
    """

    frame: Tensor
    offset: Tensor
    inputs: Tensor
    outputs: tuple[Tensor, Tensor]


class Step(NamedTuple):
    """A step of a plan, ready to be taken: B samples or 1 row for all.

    scale:   (B, 1, ...) lifted to the dimensions of x, or None for 1.
    weights: of the values of v, newest first, (B, 1, ...) each, lifted; empty with a network.
    frame, offset: (B, 5, 5) and (B, K) of the network; a row for all is a frame (5, 5).
    outputs: (K, 4) and (4,), from hidden units to the weights of the values, if there is one row for all.
    """

    scale: Tensor | None
    weights: tuple[Tensor, ...]
    frame: Tensor | None = None
    offset: Tensor | None = None
    outputs: tuple[Tensor, Tensor] | None = None


class Plan(NamedTuple):
    """All that can be known of the steps of a grid beforehand; n steps, B samples or 1 row for all.

    scale: (n, B) x_s = scale x_t + ...    terms: (n, B, 4, 4) of each difference, by value of v.
    """

    scale: Tensor
    terms: Tensor
    network: Network | None = None

    def steps(self, ndim: int) -> tuple[Step, ...]:
        """Its steps for states of so many dimensions."""
        lift = [1] * (ndim - 1)
        scales = self.scale.view(*self.scale.shape, *lift).unbind(0)
        plain = (self.scale == 1).all(1).tolist()
        factors = [None if one else a for one, a in zip(plain, scales, strict=True)]
        if self.network is None:
            weights = self.terms.sum(2).movedim(2, 1)
            lifted = weights.reshape(*weights.shape, *lift).unbind(0)
            return tuple(Step(a, w.unbind(0)) for a, w in zip(factors, lifted, strict=True))
        frame, offset, _, (out, constant) = self.network
        if self.terms.shape[1] > 1:
            parts = zip(factors, frame.unbind(0), offset.unbind(0), strict=True)
            return tuple(Step(a, (), f, o) for a, f, o in parts)
        terms = self.terms[:, 0]
        outputs = ((out @ terms).unbind(0), (constant[:, None] @ terms)[:, 0].unbind(0))
        shared = zip(factors, frame[:, 0].unbind(0), offset.unbind(0), *outputs, strict=True)
        return tuple(Step(a, (), f, o, (w, c)) for a, f, o, w, c in shared)


class Seen(NamedTuple):
    """Which coordinates of padded samples are looked at: `places` (B, P) in a sample, with factors `weight` (B, P)."""

    places: Tensor
    weight: Tensor


class History(NamedTuple):
    """The last values of v, newest first, and some coordinates of them (3 B, P), 0 for those that are not there yet."""

    plan: Plan
    steps: tuple[Step, ...]
    values: tuple[Tensor, ...] = ()
    rows: Tensor | None = None
    step: int = 0
    seen: Seen | None = None


@dataclass(frozen=True)
class Learned:
    """The learned multistep method: one call a step, order 3, from noise to data.

    weights: None for the classical method, q = 0. Towards the noise it is what is used in any case.

    `grid(n, path)` gives the times that were learned with the weights. With few steps, others take the coefficients out
    of their range: less than 10 steps along Karras' times can end far off.
    """

    weights: Weights | None = field(default_factory=universal)
    order: ClassVar[float] = 3
    calls: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False

    def grid(self, n: int, path: Path) -> Tensor:
        """n + 1 times from 0 to 1, float64. Without weights: ln h falls by 0.8 from the first step to the last."""
        if n < 1:
            raise InputError(f"a grid of {n} steps was asked for; it takes at least 1")
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        first, last = torch.atan2(path.alpha(ends), path.sigma(ends)).tolist()
        return times_of_angles(spread(self.weights, n, first, last), path)

    def init(self, x: Tensor, grid: Tensor, path: Path) -> History:
        plan = make_plan(self.weights, x, compact(x, grid), path)
        return History(plan, plan.steps(x.ndim))

    def step(
        self,
        field: Field,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: History,
        noise: Noise,
        **cond: Any,
    ) -> tuple[Tensor, History]:
        plan, steps, values, rows, i, seen = state
        now, values = steps[i], (field(x, t, "v", **cond), *values)
        weights = now.weights
        if plan.network is not None:
            if seen is None and noise.mask is not None:
                seen = see(x, noise.mask)
            rows = look(plan.network, x, values[0], rows, seen)
            hidden = hidden_units(plan.network.inputs, now, rows)
            if now.outputs is not None:
                c = torch.addmm(now.outputs[1], hidden, now.outputs[0])
            else:
                c = (factors(plan.network, i, hidden)[:, None] @ plan.terms[i])[:, 0]
            weights = c.view(*c.shape, *[1] * (x.ndim - 1)).unbind(1)
            rows = rows[x.shape[0] : VALUES * x.shape[0]]
        x_s = combine(x, now.scale, weights[: len(values)], values)
        return x_s, History(plan, steps, values[: VALUES - 1], rows, i + 1, seen)


def some(x: Tensor, network: Network, seen: Seen | None = None) -> Tensor:
    """(B, P): P <= COORDINATES coordinates of x, evenly spread; of padded samples, of the entries that are data."""
    flat = x.flatten(1)
    if seen is not None:
        return flat.gather(1, seen.places).to(network.inputs) * seen.weight.to(network.inputs)
    return flat[:, :: stride(flat.shape[1])].to(network.inputs.dtype)


def look(
    network: Network, x: Tensor, value: Tensor, rows: Tensor | None, seen: Seen | None = None
) -> Tensor:
    """(5 B, P) some coordinates of x, of the newest value of v and of the three before, `rows` (3 B, P)."""
    first, second = some(x, network, seen), some(value, network, seen)
    if rows is None:
        rows = first.new_zeros((VALUES - 1) * first.shape[0], first.shape[1])
    return torch.cat((first, second, rows))


def see(x: Tensor, mask: Tensor) -> Seen:
    """The coordinates of padded samples that each of them is described by alone, in the same mean squares."""
    there = mask.expand_as(x).flatten(1)
    count = there.sum(1, keepdim=True)
    gap = -(-count // COORDINATES) | 1
    number = -(-count // gap)
    k = torch.arange(int(number.max()), device=x.device)
    order = there.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    index = order.gather(1, (k * gap).clamp(max=there.shape[1] - 1))
    whole = len(range(0, there.shape[1], stride(there.shape[1])))
    return Seen(index, torch.where(k < number, (whole / number.double()).sqrt(), 0.0))


def stride(size: int) -> int:
    """From one coordinate to the next; odd, to meet every column of a picture whose width is a power of two."""
    return -(-size // COORDINATES) | 1


def hidden_units(inputs: Tensor, step: Step, rows: Tensor) -> Tensor:
    """(B, K) tanh(S s + F f + a), from coordinates (5 B, P) of x and the values of v, newest first."""
    assert step.frame is not None
    assert step.offset is not None
    size = VALUES + 1
    if step.frame.ndim == 2:
        vectors = torch.mm(step.frame, rows.view(size, -1)).view(size, -1, rows.shape[1])
        vectors = vectors.transpose(0, 1)
    else:
        vectors = step.frame @ rows.view(size, -1, rows.shape[1]).transpose(0, 1)
    products = torch.bmm(vectors, vectors.mT)
    squares = products.diagonal(dim1=1, dim2=2) + FLOOR
    root = squares.rsqrt()
    cosines = products * (root[:, :, None] * root[:, None])
    features = torch.cat((cosines.flatten(1), squares.log()), 1)
    return torch.addmm(step.offset, features, inputs).tanh_()


def factors(network: Network, i: int, hidden: Tensor) -> Tensor:
    """1 + q of step i, (B, 4)."""
    weight, bias = network.outputs
    return torch.addmm(bias[i], hidden, weight[i])


def spread(weights: Weights | None, n: int, first: float, last: float) -> Tensor:
    """(n + 1,) angles from `first` to `last`."""
    y = (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
    if weights is None:
        log_h = -0.4 * y
    else:
        powers = (3 / n) ** torch.arange(3, dtype=torch.float64)
        orders = torch.arange(weights.density.shape[1])[:, None]
        log_h = (powers @ weights.density.double()) @ (orders * y.acos()).cos()
    share = torch.cat((torch.zeros(1, dtype=torch.float64), log_h.softmax(0).cumsum(0)))
    return first + (last - first) * share


def times_of_angles(theta: Tensor, path: Path) -> Tensor:
    """The times with these angles; the first and the last are 0 and 1."""
    t = path.time_of_log_snr(2 * theta[1:-1].tan().log())
    return torch.cat((t.new_zeros(1), t, t.new_ones(1)))


def make_plan(weights: Weights | None, x: Tensor, grid: Tensor, path: Path) -> Plan:
    """The plan for states like x on a grid (n + 1, B), or (n + 1, 1) for all samples."""
    alpha, sigma = path.alpha(grid), path.sigma(grid)
    theta, r = torch.atan2(alpha, sigma), torch.hypot(alpha, sigma)
    n, h = len(grid) - 1, theta.diff(dim=0)
    home: dict[str, Any] = {
        "device": x.device,
        "dtype": torch.promote_types(x.dtype, torch.float32),
    }
    newton, r_past = _newton(theta[:-1]), _past(r[:-1])
    powers = h[..., None] ** torch.arange(VALUES, device=h.device)
    weight = _classical(theta) * powers * (h * r[1:])[..., None]
    # v to w: a factor of -1/r at the time of the value.
    to_w = newton * (-1 / r_past)[..., None, :]
    plan = Plan((r[1:] / r[:-1]).to(**home), (weight[..., None] * to_w).to(**home))
    if weights is None or not bool((h > 0).all()):
        return plan
    if weights.out.ndim == 3 and len(weights.out) != n:
        raise InputError(
            f"these weights were fitted to {len(weights.out)} steps, and the grid has {n}"
        )
    frame = torch.zeros(*h.shape, VALUES + 1, VALUES + 1, dtype=h.dtype, device=h.device)
    frame[..., 0, 0] = 1 / r[:-1]
    frame[..., 1:, 1:] = powers[..., None] * to_w
    # Squares are to be means over coordinates.
    size = math.prod(x.shape[1:])
    seen = len(range(0, size, stride(size))) if x.shape[0] else 1
    frame = frame / math.sqrt(max(seen, 1))
    i = torch.arange(n, dtype=h.dtype, device=h.device)
    same = [
        2 * i / n - 1, (i + 1 - n).exp(), 0 * i + math.log(n) / 2 - 1, 0 * i + 3 / n, *(i == k for k in range(3)),
    ]  # fmt: skip
    step = torch.stack(
        [v.to(h)[:, None].expand_as(h) for v in same] + [(h * n / (math.pi / 2)).log()], -1
    )
    offset = step @ weights.step.to(step).T + weights.bias.to(step)
    pairs = torch.zeros((VALUES + 1) ** 2, len(weights.bias), dtype=h.dtype, device=h.device)
    pairs[PAIRS[0] * (VALUES + 1) + PAIRS[1]] = weights.history[:, :-VALUES].T.to(h)
    sizes = torch.cat((torch.zeros_like(pairs[:1]), weights.history[:, -VALUES:].T.to(h) / 8))
    e = strength(n).to(h)
    out = weights.out.to(h).mT.expand(n, -1, -1) * e
    constant = 1 + weights.constant.to(h).expand(n, -1) * e
    return plan._replace(
        network=Network(
            frame.to(**home),
            offset.to(**home),
            torch.cat((pairs, sizes)).to(**home),
            (out.to(**home), constant.to(**home)),
        )
    )


def strength(n: int) -> Tensor:
    """e_m (4,) on a grid of n steps."""
    e: Tensor = (8 / (n + 2)) ** (3 - torch.arange(VALUES, dtype=torch.float64))
    return e * min(1, 100 / n)


def _past(values: Tensor) -> Tensor:
    """(n, B) -> (n, B, 4): the values at this point of the grid and the three before, the first repeated."""
    index = torch.arange(len(values), device=values.device)[:, None] - torch.arange(
        VALUES, device=values.device
    )
    return values[index.clamp(min=0)].movedim(1, -1)


def _newton(theta: Tensor) -> Tensor:
    """(n, B, 4, 4): divided difference m of values at the last points is `sum_j newton[m, j] value_j`.

        newton[m, j] = 1/prod_{l <= m, l != j} (theta_j - theta_l)

    Differences that take more points than there are, are 0.
    """
    past = _past(theta)
    gaps = past[..., :, None] - past[..., None, :] + torch.eye(VALUES).to(past)
    index = torch.arange(VALUES, device=theta.device)
    # [..., m, j, l]: the factors of l <= m
    factors = torch.where(index <= index[:, None, None], gaps[..., None, :, :], 1.0)
    known = index <= torch.arange(len(theta), device=theta.device)[:, None]
    known = (known[:, None, :, None] & (index <= index[:, None])).expand(*past.shape, VALUES)
    # Points that were repeated give 0: they are put aside before the division.
    product = torch.where(known, factors.prod(-1), 1.0)
    return known / product


def _classical(theta: Tensor) -> Tensor:
    """(n, B, 4): c_m of the classical method. In units of h, with the value of age j at u_j, u_0 = 0:

    int_0^1 prod_{j < m} (u - u_j) du            the predictor, of three values
    int_{u_1}^0 prod_{j=1}^{m} (u - u_j) du      what the last step lacked of the highest difference m
    """
    past = _past(theta[:-1])
    u = (past - past[..., :1]) / theta.diff(dim=0)[..., None]
    p, q2, q3 = -u[..., 1], u[..., 1] - u[..., 2], u[..., 1] - u[..., 3]
    predict = [torch.ones_like(p), torch.full_like(p, 1 / 2), 1 / 3 - u[..., 1] / 2, 0 * p]
    lacked = [
        0 * p, p**2 / 2, p**3 / 3 + q2 * p**2 / 2, p**4 / 4 + (q2 + q3) * p**3 / 3 + q2 * q3 * p**2 / 2,
    ]  # fmt: skip
    i = torch.arange(len(p), device=p.device)[:, None, None]
    m = torch.arange(VALUES, device=p.device)
    highest = i.clamp(max=VALUES - 1)
    return torch.where(m <= highest, torch.stack(predict, -1), 0.0) + torch.where(
        m == highest, torch.stack(lacked, -1), 0.0
    )
