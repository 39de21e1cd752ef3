"""Linear multistep methods: one network call a step, order from memory.

Each of the three predictions gives a linear equation that is solved exactly but for one integral:

    velocity:   x_s = x_t + int_t^s u dtau
    data:       x_s = (sigma_s/sigma_t) x_t + sigma_s int D d(alpha/sigma)
    noise:      x_s = (alpha_s/alpha_t) x_t + alpha_s int E d(sigma/alpha)

Under the integral the prediction is replaced by the polynomial, in some variable z, through its last values; the
weights `int l_j(z) dw` of its Lagrange basis are computed once for the whole grid, to rounding, for any path. What
is known under many names is a choice of prediction, variable and number of points:

    Adams-Bashforth                     velocity, time
    DEIS, tAB (Zhang & Chen 2023, arXiv 2204.13902)                      noise, time
    linear multistep of k-diffusion, rhoAB of DEIS                       noise, sigma/alpha
    DPM-Solver, multistep (Lu et al. 2022, arXiv 2206.00927)             noise, log-SNR
    DPM-Solver++ 2M, 3M (Lu et al. 2022, arXiv 2211.01095)               data, log-SNR
    UniPC (Zhao et al. 2023, arXiv 2302.04867)                           data, log-SNR, with the corrector always

With one point the data and the noise methods are one and the same: DDIM, DPM-Solver-1.

With noise, eta > 0, the equation solved is the SDE that has the same marginals and eta times the noise of the time
reversal, g^2 = eta (-sigma^2 d ln(alpha/sigma)^2/dt); lambda = ln(alpha/sigma), h = lambda_s - lambda_t:

    data:       x_s = (sigma_s/sigma_t) e^{-eta h} x_t + (1 + eta) alpha_s int e^{-(1 + eta)(lambda_s - l)} D dl
                      + sigma_s sqrt(1 - e^{-2 eta h}) z
    noise:      x_s = (alpha_s/alpha_t) x_t + (1 + eta) alpha_s int E d(sigma/alpha) + sigma_s sqrt(eta (e^{2h} - 1)) z

eta = 1: SDE-DPM-Solver and SDE-DPM-Solver++ (arXiv 2211.01095, sec. 5 and app. C); any eta: `dpmpp_2m_sde` and
`dpmpp_3m_sde` of k-diffusion; with the corrector SA-Solver of constant tau^2 = eta (Xue et al. 2023, arXiv 2309.05019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import Field
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined, convert

Form = Literal["velocity", "data", "noise"]
Variable = Literal["time", "log_snr", "ratio"]
Weights = Literal["exact", "bh1", "bh2", "halved"]

# Gauss-Legendre nodes and weights on [0, 1] for the weights of a step.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
NODES, WEIGHTS = torch.from_numpy(_NODES + 1) / 2, torch.from_numpy(_WEIGHTS) / 2
# Numbers of quadrature computed at a time.
CHUNK = 1 << 20


Key = tuple[Form, int]


class Rule(NamedTuple):
    """`x_end = a x_base + sum_j c_j f_j + spread z`, f_j the prediction `form` at the grid points `nodes`.

    nodes: newest first. a, c_j, spread: numbers for all samples, or tensors (B, 1, ...).
    others: further values, by form and grid point; their weights are the last of c.
    """

    form: Form
    base: int
    end: int
    nodes: tuple[int, ...]
    a: Any = None
    c: Any = ()
    spread: Any = None
    others: tuple[Key, ...] = ()

    @property
    def values(self) -> tuple[Key, ...]:
        return (*((self.form, j) for j in self.nodes), *self.others)


class Plan(NamedTuple):
    """Rules of every step of a grid.

    correct[i] redoes the state at i + 1 once the value there is known; None: it stays, or predict[i + 1] redoes it
    on the way. keep[i]: the values, by form and grid point, of use after step i; forms[i]: the forms in which the value
    at i is of use.
    """

    predict: list[Rule]
    correct: list[Rule | None]
    keep: list[set[Key]]
    forms: list[set[Form]]


@dataclass
class Memory:
    """What a multistep method remembers: values, and the state from which the last one may be redone."""

    plan: Plan
    step: int = 0
    values: dict[Key, Tensor] = field(default_factory=dict)
    base: Tensor | None = None


@dataclass(frozen=True)
class Multistep:
    """A linear multistep method on one prediction.

    form:      the prediction that is extrapolated. variable: in which it is a polynomial; velocity knows only time.
    points:    1 to 4, how many values the polynomial goes through.
    corrector: "always" redoes every step with the value found at its end, at no further call (UniC; the last step
               excepted, since nothing is asked at its end). That raises orders 1 and 2 by one; order 3 stays, since
               the first steps lack values. "start" does so with the first steps alone where the method would lose its
               order there: the first with 3 points, three with 4. "none": never; 3 and 4 points then have order 2.
    weights:   "exact" integrates the polynomial. Others have published approximations of it, in log-SNR: of a line
               (rules of two values), "bh2" takes `int (l - l_t) dw` to be h/2 times `int dw`, as DPM-Solver++ 2M does
               (its "midpoint") and UniPC with B(h) = e^h - 1; "bh1" takes h^2/2 times alpha_s (sigma_s for noise),
               UniPC with B(h) = h. "halved" takes half of the quadratic term of a parabola, as the 3M of DPM-Solver++'s
               authors, diffusers and k-diffusion do: its order is 2, not 3.
    eta:       noise, 0 for none; from noise to data only. The error in law is then of order 2 at most.

    Where the variable is infinite at an end of time, sigma/alpha or alpha/sigma takes its place: the last step goes to
    sigma = 0 itself. The order of the data and noise methods holds between times where the log-SNR is finite; over a
    uniform grid up to an end where it is not, steps do not shrink in log-SNR, and order 3 is not kept.

    The start with 4 points: a value asked at a state of error h^p is itself wrong by h^p. Of the first values those at
    points 0, 2, 3 are right to h^3, and with them the state at point 3 is redone from point 0; the value at point 1,
    right to h^2 only, is used no more.
    """

    form: Form = "data"
    variable: Variable = "log_snr"
    points: int = 2
    corrector: Literal["none", "start", "always"] = "start"
    weights: Weights = "exact"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.form not in ("velocity", "data", "noise"):
            raise InputError(f"form is 'velocity', 'data' or 'noise', not {self.form!r}")
        if self.variable not in ("time", "log_snr", "ratio"):
            raise InputError(f"variable is 'time', 'log_snr' or 'ratio', not {self.variable!r}")
        if self.form == "velocity" and self.variable != "time":
            raise InputError("the velocity is extrapolated in time: pass variable='time'")
        if self.points not in (1, 2, 3, 4):
            raise InputError(f"points is {self.points}; it must be 1, 2, 3 or 4")
        if self.corrector not in ("none", "start", "always"):
            raise InputError(f"corrector is 'none', 'start' or 'always', not {self.corrector!r}")
        if self.weights not in ("exact", "bh1", "bh2", "halved"):
            raise InputError(f"weights is 'exact', 'bh1', 'bh2' or 'halved', not {self.weights!r}")
        if self.weights != "exact" and self.variable != "log_snr":
            raise InputError(f"weights={self.weights!r} is for variable='log_snr'")
        if not 0 <= self.eta < float("inf"):
            raise InputError(f"eta is {self.eta}; it must be a number >= 0")
        if self.eta > 0 and (self.form == "velocity" or self.points == 4):
            raise InputError("eta > 0 is for form 'data' or 'noise' and 1, 2 or 3 points")

    @property
    def order(self) -> int:
        """The order of convergence, of states without noise and of their law with noise."""
        values = self.points + (self.corrector == "always")  # in the last rule of a step
        order = values if self.points <= 2 else self.points
        if self.weights == "halved":
            # Rules of three values have order 2; with four points one of them is in the start.
            order = 2 if values == 3 else min(order, 3)
        return min(order, 2) if self.eta > 0 or self.corrector == "none" else order

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def calls(self) -> int:
        return 1

    def init(self, x: Tensor, grid: Tensor, path: Path) -> Memory:
        return Memory(make_plan(self, x, compact(x, grid), path))

    def step(
        self,
        field: Field,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Memory,
        noise: Noise,
        **cond: Any,
    ) -> tuple[Tensor, Memory]:
        i, plan = state.step, state.plan
        rule, values = plan.predict[i], dict(state.values)
        value = field(x, t, rule.form, **cond)
        for form in plan.forms[i]:
            values[form, i] = convert(value, x, t, field.path, rule.form, form)
        redo, later = plan.correct[i - 1] if i else None, plan.correct[i]
        if redo is not None and state.base is not None:
            # The newest value was asked at the state before, and is kept.
            x = combine(state.base, redo.a, redo.c, [values[key] for key in redo.values])
        x_s = combine(x, rule.a, rule.c, [values[key] for key in rule.values])
        if self.eta > 0:
            x_s = x_s + (rule.spread * noise.normal(x.shape[1:], SOLVER, x.dtype)).to(x.dtype)
        base = None if later is None else x if later.base == i else state.base
        kept = {key: v for key, v in values.items() if key in plan.keep[i]}
        return x_s, Memory(plan, i + 1, kept, base)


def compact(x: Tensor, grid: Tensor) -> Tensor:
    """The grid (n + 1, B) of samples x as (n + 1, 1) if it is one for all."""
    shared = x.shape[0] > 0 and (grid.shape[1] == 1 or grid.stride(1) == 0)
    return grid[:, :1] if shared else grid


def combine(x: Tensor, a: Any, c: Any, values: Iterable[Tensor]) -> Tensor:
    """`a x + sum_j c_j f_j`, summed in single precision at least; a, c_j: numbers or (B, 1, ...), a = None for 1."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.to(wide) if a is None else torch.mul(x.to(wide), a)
    for j, (weight, value) in enumerate(zip(c, values, strict=True)):
        # x itself is not to be added to.
        new = j == 0 and a is None
        if isinstance(weight, float):
            out = (
                torch.add(out, value.to(wide), alpha=weight)
                if new
                else out.add_(value, alpha=weight)
            )
        elif new:
            out = torch.addcmul(out, weight, value.to(wide))
        else:
            out = out.addcmul_(weight, value.to(wide))
    return out.to(x.dtype)


def make_plan(method: Multistep, x: Tensor, grid: Tensor, path: Path) -> Plan:
    """All coefficients of a method for states like x on a grid (n + 1, B), or (n + 1, 1) for all samples."""
    return _with_keys(*_folded(*make_rules(method, x, grid, path)))


def make_rules(
    method: Multistep, x: Tensor, grid: Tensor, path: Path
) -> tuple[list[Rule], list[Rule | None]]:
    """The rules by which each step is taken, and redone."""
    home, grid = grid.device, grid.cpu()
    check_eta(method, grid, path)
    predict, correct = _nodes(method, len(grid) - 1)
    rules = [*predict, *(rule for rule in correct if rule is not None)]
    # Samples with a singular end of time follow other formulas than those without: each kind is planned apart, so that
    # no sample's rules depend on the others'.
    singular = path.log_snr(grid[[0, -1]]).isinf()
    kind = 2 * singular[0] + 1 * singular[1]
    groups = [(kind == k).nonzero()[:, 0] for k in kind.unique()]
    if method.form == "velocity" or len(groups) < 2:
        rules, rows = _Table(method, grid, path).solve(rules)
    else:
        solved = [_Table(method, grid[:, g], path).solve(rules) for g in groups]
        rules = solved[0][0]
        rows = torch.cat([r for _, r in solved], 2)[..., torch.cat(groups).argsort()]
    shared: list[Any]
    if rows.shape[2] == 1:
        shared = rows[..., 0].tolist()
    else:
        rows = rows.to(home, torch.promote_types(x.dtype, torch.float32))
        shared = list(rows.reshape(*rows.shape, *[1] * (x.ndim - 1)))
    done = [
        rule._replace(
            a=None if rule.form == "velocity" else row[0],
            spread=row[1],
            c=row[2 : 2 + len(rule.nodes)],
        )
        for rule, row in zip(rules, shared, strict=True)
    ]
    redone = iter(done[len(predict) :])
    return done[: len(predict)], [None if rule is None else next(redone) for rule in correct]


def check_eta(method: Multistep, grid: Tensor, path: Path) -> None:
    if method.eta == 0:
        return
    check_defined("noise", path)
    if not bool((grid[1:] > grid[:-1]).all()):
        raise InputError("eta > 0 goes from noise to data only: give increasing times")
    if method.form == "noise" and bool((path.alpha(grid[0]) == 0).any()):
        raise UndefinedError(
            "the noise method with eta > 0 divides by alpha, which is 0 at the first time: "
            "use form='data', or start later"
        )


def _nodes(method: Multistep, n: int) -> tuple[list[Rule], list[Rule | None]]:
    """From where, to where and by which values each step is taken, and redone."""
    form, points = method.form, method.points
    used = [tuple(range(i, max(-1, i - points), -1)) for i in range(n)]
    redone: list[tuple[int, tuple[int, ...]] | None] = [None] * n
    if method.corrector == "always":
        redone = [(i, (i + 1, *used[i])) for i in range(n)]
    elif method.corrector == "start" and points == 3:
        # A first step of order 1 would be felt at order 3.
        redone[0] = (0, (1, 0))
    if method.corrector != "none" and points == 4:
        used[3:5] = [(3, 2, 0), (4, 3, 2, 0)][: max(0, n - 3)]
        redone[:3] = [(0, (1, 0)), (0, (2, 1, 0)), (0, (3, 2, 0))][:n]
        if method.corrector == "always":
            redone[3:5] = [(i, (i + 1, *used[i])) for i in range(3, min(n, 5))]
    return (
        [Rule(form, i, i + 1, used[i]) for i in range(n)],
        [None if r is None else Rule(form, r[0], i + 1, r[1]) for i, r in enumerate(redone)],
    )


def _folded(
    predict: list[Rule], correct: list[Rule | None]
) -> tuple[list[Rule], list[Rule | None]]:
    """A step that is redone from where it was taken, redone by the next one.

    With weights c of the step and c* of the same step redone, x_s* = x_s + sum_j (c*_j - c_j) f_j, noise included, so
    that the next step, of weight a on x_s, takes `a (c*_j - c_j)` into its own weights: no state is kept.
    """
    steps, left = list(predict), [*correct[:-1], None]
    for i, redo in enumerate(left):
        # The state that a later one is redone from is itself kept, and redone before that.
        needed = any(later is not None and later.base < k for k, later in enumerate(left[i:], i))
        if redo is None or redo.base < i or needed:
            continue
        rule, now = predict[i], predict[i + 1]
        weights = dict(zip(now.values, now.c, strict=True))
        old = dict(zip(rule.values, rule.c, strict=True))
        for key, c in zip(redo.values, redo.c, strict=True):
            change = c - old.get(key, 0.0)
            weights[key] = weights.get(key, 0.0) + (change if now.a is None else now.a * change)
        others = tuple(key for key in weights if key not in now.values)
        steps[i + 1] = now._replace(c=list(weights.values()), others=others)
        left[i] = None
    return steps, left


def _with_keys(predict: list[Rule], correct: list[Rule | None]) -> Plan:
    n = len(predict)
    forms: list[set[Form]] = [set() for _ in range(n + 1)]
    keep: list[set[Key]] = [set() for _ in range(n)]
    last: dict[Key, int] = {}
    for i in range(n):
        # Step i uses predict[i] and correct[i - 1].
        for rule in (predict[i], correct[i - 1] if i else None):
            for form, node in rule.values if rule is not None else ():
                forms[node].add(form)
                last[form, node] = i
    for key, end in last.items():
        for i in range(key[1], end):
            keep[i].add(key)
    return Plan(predict, correct, keep, forms)


class _Table:
    """alpha, sigma and ln(alpha/sigma) at the times of a grid, and the coefficients of rules on it."""

    def __init__(self, method: Multistep, grid: Tensor, path: Path) -> None:
        self.method, self.grid, self.path = method, grid, path
        self.alpha, self.sigma = path.alpha(grid), path.sigma(grid)
        self.log_ratio = self.alpha.log() - self.sigma.log()
        self.no_data = (self.alpha == 0).any(1).tolist()
        self.no_noise = (self.sigma == 0).any(1).tolist()
        # Where x_t holds no data, only the data method starts; where it holds no noise, only the noise method.
        # All first steps are taken alike, that no sample depends on the others of its batch.
        forward = bool((grid[1] > grid[0]).all())
        starts_with_data = forward or not (path.gaussian_source or self.no_noise[0])
        self.start: Form = "data" if starts_with_data else "noise"
        if method.form == "velocity" or method.eta > 0:
            self.start = method.form

    def solve(self, rules: list[Rule]) -> tuple[list[Rule], Tensor]:
        """The rules with the forms they take, and their coefficients (R, 2 + J, B): a, spread, c_0, c_1, ..."""
        rules = [r._replace(form=self.start) if r.base == 0 else r for r in rules]
        width = max(len(r.nodes) for r in rules)
        rows = self.grid.new_zeros(len(rules), 2 + width, self.grid.shape[1])
        kinds: dict[tuple[Form, str, int], list[int]] = {}
        for k, rule in enumerate(rules):
            name = self._regular(rule) if len(rule.nodes) > 1 else "one"
            kinds.setdefault((rule.form, name, len(rule.nodes)), []).append(k)
        for (form, name, count), where in kinds.items():
            size = max(1, CHUNK // (len(NODES) * count * max(1, self.grid.shape[1])))
            for start in range(0, len(where), size):
                part = where[start : start + size]
                base, end = (torch.tensor([rules[k][j] for k in part]) for j in (1, 2))
                nodes = torch.tensor([rules[k].nodes for k in part]).T
                a, spread, c = self._rule(form, name, base, end, nodes)
                rows[part, 0], rows[part, 1], rows[part, 2 : 2 + count] = (
                    a,
                    spread,
                    c.transpose(0, 1),
                )
        return rules, rows

    def _regular(self, rule: Rule) -> str:
        """The method's variable, or one that is finite at all the points that matter; "end" if weight is all there."""
        points = {rule.base, rule.end, *rule.nodes}
        at_data = any(self.no_noise[p] for p in points)
        at_noise = any(self.no_data[p] for p in points)
        name: str = self.method.variable
        if name != "time":
            name = (
                "time"
                if at_data and at_noise
                else "ratio"
                if at_data
                else "inverse"
                if at_noise
                else name
            )
        if rule.form == "velocity":
            return name
        first, last = (
            (self.no_data, self.no_noise) if rule.form == "data" else (self.no_noise, self.no_data)
        )
        if last[rule.end]:
            return f"{name}, all at the end"
        return f"{name}, from or to 0" if first[rule.base] or first[rule.end] else name

    def _rule(
        self, form: Form, name: str, base: Tensor, end: Tensor, nodes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """a, spread (R, B) and c (J, R, B) of steps from grid points `base` to `end` by values at `nodes` (J, R)."""
        if form == "velocity":
            t, s = self.grid[base], self.grid[end]
            if len(nodes) == 1:
                return torch.ones_like(t), torch.zeros_like(t), (s - t)[None]
            q, w = NODES[:, None, None].to(t), WEIGHTS.to(t)
            c = (s - t) * _average(w, _lagrange(t + q * (s - t), self.grid[nodes]))
            return torch.ones_like(t), torch.zeros_like(t), c
        eta, data = self.method.eta, form == "data"
        first, last = (self.alpha, self.sigma) if data else (self.sigma, self.alpha)
        a, spread = last[end] / last[base], torch.zeros_like(first[end])
        if eta > 0:
            h = self.log_ratio[end] - self.log_ratio[base]
            if data:
                a = a * (-eta * h).exp()
                spread = last[end] * (-(-2 * eta * h).expm1()).sqrt()
            else:
                w_t, w_s = first[base] / last[base], first[end] / last[end]
                spread = last[end] * (eta * (w_t**2 - w_s**2)).sqrt()
        rate = 1.0 if data else 1 + eta
        if len(nodes) == 1:
            return a, spread, rate * (first[end] - a * first[base])[None]
        return a, spread, rate * self._weights(form, name, base, end, nodes, a)

    def _weights(
        self, form: Form, name: str, base: Tensor, end: Tensor, nodes: Tensor, a: Tensor
    ) -> Tensor:
        """`last_s int l_j dw` with w = first/last = e^l, l = ln(alpha/sigma) for data and minus that for noise."""
        sign = 1.0 if form == "data" else -1.0
        power = 1.0 + (self.method.eta if form == "data" else 0.0)
        variable, _, special = name.partition(", ")
        first = self.alpha if form == "data" else self.sigma
        l_t, l_s = sign * self.log_ratio[base], sign * self.log_ratio[end]
        z_nodes = self._variable(variable, self.log_ratio[nodes], self.grid[nodes])
        q = NODES[:, None, None].to(l_t)
        if special == "all at the end":
            # x_s = first_s f(s).
            z = self._variable(variable, self.log_ratio[end], self.grid[end])
            return first[end] * _lagrange(z[None], z_nodes)[:, 0]
        if special:
            # In w^power itself, that weighs evenly; the variables above are polynomials in w.
            w_t, w_s = l_t.exp(), l_s.exp()
            z = self._variable(variable, sign * (w_t + q ** (1 / power) * (w_s - w_t)).log())
            last = self.sigma if form == "data" else self.alpha
            return _average(WEIGHTS.to(w_s), last[end] * (w_s - w_t) * _lagrange(z, z_nodes))
        h = l_s - l_t
        z = self._variable(variable, sign * (l_t + q * h))
        factor = first[end] * power * h * (power * (q - 1) * h).exp()
        exact = _average(WEIGHTS.to(h), factor * _lagrange(z, z_nodes))
        if self.method.weights == "exact" or variable != "log_snr" or len(nodes) > 3:
            return exact
        # Values of the basis at the start, in the middle and at the end of the step.
        start, middle, stop = (
            _lagrange(sign * (l_t + u * h)[None], z_nodes)[:, 0] for u in (0, 0.5, 1)
        )
        if len(nodes) == 3:
            square = _average(WEIGHTS.to(h), (factor * q**2)[None])[0]
            halved = square * (start + stop - 2 * middle)
            return exact - halved if self.method.weights == "halved" else exact
        if self.method.weights == "halved":
            return exact
        total = first[end] - a * first[base]
        if self.method.weights == "bh1":
            return total * start + first[end] * power * h * (middle - start)
        return total * middle

    def _variable(self, name: str, log_ratio: Tensor, t: Tensor | None = None) -> Tensor:
        match name:
            case "log_snr":
                return log_ratio
            case "ratio":
                return (-log_ratio).exp()
            case "inverse":
                return log_ratio.exp()
            case _:
                return self.path.time_of_log_snr(2 * log_ratio) if t is None else t


def _lagrange(z: Tensor, nodes: Tensor) -> Tensor:
    """Lagrange's basis `l_j(z) = prod_{m != j} (z - z_m)/(z_j - z_m)`; z: (Q, ...), nodes: (J, ...) -> (J, Q, ...)."""
    basis = []
    for j, node in enumerate(nodes):
        others = [m for m in range(len(nodes)) if m != j]
        top, low = z - nodes[others[0]], node - nodes[others[0]]
        for m in others[1:]:
            top, low = top * (z - nodes[m]), low * (node - nodes[m])
        basis.append(top / low)
    return torch.stack(basis)


def _average(weights: Tensor, values: Tensor) -> Tensor:
    """Mean over [0, 1] by quadrature: (J, Q, ...) -> (J, ...)."""
    return torch.einsum("q,jq...->j...", weights, values)
