"""The members of each contract. A new class joins by adding one line to a list here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.evaluate import kinds
from pushforward.models.text import Together, Words
from pushforward.nets import MLP, DiT, MMDiT, UNet, UViT
from pushforward.objectives import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    ControlledDenoising,
    DenoisingScoreMatching,
    FlowMatching,
    ImplicitScoreMatching,
    Levels,
    Matching,
    MeanFlow,
    NoisePrediction,
    ProgressiveDistillation,
    Shortcut,
    SlicedScoreMatching,
    squared,
)
from pushforward.solvers import (
    DDIM,
    RK4,
    AnnealedLangevin,
    ChurnedHeun,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    Learned,
    Midpoint,
    Multistep,
    PredictorCorrector,
    StochasticHeun,
)


@dataclass(frozen=True)
class UserPath(pf.Path):
    """What a user writes: alpha and sigma and nothing else."""

    def alpha(self, t: Tensor) -> Tensor:
        return t * (1 + t) / 2

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t**2


@dataclass(frozen=True)
class UserRescaled(pf.Path):
    """A user's own path of zero terminal SNR: autograd gives 0/0 at one end and infinity at the other."""

    def alpha(self, t: Tensor) -> Tensor:
        return (t**2 * (3 - t**2) / 2).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha(t) ** 2).sqrt()


ARBITRARY_BETAS = tuple(np.random.default_rng(0).uniform(1e-3, 0.3, 40).tolist())

# name: (path, (alpha(0), sigma(0)), (alpha(1), sigma(1))), the end values being those of the docstring.
_PATHS: dict[str, tuple[pf.Path, tuple[float, float], tuple[float, float]]] = {
    "CondOT": (pf.CondOT(), (0, 1), (1, 0)),
    "CondOT-blurred": (pf.CondOT(sigma_min=0.05), (0, 1), (1, 0.05)),
    "Cosine": (pf.Cosine(), (0, 1), (1, 0)),
    "VP": (pf.VP(), (0.006571586495, 0.999978406894), (1, 0)),
    "VP-other": (pf.VP(0.5, 8.0), (exp(-2.125), sqrt(1 - exp(-4.25))), (1, 0)),
    "SubVP": (pf.SubVP(), (0.006571586495, 0.999956814251), (1, 0)),
    "VE": (pf.VE(), (1, 50), (1, 0.01)),
    "VE-other": (pf.VE(0.1, 5.0), (1, 5), (1, 0.1)),
    "EDM": (pf.EDM(), (1, 80), (1, 0.002)),
    "EDM-other": (pf.EDM(0.05, 10.0, 3.0), (1, 10), (1, 0.05)),
    "DDPM-linear": (pf.DDPMPath.linear(), (sqrt(4.035829765e-5), sqrt(1 - 4.035829765e-5)), (1, 0)),
    "DDPM-cosine": (pf.DDPMPath.cosine(), (4.9282e-5, 0.9999999988), (1, 0)),
    "DDPM-arbitrary": (
        pf.DDPMPath(ARBITRARY_BETAS),
        (
            float(np.sqrt(np.prod(1 - np.array(ARBITRARY_BETAS)))),
            float(np.sqrt(1 - np.prod(1 - np.array(ARBITRARY_BETAS)))),
        ),
        (1, 0),
    ),
    "DDPM-rescaled": (pf.DDPMPath.scaled_linear().rescaled(), (0, 1), (1, 0)),
    "DDPM-rescaled-arbitrary": (pf.DDPMPath(ARBITRARY_BETAS).rescaled(), (0, 1), (1, 0)),
    "user-made": (UserPath(), (0, 1), (1, 0)),
    "user-made-rescaled": (UserRescaled(), (0, 1), (1, 0)),
}  # fmt: skip

PATHS = [pytest.param(path, id=name) for name, (path, _, _) in _PATHS.items()]
PATHS_WITH_ENDS = [pytest.param(*values, id=name) for name, values in _PATHS.items()]
# Three that differ in everything: straight and exact, curved, and with a singular derivative at the data.
THREE_PATHS = [pytest.param(_PATHS[name][0], id=name) for name in ("CondOT", "Cosine", "VP")]

# Deterministic solvers: (solver, order, calls of the field in one step).
ODE_SOLVERS = [
    pytest.param(Euler(), 1, 1, id="Euler"),
    pytest.param(Midpoint(), 2, 2, id="Midpoint"),
    pytest.param(Heun(), 2, 2, id="Heun"),
    pytest.param(RK4(), 4, 4, id="RK4"),
    pytest.param(ChurnedHeun(), 2, 2, id="ChurnedHeun-0"),
    pytest.param(Multistep("velocity", "time", 1), 1, 1, id="Adams-1"),
    pytest.param(Multistep("velocity", "time", 2), 2, 1, id="Adams-2"),
    pytest.param(Multistep("velocity", "time", 3), 3, 1, id="Adams-3"),
    pytest.param(Multistep("data", "log_snr", 2), 2, 1, id="data-log_snr-2"),
    pytest.param(Multistep("noise", "ratio", 2), 2, 1, id="noise-ratio-2"),
    pytest.param(Multistep("velocity", "time", 4), 4, 1, id="Adams-4"),
    pytest.param(Multistep("data", "log_snr", 4), 4, 1, id="data-log_snr-4"),
    pytest.param(DPMSolver(1), 1, 1, id="DPM-1"),
    pytest.param(DPMSolver(2), 2, 2, id="DPM-2"),
    pytest.param(DPMSolver(3), 3, 3, id="DPM-3"),
    pytest.param(DPMSolver(2, "data"), 2, 2, id="DPM++2S"),
    pytest.param(DPMSolver(3, "data"), 3, 3, id="DPM++3S"),
]
# Exact for white data, where all others are for a single point; tests/solvers/test_learned.py has their order.
LEARNED_SOLVERS = [
    pytest.param(Learned(None), 3, 1, id="Learned-classical"),
    pytest.param(Learned(), 3, 1, id="Learned"),
]
SDE_SOLVERS = [
    pytest.param(EulerMaruyama(0.7), 1, 1, id="EulerMaruyama"),
    pytest.param(StochasticHeun(0.7), 2, 2, id="StochasticHeun"),
    pytest.param(AnnealedLangevin(0.1, 2), 1, 2, id="AnnealedLangevin"),
    pytest.param(PredictorCorrector(DDIM(), Langevin(0.1, 2)), 1, 3, id="PredictorCorrector-DDIM"),
    pytest.param(Multistep("data", "log_snr", 2, eta=1.0), 1, 1, id="DPM++2M-SDE"),
    pytest.param(Multistep("data", "log_snr", 3, "always", eta=0.5), 1, 1, id="SA-Solver"),
    pytest.param(DPMSolver(2, "data", eta=1.0), 2, 2, id="DPM++2S-ancestral"),
    pytest.param(DPMSolver(2, "data", eta=1.0, sde=True), 2, 2, id="DPM++SDE"),
]
SOLVERS = ODE_SOLVERS + LEARNED_SOLVERS + SDE_SOLVERS

# Objectives: (class, the prediction in which errors are squared).
OBJECTIVES = [
    pytest.param(FlowMatching, "velocity", id="FlowMatching"),
    pytest.param(DenoisingScoreMatching, "score", id="DenoisingScoreMatching"),
    pytest.param(NoisePrediction, "noise", id="NoisePrediction"),
    pytest.param(lambda m, **k: Matching(m, loss_in="data", **k), "data", id="Matching-data"),
    pytest.param(lambda m, **k: Matching(m, loss_in="v", **k), "v", id="Matching-v"),
]

# Those whose minimiser is the score as well, without being the regression of a target.
SCORE_OBJECTIVES = [
    pytest.param(ImplicitScoreMatching, "score", id="ImplicitScoreMatching"),
    pytest.param(SlicedScoreMatching, "score", id="SlicedScoreMatching"),
    pytest.param(ControlledDenoising, "score", id="ControlledDenoising"),
]

FINE = torch.tensor([0.0, 0.15, 0.3, 0.4, 0.7, 0.85, 1.0], dtype=torch.float64)

# Objectives for few steps: (model, an exact field, an exact flow map) -> objective, and whether it learns from these.
FLOW_MAP_OBJECTIVES = [
    pytest.param(lambda m, u, x, **k: MeanFlow(m, share=0.5, **k), False, id="MeanFlow"),
    pytest.param(lambda m, u, x, **k: MeanFlow(m, u, share=0.5, **k), True, id="MeanFlow-taught"),
    pytest.param(
        lambda m, u, x, **k: MeanFlow(m, guidance=2.0, **({"condition_dropout": 0.1} | k)),
        False,
        id="MeanFlow-guided",
    ),
    pytest.param(lambda m, u, x, **k: ContinuousConsistency(m, **k), False, id="Continuous"),
    pytest.param(
        lambda m, u, x, **k: ContinuousConsistency(m, u, **k), True, id="Continuous-taught"
    ),
    pytest.param(
        lambda m, u, x, **k: ConsistencyTraining(m, Levels(8, 8), **k), False, id="Consistency"
    ),
    pytest.param(
        lambda m, u, x, **k: ConsistencyDistillation(m, Levels(8, 8), squared, teacher=x, **k),
        True,
        id="Consistency-taught",
    ),
    pytest.param(
        lambda m, u, x, **k: ProgressiveDistillation(m, x, FINE, "velocity", **k),
        True,
        id="ProgressiveDistillation",
    ),
    pytest.param(lambda m, u, x, **k: Shortcut(m, finest=8, share=0.4, **k), False, id="Shortcut"),
    pytest.param(
        lambda m, u, x, **k: Shortcut(m, x, finest=8, share=0.0, **k), True, id="Shortcut-taught"
    ),
]

# Encoders of texts: a builder.
ENCODERS: list[Any] = [
    pytest.param(lambda: Words(("red", "circle", "a", "."), length=6), id="Words"),
    pytest.param(lambda: Together((Words(("a",)), Words(("b",), name="other"))), id="Together"),
]

# Networks: (builder, shape of one sample, number of classes or None).
NETS: list[Any] = [
    pytest.param(lambda: MLP(2, 16, 2), (2,), None, id="MLP"),
    pytest.param(
        lambda: MLP(4, 16, 1, classes=3, time="fourier"), (4,), 3, id="MLP-classes-fourier"
    ),
    pytest.param(lambda: UNet(1, 8), (1, 8, 8), None, id="UNet"),
    pytest.param(lambda: UNet(3, 8, classes=3), (3, 9, 7), 3, id="UNet-odd-classes"),
    pytest.param(
        lambda: UNet(2, 8, (1, 2, 3), 2, (1,), 4, time="fourier"),
        (2, 12, 10),
        4,
        id="UNet-attention",
    ),
    pytest.param(
        lambda: MLP(3, 16, 2, classes=2, time="smooth", two_times=True),
        (3,),
        2,
        id="MLP-two-times-smooth",
    ),
    pytest.param(lambda: MLP(2, 16, 1, two_times=True), (2,), None, id="MLP-two-times"),
    pytest.param(
        lambda: UNet(2, 8, (1, 2), attention=(1,), classes=3, time="smooth", two_times=True),
        (2, 7, 8),
        3,
        id="UNet-two-times-smooth-attention",
    ),
    pytest.param(
        lambda: UNet(1, 8, (1, 2), attention=(1,), classes=2, qk_norm=True, residual_scale=0.7),
        (1, 6, 7),
        2,
        id="UNet-qk-norm-scaled",
    ),
    pytest.param(
        lambda: UNet(2, 8, (1, 1, 2), attention=(2,), classes=3, head_width=4, resample="residual"),
        (2, 7, 10),
        3,
        id="UNet-residual-narrow-heads",
    ),
    pytest.param(
        lambda: UViT(1, (8, 16), 1, 8, 16, 1, 2, classes=3, positions="rope"),
        (1, 8, 10),
        3,
        id="UViT",
    ),
    pytest.param(
        lambda: UViT(
            2, (8,), 2, 8, 16, 1, 2, two_times=True, in_channels=6, features=("age",), qk_norm=False
        ),
        (2, 7, 6),
        None,
        id="UViT-odd-two-times-control-features",
    ),
    pytest.param(lambda: DiT(1, 2, 16, 2, 2), (1, 8, 8), None, id="DiT"),
    pytest.param(
        lambda: DiT(3, 4, 16, 1, 2, classes=3, positions="learned", size=(12, 6)),
        (3, 9, 7),
        3,
        id="DiT-learned-odd-classes",
    ),
    pytest.param(
        lambda: DiT(2, 2, 16, 2, 2, classes=4, positions="rope", qk_norm=True, time="fourier"),
        (2, 6, 5),
        4,
        id="DiT-rope-qk-norm-fourier",
    ),
    pytest.param(
        lambda: DiT(2, 3, 16, 1, 2, classes=3, time="smooth", two_times=True),
        (2, 7, 8),
        3,
        id="DiT-two-times-smooth",
    ),
    pytest.param(
        lambda: UNet(1, 8, (1, 2), time="fourier", two_times=True),
        (1, 6, 6),
        None,
        id="UNet-two-times-fourier",
    ),
    pytest.param(lambda: MLP(3, 16, 1, features=["dose", "age"]), (3,), None, id="MLP-features"),
    pytest.param(
        lambda: UNet(2, 8, (1, 2), attention=(1,), classes=2, dims=1, features=["dose"]),
        (2, 11),
        2,
        id="UNet-signals",
    ),
    pytest.param(
        lambda: UNet(1, 8, (1, 2), dims=3, resample="residual", two_times=True),
        (1, 5, 4, 3),
        None,
        id="UNet-volumes",
    ),
    pytest.param(lambda: UNet(2, 8, in_channels=5), (2, 7, 6), None, id="UNet-control"),
    pytest.param(
        lambda: DiT(2, 1, 16, 2, 2, classes=3, dims=1, positions="rope"),
        (2, 6),
        3,
        id="DiT-sequences-rope",
    ),
    pytest.param(
        lambda: DiT(3, 1, 16, 1, 2, dims=1, channels_last=True, two_times=True, features=["ph"]),
        (7, 3),
        None,
        id="DiT-sequences-channels-last",
    ),
    pytest.param(
        lambda: DiT(2, (1, 2, 2), 24, 1, 2, dims=3, positions="learned", size=(3, 4, 5)),
        (2, 3, 4, 5),
        None,
        id="DiT-volumes",
    ),
    pytest.param(
        lambda: DiT(1, 2, 16, 1, 2, classes=2, in_channels=3, features=["dose"]),
        (1, 5, 6),
        2,
        id="DiT-control",
    ),
    pytest.param(lambda: MMDiT(1, 2, 16, 2, 2), (1, 8, 6), None, id="MMDiT-no-text"),
    pytest.param(
        lambda: MMDiT(
            2,
            2,
            16,
            2,
            2,
            5,
            3,
            qk_norm=True,
            positions="table",
            size=8,
            max_size=6,
            dual_attention=(0,),
            two_times=True,
        ),
        (2, 7, 8),
        None,
        id="MMDiT-table-dual-qk-norm-two-times",
    ),
    pytest.param(
        lambda: MMDiT(
            2,
            4,
            16,
            1,
            2,
            5,
            classes=3,
            positions="rope",
            single_blocks=1,
            in_channels=5,
            bottleneck=3,
            stem=4,
            features=["dose"],
            time="smooth",
        ),
        (2, 9, 7),
        3,
        id="MMDiT-rope-single-control-stem",
    ),
]

# Couplings: (coupling, whether it leaves x0 and x1 independent).
COUPLINGS = [
    pytest.param(pf.couplings.independent, True, id="independent"),
    pytest.param(pf.couplings.OptimalTransport(), False, id="OptimalTransport"),
    pytest.param(pf.couplings.Sinkhorn(0.3), False, id="Sinkhorn"),
    pytest.param(pf.couplings.Sinkhorn(0.1, relative=True), False, id="Sinkhorn-relative"),
    pytest.param(pf.couplings.ConditionalTransport(), False, id="ConditionalTransport"),
]

# Kinds of data: (the object of `kinds.KINDS`, a shape of its samples, and one of another kind).
KINDS = [
    pytest.param(kinds.of(pf.DataSpec(kind="plane")), (2,), (3,), id="plane"),
    pytest.param(kinds.of(pf.DataSpec(kind="vector")), (5,), (5, 2), id="vector"),
    pytest.param(kinds.of(pf.DataSpec(kind="signal")), (2, 30), (30,), id="signal"),
    pytest.param(kinds.of(pf.DataSpec(kind="image")), (3, 8, 6), (8, 6), id="image"),
    pytest.param(kinds.of(pf.DataSpec(kind="volume")), (1, 4, 5, 6), (4, 5, 6), id="volume"),
    pytest.param(kinds.of(pf.DataSpec(kind="sequence")), (9, 2), (9,), id="sequence"),
]


class Lookup(nn.Module):
    """A network that answers with the exact field: for tests that need a Model with nothing to learn."""

    def __init__(self, field: pf.ExactField, want: str) -> None:
        super().__init__()
        self.field, self.want = field, want

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self.field(x, t, self.want, **cond)


class Counted:
    """A field that counts its calls and remembers its times."""

    def __init__(self, field: Any) -> None:
        self.field, self.path, self.calls, self.times = field, field.path, 0, []

    def __call__(self, x: Tensor, t: Any, want: str = "velocity", **cond: Tensor) -> Tensor:
        self.calls += 1
        self.times.append(torch.as_tensor(t).clone())
        return self.field(x, t, want, **cond)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def mixture(
    dim: int = 2, count: int = 3, kind: str = "full", seed: int = 1, **extra: Any
) -> pf.GaussianMixture:
    """A mixture with nothing special about it: unequal weights, unequal means, unequal covariances."""
    means = 1.5 * randn(count, dim, seed=seed)
    root = 0.4 * randn(count, dim, dim, seed=seed + 1) + 0.5 * torch.eye(dim, dtype=torch.float64)
    full = root @ root.mT + 0.05 * torch.eye(dim, dtype=torch.float64)
    covariances = {
        "full": full,
        "diagonal": full.diagonal(dim1=1, dim2=2),
        "isotropic": full[:, 0, 0],
    }
    weights = 0.3 + rand(count, seed=seed + 2)
    return pf.GaussianMixture(means, covariances[kind], weights / weights.sum(), **extra)


def has_share(hits: Tensor, truth: float) -> bool:
    """Whether the share of True among independent trials is the true one, within 4.5 standard errors."""
    error = sqrt(truth * (1 - truth) / hits.numel())
    return abs(float(hits.double().mean()) - truth) <= 4.5 * error


Field = Callable[..., Tensor]


def relative(got: Tensor, truth: Tensor) -> float:
    """Largest error of a sample, relative to the largest norm of the truth."""
    error = (
        (got - truth).flatten(1).norm(dim=1).max() if got.ndim > 1 else (got - truth).abs().max()
    )
    scale = truth.flatten(1).norm(dim=1).max() if truth.ndim > 1 else truth.abs().max()
    return float(error / scale.clamp(min=1e-30))
