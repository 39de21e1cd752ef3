"""Solvers: one step from x_t to x_s each, and the driver that strings them together."""

from pushforward.solvers.adaptive import DormandPrince
from pushforward.solvers.ancestral import DDIM, DDPM
from pushforward.solvers.base import Solver, integrate
from pushforward.solvers.multistep import Multistep
from pushforward.solvers.ode import RK4, Euler, Heun, Midpoint, RungeKutta
from pushforward.solvers.sde import EulerMaruyama

__all__ = [
    "DDIM",
    "DDPM",
    "RK4",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Midpoint",
    "Multistep",
    "RungeKutta",
    "Solver",
    "integrate",
]
