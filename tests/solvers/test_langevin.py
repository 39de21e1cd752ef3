"""Langevin dynamics: its stationary law with the error of the step, the weights of modes, correctors."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import THREE_PATHS, Counted, mixture, randn
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.solvers import (
    DDIM,
    AnnealedLangevin,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    Multistep,
    PredictorCorrector,
    SignalToNoise,
    langevin,
)

LAW = mixture(2, 3, "full", seed=4)
# The example of Song & Ermon 2019, fig. 3: two modes of unequal weight, far apart.
MODES = pf.GaussianMixture([[-4.0, -4.0], [4.0, 4.0]], 0.3, [0.2, 0.8])
LADDER = pf.VE(0.1, 20.0)


class Fixed:
    """Noise whose normals are given, for every draw of a step."""

    def __init__(self, z) -> None:
        self.z, self.asked = torch.as_tensor(z, dtype=torch.float64), []

    def normal(self, shape, stream, dtype):
        self.asked.append((tuple(shape), stream))
        return torch.zeros(2, *shape) if self.z.ndim == 0 else self.z.to(dtype)

    def __getitem__(self, rows):
        return self


def at(t, n):
    return torch.full((n,), float(t), dtype=torch.float64)


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("step", [0.05, 0.5, 2.0])
def test_the_stationary_variance_of_a_gaussian_is_known_with_the_error_of_the_step(step, path):
    # x -> A x + b + c z keeps the variance c^2/(1 - A^2) = V/(1 - eps/4V), and the mean b/(1 - A).
    field, t = pf.GaussianMixture([[0.8]], 0.6).field(path), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    variance, eps = 0.6 * alpha**2 + sigma**2, step * sigma**2
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    still, moved = (
        Langevin(step).correct(field, probe, at(t, 2), Fixed(torch.full((2, 1, 1), z)))
        for z in (0.0, 1.0)
    )
    slope, offset, spread = (float(v) for v in (still[1] - still[0], still[0], moved[0] - still[0]))
    assert spread**2 / (1 - slope**2) == pytest.approx(variance / (1 - eps / (4 * variance)))
    assert offset / (1 - slope) == pytest.approx(0.8 * alpha)


def test_a_long_chain_reaches_that_law_in_many_dimensions():
    path, n = pf.CondOT(), 3000
    field = pf.GaussianMixture(torch.zeros(1, 3), [[0.2, 0.6, 1.5]]).field(path)
    x = langevin(field, 3 * randn(n, 3, seed=1), 0.5, 120, corrector=Langevin(0.8), seed=4)
    variance = 0.25 * torch.tensor([0.2, 0.6, 1.5]).double() + 0.25
    want = variance / (1 - 0.8 * 0.25 / (4 * variance))
    assert ((x.var(0) / want - 1).abs() < 4.5 * math.sqrt(2 / n)).all()
    assert (x.mean(0).abs() < 4.5 * (want / n).sqrt()).all()


class Still:
    """A field whose score is 0: only noise moves the state."""

    path = pf.CondOT()

    def __call__(self, x, t, want="velocity", **cond):
        return torch.zeros_like(x)


def test_every_draw_of_every_step_has_numbers_of_its_own():
    n = 4000
    x, times = torch.zeros(n, 1, dtype=torch.float64), at(0.5, n)
    for corrector, eps in ((Langevin(0.4, 5), 0.1), (SignalToNoise(0.2, 5), 0.5)):
        moved = corrector.correct(Still(), x, times, pf.Noise.batch(n, 3))
        assert float(moved.var()) == pytest.approx(5 * eps, rel=4.5 * math.sqrt(2 / n))
    # Five steps of one draw or one step of five: other numbers, the same law; and steps of a chain differ.
    one = langevin(Still(), x, 0.5, 5, corrector=Langevin(0.4), seed=3)
    assert float(one.var()) == pytest.approx(0.5, rel=4.5 * math.sqrt(2 / n))
    assert torch.equal(one, langevin(Still(), x, 0.5, 5, corrector=Langevin(0.4), seed=3))
    # Predictor and corrector draw from streams of their own.
    noise = Fixed(0.0)
    both = PredictorCorrector(EulerMaruyama(0.5), Langevin(0.1, 3))
    both.step(LAW.field(pf.CondOT()), randn(2, 2), at(0.2, 2), at(0.3, 2), None, noise)
    assert noise.asked == [((2,), pf.noise.SOLVER), ((3, 2), pf.noise.CORRECTOR)]


def share(x):
    """Fraction of samples near the second mode, and near either."""
    near = [float(((x - m).norm(dim=1) < 2).double().mean()) for m in (-4.0, 4.0)]
    return near[1], sum(near)


def test_annealed_langevin_finds_the_weights_of_modes_and_plain_langevin_does_not():
    n, field = 1200, MODES.field(LADDER)
    x = 16 * torch.rand(n, 2, generator=torch.Generator().manual_seed(0)).double() - 8
    plain = langevin(field, x, 1.0, 200, corrector=Langevin(5.0))
    # From a uniform start, the basins of the modes get half of the samples each.
    assert share(plain)[1] > 0.98
    assert abs(share(plain)[0] - 0.5) < 0.05
    start = LADDER.source_std * randn(n, 2, seed=1)
    x1 = pf.integrate(AnnealedLangevin(0.4, 10), field, start, pf.times.uniform(50), seed=2)
    assert share(x1)[1] > 0.98
    assert abs(share(x1)[0] - 0.8) < 4.5 * math.sqrt(0.16 / n)
    truth = LADDER.sample(randn(n, 2, seed=5), MODES.sample(n, seed=6), 1.0)
    assert energy_distance(x1, truth) < 0.02
    assert energy_distance(plain, truth) > 0.3


def test_levels_from_small_noise_to_large_fail():
    n, field = 1000, MODES.field(LADDER)
    x = LADDER.source_std * randn(n, 2, seed=1)
    for i, t in enumerate(pf.times.uniform(40).flip(0)):
        x = Langevin(0.2, 8).correct(field, x, t.expand(n), pf.Noise.batch(n, 2, i))
    assert share(x)[1] < 0.2
    with pytest.raises(pf.InputError, match="increasing times"):
        pf.integrate(AnnealedLangevin(), field, x, pf.times.uniform(40).flip(0))


@pytest.mark.parametrize("denoise", [False, True])
def test_annealed_langevin_is_algorithm_1_of_song_and_ermon(denoise):
    path, n, eps = pf.VE(0.01, 1.0), 3, 2e-5
    field, grid, noise = MODES.field(path), pf.times.uniform(6), pf.Noise.batch(5, 9)
    x = start = randn(5, 2, seed=1)
    sigmas = path.sigma(grid[1:])
    for i, sigma in enumerate(sigmas):
        size = eps * sigma**2 / sigmas[-1] ** 2
        z = noise.at(i).normal((n, 2), pf.noise.CORRECTOR, torch.float64)
        for k in range(n):
            x = x + size / 2 * field(x, grid[i + 1], "score") + size.sqrt() * z[:, k]
    if denoise:
        x = x + sigmas[-1] ** 2 * field(x, 1.0, "score")
    solver = AnnealedLangevin(eps / 0.01**2, n, denoise)
    counted = Counted(field)
    assert torch.allclose(pf.integrate(solver, counted, start, grid, seed=9), x, atol=1e-9)
    assert counted.calls == 6 * n + denoise


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM(0.05, 20.0)], ids=repr)
def test_annealed_langevin_ends_in_the_law_on_every_path(path):
    n = 1000
    x = path.source_std * randn(n, 2, seed=1)
    grid = pf.times.log_snr(50, path, 0.0, 1.0, 1e-2)
    x1 = pf.integrate(AnnealedLangevin(0.4, 10, True), LAW.field(path), x, grid, seed=2)
    sets = [LAW.sample(n, seed=20 + i) for i in range(3)]
    assert energy_distance(x1, sets[0]) < 0.03
    # One sample's path is that of another scale: states of equal sigma/alpha are the same up to alpha.
    assert energy_distance(1.3 * x1, sets[0]) > 0.03


def test_annealed_langevin_takes_one_path_for_another_up_to_scale():
    one, other = pf.VP(), pf.EDM()
    levels = torch.logspace(1, -2, 8, dtype=torch.float64)
    grids = [path.time_of_edm_sigma(levels) for path in (one, other)]
    y = 10 * randn(6, 2, seed=1)
    runs = [
        pf.integrate(AnnealedLangevin(), LAW.field(p), p.alpha(g[:1]) * y, g, seed=3)
        / p.alpha(g[-1])
        for p, g in zip((one, other), grids, strict=True)
    ]
    assert torch.allclose(*runs, rtol=1e-6, atol=1e-6)


def test_the_last_step_to_the_data_is_denoising():
    field, x = LAW.field(pf.CondOT()), randn(4, 2, seed=1)
    times = torch.tensor([0.6, 1.0])
    got = pf.integrate(AnnealedLangevin(0.1, 3), field, x, times)
    assert torch.equal(got, field(x, times[0].double(), "data"))
    # From alpha = 0 the noise is scaled, and the dynamics start there.
    got = pf.integrate(AnnealedLangevin(0.0, 3), field, x, torch.tensor([0.0, 0.25]))
    assert torch.allclose(got, 0.75 * x)


@pytest.mark.parametrize("dim", [4, 16])
def test_a_step_size_by_each_samples_score_keeps_another_law(dim):
    # The stationary law of size ~ 1/|score|^2 is p |score|^2: for N(0, V I), variance V (D + 2)/D.
    n, path = 1500, pf.CondOT()
    field = pf.GaussianMixture(torch.zeros(1, dim), 1.0).field(path)
    x = math.sqrt(0.5) * randn(n, dim, seed=1)
    by_score = langevin(field, x, 0.5, 250, corrector=SignalToNoise(0.12), seed=2)
    fixed = langevin(field, x, 0.5, 250, corrector=Langevin(4 * 0.12**2), seed=2)
    error = 4.5 * math.sqrt(2 / (n * dim)) + 0.03
    assert float(by_score.var()) / 0.5 == pytest.approx((dim + 2) / dim, rel=error + 0.03)
    assert float(fixed.var()) / 0.5 == pytest.approx(1, rel=error)


def test_the_signal_to_noise_step_is_that_of_song_et_al():
    # eps_theirs = 2 (r |z| / |g|)^2, x + eps g + sqrt(2 eps) z, with |z| = sqrt(D).
    field, x, t = LAW.field(pf.VP()), 3 * randn(6, 2, seed=1), at(0.6, 6)
    z = randn(6, 1, 2, seed=2)
    g = field(x, t, "score")
    theirs = 2 * (0.16 * math.sqrt(2) / g.norm(dim=1, keepdim=True)) ** 2
    theirs = torch.minimum(theirs, pf.VP().sigma(t)[:, None] ** 2)
    want = x + theirs * g + (2 * theirs).sqrt() * z[:, 0]
    assert torch.allclose(SignalToNoise().correct(field, x, t, Fixed(z)), want, atol=1e-12)


def test_a_corrector_of_step_zero_leaves_the_predictor_as_it_is():
    field, x, times = LAW.field(pf.Cosine()), randn(5, 2, seed=1), pf.times.uniform(6)
    for predictor in (Euler(), Heun(), DDIM(), DDIM(0.7), EulerMaruyama(0.5)):
        for corrector in (Langevin(0.0), SignalToNoise(0.0)):
            got = pf.integrate(PredictorCorrector(predictor, corrector), field, x, times, seed=1)
            assert torch.equal(got, pf.integrate(predictor, field, x, times, seed=1))
    # A predictor with memory starts afresh.
    multistep = PredictorCorrector(Multistep("data", "log_snr", 2), Langevin(0.0))
    first = pf.integrate(Multistep("data", "log_snr", 1), field, x, times)
    assert torch.allclose(pf.integrate(multistep, field, x, times), first, atol=1e-12)


@pytest.mark.parametrize("path", [pf.VP(), pf.CondOT(), pf.VE(0.05, 20.0)], ids=repr)
def test_a_corrector_brings_a_coarse_predictor_closer_to_the_law(path):
    n = 1500
    times = pf.times.straight(10, path)
    if float(path.alpha(times[:1])) == 1:
        times = pf.times.uniform(10)
    x = path.source_std * randn(n, 2, seed=1)
    truth = [path.sample(randn(n, 2, seed=7 + i), LAW.sample(n, seed=20 + i), 1.0) for i in (0, 1)]
    plain = pf.integrate(DDIM(), LAW.field(path), x, times, seed=2)
    both = PredictorCorrector(DDIM(), Langevin(0.3, 4))
    corrected = pf.integrate(both, LAW.field(path), x, times, seed=2)
    far = [energy_distance(v, truth[0]) for v in (plain, corrected)]
    assert far[1] < 0.7 * far[0], far
    assert far[1] < 0.03


def test_nothing_is_corrected_where_no_noise_is_left():
    # Two atoms: at sigma = 0 anything but the data is an error.
    field = pf.Empirical(torch.tensor([[1.0, 0.0], [-1.0, 2.0]])).field(pf.CondOT())
    x = randn(3, 2, seed=1)
    times = torch.stack(
        (pf.times.uniform(5), pf.times.uniform(5, 0.1, 0.7), pf.times.uniform(5, 0.2, 1.0))
    )
    for solver in (
        PredictorCorrector(DDIM(), Langevin(0.1, 2)),
        PredictorCorrector(DDIM(1.0), SignalToNoise()),
        AnnealedLangevin(0.1, 2, True),
    ):
        together = pf.integrate(solver, field, x, times, seed=3)
        assert together.isfinite().all()
        for i in range(3):
            alone = pf.integrate(solver, field, x[i : i + 1], times[i], seed=3, ids=torch.tensor([i]))  # fmt: skip
            assert torch.allclose(together[i : i + 1], alone, atol=1e-12)


def test_conditions_and_batches_reach_the_corrector():
    law = mixture(2, 3, labels=[0, 1, 2])
    x, label = randn(3, 2, seed=1), torch.tensor([2, 0, 1])
    kept = langevin(law.field(pf.CondOT()), x, 0.7, 6, label=label)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = langevin(law.field(pf.CondOT()), x[rows], 0.7, 6, ids=torch.tensor([i]), label=label[rows])  # fmt: skip
        assert torch.allclose(alone, kept[rows], atol=1e-12)
    drawn = pf.generate(
        LAW.field(pf.VP()), 7, solver=PredictorCorrector(DDIM(), Langevin(0.1, 2)), nfe=30, batch_size=3
    )  # fmt: skip
    whole = pf.generate(LAW.field(pf.VP()), 7, solver=PredictorCorrector(DDIM(), Langevin(0.1, 2)), nfe=30)  # fmt: skip
    assert torch.allclose(drawn, whole, atol=1e-12)


def test_what_is_not_defined_is_an_error():
    x, times = randn(3, 2), pf.times.uniform(3)
    other = LAW.field(pf.CondOT(gaussian_source=False))
    for solver in (AnnealedLangevin(), PredictorCorrector(Euler(), Langevin())):
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            pf.integrate(solver, other, x, times)
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        langevin(other, x, 0.5, 3)
    with pytest.raises(pf.InputError, match="need some noise"):
        langevin(LAW.field(pf.CondOT()), x, 1.0, 3)
    for make in (Langevin, AnnealedLangevin):
        for bad in ((-0.1,), (float("nan"),), (0.1, 0)):
            with pytest.raises(pf.InputError, match=r"step is|at least 1"):
                make(*bad)
    for bad in ((-0.1,), (float("nan"),), (0.1, 0)):
        with pytest.raises(pf.InputError, match=r"signal-to-noise|at least 1"):
            SignalToNoise(*bad)
    with pytest.raises(pf.InputError, match="at least 1"):
        langevin(LAW.field(pf.CondOT()), x, 0.5, 0)
