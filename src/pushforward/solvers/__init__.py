"""Solvers: one step from x_t to x_s each, and the driver that strings them together."""

from pushforward.solvers.adaptive import DormandPrince
from pushforward.solvers.ancestral import DDIM, DDPM
from pushforward.solvers.base import Solver, integrate
from pushforward.solvers.exponential import DPMSolver
from pushforward.solvers.fewstep import FlowMapSampler, SolverFlowMap
from pushforward.solvers.inverse import Inverse
from pushforward.solvers.karras import ChurnedHeun
from pushforward.solvers.langevin import (
    AnnealedLangevin,
    Langevin,
    PredictorCorrector,
    SignalToNoise,
    langevin,
)
from pushforward.solvers.learned import Learned
from pushforward.solvers.multistep import Multistep
from pushforward.solvers.ode import RK4, Euler, Heun, Midpoint, RungeKutta
from pushforward.solvers.sde import EulerMaruyama, Reversal, StochasticHeun

__all__ = [
    "DDIM",
    "DDPM",
    "RK4",
    "AnnealedLangevin",
    "ChurnedHeun",
    "DPMSolver",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "FlowMapSampler",
    "Heun",
    "Inverse",
    "Langevin",
    "Learned",
    "Midpoint",
    "Multistep",
    "PredictorCorrector",
    "Reversal",
    "RungeKutta",
    "SignalToNoise",
    "Solver",
    "SolverFlowMap",
    "StochasticHeun",
    "integrate",
    "langevin",
]
