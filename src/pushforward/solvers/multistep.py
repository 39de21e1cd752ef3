"""Linear multistep methods: one network call a step, order from memory.

Each of the three predictions gives a linear equation that is solved exactly but for one integral:

    velocity:   x_s = x_t + int_t^s u dtau
    data:       x_s = (sigma_s/sigma_t) x_t + sigma_s int D d(alpha/sigma)
    noise:      x_s = (alpha_s/alpha_t) x_t + alpha_s int E d(sigma/alpha)

Under the integral the prediction is replaced by the polynomial, in some variable z, through its last values; the
weights `int l_j(z) dw` of its Lagrange basis are worked out once for the whole grid, to rounding, for any path. What
is known under many names is a choice of prediction, variable and order:

    Adams-Bashforth                     velocity, time
    DEIS, tAB (Zhang & Chen 2023, arXiv 2204.13902)                      noise, time
    linear multistep of k-diffusion, rhoAB of DEIS                       noise, sigma/alpha
    DPM-Solver, multistep (Lu et al. 2022, arXiv 2206.00927)             noise, log-SNR
    DPM-Solver++ 2M, 3M (Lu et al. 2022, arXiv 2211.01095)               data, log-SNR
    UniPC (Zhao et al. 2023, arXiv 2302.04867)                           data, log-SNR, with the corrector always

At order 1 the data and the noise methods are one and the same: DDIM, DPM-Solver-1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import convert
from pushforward.core.shapes import expand

Form = Literal["velocity", "data", "noise"]
Variable = Literal["time", "log_snr", "ratio"]

# Gauss-Legendre nodes and weights on [0, 1] for the weights of a step.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
NODES, WEIGHTS = torch.from_numpy(_NODES + 1) / 2, torch.from_numpy(_WEIGHTS) / 2


class Rule(NamedTuple):
    """`x_s = a x_t + sum_j c_j f_j`, f_0 the newest value: one row for all samples, or one for each. a: None for 1."""

    form: Form
    a: Tensor | None
    c: Tensor


class Plan(NamedTuple):
    """Rules of every step of a grid. correct[i] redoes step i once the value at its end is known; None: it does not."""

    predict: list[Rule]
    correct: list[Rule | None]


@dataclass
class Memory:
    """What a multistep method remembers: the last values, newest first, and the step that may be corrected."""

    plan: Plan
    step: int = 0
    values: list[Tensor] = field(default_factory=list)
    before: Tensor | None = None  # the state at the start of that step
    value: Tensor | None = None  # and the prediction there, in the form of its rule


@dataclass(frozen=True)
class Multistep:
    """A linear multistep method on one prediction.

    form:      the prediction that is extrapolated. variable: in which it is a polynomial; velocity knows only time.
    order:     1 to 3: how many values are used, and the order of convergence.
    corrector: "always" redoes every step with the value found at its end, at no further call (UniC; the last step
               excepted, since nothing is asked at its end). That raises orders 1 and 2 by one; order 3 stays, since
               the first steps lack values. "start" does so with the first step alone where that would cost the method
               its order.

    Where the variable is infinite at an end of time, sigma/alpha or alpha/sigma takes its place: the last step goes to
    sigma = 0 itself. The order of the data and noise methods holds between times where the log-SNR is finite; over a
    uniform grid up to an end where it is not, steps do not shrink in log-SNR, and order 3 is not kept.
    """

    form: Form = "data"
    variable: Variable = "log_snr"
    order: int = 2
    corrector: Literal["start", "always"] = "start"

    def __post_init__(self) -> None:
        if self.form not in ("velocity", "data", "noise"):
            raise InputError(f"form is 'velocity', 'data' or 'noise', not {self.form!r}")
        if self.variable not in ("time", "log_snr", "ratio"):
            raise InputError(f"variable is 'time', 'log_snr' or 'ratio', not {self.variable!r}")
        if self.form == "velocity" and self.variable != "time":
            raise InputError("the velocity is extrapolated in time: pass variable='time'")
        if self.order not in (1, 2, 3):
            raise InputError(f"order is {self.order}; it must be 1, 2 or 3")
        if self.corrector not in ("start", "always"):
            raise InputError(f"corrector is 'start' or 'always', not {self.corrector!r}")

    @property
    def calls(self) -> int:
        return 1

    def init(self, x: Tensor, grid: Tensor, path: Path) -> Memory:
        shared = grid.shape[1] == 1 or grid.stride(1) == 0
        return Memory(make_plan(self, grid[:, :1] if shared else grid, path))

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
        rule = plan.predict[i]
        value = field(x, t, rule.form, **cond)
        kept = self._kept(value, x, t, field, rule.form)
        values = [kept, *state.values]
        redo = plan.correct[i - 1] if i else None
        if redo is not None and state.before is not None and state.value is not None:
            # The newest value was asked at the uncorrected state, and is kept.
            known = values
            if redo.form != self.form:
                known = [convert(value, x, t, field.path, rule.form, redo.form), state.value]
            x = _apply(redo, state.before, known)
        x_s = _apply(rule, x, values if rule.form == self.form else [value])
        if plan.correct[i] is None:
            return x_s, Memory(plan, i + 1, values[: self.order - 1])
        return x_s, Memory(plan, i + 1, values[: self.order], x, value)

    def _kept(self, value: Tensor, x: Tensor, t: Tensor, field: Field, form: Form) -> Tensor:
        return value if form == self.form else convert(value, x, t, field.path, form, self.form)


def _apply(rule: Rule, x: Tensor, values: list[Tensor]) -> Tensor:
    out = x if rule.a is None else expand(rule.a, x) * x
    for c, value in zip(rule.c, values, strict=False):
        out = torch.addcmul(out, expand(c, x), value)
    return out


def make_plan(method: Multistep, grid: Tensor, path: Path) -> Plan:
    """All coefficients of a method on a grid (n + 1, B) or (n + 1, 1)."""
    # Samples with a singular end of time follow other formulas than those without: each kind is planned apart, so that
    # no sample's rules depend on the others'.
    singular = path.log_snr(grid[[0, -1]]).isinf()
    kind = 2 * singular[0] + 1 * singular[1]
    groups = [(kind == k).nonzero()[:, 0] for k in kind.unique()]
    if method.form == "velocity" or len(groups) < 2:
        return _plan(method, grid, path)
    plans, order = [_plan(method, grid[:, g], path) for g in groups], torch.cat(groups).argsort()
    return Plan(
        [_merge(list(rules), order) for rules in zip(*(p.predict for p in plans), strict=True)],
        [_merge(list(rules), order) for rules in zip(*(p.correct for p in plans), strict=True)],
    )


def _merge(rules: list[Any], order: Tensor) -> Any:
    """One rule for all samples from those of groups of them; None if there are none."""
    if rules[0] is None:
        return None
    a, c = torch.cat([r.a for r in rules]), torch.cat([r.c for r in rules], 1)
    return Rule(rules[0].form, a[order], c[:, order])


def _plan(method: Multistep, grid: Tensor, path: Path) -> Plan:
    table = _Table(grid, path)
    predict: list[Rule] = []
    correct: list[Rule | None] = []
    for i in range(len(grid) - 1):
        past = list(range(i, max(-1, i - method.order), -1))
        predict.append(table.rule(method.form, method.variable, i, past))
        # A first step of order 1 would be felt at order 3.
        redo = method.corrector == "always" or (i == 0 and method.order == 3)
        rule = table.rule(method.form, method.variable, i, [i + 1, *past]) if redo else None
        correct.append(rule)
    return Plan(predict, correct)


class _Table:
    """alpha, sigma and ln(alpha/sigma) at the times of a grid."""

    def __init__(self, grid: Tensor, path: Path) -> None:
        self.grid, self.path = grid, path
        self.forward, self.gaussian = bool((grid[1] > grid[0]).all()), path.gaussian_source
        self.alpha, self.sigma = path.alpha(grid), path.sigma(grid)
        self.log_ratio = self.alpha.log() - self.sigma.log()
        self.no_data = (self.alpha == 0).any(1).tolist()
        self.no_noise = (self.sigma == 0).any(1).tolist()

    def rule(self, form: Form, variable: Variable, i: int, nodes: list[int]) -> Rule:
        """The rule of the step from grid point i to i + 1, with values at the points `nodes`."""
        if form == "velocity":
            t, s = self.grid[i], self.grid[i + 1]
            basis = _lagrange(t + NODES[:, None].to(t) * (s - t), self.grid[nodes])
            return Rule(form, None, (s - t) * _average(basis))
        # Where x_t holds no data, only the data method starts; where it holds no noise, only the noise method.
        # All first steps are taken alike, that no sample depends on the others of its batch.
        if i == 0:
            form = "data" if self.forward or not (self.gaussian or self.no_noise[0]) else "noise"
        first, last = (self.alpha, self.sigma) if form == "data" else (self.sigma, self.alpha)
        a = last[i + 1] / last[i]
        if len(nodes) == 1:
            return Rule(form, a, (first[i + 1] - a * first[i])[None])
        return Rule(form, a, self._weights(form, self._regular(variable, i, nodes), i, nodes))

    def _regular(self, variable: Variable, i: int, nodes: list[int]) -> str:
        """`variable`, or one that is finite at all the points that matter."""
        points = {i, i + 1, *nodes}
        at_data = any(self.no_noise[p] for p in points)
        at_noise = any(self.no_data[p] for p in points)
        if variable == "time" or (at_data and at_noise):
            return "time"
        return "ratio" if at_data else "inverse" if at_noise else variable

    def _weights(self, form: Form, variable: str, i: int, nodes: list[int]) -> Tensor:
        """`last_s int l_j dw` with w = first/last = e^l, l = ln(alpha/sigma) for data and minus that for noise."""
        sign = 1.0 if form == "data" else -1.0
        first = self.alpha if form == "data" else self.sigma
        last = self.sigma if form == "data" else self.alpha
        l_t, l_s = sign * self.log_ratio[i], sign * self.log_ratio[i + 1]
        z_nodes = self._variable(variable, self.log_ratio[nodes], self.grid[nodes])
        q = NODES[:, None].to(l_t)
        if bool(l_s.isposinf().any()):
            # All the weight is at the end: x_s = first_s f(s).
            z = self._variable(variable, self.log_ratio[i + 1 : i + 2], self.grid[i + 1 : i + 2])
            return first[i + 1] * _lagrange(z, z_nodes)[:, 0]
        if bool((l_t.isneginf() | l_s.isneginf()).any()):
            # From or to w = 0: in w itself, in which the variables above are polynomials.
            w_t, w_s = l_t.exp(), l_s.exp()
            z = self._variable(variable, sign * (w_t + q * (w_s - w_t)).log())
            return last[i + 1] * (w_s - w_t) * _average(_lagrange(z, z_nodes))
        l = l_t + q * (l_s - l_t)  # noqa: E741
        z = self._variable(variable, sign * l)
        factor = first[i + 1] * (l_s - l_t) * (l - l_s).exp()
        return _average(factor * _lagrange(z, z_nodes))

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
    """Lagrange's basis `l_j(z) = prod_{m != j} (z - z_m)/(z_j - z_m)`; z: (Q, B), nodes: (J, B) -> (J, Q, B)."""
    basis = []
    for j in range(len(nodes)):
        product = torch.ones_like(z)
        for m in range(len(nodes)):
            if m != j:
                product = product * (z - nodes[m]) / (nodes[j] - nodes[m])
        basis.append(product)
    return torch.stack(basis)


def _average(values: Tensor) -> Tensor:
    """Mean over [0, 1] by Gauss-Legendre: (J, Q, B) -> (J, B)."""
    return torch.einsum("q,jqb->jb", WEIGHTS.to(values), values)
