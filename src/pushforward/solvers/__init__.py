"""Solvers: one step from x_t to x_s each, and the driver that strings them together."""

from pushforward.solvers.base import Solver, integrate
from pushforward.solvers.ode import RK4, Euler, Heun, Midpoint, RungeKutta
from pushforward.solvers.sde import EulerMaruyama

__all__ = ["RK4", "Euler", "EulerMaruyama", "Heun", "Midpoint", "RungeKutta", "Solver", "integrate"]
