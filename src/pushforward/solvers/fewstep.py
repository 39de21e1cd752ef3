"""Few steps: sampling by a flow map, and a flow map made of many steps of a solver."""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field, FlowMap, Jumps
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.shapes import as_time, expand
from pushforward.solvers.ancestral import require_forward
from pushforward.solvers.base import Solver
from pushforward.solvers.inverse import Silent
from pushforward.solvers.ode import Heun


@dataclass(frozen=True)
class FlowMapSampler:
    """A step by a flow map, and noise put back on top of it.

        x_r = X(x_t, t, r),   x_s = (alpha_s/alpha_r) x_r + sqrt(sigma_s^2 - (alpha_s/alpha_r)^2 sigma_r^2) z
        sigma_r/alpha_r = sqrt(1 - renoise^2) sigma_s/alpha_s

    renoise = 0 goes straight to s, as MeanFlow does. renoise = 1 goes to the data and noises them anew up to s:
    multistep consistency sampling, the only way for a map that knows no other jump. Between is the gamma-sampling of
    CTM. With an exact map all have the law of x_s, whatever the grid. The last step, to the end of the path, has no
    noise.

    order: infinite, since an exact flow map leaves no error.

    Song et al. 2023 (arXiv 2303.01469), alg. 1; Kim et al. 2023 (arXiv 2310.02279), alg. 3; Geng et al. 2025 (arXiv
    2505.13447), alg. 2.
    """

    renoise: float = 0.0
    order: ClassVar[float] = math.inf
    calls: ClassVar[int] = 1
    by_map: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        return self.renoise > 0

    def __post_init__(self) -> None:
        if not 0 <= self.renoise <= 1:
            raise InputError(f"renoise is {self.renoise}; it must lie in [0, 1]")

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        if self.renoise > 0:
            require_forward(grid, "Jump with renoise > 0")
            if len(grid) > 2:
                path.require_gaussian("noise that is put back between jumps")

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        flow = require_map(field)
        if self.renoise == 0 or bool((s == 1).all()):
            return flow(x, t, s, **cond), None
        path = flow.path
        if self.renoise == 1:
            r = torch.ones_like(s)
        else:
            r = path.time_of_log_snr(path.log_snr(s) - math.log(1 - self.renoise**2))
        x_r = flow(x, t, r, **cond)
        ratio = path.alpha(s) / path.alpha(r)
        spread = (path.sigma(s) ** 2 - (ratio * path.sigma(r)) ** 2).clamp(min=0).sqrt()
        z = noise.normal(x.shape[1:], SOLVER, x.dtype)
        return expand(ratio, x) * x_r + expand(spread, x) * z, None


def require_map(field: Any) -> FlowMap:
    """The field, if it is a flow map."""
    if not isinstance(field, FlowMap):
        raise InputError(
            f"FlowMapSampler takes a flow map, which {type(field).__name__} is not: SolverFlowMap(field, solver) "
            f"makes one of a field"
        )
    return field


@dataclass(frozen=True)
class SolverFlowMap:
    """A Field as a flow map, by `steps` equal steps of a solver from t to s.

    Each sample has times of its own, in either direction; where t = s it stays as it is. A solver without noise: what
    has noise is an error. The error is the solver's.
    """

    field: Field
    solver: Solver = dataclass_field(default_factory=Heun)
    steps: int = 1
    jumps: ClassVar[Jumps] = "any"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; it must be at least 1")

    @property
    def path(self) -> Path:
        return self.field.path

    def __call__(self, x: Tensor, t: Tensor | float, s: Tensor | float, **cond: Any) -> Tensor:
        t, s = as_time(t, x).double(), as_time(s, x).double()
        still = t == s
        if bool(still.any()):
            # Solvers take steps of some length: those that stay go elsewhere, and are put back.
            s = torch.where(still, torch.where(t < 0.5, t + 0.1, t - 0.1), s)
        shares = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64, device=x.device)
        grid = t + (s - t) * shares[:, None]
        grid[-1] = s
        noise, y = Silent.batch(len(x), device=x.device), x
        state = self.solver.init(x, grid, self.path)
        for i, now in enumerate(grid[:-1]):
            y, state = self.solver.step(self.field, y, now, grid[i + 1], state, noise, **cond)
        return torch.where(expand(still, x).bool(), x, y)


def default_jump(flow: FlowMap) -> FlowMapSampler:
    """How a flow map is sampled: straight on, or over the data where it knows no other way."""
    return FlowMapSampler(1.0 if flow.jumps == "data" else 0.0)
