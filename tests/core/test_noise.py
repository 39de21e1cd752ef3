"""Counter-based randomness: the published vectors, the laws of the draws, and their independence of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pushforward as pf
from contracts.members import mixture
from pushforward.core import noise as module
from pushforward.core.noise import DATA, ORDER, SOURCE, TIME
from pushforward.core.philox import philox4x32

ONES = 0xFFFFFFFF


def test_uniforms_and_normals_are_the_stated_functions_of_the_words():
    noise = pf.Noise.batch(5, seed=3, step=2)
    u = (noise.words(6, 11).double() + 0.5) / 2**32
    assert torch.equal(noise.uniform((2, 3), 11), u.reshape(5, 2, 3))
    radius = torch.sqrt(-2 * torch.log(u[:, 0::2]))
    angle = 2 * math.pi * u[:, 1::2]
    z = noise.normal((6,), 11, torch.float64)
    assert torch.allclose(z[:, 0::2], radius * torch.cos(angle), rtol=1e-14, atol=1e-14)
    assert torch.allclose(z[:, 1::2], radius * torch.sin(angle), rtol=1e-14, atol=1e-14)
    assert torch.equal(noise.normal((5,), 11, torch.float64), z[:, :5])
    assert noise.normal((2, 3)).dtype == torch.float32
    # In single precision the same formula, each operation rounded once.
    single = u.float()
    radius, angle = (-2 * single[:, 0::2].log()).sqrt(), 2 * math.pi * single[:, 1::2]
    z = noise.normal((6,), 11)
    assert torch.equal(z[:, 0::2], radius * angle.cos())
    assert torch.equal(z[:, 1::2], radius * angle.sin())
    assert torch.equal(noise.normal((6,), 11, torch.bfloat16), z.bfloat16())
    # All 32 bits of a word count: 24 of them, as in single precision, would round the largest to 1.
    fine = pf.Noise.batch(4000).uniform() * 2**32 - 0.5
    assert torch.equal(fine.long().double(), fine)
    assert (fine % 2 == 1).double().mean() == pytest.approx(0.5, abs=0.05)
    assert noise.normal((), 11).shape == (5,)


ONE = pf.Noise.batch(1, seed=5)
# Words that differ in one thing only.
AXES = {
    "ids": lambda: pf.Noise.batch(20000, 5).words(1, 0)[:, 0],
    "words": lambda: ONE.words(20000, 0)[0],
    "steps": lambda: torch.cat([ONE.at(k).words(1, 0)[:, 0] for k in range(1500)]),
    "streams": lambda: torch.cat([ONE.words(1, k)[:, 0] for k in range(1500)]),
    "seeds": lambda: torch.cat([pf.Noise.batch(1, k).words(1, 0)[:, 0] for k in range(1500)]),
    "high ids": lambda: pf.Noise(5, torch.arange(20000) << 28).words(1, 0)[:, 0],
}


@pytest.mark.parametrize("axis", AXES)
def test_draws_are_uniform_and_independent_along_every_axis(axis):
    words = AXES[axis]().numpy()
    u = (words + 0.5) / 2**32
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    for lag in (1, 2, 3, 4):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / math.sqrt(len(u))
    pairs = np.histogram2d(u[:-1:2], u[1::2], bins=8)[0].ravel()
    assert stats.chisquare(pairs).pvalue > 1e-3
    # Every bit on its own is fair.
    bits = (words[:, None] >> np.arange(32)) & 1
    assert (abs(bits.mean(0) - 0.5) < 4.5 * 0.5 / math.sqrt(len(u))).all()


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
def test_normals_are_standard_normal(seed):
    z = pf.Noise.batch(20000, seed).normal((5,), SOURCE, torch.float64).numpy()
    n = z.size
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    # Moments 1 to 4 with their standard deviations sqrt(E z^2k - (E z^k)^2).
    for power, mean, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - mean) < 4.5 * math.sqrt(spread / n), power
    correlation = np.corrcoef(z.T) - np.eye(5)
    assert abs(correlation).max() < 4.5 / math.sqrt(len(z))
    squares = np.corrcoef(z.T**2) - np.eye(5)
    assert abs(squares).max() < 4.5 / math.sqrt(len(z))


@pytest.mark.parametrize("chunk", [1, 3, 8, 1 << 16])
def test_draws_do_not_depend_on_how_many_are_made_at_a_time(chunk, monkeypatch):
    noise = pf.Noise(2, torch.tensor([5, 1 << 40, 9, 7]), 3)
    draws = {"words": (29, 4), "uniform": ((5, 6), 4), "normal": ((29,), 4)}
    whole = {name: getattr(noise, name)(*arguments) for name, arguments in draws.items()}
    monkeypatch.setattr(module, "CHUNK", chunk)
    for name, arguments in draws.items():
        assert torch.equal(getattr(noise, name)(*arguments), whole[name])


def test_a_draw_does_not_depend_on_its_batch():
    whole = pf.Noise.batch(64, seed=2, step=3)
    for shape in ((), (3,), (2, 3, 2)):
        for draw in ("normal", "uniform"):
            many = getattr(whole, draw)(shape, SOURCE)
            seven = getattr(whole[5:12], draw)(shape, SOURCE)
            alone = getattr(pf.Noise(2, torch.tensor([9]), 3), draw)(shape, SOURCE)
            assert torch.equal(many[5:12], seven)
            assert torch.equal(many[9:10], alone)
            assert torch.equal(
                many.flip(0), getattr(pf.Noise(2, torch.arange(64).flip(0), 3), draw)(shape, SOURCE)
            )
    assert torch.equal(
        whole.low_discrepancy()[9:10], pf.Noise(2, torch.tensor([9]), 3).low_discrepancy()
    )
    assert torch.equal(pf.Noise.batch(4, start=7).ids, torch.tensor([7, 8, 9, 10]))
    assert len(whole[5:12]) == 7


def test_everything_in_the_key_matters():
    base = pf.Noise.batch(4, seed=1, step=1)
    others = [
        pf.Noise.batch(4, seed=2, step=1), pf.Noise.batch(4, seed=1 + 2**32, step=1),
        pf.Noise.batch(4, seed=1, step=2), pf.Noise.batch(4, seed=1, step=1, start=4),
        pf.Noise.batch(4, seed=1, step=1, start=2**32), pf.Noise.batch(4, seed=1, step=1, start=2**47), base.at(7),
    ]  # fmt: skip
    draws = [noise.words(4, 0) for noise in (base, *others)] + [
        base.words(4, 1),
        base.words(4, 2**16 - 1),
    ]
    flat = torch.cat(draws).flatten().tolist()
    assert len(set(flat)) == len(flat)
    assert torch.equal(base.at(7).at(1).words(4, 0), base.words(4, 0))


def test_long_draws_are_the_same_in_pieces_of_any_size(monkeypatch):
    noise = pf.Noise.batch(5, seed=4)
    words, normals = noise.words(1001, 0), noise.normal((1001,), 0)
    for chunk in (3, 100, 1 << 20):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert torch.equal(noise.words(1001, 0), words)
        assert torch.equal(noise.normal((1001,), 0), normals)


def star_discrepancy(u: np.ndarray) -> float:
    u, n = np.sort(u), len(u)
    i = np.arange(1, n + 1)
    return float(max((i / n - u).max(), (u - (i - 1) / n).max()))


@pytest.mark.parametrize("start", [0, 12345, 2**40, 2**48 - 5000])
@pytest.mark.parametrize("n", [8, 64, 1000, 4096])
def test_consecutive_ids_fill_the_interval_evenly(n, start):
    for seed in range(3):
        u = pf.Noise.batch(n, seed, start=start).low_discrepancy().numpy()
        assert (u >= 0).all()
        assert (u < 1).all()
        assert star_discrepancy(u) < min(3 / n * math.log(n), 2 / math.sqrt(n))


def test_the_low_discrepancy_sequence_is_the_golden_one_and_each_id_is_uniform_over_steps():
    u = pf.Noise.batch(100, seed=1, step=4).low_discrepancy()
    turns = (u - u[0] - torch.arange(100).double() * (math.sqrt(5) - 1) / 2 + 0.5) % 1 - 0.5
    assert float(turns.abs().max()) < 1e-12
    for i in (0, 17):
        steps = [float(pf.Noise(1, torch.tensor([i]), k).low_discrepancy()) for k in range(1000)]
        assert stats.kstest(steps, "uniform").pvalue > 1e-3
    assert not torch.equal(
        pf.Noise.batch(3).low_discrepancy(TIME), pf.Noise.batch(3).low_discrepancy(DATA)
    )


def test_permutations_are_permutations_and_all_equally_likely():
    noise = pf.Noise.batch(1, seed=3)
    assert torch.equal(noise.permutation(1000).sort().values, torch.arange(1000))
    counts: dict[tuple, int] = {}
    for k in range(2400):
        p = tuple(noise.at(k).permutation(4).tolist())
        counts[p] = counts.get(p, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert torch.equal(noise.permutation(50), pf.Noise.batch(9, seed=3, start=4).permutation(50))
    assert not torch.equal(noise.permutation(50), noise.at(1).permutation(50))
    assert not torch.equal(noise.permutation(50), noise.permutation(50, ORDER + 1))
    assert not torch.equal(noise.permutation(50), pf.Noise.batch(1, seed=4).permutation(50))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pf.Noise.batch(2, -1), lambda: pf.Noise.batch(2, 2**64), lambda: pf.Noise.batch(2, step=-1),
        lambda: pf.Noise.batch(2, step=2**32), lambda: pf.Noise(0, torch.zeros(2)),
        lambda: pf.Noise(0, torch.zeros(2, 2, dtype=torch.int64)), lambda: pf.Noise.batch(2).words(1, -1),
        lambda: pf.Noise.batch(2).words(1, 2**16),
    ],
)  # fmt: skip
def test_keys_out_of_range_are_errors(make):
    with pytest.raises(pf.InputError, match=r"seed|step|ids|stream"):
        make()


def test_the_ends_of_every_range_are_in_it():
    noise = pf.Noise(2**64 - 1, torch.tensor([2**48 - 1]), 2**32 - 1)
    assert noise.words(5, 2**16 - 1).tolist()[0][:4] == [
        int(word)
        for word in philox4x32([torch.tensor(c) for c in (0, ONES, ONES, ONES)], (ONES, ONES))
    ]
    assert 0 < float(noise.uniform()) < 1


@pytest.mark.parametrize(
    "solver", [pf.solvers.RK4(), pf.solvers.EulerMaruyama(0.8)], ids=["RK4", "EulerMaruyama"]
)
def test_a_generated_sample_does_not_depend_on_its_batch(solver):
    field, times = mixture(3).field(pf.CondOT()), pf.times.uniform(8)

    def generate(ids: torch.Tensor) -> torch.Tensor:
        x0 = pf.Noise(5, ids).normal((3,), SOURCE, torch.float64)
        return pf.integrate(solver, field, x0, times, seed=5, ids=ids)

    ids = torch.arange(64)
    whole = generate(ids)
    for size in (1, 7, 13):
        parts = torch.cat([generate(part) for part in ids.split(size)])
        assert float((parts - whole).abs().max()) < 1e-12
