"""Every sensible configuration of the peers' deterministic samplers.

A configuration takes a `Problem` and a number of network calls, and returns its end points, or None if it cannot be
run with so few. Each is given its best chance: it starts on the exact trajectory at its own first noise level, in
float64 where it keeps that, and the network is asked at the noise level that the sampler works with, where the
library's own pipeline would round it to an integer time step.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pushforward as pf
from benchmarks.exact import Problem

Run = Callable[[Problem, int], Tensor | None]


def configurations(path: pf.Path) -> dict[str, Run]:
    """All of them for a model on this path, by "library: solver, grid"."""
    if isinstance(path, pf.CondOT):
        return {**_flow_matching(), **_diffusers_flow(), **_azula(path), **_k_diffusion(path)}
    return {**_diffusers_vp(), **_azula(path), **_k_diffusion(path)}


# flow_matching: velocity models on CondOT, through torchdiffeq.


def _flow_matching() -> dict[str, Run]:
    from flow_matching.solver.ode_solver import ODESolver

    def run(method: str, calls: int) -> Run:
        def sample(problem: Problem, nfe: int) -> Tensor | None:
            steps = nfe // calls
            if steps < 1:
                return None

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                time = min(float(t), 1 - 1e-6)  # at 1 a denoiser does not give the velocity
                return (problem(x, time, 1 - time) - x) / (1 - time)

            grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            return ODESolver(velocity).sample(
                problem.x0, step_size=None, method=method, time_grid=grid
            )

        return sample

    return {
        f"flow_matching: {method}, uniform": run(method, calls)
        for method, calls in (("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4))
    }


# azula: denoisers, on any of its schedules.


def _azula(path: pf.Path) -> dict[str, Run]:
    from azula import noise, sample

    start = torch.zeros((), dtype=torch.float64)
    signal = float(path.alpha(start) / path.sigma(start))

    def run(sampler: Callable[..., Any], schedule: Any, calls: int = 1, **options: Any) -> Run:
        def go(problem: Problem, nfe: int) -> Tensor | None:
            steps = nfe // calls
            if steps < 1:
                return None

            def denoiser(x: Tensor, t: Tensor) -> Any:
                return types.SimpleNamespace(mean=problem(x, *map(float, schedule(t))))

            denoiser.schedule = schedule  # type: ignore[attr-defined]
            begin = schedule(torch.ones((), dtype=torch.float64))
            made = sampler(
                denoiser, steps=steps, silent=True, dtype=torch.float64, device="cpu", **options
            )
            return made(problem.at(*begin))

        return go

    # Where the path begins, or the library's default if it begins at pure noise.
    low = signal or 1e-3
    schedules = {
        "rectified": noise.RectifiedSchedule(low, 1e-3),
        "rectified, sigma_min 0.01": noise.RectifiedSchedule(low, 1e-2),
        "VP": noise.VPSchedule(low, 1e-3),
        "cosine": noise.CosineSchedule(low, 1e-3),
        "decay": noise.DecaySchedule(low, 1e-3),
    }
    samplers: dict[str, tuple[Any, int, dict[str, Any]]] = {
        "DDIM": (sample.DDIMSampler, 1, {}),
        "Heun": (sample.HeunSampler, 2, {}),
    }
    for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
        for order in (2, 3):
            samplers[f"{name}{order}"] = (getattr(sample, f"{name}Sampler"), 1, {"order": order})
    return {
        f"azula: {solver}, {grid}": run(made, schedule, calls, **options)
        for grid, schedule in schedules.items()
        for solver, (made, calls, options) in samplers.items()
    }


# k-diffusion: denoisers at alpha = 1.


def _sampling() -> Any:
    """k_diffusion/sampling.py by itself: the package imports image and training libraries."""
    if "k_diffusion.sampling" not in sys.modules:
        found = importlib.util.find_spec("k_diffusion")
        assert found is not None
        assert found.submodule_search_locations
        folder = found.submodule_search_locations[0]
        parent = types.ModuleType("k_diffusion")
        parent.__path__ = [folder]
        utils: Any = types.ModuleType("k_diffusion.utils")
        utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
        parent.utils = utils  # type: ignore[attr-defined]
        sys.modules |= {"k_diffusion": parent, "k_diffusion.utils": utils}
        sys.modules.setdefault(
            "torchsde", types.ModuleType("torchsde")
        )  # noise of its SDE samplers
        spec = importlib.util.spec_from_file_location(
            "k_diffusion.sampling", f"{folder}/sampling.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["k_diffusion.sampling"] = module
        spec.loader.exec_module(module)
    return sys.modules["k_diffusion.sampling"]


def _k_diffusion(path: pf.Path) -> dict[str, Run]:
    k = _sampling()
    top = 152.0 if isinstance(path, pf.VP) else 160.0
    grids: dict[str, Callable[[int], Tensor]] = {
        "Karras": lambda n: k.get_sigmas_karras(n, 0.01, top),
        "Karras, sigma from 80 to 0.002": lambda n: k.get_sigmas_karras(n, 0.002, 80.0),
        "exponential": lambda n: k.get_sigmas_exponential(n, 0.01, top),
        "polyexponential, rho 0.7": lambda n: k.get_sigmas_polyexponential(n, 0.01, top, 0.7),
        "VP": lambda n: k.get_sigmas_vp(n),
    }
    samplers: dict[str, tuple[Callable[..., Tensor], int]] = {
        "euler": (k.sample_euler, 1),
        "heun": (k.sample_heun, 2),
        "dpm_2": (k.sample_dpm_2, 2),
        "lms": (k.sample_lms, 1),
        "dpmpp_2m": (k.sample_dpmpp_2m, 1),
        "dpmpp_2s": (lambda *a, **o: k.sample_dpmpp_2s_ancestral(*a, eta=0.0, **o), 2),
        "dpmpp_2m_sde, eta 0": (
            lambda *a, **o: k.sample_dpmpp_2m_sde(*a, eta=0.0, noise_sampler=len, **o),
            1,
        ),
        "dpmpp_3m_sde, eta 0": (
            lambda *a, **o: k.sample_dpmpp_3m_sde(*a, eta=0.0, noise_sampler=len, **o),
            1,
        ),
    }

    def run(sampler: Callable[..., Tensor], calls: int, grid: Callable[[int], Tensor]) -> Run:
        def go(problem: Problem, nfe: int) -> Tensor | None:
            steps = nfe if calls == 1 else (nfe + 1) // 2  # the last step, to 0, is Euler's
            if steps < 2:
                return None
            sigmas = grid(steps).double()
            return sampler(
                lambda x, s: problem(x, 1.0, float(s[0])),
                problem.at(1.0, sigmas[0]),
                sigmas,
                disable=True,
            )

        return go

    return {
        f"k-diffusion: {solver}, {grid}": run(sampler, calls, make)
        for grid, make in grids.items()
        for solver, (sampler, calls) in samplers.items()
    }


# diffusers: schedulers, which are given the network's output step by step.


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _drive(make: Callable[[], Any], kind: str, sigmas: Callable[[int], Any] | None = None) -> Run:
    """kind: how the scheduler scales its state, and what it takes from the network.

    "flow":  x = (1 - sigma) x1 + sigma x0, velocity towards the noise
    "vp":    x = (x1 + sigma x0)/sqrt(1 + sigma^2), noise
    "ve":    x = x1 + sigma x0, noise
    "index": as "vp", the noise level read from the table of time steps
    """

    @cache
    def prepared(nfe: int) -> Any:
        """The scheduler with as many steps as nfe calls allow, or None if that is too few for it."""
        sched = make()
        most = nfe if getattr(sched, "order", 1) == 1 else (nfe + 1) // 2
        for steps in range(most, 0, -1):
            try:
                if sigmas is None:
                    sched.set_timesteps(steps)
                else:
                    sched.set_timesteps(steps, sigmas=sigmas(steps))
            except (ValueError, IndexError, ZeroDivisionError):
                return None
            if len(sched.timesteps) <= nfe:
                if hasattr(sched, "set_begin_index"):
                    sched.set_begin_index(0)
                return sched
        return None

    def go(problem: Problem, nfe: int) -> Tensor | None:
        with _quiet():
            sched = copy.deepcopy(prepared(nfe))  # it keeps state
            if sched is None:
                return None
            x = None
            for i, t in enumerate(sched.timesteps):
                if kind == "index":
                    product = float(sched.alphas_cumprod[int(t)])
                    alpha, sigma = product**0.5, (1 - product) ** 0.5
                else:
                    level = float(sched.sigmas[i])
                    if getattr(sched, "state_in_first_order", True) is False and hasattr(
                        sched, "sigmas_interpol"
                    ):
                        level = float(sched.sigmas_interpol[i])
                    if kind == "flow":
                        alpha, sigma = 1 - level, level
                    elif kind == "vp":
                        alpha, sigma = 1 / (1 + level**2) ** 0.5, level / (1 + level**2) ** 0.5
                    else:
                        alpha, sigma = 1.0, level
                if x is None:
                    x = problem.at(alpha, sigma)
                noise = (x - alpha * (data := problem(x, alpha, sigma))) / sigma
                out = noise - data if kind == "flow" else noise
                x = sched.step(out, t, x).prev_sample
            return x

    return go


def _diffusers_flow() -> dict[str, Run]:
    import diffusers as d

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    runs = {}
    euler, heun = d.FlowMatchEulerDiscreteScheduler, d.FlowMatchHeunDiscreteScheduler
    runs["FlowMatchEuler"] = _drive(euler, "flow")
    runs["FlowMatchEuler, sigmas of Flux"] = _drive(
        euler, "flow", lambda n: np.linspace(1, 1 / n, n)
    )
    for grid in ("karras", "exponential", "beta"):
        runs[f"FlowMatchEuler, {grid}"] = _drive(
            lambda grid=grid: euler(**{f"use_{grid}_sigmas": True}), "flow"
        )
    runs["FlowMatchHeun"] = _drive(heun, "flow")
    common: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    for name, (kind, options) in _SOLVERS.items():
        cls = getattr(d, kind)
        runs[f"{name}, flow sigmas"] = _drive(
            lambda cls=cls, options=options: cls(**common, **options), "flow"
        )
        if kind == "UniPCMultistepScheduler":
            runs[f"{name}, flow sigmas of Flux"] = _drive(
                lambda cls=cls, options=options: cls(**common, **options),
                "flow",
                lambda n: np.linspace(1, 1 / n, n),
            )
            for grid in ("karras",):  # exponential and beta flow sigmas exceed 1: NaN
                runs[f"{name}, {grid} flow sigmas"] = _drive(
                    lambda cls=cls, options=options, grid=grid: cls(
                        **common, **options, **{f"use_{grid}_sigmas": True}
                    ),
                    "flow",
                )
    return {f"diffusers: {name}": run for name, run in runs.items()}


_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    "DPM++ 3S": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "UniPC2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "UniPC3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "DEIS2": ("DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS3": ("DEISMultistepScheduler", {"solver_order": 3}),
}
# On the variance-preserving path a last level of 0.01, taken for 0, can stand in for the jump to 0.
_LAST: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
_TO_SIGMA_MIN: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M to sigma_min": ("DPMSolverMultistepScheduler", _LAST),
    "DPM++ 3M to sigma_min": ("DPMSolverMultistepScheduler", {"solver_order": 3, **_LAST}),
    "DPM 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", **_LAST}),
    "DPM 3M": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "solver_order": 3, **_LAST},
    ),
    "UniPC2 to sigma_min": ("UniPCMultistepScheduler", _LAST),
    "UniPC2 bh1": ("UniPCMultistepScheduler", {"solver_type": "bh1", **_LAST}),
    "UniPC3 to sigma_min": ("UniPCMultistepScheduler", {"solver_order": 3, **_LAST}),
}


def _diffusers_vp() -> dict[str, Run]:
    import diffusers as d

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    spacings = {s: {"timestep_spacing": s} for s in ("linspace", "leading", "trailing")}
    levels = {g: {f"use_{g}_sigmas": True} for g in ("karras", "exponential")}
    runs = {}

    def add(
        name: str, kind: str, grids: dict[str, dict[str, Any]], scale: str, **options: Any
    ) -> None:
        cls = getattr(d, kind)
        for grid, choice in grids.items():
            runs[f"{name}, {grid}"] = _drive(lambda choice=choice: cls(**options, **choice), scale)

    for name, (kind, options) in (_SOLVERS | _TO_SIGMA_MIN).items():
        grids: dict[str, dict[str, Any]] = spacings | levels
        if kind.startswith("DPMSolverSingle"):
            grids = {"linspace": {}} | levels
        if name == "DPM++ 2M":
            grids = grids | {
                "lu": {"use_lu_lambdas": True},
                "beta": {"use_beta_sigmas": True},
            }
        add(name, kind, grids, "vp", **options)
    add("DDIM", "DDIMScheduler", spacings, "index", clip_sample=False, set_alpha_to_one=True)
    add("PNDM", "PNDMScheduler", spacings, "index", skip_prk_steps=True, set_alpha_to_one=True)
    for name in ("Euler", "Heun", "LMS", "KDPM2"):
        add(name, f"{name}DiscreteScheduler", {"linspace": {}} | levels, "ve")
    return {f"diffusers: {name}": run for name, run in runs.items()}


# What a sampler costs beyond the network.


def trivial_loops(x: Tensor, steps: int) -> dict[str, Callable[[], Tensor]]:
    """`steps` network calls with a network that returns -x, as each library's documentation writes the loop."""
    import diffusers as d
    from azula import noise, sample
    from flow_matching.solver.ode_solver import ODESolver

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    k = _sampling()

    def scheduler(make: Callable[[], Any]) -> Callable[[], Tensor]:
        sched = make()

        def loop() -> Tensor:
            sched.set_timesteps(steps)
            out = x
            for t in sched.timesteps:
                out = sched.step(-out, t, out).prev_sample
            return out

        return loop

    def meta(**options: Any) -> Callable[[], Tensor]:
        solver = ODESolver(lambda x, t: -x)
        return lambda: solver.sample(x, method="euler", **options)

    def azula(kind: Any, **options: Any) -> Callable[[], Tensor]:
        def denoiser(x: Tensor, t: Tensor) -> Any:
            return types.SimpleNamespace(mean=-x)

        denoiser.schedule = noise.RectifiedSchedule()  # type: ignore[attr-defined]
        made = kind(denoiser, steps=steps, silent=True, **options)
        return lambda: made(x)

    grid = k.get_sigmas_karras(steps, 0.01, 80.0)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return {
        "diffusers FlowMatchEuler": scheduler(d.FlowMatchEulerDiscreteScheduler),
        "diffusers DDIM": scheduler(lambda: d.DDIMScheduler(clip_sample=False)),
        "diffusers DPM++ 2M": scheduler(lambda: d.DPMSolverMultistepScheduler(**flow)),
        "diffusers DPM++ 3M": scheduler(
            lambda: d.DPMSolverMultistepScheduler(solver_order=3, **flow)
        ),
        "diffusers UniPC2": scheduler(lambda: d.UniPCMultistepScheduler(**flow)),
        "flow_matching euler, step_size": meta(step_size=1 / steps),
        "flow_matching euler, time_grid": meta(
            step_size=None, time_grid=torch.linspace(0, 1, steps + 1)
        ),
        "azula DDIM": azula(sample.DDIMSampler),
        "azula Euler": azula(sample.EulerSampler),
        "azula vAB2": azula(sample.vABSampler, order=2),
        "k-diffusion euler": lambda: k.sample_euler(lambda x, s: -x, x, grid, disable=True),
        "k-diffusion dpmpp_2m": lambda: k.sample_dpmpp_2m(lambda x, s: -x, x, grid, disable=True),
    }
