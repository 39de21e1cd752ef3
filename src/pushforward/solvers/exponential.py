"""Single-step exponential integrators: DPM-Solver and DPM-Solver++, with or without noise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined
from pushforward.core.shapes import expand
from pushforward.solvers.ancestral import both, posterior_variance
from pushforward.solvers.multistep import combine, compact


class Stage(NamedTuple):
    """`a x_t + sum_j c_j f_j` at every step of a grid: which f_j, and the weights a, c_j (n, B).

    values: 0, 1, ... the predictions of the step in their order; -1, -2 its normal numbers.
    """

    values: tuple[int, ...]
    weights: tuple[Tensor, ...]


class Plan(NamedTuple):
    """What every step of a grid takes.

    data: (n, B), whether the data or the noise is extrapolated. times: (stages, n, B). rows[i]: one list a stage,
    numbers for all samples or tensors (B, 1, ...).
    """

    data: Tensor
    forms: list[Literal["data", "noise"] | None]
    times: list[Tensor]
    values: list[tuple[int, ...]]
    rows: list[list[Any]]


class Memory(NamedTuple):
    plan: Plan
    step: int


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver of order 1, 2 or 3 (form "noise"), and DPM-Solver++ 2S and 3S (form "data"), on any Gaussian path.

    With lambda = ln(alpha/sigma), h = lambda_s - lambda_t, points s_j at lambda_t + r_j h, and D_j the data predicted
    there, D_0 at t, form "data" is

        u_1 = (sigma_1/sigma_t) x_t + alpha_1 (1 - e^{-r_1 h}) D_0
        order 2:  x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^{-h}) [D_0 + (D_1 - D_0)/(2 r_1)]
        u_2 = (sigma_2/sigma_t) x_t + alpha_2 (1 - e^{-r_2 h}) D_0 + (r_2/r_1) alpha_2 phi(r_2 h) (D_1 - D_0)
        order 3:  x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^{-h}) D_0 + alpha_s phi(h)/r_2 (D_2 - D_0)

    phi(h) = 1 + (e^{-h} - 1)/h; form "noise" is the same with alpha and sigma, data and noise exchanged and h negated.
    Order 1 is DDIM, in either form.

    r1, r2:  where the field is asked, as fractions of h: 1/2 at order 2, 1/3 and 2/3 at order 3 by default. At order 3
             another r2 than 2/3 leaves order 2: the last formula integrates a parabola for that one alone.
    eta:     noise as in `DDIM`, from noise to data only: a step to the smaller sqrt(sigma_s^2 - eta^2 v) instead of
             sigma_s, and eta sqrt(v) z added, v the variance beta-tilde of q(x_s | x_t, x1). Order 1 is then DDIM(eta),
             order 2 the ancestral 2S of k-diffusion. The flow is followed to a state of less noise, whose law is known
             too, so that errors in law are of the flow's order. Not for order 3, which would ask beyond s.
    sde:     the same noise at the point inside too, at r_1 h of the whole step, both parts of one Brownian path, which
             keeps order 2 in law. u_1 is a step as above with noise n_1, and the noise of the whole step is e n_1 and a
             rest independent of it, e the decay of x from s_1 to s. The step to sigma = 0 has none. It is
             `sample_dpmpp_sde` of k-diffusion. For order 2 and form "data".

    Where log-SNR is infinite at an end of a step, the step goes to the very end, in the variable that is finite: from
    or to alpha = 0 the data are integrated over alpha/sigma, from or to sigma = 0 the noise over sigma/alpha, by the
    midpoint method or Heun's of third order. A single step from noise to data is the data extrapolated in time.

    Lu et al. 2022 (arXiv 2206.00927), algorithms 1, 2 and eq. 3.7; Lu et al. 2022 (arXiv 2211.01095), algorithm 1.
    """

    order: int = 2
    form: Literal["data", "noise"] = "noise"
    r1: float | None = None
    r2: float | None = None
    eta: float = 0.0
    sde: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise InputError(f"order is {self.order}; it must be 1, 2 or 3")
        if self.form not in ("data", "noise"):
            raise InputError(f"form is 'data' or 'noise', not {self.form!r}")
        for name, r, least in (("r1", self.r1, 2), ("r2", self.r2, 3)):
            if r is not None and not (0 < r <= 1 and self.order >= least):
                raise InputError(
                    f"{name} is {r}; it is a fraction in (0, 1], from order {least} on"
                )
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta}; it must lie in [0, 1]")
        if self.eta > 0 and self.order == 3:
            raise InputError(
                "eta > 0 is for order 1 or 2: order 3 would ask beyond the end of the step"
            )
        if self.sde and (self.order, self.form) != (2, "data"):
            raise InputError("sde=True is for order 2 and form 'data'")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def calls(self) -> int:
        return self.order

    @property
    def fractions(self) -> tuple[float, ...]:
        """Where within the step the field is asked after the start."""
        standard = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}[self.order]
        return tuple(r or given for r, given in zip((self.r1, self.r2), standard, strict=False))

    def init(self, x: Tensor, grid: Tensor, path: Path) -> Memory:
        return Memory(self._plan(x, compact(x, grid), path), 0)

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
        plan, i = state
        values: dict[int, Tensor] = {}
        if self.eta > 0:
            shape = (2, *x.shape[1:]) if self.sde else x.shape[1:]
            z = noise.normal(shape, SOLVER, x.dtype)
            values = {-1: z[:, 0], -2: z[:, 1]} if self.sde else {-1: z}
        now, at = x, t
        for k, (a, *c) in enumerate(plan.rows[i]):
            values[k] = self._ask(field, now, at, plan, i, **cond)
            now = combine(x, a, c, [values[j] for j in plan.values[k]])
            at = plan.times[k][i].expand_as(t) if k < len(plan.times) else s
        return now, Memory(plan, i + 1)

    def _ask(self, field: Field, x: Tensor, t: Tensor, plan: Plan, i: int, **cond: Any) -> Tensor:
        form = plan.forms[i]
        if form is not None:
            return field(x, t, form, **cond)
        data, eps = both(field, x, t, **cond)
        return torch.where(expand(plan.data[i], x).bool(), data, eps)

    def _plan(self, x: Tensor, grid: Tensor, path: Path) -> Plan:
        home, grid = grid.device, grid.cpu()
        t, s = grid[:-1], grid[1:]
        forward = bool((s > t).all())
        if self.eta > 0:
            check_defined("noise", path)
            if not forward:
                raise InputError("eta > 0 goes from noise to data only: give increasing times")
        step = _Step.between(self.form, self.eta, path, t, s, forward)
        if not bool(step.data.all()):
            check_defined("noise", path)
        whole = _Step.between(self.form, 0.0, path, t, s, forward) if self.sde else step
        inner = [whole.inside(r) for r in self.fractions]
        a, c0, c1 = step.weights(None, self.order == 2)
        stages: list[Stage]
        match self.order:
            case 1:
                stages = [Stage((0,), (a, c0))]
            case 2:
                (b, d0, _), (r1, at) = whole.weights(inner[0]), inner[0]
                if self.sde:
                    # From alpha = 0 all is forgotten: `step` is single there, `whole` is not.
                    c1 = torch.where(whole.single, c0, c0 / 2)
                slope = c1 / r1
                stages = [Stage((0,), (b, d0)), Stage((0, 1), (a, c0 - slope, slope))]
                if self.sde and self.eta > 0:
                    stages = self._with_noise_inside(stages, path, t, s, at, step.spread)
            case _:
                (r1, _), (r2, _) = inner
                (b, d0, _), (e, g0, g1) = step.weights(inner[0]), step.weights(inner[1])
                first, last = g1 / r1, c1 / r2
                stages = [
                    Stage((0,), (b, d0)),
                    Stage((0, 1), (e, g0 - first, first)),
                    Stage((0, 2), (a, c0 - last, last)),
                ]
        if self.eta > 0 and not self.sde:
            values, weights = stages[-1]
            stages[-1] = Stage((*values, -1), (*weights, step.spread))
        table = torch.stack([w for stage in stages for w in stage.weights], 1)
        rows: list[Any]
        if table.shape[2] == 1:
            rows = table[..., 0].tolist()
        else:
            table = table.to(home, torch.promote_types(x.dtype, torch.float32))
            rows = list(table.reshape(*table.shape, *[1] * (x.ndim - 1)))
        cuts = [0]
        for stage in stages:
            cuts.append(cuts[-1] + len(stage.weights))
        alike = (step.data == step.data[:, :1]).all(1).tolist()
        first_kinds = step.data.all(1).tolist()
        return Plan(
            step.data.to(home),
            [
                ("data" if d else "noise") if same else None
                for same, d in zip(alike, first_kinds, strict=True)
            ],
            [at.to(home) for _, at in inner],
            [stage.values for stage in stages],
            [[row[i:j] for i, j in itertools.pairwise(cuts)] for row in rows],
        )

    def _with_noise_inside(
        self, stages: list[Stage], path: Path, t: Tensor, s: Tensor, at: Tensor, spread: Tensor
    ) -> list[Stage]:
        """The stages of order 2 with noise at the point `at` inside the step, that goes on to its end."""
        first = _Step.between("data", self.eta, path, t, at, True)
        then = _Step.between("data", self.eta, path, at, s, True)
        noisy = path.sigma(s) > 0
        (b, d0, _), (e, _, _) = first.weights(None), then.weights(None)
        kick = torch.where(noisy, first.spread, 0.0)
        carried = e * kick
        rest = (spread**2 - carried**2).clamp(min=0).sqrt()
        inside = (
            torch.where(noisy, w, old) for w, old in zip((b, d0), stages[0].weights, strict=True)
        )
        return [
            Stage((0, -1), (*inside, kick)),
            Stage((*stages[1].values, -1, -2), (*stages[1].weights, carried, rest)),
        ]


class _Step(NamedTuple):
    """Steps from t to s, (n, B), and by which formulas.

    data: whether the data is extrapolated, or the noise. start, end: (first, last) there, (alpha, sigma) for data and
    (sigma, alpha) for noise. singular: log-SNR is infinite at an end; single: at both.
    """

    path: Path
    t: Tensor
    s: Tensor
    data: Tensor
    single: Tensor
    singular: Tensor
    start: tuple[Tensor, Tensor]
    end: tuple[Tensor, Tensor]
    spread: Tensor

    @staticmethod
    def between(form: str, eta: float, path: Path, t: Tensor, s: Tensor, forward: bool) -> _Step:
        alpha_t, sigma_t, alpha_s, sigma_s = (
            path.alpha(t),
            path.sigma(t),
            path.alpha(s),
            path.sigma(s),
        )
        spread = torch.zeros_like(t)
        if eta > 0:
            variance = eta**2 * posterior_variance(path, t, s)
            sigma_s, spread = (sigma_s**2 - variance).clamp(min=0).sqrt(), variance.sqrt()
        no_data, no_noise = (alpha_t == 0) | (alpha_s == 0), (sigma_t == 0) | (sigma_s == 0)
        data = torch.full_like(no_data, form == "data")
        data = torch.where(no_data, True, torch.where(no_noise, False, data))
        single = no_data & no_noise
        data = torch.where(single, forward, data)
        first_t, last_t = torch.where(data, alpha_t, sigma_t), torch.where(data, sigma_t, alpha_t)
        first_s, last_s = torch.where(data, alpha_s, sigma_s), torch.where(data, sigma_s, alpha_s)
        return _Step(
            path,
            t,
            s,
            data,
            single,
            no_data | no_noise,
            (first_t, last_t),
            (first_s, last_s),
            spread,
        )

    def inside(self, r: float) -> tuple[Tensor, Tensor]:
        """The point a fraction r into the step: (the fraction that it is, to rounding, and its time)."""
        (first_t, last_t), (first_s, last_s) = self.start, self.end
        sign = torch.where(self.data, 1.0, -1.0).to(first_t)
        l_t, l_s = (first_t / last_t).log(), (first_s / last_s).log()
        w_t, w_s = first_t / last_t, first_s / last_s
        l_r = torch.where(self.singular, (w_t + r * (w_s - w_t)).log(), l_t + r * (l_s - l_t))
        at = self.path.time_of_log_snr(2 * sign * torch.where(self.single, 0.0, l_r))
        at = torch.where(self.single, self.t + r * (self.s - self.t), at)
        first, last = self._parts(at)
        w, l = first / last, (first / last).log()  # noqa: E741
        share = torch.where(self.singular, (w - w_t) / (w_s - w_t), (l - l_t) / (l_s - l_t))
        return torch.where(self.single, r, share), at

    def _parts(self, at: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.path.alpha(at), self.path.sigma(at)
        return torch.where(self.data, alpha, sigma), torch.where(self.data, sigma, alpha)

    def weights(
        self, point: tuple[Tensor, Tensor] | None, halved: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """a, c_0 and c_1 with `x = a x_t + int (f_0 + u f') = a x_t + c_0 f_0 + c_1 f'`, u the fraction of the step.

        point: up to where; None for the end. halved: the published `c_0/2` for c_1.
        """
        first_t, last_t = self.start
        r, (first, last) = (
            (torch.ones_like(first_t), self.end)
            if point is None
            else (point[0], self._parts(point[1]))
        )
        a = last / last_t
        c0 = first - a * first_t
        h = (first / last).log() - (first_t / last_t).log()
        exact = first * (1 + (-h).expm1() / h)
        c1 = r * torch.where(self.singular | halved, c0 / 2, exact)
        return a, c0, torch.where(self.single, c0, c1) if point is None else c1
