"""The laws of training times against the densities that their papers print, and the grids against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

import pushforward as pf
from contracts.members import PATHS
from pushforward.core.times import CosMap, EDMLogNormal, LogitNormal, Mode, TimeDraw, Uniform


def logit_normal_cdf(mean: float, std: float):
    # SD3, eq. 19: density exp(-(logit t - m)^2 / 2 s^2) / (s sqrt(2 pi) t (1 - t)).
    def density(t):
        return np.exp(-((np.log(t / (1 - t)) - mean) ** 2) / (2 * std**2)) / (
            std * np.sqrt(2 * np.pi) * t * (1 - t)
        )

    return np.vectorize(lambda t: integrate.quad(density, 0, t, limit=200)[0])


def cosmap_cdf(t):
    # SD3, eq. 21: density 2 / (pi - 2 pi t + 2 pi t^2).
    return np.vectorize(
        lambda t: integrate.quad(lambda s: 2 / (np.pi - 2 * np.pi * s + 2 * np.pi * s**2), 0, t)[0]
    )(t)


def mode_cdf(scale: float):
    # SD3, eq. 20: f(u) = 1 - u - s (cos^2(pi u/2) - 1 + u), falling in u, so that P(t <= f(u)) = 1 - u.
    def f(u):
        return 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)

    return np.vectorize(lambda t: 1 - optimize.brentq(lambda u: f(u) - t, 0, 1))


def edm_cdf(path, mean, std):
    # Karras et al., table 1: ln sigma ~ N(mean, std^2); sigma falls in t.
    return lambda t: (
        1 - stats.norm(mean, std).cdf(np.log(path.edm_sigma(torch.as_tensor(t)).numpy()))
    )


DRAWS = [
    pytest.param(Uniform(), stats.uniform.cdf, id="Uniform"),
    pytest.param(Uniform(0.2, 0.7), stats.uniform(0.2, 0.5).cdf, id="Uniform-part"),
    pytest.param(LogitNormal(), logit_normal_cdf(0, 1), id="LogitNormal"),
    pytest.param(LogitNormal(0.7, 0.6), logit_normal_cdf(0.7, 0.6), id="LogitNormal-data"),
    pytest.param(Mode(), mode_cdf(1.29), id="Mode"),
    pytest.param(Mode(-0.8), mode_cdf(-0.8), id="Mode-ends"),
    pytest.param(CosMap(), cosmap_cdf, id="CosMap"),
    pytest.param(EDMLogNormal(pf.EDM()), edm_cdf(pf.EDM(), -1.2, 1.2), id="EDM"),
    pytest.param(
        EDMLogNormal(pf.CondOT(), -0.4, 1.0), edm_cdf(pf.CondOT(), -0.4, 1.0), id="EDM-on-CondOT"
    ),
]


@pytest.mark.parametrize(("draw", "cdf"), DRAWS)
def test_training_times_have_their_published_law(draw, cdf):
    t = draw(pf.Noise.batch(3000, seed=11))
    assert t.dtype == torch.float64
    assert t.shape == (3000,)
    assert ((t >= 0) & (t <= 1)).all()
    assert stats.kstest(t.numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize(("draw", "cdf"), DRAWS)
def test_the_quantile_function_inverts_the_published_law(draw, cdf):
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    level = np.asarray(cdf(draw.quantile(u).numpy()))
    rising = level[-1] > level[0]
    assert np.allclose(level, u if rising else 1 - u, atol=1e-7)


@pytest.mark.parametrize(("draw", "cdf"), DRAWS)
def test_low_discrepancy_times_keep_their_law_and_cover_it_evenly(draw, cdf):
    even = type(draw)(
        **{**{f: getattr(draw, f) for f in draw.__dataclass_fields__}, "low_discrepancy": True}
    )
    n = 500
    t = even(pf.Noise.batch(n, seed=3))
    assert stats.kstest(t.numpy(), cdf).statistic < 3 / n * math.log(n)
    over_steps = torch.cat([even(pf.Noise(3, torch.tensor([6]), k)) for k in range(800)])
    assert stats.kstest(over_steps.numpy(), cdf).pvalue > 1e-3
    assert torch.equal(even(pf.Noise.batch(n, seed=3)[40:50]), t[40:50])


def test_times_differ_between_steps_and_do_not_depend_on_the_batch():
    noise = pf.Noise.batch(64, seed=1)
    t = LogitNormal()(noise)
    assert torch.equal(LogitNormal()(noise[3:9]), t[3:9])
    assert not torch.equal(LogitNormal()(noise.at(1)), t)


def test_extreme_uniforms_give_times_inside_the_interval():
    class Ends(TimeDraw):
        def quantile(self, u):
            return u

    noise = pf.Noise.batch(5)
    for draw in (Ends(), Ends(low_discrepancy=True)):
        assert ((draw(noise) > 0) & (draw(noise) < 1)).all()
    u = torch.tensor([2.0**-33, 1 - 2.0**-33], dtype=torch.float64)
    for draw in (LogitNormal(), Mode(), CosMap(), EDMLogNormal(pf.VP())):
        assert ((draw.quantile(u) >= 0) & (draw.quantile(u) <= 1)).all()


def test_a_low_discrepancy_draw_never_hits_the_ends_of_the_open_interval(monkeypatch):
    seen = []

    class Spy(TimeDraw):
        def quantile(self, u):
            seen.append(u)
            return u

    monkeypatch.setattr(
        pf.Noise, "low_discrepancy", lambda self, stream: torch.tensor([0.0, 1.0]).double()
    )
    Spy(low_discrepancy=True)(pf.Noise.batch(2))
    assert seen[0].tolist() == [2.0**-33, 1 - 2.0**-33]


def test_times_of_cosmap_on_condot_have_the_log_snr_of_uniform_times_on_cosine():
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(
        pf.CondOT().log_snr(CosMap().quantile(u)), pf.Cosine().log_snr(u), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0.5, 0.5), lambda: Uniform(-0.1, 0.5), lambda: Uniform(0.5, 1.1), lambda: LogitNormal(0, 0),
        lambda: Mode(-1.01), lambda: Mode(1.76), lambda: EDMLogNormal(pf.EDM(), std=0), lambda: pf.times.uniform(0),
        lambda: pf.times.uniform(3, 0.5, 0.5), lambda: pf.times.quadratic(0), lambda: pf.times.shifted(3, 0.0),
        lambda: pf.times.quadratic(3, 0.6, 0.4), lambda: pf.times.shifted(0),
        lambda: pf.times.karras(0, pf.EDM()), lambda: pf.times.log_snr(3, pf.EDM(), 0.9, 0.1),
    ],
)  # fmt: skip
def test_ranges_that_are_none_are_errors(make):
    with pytest.raises(pf.InputError):
        make()


def test_the_extreme_scales_of_the_mode_law_are_monotone():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for scale in (-1.0, 1.75, 2 / (math.pi - 2)):
        assert (Mode(scale).quantile(u).diff() <= 1e-15).all()


GRIDS = [
    pytest.param(lambda n, path, **k: pf.times.uniform(n, **k), id="uniform"),
    pytest.param(lambda n, path, **k: pf.times.quadratic(n, **k), id="quadratic"),
    pytest.param(lambda n, path, **k: pf.times.shifted(n, 3.0, **k), id="shifted"),
    pytest.param(lambda n, path, **k: pf.times.shifted(n, 0.4, **k), id="shifted-back"),
    pytest.param(lambda n, path, **k: pf.times.log_snr(n, path, **k), id="log_snr"),
    pytest.param(lambda n, path, **k: pf.times.karras(n, path, **k), id="karras"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_has_n_steps_that_increase_from_start_to_end(grid, path):
    for n in (1, 2, 5, 37):
        for start, end in ((0.0, 1.0), (0.1, 0.8), (0.0, 0.5), (0.3, 1.0)):
            t = grid(n, path, start=start, end=end)
            assert t.dtype == torch.float64
            assert t.shape == (n + 1,)
            assert t[0] == pytest.approx(start, abs=1e-12)
            assert t[-1] == pytest.approx(end, abs=1e-12)
            assert (t.diff() > 0).all()
        whole = grid(n, path)
        assert whole[0] == 0
        assert whole[-1] == 1


def test_uniform_and_quadratic_and_shifted_grids_are_their_formulas():
    i = np.arange(11) / 10
    assert np.allclose(pf.times.uniform(10, 0.2, 0.6), 0.2 + 0.4 * i)
    # DDIM, app. D.2: noise times c (i/n)^2.
    assert np.allclose(1 - pf.times.quadratic(10).numpy(), ((10 - np.arange(11)) / 10) ** 2)
    assert np.allclose(pf.times.quadratic(10, 0.2, 0.6), 0.2 + 0.4 * (1 - (1 - i) ** 2))
    # SD3, eq. 23: t_m = sqrt(m/n) t_n / (1 + (sqrt(m/n) - 1) t_n), noise at 1.
    s = 1 - i
    assert np.allclose(1 - pf.times.shifted(10, 2.5).numpy(), 2.5 * s / (1 + 1.5 * s))
    assert np.allclose(pf.times.shifted(10, 1.0), i)
    assert np.allclose(pf.times.shifted(10, 1.0, 0.2, 0.6), 0.2 + 0.4 * i)
    part = 1 - pf.times.shifted(10, 2.5, 0.2, 0.6).numpy()
    assert np.allclose(np.diff(part / (2.5 - 1.5 * part), 2), 0, atol=1e-12)
    # The purpose of the shift: sigma/alpha is multiplied by it on CondOT.
    t = pf.times.shifted(10, 2.5)[1:-1]
    assert torch.allclose(
        pf.CondOT().edm_sigma(t), 2.5 * pf.CondOT().edm_sigma(pf.times.uniform(10)[1:-1])
    )


@pytest.mark.parametrize("path", PATHS)
def test_the_log_snr_grid_is_equally_spaced_in_log_snr(path):
    level = path.log_snr(pf.times.log_snr(12, path, 0.05, 0.9))
    assert torch.allclose(
        level, torch.linspace(level[0], level[-1], 13, dtype=torch.float64), rtol=1e-8, atol=1e-8
    )
    inner = path.log_snr(pf.times.log_snr(12, path, margin=0.01))[1:-1].diff()
    assert torch.allclose(inner, inner[:1].expand(10), rtol=1e-7)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rho", [7.0, 2.0])
def test_the_karras_grid_is_the_formula_of_its_paper(path, rho):
    n = 17
    t = pf.times.karras(n, path, rho, 0.05, 0.95)
    top, bottom = path.edm_sigma(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    i = np.arange(n + 1)
    published = (top ** (1 / rho) + i / n * (bottom ** (1 / rho) - top ** (1 / rho))) ** rho
    assert np.allclose(path.edm_sigma(t), published, rtol=1e-7)


def test_the_karras_grid_of_the_edm_path_is_uniform_in_its_time():
    assert torch.allclose(pf.times.karras(9, pf.EDM()), pf.times.uniform(9), atol=1e-12)


@pytest.mark.parametrize("margin", [1e-2, 1e-4])
def test_the_margin_sets_the_outermost_noise_levels_where_they_are_infinite(margin):
    path = pf.CondOT()
    ends = path.log_snr(torch.tensor([margin, 1 - margin], dtype=torch.float64))
    t = pf.times.log_snr(4, path, margin=margin)
    assert torch.allclose(
        path.log_snr(t[1:4]), torch.linspace(*ends.tolist(), 5, dtype=torch.float64)[1:4], atol=1e-9
    )
    sigma = (ends / -14).exp()
    t = pf.times.karras(4, path, margin=margin)
    roots = torch.linspace(*sigma.tolist(), 5, dtype=torch.float64)[1:4]
    assert torch.allclose(path.edm_sigma(t[1:4]) ** (1 / 7), roots, rtol=1e-9)


def test_the_margin_shrinks_with_the_interval():
    path, margin = pf.CondOT(), 1e-2
    ends = path.log_snr(torch.tensor([0.5 * margin, 0.5], dtype=torch.float64)).tolist()
    inner = torch.linspace(*ends, 5, dtype=torch.float64)[1:4]
    assert torch.allclose(
        path.log_snr(pf.times.log_snr(4, path, 0.0, 0.5, margin=margin)[1:4]), inner, atol=1e-9
    )
    ends = path.log_snr(torch.tensor([0.6, 1 - 0.4 * margin], dtype=torch.float64)).tolist()
    inner = torch.linspace(*ends, 5, dtype=torch.float64)[1:4]
    assert torch.allclose(
        path.log_snr(pf.times.log_snr(4, path, 0.6, 1.0, margin=margin)[1:4]), inner, atol=1e-9
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.9), (0.0, 0.6), (0.35, 1.0)])
def test_the_share_of_the_data_rises_by_the_same_amount_in_every_step(start, end, path):
    times = pf.times.straight(9, path, start, end)
    share = path.alpha(times) / (path.alpha(times) + path.sigma(times))
    steps = share.diff()
    assert torch.allclose(steps, steps.mean().expand(9), rtol=1e-7, atol=1e-9)
    assert times.shape == (10,)
    assert times.dtype == torch.float64
    assert (times[0], times[-1]) == (start, end)
    assert (times.diff() > 0).all()


def test_on_the_straight_path_the_straight_grid_is_uniform():
    for n, start, end in ((1, 0.0, 1.0), (7, 0.0, 1.0), (5, 0.2, 0.7)):
        got = pf.times.straight(n, pf.CondOT(), start, end)
        assert torch.allclose(got, pf.times.uniform(n, start, end), atol=1e-14)
    # A path and its ratio alpha/sigma on CondOT: the same log-SNR at every point.
    times = pf.times.straight(6, pf.Cosine())[1:-1]
    assert torch.allclose(
        pf.Cosine().log_snr(times), pf.CondOT().log_snr(pf.times.uniform(6)[1:-1]), atol=1e-12
    )


def test_straight_grids_that_are_none_are_errors():
    for n, start, end in ((0, 0.0, 1.0), (3, 0.5, 0.5), (3, -0.1, 1.0), (3, 0.0, 1.1)):
        with pytest.raises(pf.InputError):
            pf.times.straight(n, pf.VP(), start, end)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_moved_times_have_so_many_times_the_noise_and_keep_the_ends(shift):
    t = pf.times.uniform(9)
    found = pf.times.moved(t, shift)
    assert torch.equal(found[[0, -1]], t[[0, -1]])
    inside = slice(1, -1)
    ratio = ((1 - found) / found)[inside] / ((1 - t) / t)[inside]
    assert torch.allclose(ratio, torch.full_like(ratio, shift))
    assert torch.allclose(found, pf.times.shifted(9, shift), atol=1e-15)
