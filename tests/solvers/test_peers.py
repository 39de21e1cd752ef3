"""Solvers against diffusers and k-diffusion: the same grid, exact field and noise give the same states.

Run by `make test-peers`; skipped where a peer is not installed.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.core.noise import SOLVER
from pushforward.solvers import DDIM, ChurnedHeun, DPMSolver, Multistep

PATH = pf.VP()
FIELD = mixture(2).field(PATH)
X = randn(6, 2, seed=3)
N, SEED = 12, 5
GRIDS = {
    "log-SNR": pf.times.log_snr(N, PATH, 0.0, 0.98),
    "straight": pf.times.straight(N, PATH, 0.0, 0.98),
}


def ours(solver, times: torch.Tensor) -> torch.Tensor:
    return pf.integrate(solver, FIELD, X, times, seed=SEED)


def draw(i: int) -> torch.Tensor:
    """The noise of step i."""
    return pf.Noise.batch(len(X), SEED).at(i).normal(X.shape[1:], SOLVER, torch.float64)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


# k-diffusion: y = x/alpha on a grid of sigma/alpha, in float64.


@pytest.fixture(scope="module")
def k_diffusion():
    """Its sampling.py alone: the package imports much that is not needed here."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        pytest.skip("k-diffusion is not installed")
    stubs = {
        name: types.ModuleType(name)
        for name in ("k_alone", "k_alone.utils", "torchsde", "torchdiffeq")
    }
    stubs["k_alone"].__path__ = []  # type: ignore[attr-defined]
    stubs["k_alone.utils"].append_dims = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))  # type: ignore[attr-defined]
    stubs["k_alone"].utils = stubs["k_alone.utils"]  # type: ignore[attr-defined]
    stubs["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        place = Path(spec.origin).parent / "sampling.py"
        alone = importlib.util.spec_from_file_location("k_alone.sampling", place)
        module = importlib.util.module_from_spec(alone)
        alone.loader.exec_module(module)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return module


K_DIFFUSION = {
    "euler": (DDIM(), {}),
    "heun": (ChurnedHeun(), {}),
    "dpm_2": (DPMSolver(2), {}),
    "lms-1": (Multistep("noise", "ratio", 1, "none"), {"order": 1}),
    "lms-2": (Multistep("noise", "ratio", 2, "none"), {"order": 2}),
    "lms-3": (Multistep("noise", "ratio", 3, "none"), {"order": 3}),
    "lms-4": (Multistep("noise", "ratio", 4, "none"), {"order": 4}),
    "euler_ancestral": (DDIM(0.7), {"eta": 0.7}),
    "euler_ancestral-dpm": (DPMSolver(1, eta=1.0), {"eta": 1.0}),
    "dpmpp_2s_ancestral": (DPMSolver(2, "data", eta=1.0), {"eta": 1.0}),
    "dpmpp_2s_ancestral-less": (DPMSolver(2, "data", eta=0.6), {"eta": 0.6}),
    "dpmpp_2s_ancestral-none": (DPMSolver(2, "data"), {"eta": 0.0}),
    "dpmpp_sde": (DPMSolver(2, "data", eta=1.0, sde=True), {"eta": 1.0}),
    "dpmpp_sde-less": (DPMSolver(2, "data", 0.4, eta=0.6, sde=True), {"eta": 0.6, "r": 0.4}),
    "dpmpp_sde-none": (DPMSolver(2, "data"), {"eta": 0.0}),
    "dpmpp_2m": (Multistep(weights="bh2"), {}),
    "dpmpp_2m_sde-midpoint": (
        Multistep(weights="bh2", eta=1.0), {"eta": 1.0, "solver_type": "midpoint"},
    ),
    "dpmpp_2m_sde-heun": (Multistep(eta=0.6), {"eta": 0.6, "solver_type": "heun"}),
    "dpmpp_2m_sde-none": (Multistep(), {"eta": 0.0, "solver_type": "heun"}),
    "dpmpp_3m_sde": (Multistep(points=3, corrector="none", weights="halved", eta=1.0), {"eta": 1.0}),
    "dpmpp_3m_sde-less": (
        Multistep(points=3, corrector="none", weights="halved", eta=0.3), {"eta": 0.3},
    ),
    "dpmpp_3m_sde-none": (
        Multistep(points=3, corrector="none", weights="halved"), {"eta": 0.0},
    ),
}  # fmt: skip


def brownian(levels: torch.Tensor, extra: dict):
    """Its two noises of a step, from our two normals: parts of one path, of the variances that eta leaves."""
    eta, r = extra["eta"], extra.get("r", 0.5)
    calls = iter(range(2 * N))

    def kept(high, low):
        """(level of the step, variance of its noise) from sigma = high to low."""
        variance = eta**2 * low**2 * (1 - low**2 / high**2)
        return (low**2 - variance).sqrt(), variance

    def sampler(*_):
        step, second = divmod(next(calls), 2)
        z, rest = (
            pf.Noise.batch(len(X), SEED).at(step).normal((2, 2), SOLVER, torch.float64).unbind(1)
        )
        if not second or eta == 0:
            return z
        high, low = levels[step], levels[step + 1]
        middle = high ** (1 - r) * low**r
        carried = kept(middle, low)[0] / middle * kept(high, middle)[1].sqrt()
        rho = carried / kept(high, low)[1].sqrt()
        return rho * z + (1 - rho**2).sqrt() * rest

    return sampler


def by_k_diffusion(module, name: str, times: torch.Tensor, extra: dict) -> torch.Tensor:
    alpha, levels = PATH.alpha(times), PATH.edm_sigma(times)
    asked = []

    def model(y, sigma, **_):
        # The times of the grid for its levels, so that nothing is lost on the way back; others are computed.
        at = PATH.time_of_edm_sigma(sigma[0])
        near = (levels / sigma[0] - 1).abs().argmin()
        at = times[near] if abs(float(levels[near] / sigma[0]) - 1) < 1e-12 else at
        asked.append(float(at))
        return FIELD(PATH.alpha(at) * y, at, "data")

    if name.startswith("dpmpp_sde"):
        extra = extra | {"noise_sampler": brownian(levels, extra)}
    elif "ancestral" in name or "sde" in name:
        steps = iter(range(N))
        extra = extra | {"noise_sampler": lambda *_: draw(next(steps))}
    sampler = getattr(module, "sample_" + name.partition("-")[0])
    return alpha[-1] * sampler(model, X / alpha[0], levels, disable=True, **extra)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", K_DIFFUSION)
def test_states_are_those_of_k_diffusion(k_diffusion, name, grid):
    solver, extra = K_DIFFUSION[name]
    times = GRIDS[grid]
    assert error(ours(solver, times), by_k_diffusion(k_diffusion, name, times, extra)) < 1e-10


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2", "euler_ancestral", "lms-3"])
def test_to_sigma_zero_k_diffusion_takes_an_euler_step_where_this_library_goes_on_with_its_order(
    k_diffusion, name
):
    solver, extra = K_DIFFUSION[name]
    times = torch.cat((GRIDS["straight"], torch.ones(1, dtype=torch.float64)))
    far = error(ours(solver, times), by_k_diffusion(k_diffusion, name, times, extra))
    assert far > 1e-4 if name == "dpm_2" else far < 1e-10


# diffusers: x itself, on VP; its tables are replaced by those of the grid, in float64.


def diffusers_class(name: str):
    pytest.importorskip("diffusers")
    module = {
        "DPMSolverMultistepScheduler": "dpmsolver_multistep",
        "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
        "UniPCMultistepScheduler": "unipc_multistep",
        "DEISMultistepScheduler": "deis_multistep",
        "DDIMScheduler": "ddim",
    }[name]
    return getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{module}"), name)


@pytest.fixture
def doubles():
    """Numbers that peers make on the way are float64 then."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


DPM, UNIPC, DEIS = (
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
SINGLE = "DPMSolverSinglestepScheduler"


def plus(order: int, solver_type: str = "midpoint", sde: bool = False) -> dict:
    name = "sde-dpmsolver++" if sde else "dpmsolver++"
    return {"solver_order": order, "solver_type": solver_type, "algorithm_type": name}


def unipc(order: int, solver_type: str = "bh2", **extra) -> dict:
    return {"solver_order": order, "solver_type": solver_type, **extra}


OFF = list(range(N))  # no corrector at any step
DIFFUSERS = {
    "DPM++1": (Multistep(points=1), DPM, plus(1), "sample"),
    "DPM++2M": (Multistep(weights="bh2"), DPM, plus(2), "sample"),
    "DPM++2M-heun": (Multistep(), DPM, plus(2, "heun"), "sample"),
    "DPM++3M": (Multistep(points=3, corrector="none", weights="halved"), DPM, plus(3, "heun"), "sample"),
    "DPM2M": (
        Multistep("noise", weights="bh2"), DPM,
        {"solver_order": 2, "algorithm_type": "dpmsolver"}, "epsilon",
    ),
    "DPM2M-heun": (
        Multistep("noise"), DPM,
        {"solver_order": 2, "algorithm_type": "dpmsolver", "solver_type": "heun"}, "epsilon",
    ),
    "SDE-DPM++1": (Multistep(points=1, eta=1.0), DPM, plus(1, sde=True), "sample"),
    "SDE-DPM++2M": (Multistep(weights="bh2", eta=1.0), DPM, plus(2, sde=True), "sample"),
    "SDE-DPM++2M-heun": (Multistep(eta=1.0), DPM, plus(2, "heun", True), "sample"),
    "SDE-DPM1": (
        Multistep("noise", points=1, eta=1.0), DPM,
        {"solver_order": 1, "algorithm_type": "sde-dpmsolver"}, "epsilon",
    ),
    "SDE-DPM2M": (
        Multistep("noise", weights="bh2", eta=1.0), DPM,
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver"}, "epsilon",
    ),
    "SDE-DPM2M-heun": (
        Multistep("noise", eta=1.0), DPM,
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver", "solver_type": "heun"}, "epsilon",
    ),
    "UniP2-bh2": (Multistep(weights="bh2"), UNIPC, unipc(2, disable_corrector=OFF), "sample"),
    "UniP2-bh1": (Multistep(weights="bh1"), UNIPC, unipc(2, "bh1", disable_corrector=OFF), "sample"),
    "UniPC1-bh2": (Multistep(points=1, corrector="always", weights="bh2"), UNIPC, unipc(1), "sample"),
    "UniPC2-bh2": (Multistep(points=2, corrector="always", weights="bh2"), UNIPC, unipc(2), "sample"),
    "UniPC2-bh1": (
        Multistep(points=2, corrector="always", weights="bh1"), UNIPC, unipc(2, "bh1"), "sample",
    ),
    "UniPC3-bh2": (Multistep(points=3, corrector="always", weights="bh2"), UNIPC, unipc(3), "sample"),
    "DEIS1": (Multistep("noise", points=1), DEIS, {"solver_order": 1}, "epsilon"),
    "DEIS2": (Multistep("noise"), DEIS, {"solver_order": 2}, "epsilon"),
    "DEIS3": (Multistep("noise", points=3, corrector="none"), DEIS, {"solver_order": 3}, "epsilon"),
    "DPM++2S": (DPMSolver(2, "data"), SINGLE, plus(2), "sample"),
    "DPM-2": (
        DPMSolver(2), SINGLE,
        {"solver_order": 2, "algorithm_type": "dpmsolver", "solver_type": "midpoint"}, "epsilon",
    ),
}  # fmt: skip


def by_diffusers(cls: str, config: dict, want: str, times: torch.Tensor) -> torch.Tensor:
    if cls != DPM:
        config = {k: v for k, v in config.items() if v != "sde"}
    common = {"prediction_type": want, "final_sigmas_type": "sigma_min", "lower_order_final": False}
    if cls == DEIS:
        del common["final_sigmas_type"]
    scheduler = diffusers_class(cls)(**common, **config)
    scheduler.set_timesteps(len(times) - 1)
    scheduler.timesteps, scheduler.sigmas = torch.arange(len(times) - 1), PATH.edm_sigma(times)
    x = X
    for i, t in enumerate(times[:-1]):
        value = FIELD(x.double(), t, "data" if want == "sample" else "noise")
        extra = {"variance_noise": draw(i)} if "sde" in config.get("algorithm_type", "") else {}
        x = scheduler.step(value, scheduler.timesteps[i], x, return_dict=False, **extra)[0]
    return x.double()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", DIFFUSERS)
def test_states_are_those_of_diffusers(doubles, name, grid):
    solver, cls, config, want = DIFFUSERS[name]
    times = GRIDS[grid]
    if cls == SINGLE:
        # Its steps are two of the grid's, the inner point being where the grid has it: halfway in log-SNR here.
        if grid != "log-SNR":
            pytest.skip("r1 = 1/2 is that of grids uniform in log-SNR")
        got = ours(solver, times[::2])
    else:
        got = ours(solver, times)
    assert error(got, by_diffusers(cls, config, want, times)) < TOLERANCE.get(cls, 1e-10)


# These turn states into float32 on the way.
TOLERANCE = {DPM: 3e-6}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(doubles, eta):
    path = pf.DDPMPath.linear()
    field = mixture(2).field(path)
    scheduler = diffusers_class("DDIMScheduler")(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False
    )
    scheduler.set_timesteps(10)
    scheduler.alphas_cumprod = path.alpha(path.time_of_step(torch.arange(1, 1001).double())) ** 2
    x, steps = X, scheduler.timesteps
    times = path.time_of_step(torch.cat((steps + 1, torch.zeros(1))).double())
    for i, k in enumerate(steps):
        noise = {"variance_noise": draw(i)} if eta else {}
        x = scheduler.step(field(x, times[i], "noise"), k, x, eta=eta, **noise).prev_sample
    for solver in (DDIM(eta), DPMSolver(1, "noise", eta=eta), DPMSolver(1, "data", eta=eta)):
        assert error(pf.integrate(solver, field, X, times, seed=SEED), x) < 1e-10
