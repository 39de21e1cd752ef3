"""Names on the command line and in config files, and the objects they stand for: the one table of each kind."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pushforward.core import interpolants, paths, times
from pushforward.core.errors import InputError
from pushforward.solvers import (
    DDIM,
    DDPM,
    RK4,
    AnnealedLangevin,
    ChurnedHeun,
    DormandPrince,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    Learned,
    Midpoint,
    Multistep,
    PredictorCorrector,
    Solver,
    StochasticHeun,
)
from pushforward.solvers.sde import NoiseLevel

PATHS: dict[str, Callable[[], paths.Path]] = {
    "condot": paths.CondOT,
    "cosine": paths.Cosine,
    "vp": paths.VP,
    "subvp": paths.SubVP,
    "ve": paths.VE,
    "edm": paths.EDM,
    "ddpm-linear": paths.DDPMPath.linear,
    "ddpm-cosine": paths.DDPMPath.cosine,
    "tube": interpolants.Tube,
    "brownian": interpolants.BrownianBridge,
    "smooth-bridge": interpolants.SmoothBridge,
}


def training_times(name: str, path: paths.Path, low_discrepancy: bool) -> times.TimeDraw:
    match name:
        case "uniform":
            return times.Uniform(low_discrepancy=low_discrepancy)
        case "logit-normal":
            return times.LogitNormal(low_discrepancy=low_discrepancy)
        case "mode":
            return times.Mode(low_discrepancy=low_discrepancy)
        case "cosmap":
            return times.CosMap(low_discrepancy=low_discrepancy)
        case "edm":
            return times.EDMLogNormal(path, low_discrepancy=low_discrepancy)
    raise InputError(f"there is no law of times {name!r}")


# Solvers take the path, since the noise level of one of them depends on it.
SOLVERS: dict[str, Callable[[paths.Path], Solver]] = {
    "learned": lambda path: Learned(),
    # Adams, Bashforth, Moulton: the learned method without what it learned.
    "abm3": lambda path: Learned(None),
    "euler": lambda path: Euler(),
    "midpoint": lambda path: Midpoint(),
    "heun": lambda path: Heun(),
    "rk4": lambda path: RK4(),
    "dopri5": lambda path: DormandPrince(),
    "ab2": lambda path: Multistep("velocity", "time", 2),
    "ab3": lambda path: Multistep("velocity", "time", 3),
    "ab4": lambda path: Multistep("velocity", "time", 4),
    "deis2": lambda path: Multistep("noise", "time", 2),
    "deis3": lambda path: Multistep("noise", "time", 3),
    "lms": lambda path: Multistep("noise", "ratio", 4),
    "dpm++2m": lambda path: Multistep("data", "log_snr", 2),
    "dpm++3m": lambda path: Multistep("data", "log_snr", 3),
    "unipc2": lambda path: Multistep("data", "log_snr", 2, "always"),
    "unipc3": lambda path: Multistep("data", "log_snr", 3, "always"),
    "dpm++2m-sde": lambda path: Multistep("data", "log_snr", 2, eta=1),
    "dpm++3m-sde": lambda path: Multistep("data", "log_snr", 3, eta=1),
    "sa-solver": lambda path: Multistep("data", "log_snr", 3, "always", eta=1),
    "dpm2m": lambda path: Multistep("noise", "log_snr", 2),
    "dpm3m": lambda path: Multistep("noise", "log_snr", 3),
    "dpm2": lambda path: DPMSolver(2),
    "dpm3": lambda path: DPMSolver(3),
    "dpm++2s": lambda path: DPMSolver(2, "data"),
    "dpm++3s": lambda path: DPMSolver(3, "data"),
    "dpm++2s-ancestral": lambda path: DPMSolver(2, "data", eta=1),
    "dpm++sde": lambda path: DPMSolver(2, "data", eta=1, sde=True),
    "ddim": lambda path: DDIM(),
    "ddpm": lambda path: DDPM(),
    "euler-maruyama": lambda path: EulerMaruyama(noise_level(path)),
    "stochastic-heun": lambda path: StochasticHeun(path.sigma),
    "euler-ancestral": lambda path: DDIM(eta=1),
    "edm": lambda path: ChurnedHeun(),
    "edm-churn": lambda path: ChurnedHeun(40, 0.05, 50, 1.003),
    "annealed-langevin": lambda path: AnnealedLangevin(),
    "predictor-corrector": lambda path: PredictorCorrector(DDPM(), Langevin(4 * 0.16**2)),
}


def noise_level(path: paths.Path) -> NoiseLevel:
    """The g of a stochastic solver on a path: that of its Brownian motion, or sigma(t)."""
    return path.std if isinstance(path, interpolants.BrownianBridge) else path.sigma


# Those whose samples are a function of more than the noise at the start.
STOCHASTIC = frozenset({
    "dpm++2m-sde", "dpm++3m-sde", "sa-solver", "dpm++2s-ancestral", "dpm++sde", "ddpm", "euler-maruyama",
    "stochastic-heun", "euler-ancestral", "edm-churn", "annealed-langevin", "predictor-corrector",
})  # fmt: skip

# Times of n steps on a path.
GRIDS: dict[str, Callable[[int, paths.Path], Tensor]] = {
    "learned": lambda n, path: Learned().grid(n, path),
    "angle": Learned(None).grid,
    "straight": times.straight,
    "uniform": lambda n, path: times.uniform(n),
    "quadratic": lambda n, path: times.quadratic(n),
    "shifted": lambda n, path: times.shifted(n),
    "log-snr": times.log_snr,
    "karras": times.karras,
}
