"""Names on the command line and in config files, and the objects they stand for: the one table of each kind."""

from __future__ import annotations

from collections.abc import Callable

from pushforward.core import paths, times
from pushforward.core.errors import InputError
from pushforward.solvers import RK4, Euler, EulerMaruyama, Heun, Midpoint, Solver

PATHS: dict[str, Callable[[], paths.Path]] = {
    "condot": paths.CondOT,
    "cosine": paths.Cosine,
    "vp": paths.VP,
    "subvp": paths.SubVP,
    "ve": paths.VE,
    "edm": paths.EDM,
    "ddpm-linear": paths.DiscretePath.linear,
    "ddpm-cosine": paths.DiscretePath.cosine,
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
    "euler": lambda path: Euler(),
    "midpoint": lambda path: Midpoint(),
    "heun": lambda path: Heun(),
    "rk4": lambda path: RK4(),
    "euler-maruyama": lambda path: EulerMaruyama(path.sigma),
}
