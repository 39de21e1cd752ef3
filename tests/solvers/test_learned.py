"""The learned multistep method: its classical core, its network, and what it gains on laws it has not seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pushforward as pf
from contracts.members import THREE_PATHS, Counted, mixture, rand, randn
from pushforward.solvers import Learned, Multistep
from pushforward.solvers.learned import COORDINATES, Weights, universal

ALL_PATHS = [
    pf.CondOT(), pf.Cosine(), pf.VP(), pf.SubVP(), pf.VE(), pf.EDM(), pf.DDPMPath.linear(),
]  # fmt: skip


def random_weights(width=6, orders=5, seed=0, scale=0.5) -> Weights:
    shapes = {
        "density": (3, orders), "step": (width, 8), "history": (width, 14),
        "bias": (width,), "out": (4, width), "constant": (4,),
    }  # fmt: skip
    return Weights(
        **{k: scale * randn(*v, seed=seed + i) for i, (k, v) in enumerate(shapes.items())}
    )


def angle(path, t):
    return torch.atan2(path.alpha(t), path.sigma(t))


def solution(field, x, steps=400):
    """The end of the exact flow, by a method that shares no code with the one under test."""
    grid = pf.times.straight(steps, field.path)
    return pf.integrate(pf.solvers.RK4(), field, x, grid)


# The classical method.


def predictor_corrector(field, x, times):
    """Adams-Bashforth of order 3 in the angle, each step redone by Adams-Moulton once the value at its end is known."""
    path = field.path
    theta = angle(path, times).tolist()
    r = torch.hypot(path.alpha(times), path.sigma(times)).tolist()
    z, before, values = x / r[0], None, []

    def moved(start, i, nodes):
        """start + int over step i of the polynomial through the values at `nodes`."""
        total = start
        for j in nodes:
            others = [theta[k] for k in nodes if k != j]
            basis = np.poly1d(others, r=True) / np.prod([theta[j] - o for o in others])
            primitive = basis.integ()
            total = total + (primitive(theta[i + 1]) - primitive(theta[i])) * values[j]
        return total

    for i in range(len(times) - 1):
        v = field(z * r[i], times[i], "v")
        values.append(-v / r[i])
        if i:
            z = moved(before, i - 1, [j for j in (i, i - 1, i - 2, i - 3) if j >= 0])
        before = z
        z = moved(z, i, [j for j in (i, i - 1, i - 2) if j >= 0])
    return z * r[-1]


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_without_weights_it_is_the_predictor_with_its_corrector(path, steps):
    inner = rand(steps - 1, seed=steps).sort().values
    times = torch.cat((torch.zeros(1), inner, torch.ones(1))).double()
    field, x = mixture().field(path), path.source_std * randn(5, 2)
    expected = predictor_corrector(field, x, times)
    got = pf.integrate(Learned(None), field, x, times)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", [None, "universal"])
@pytest.mark.parametrize("path", THREE_PATHS)
def test_the_order_is_three(path, weights):
    solver = Learned() if weights else Learned(None)
    field, x = mixture(3, 2).field(path), path.source_std * randn(8, 3)
    exact = solution(field, x, 400)
    steps = [100, 200, 400]
    errors = [
        float((pf.integrate(solver, field, x, solver.grid(n, path)) - exact).norm()) for n in steps
    ]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] > 2.6
    assert errors[-1] < 1e-6 * math.sqrt(len(x))


def test_the_flow_of_white_data_is_exact_in_any_number_of_steps():
    # z does not move at all where data and noise have the same law.
    law = pf.GaussianMixture(torch.zeros(1, 3), torch.ones(1))
    for path in ALL_PATHS:
        x = path.source_std * randn(6, 3)
        ends = torch.tensor([0.0, 1.0]).double()
        r = torch.hypot(path.alpha(ends), path.sigma(ends))
        for solver in (Learned(None), Learned(), Learned(random_weights())):
            got = pf.integrate(solver, law.field(path), x, solver.grid(4, path))
            torch.testing.assert_close(got, x * r[1] / r[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weights", [None, "random", "universal"])
def test_all_paths_are_one_in_the_angle(weights):
    # Along any path, states of equal angle are the same up to r: so are all steps, and so are their errors.
    solver = {"random": Learned(random_weights()), "universal": Learned()}.get(
        weights, Learned(None)
    )
    law = mixture(3, 4)
    theta = torch.linspace(0.1, 1.4, 7, dtype=torch.float64)
    z, found = randn(8, 3), []
    for path in ALL_PATHS:
        times = path.time_of_log_snr(2 * theta.tan().log())
        r = torch.hypot(path.alpha(times), path.sigma(times))
        found.append(pf.integrate(solver, law.field(path), z * r[0], times) / r[-1])
    for got in found[1:]:
        torch.testing.assert_close(got, found[0], rtol=1e-6, atol=1e-6)


# The network.


def transcription(weights, field, x, times):
    """The method as its docstring has it, sample by sample, in plain numbers."""
    path, w = field.path, {k: getattr(weights, k).numpy() for k in weights.__dataclass_fields__}
    theta = angle(path, times).numpy()
    r = torch.hypot(path.alpha(times), path.sigma(times)).numpy()
    n, out = len(times) - 1, []
    size = x[0].numel()
    stride = -(-size // COORDINATES)
    stride += 1 - stride % 2
    for sample in x:
        z, history = sample.numpy().ravel() / r[0], []
        for i in range(n):
            h = theta[i + 1] - theta[i]
            state = torch.from_numpy(z * r[i]).reshape(1, *x.shape[1:])
            value = -field(state, times[i], "v").numpy().ravel() / r[i]
            history = [(theta[i], value), *history][:4]
            table = [v for _, v in history]
            differences = [table[0]]
            for m in range(1, len(history)):
                table = [
                    (table[j] - table[j + 1]) / (history[j][0] - history[j + m][0])
                    for j in range(len(table) - 1)
                ]
                differences.append(table[0])
            k = len(differences)
            u = [(a - theta[i]) / h for a, _ in history]
            classical = []
            for m in range(k):
                predictor = np.poly1d(u[:m], r=True).integ()
                c = predictor(1) - predictor(0) if m < 3 else 0.0
                if m == k - 1 and m > 0:
                    lacked = np.poly1d(u[1 : m + 1], r=True).integ()
                    c += lacked(0) - lacked(u[1])
                classical.append(c)
            scaled = [h**m * d for m, d in enumerate(differences)] + [0 * z] * (4 - k)
            vectors = [v[::stride] for v in (z, *scaled)]
            squares = [np.mean(v * v) + 1e-9 for v in vectors]
            cosines = [
                np.mean(vectors[a] * vectors[b]) / math.sqrt(squares[a] * squares[b])
                for a in range(5)
                for b in range(a + 1, 5)
            ]
            f = np.array(cosines + [math.log(s) / 8 for s in squares[1:]])
            s = np.array(
                [2 * i / n - 1, math.exp(i + 1 - n), math.log(n) / 2 - 1, 3 / n, i == 0, i == 1, i == 2,
                 math.log(h * n / (math.pi / 2))], dtype=float,
            )  # fmt: skip
            hidden = np.tanh(w["step"] @ s + w["history"] @ f + w["bias"])
            q = w["out"] @ hidden + w["constant"]
            for m in range(k):
                factor = 1 + (8 / (n + 2)) ** (3 - m) * min(1, 100 / n) * q[m]
                z = z + factor * classical[m] * h ** (m + 1) * differences[m]
        out.append(z * r[-1])
    return torch.from_numpy(np.stack(out)).reshape(x.shape)


@pytest.mark.parametrize(("dim", "steps"), [(2, 6), (64, 6), (300, 6), (1, 120)])
def test_a_run_equals_the_formulas_written_out_by_hand(dim, steps):
    weights, path = random_weights(seed=dim, scale=0.3), pf.CondOT()
    field, x = mixture(dim, 3, "diagonal").field(path), randn(3, dim)
    solver = Learned(weights)
    times = solver.grid(steps, path)
    expected = transcription(weights, field, x, times)
    torch.testing.assert_close(
        pf.integrate(solver, field, x, times), expected, rtol=1e-9, atol=1e-9
    )
    assert (pf.integrate(Learned(None), field, x, times) - expected).abs().max() > 1e-3 * (
        6 / steps
    ) ** 3


def test_weights_for_each_step_are_those_of_that_step():
    one, n = random_weights(), 5
    field, x = mixture().field(pf.CondOT()), randn(4, 2)
    every = Weights(
        one.density,
        one.step,
        one.history,
        one.bias,
        one.out.repeat(n, 1, 1),
        one.constant.repeat(n, 1),
    )
    grid = Learned(one).grid(n, pf.CondOT())
    same = pf.integrate(Learned(every), field, x, grid)
    torch.testing.assert_close(same, pf.integrate(Learned(one), field, x, grid))
    every.constant[3] += 0.1
    other, states = [], []
    pf.integrate(Learned(every), field, x, grid, callback=lambda i, t, x: other.append(x))
    pf.integrate(Learned(one), field, x, grid, callback=lambda i, t, x: states.append(x))
    assert all(torch.equal(a, b) for a, b in zip(other[:4], states[:4], strict=True))
    assert not torch.allclose(other[4], states[4])
    with pytest.raises(pf.InputError, match="fitted to 5 steps, and the grid has 6"):
        pf.integrate(Learned(every), field, x, Learned(one).grid(6, pf.CondOT()))


def test_rotated_laws_have_rotated_samples():
    turn = torch.linalg.qr(randn(4, 4))[0]
    means, variances = randn(5, 4), 0.1 + rand(5)
    law, turned = (
        pf.GaussianMixture(means, variances),
        pf.GaussianMixture(means @ turn.T, variances),
    )
    x, path = randn(16, 4), pf.VP()
    for solver in (Learned(), Learned(random_weights())):
        grid = solver.grid(6, path)
        got = pf.integrate(solver, turned.field(path), x @ turn.T, grid)
        torch.testing.assert_close(got, pf.integrate(solver, law.field(path), x, grid) @ turn.T)


def test_towards_the_noise_the_method_is_the_classical_one():
    field, x = mixture().field(pf.CondOT()), randn(8, 2)
    down = Learned().grid(10, pf.CondOT()).flip(0)
    assert torch.equal(
        pf.integrate(Learned(), field, x, down), pf.integrate(Learned(None), field, x, down)
    )


# Grids and weights.


@pytest.mark.parametrize("path", ALL_PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("weights", [None, "random", "universal"])
def test_grids_go_from_0_to_1_and_are_the_same_in_the_angle(path, weights):
    solver = {"random": Learned(random_weights()), "universal": Learned()}.get(
        weights, Learned(None)
    )
    for n in (1, 2, 3, 10, 60):
        grid = solver.grid(n, path)
        assert grid.dtype == torch.float64
        assert len(grid) == n + 1
        assert (float(grid[0]), float(grid[-1])) == (0, 1)
        assert bool((grid.diff() > 0).all())
        theta, plain = angle(path, grid), angle(pf.Cosine(), solver.grid(n, pf.Cosine()))
        share, other = ((a - a[0]) / (a[-1] - a[0]) for a in (theta, plain))
        torch.testing.assert_close(share, other, rtol=0, atol=1e-6)


def test_the_density_of_steps_is_the_exponential_of_a_chebyshev_series():
    weights = random_weights(orders=4)
    n = 7
    h = angle(pf.Cosine(), Learned(weights).grid(n, pf.Cosine())).diff()
    y = (2 * np.arange(n) + 1) / n - 1
    series = [1.0, 3 / n, (3 / n) ** 2] @ weights.density.numpy()
    expected = np.exp(np.polynomial.chebyshev.chebval(y, series))
    np.testing.assert_allclose(h.numpy(), expected / expected.sum() * math.pi / 2, rtol=1e-9)
    log_h = angle(pf.Cosine(), Learned(None).grid(n, pf.Cosine())).diff().log()
    torch.testing.assert_close(log_h - log_h.mean(), torch.from_numpy(-0.4 * y))


def test_weights_survive_json_and_are_checked():
    weights = random_weights()
    back = Weights.from_json(weights.as_json())
    for name in weights.__dataclass_fields__:
        torch.testing.assert_close(getattr(back, name), getattr(weights, name), rtol=1e-6, atol=0)
    with pytest.raises(pf.InputError, match="history"):
        Weights.from_json(weights.as_json() | {"history": [[1.0]]})
    with pytest.raises(pf.InputError, match="not the weights of a learned solver"):
        Weights.from_json({"density": []})
    with pytest.raises(pf.InputError, match="at least 1"):
        Learned().grid(0, pf.CondOT())


def test_universal_weights_are_finite_and_of_one_grid_for_all():
    weights = universal()
    assert weights.out.ndim == 2
    assert all(getattr(weights, n).isfinite().all() for n in weights.__dataclass_fields__)


# What it gains.


def unseen(seed):
    """Laws of the plane and of more dimensions, unlike each other."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    turn = 2 * math.pi * (torch.arange(7) + float(normal(1))) / 7
    ring = torch.stack((turn.cos(), turn.sin()), 1) * 1.4
    line = torch.linspace(-1.5, 1.5, 40, dtype=torch.float64)
    curve = torch.stack((line, (3 * line).sin()), 1)
    root = normal(6, 6, 6) * 0.3 + 0.3 * torch.eye(6)
    return [
        pf.GaussianMixture(ring, 0.12**2),
        pf.GaussianMixture(curve, 0.05**2),
        pf.GaussianMixture(normal(6, 6), root @ root.mT + 0.01 * torch.eye(6)),
        pf.GaussianMixture(normal(8, 24), 0.4),
    ]


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP()], ids=["CondOT", "VP"])
@pytest.mark.parametrize(("nfe", "bound"), [(5, 0.75), (10, 0.6), (20, 0.5)])
def test_the_universal_weights_beat_classical_methods_on_laws_they_have_not_seen(path, nfe, bound):
    ratios = []
    for law in unseen(nfe):
        field, x = law.field(path), path.source_std * randn(128, *law.shape, seed=nfe)
        exact = solution(field, x, 120)
        error = lambda solver, grid: float(  # noqa: E731
            (pf.integrate(solver, field, x, grid) - exact).square().mean().sqrt()  # noqa: B023
        )
        classical = [
            error(Learned(None), Learned(None).grid(nfe, path)),
            error(Multistep("velocity", "time", 2), pf.times.straight(nfe, path)),
            error(Multistep("data", "log_snr", 2), pf.times.straight(nfe, path)),
        ]
        ratios.append(error(Learned(), Learned().grid(nfe, path)) / min(classical))
    assert np.exp(np.mean(np.log(ratios))) < bound, ratios


# Use.


class Shrinking:
    """A field for samples of any length, which differs from entry to entry only by what the entry holds."""

    path = pf.CondOT()

    def __call__(self, x, t, want="velocity", mask=None):
        speed = torch.tanh(3 * x) * (1 + t.reshape(-1, *[1] * (x.ndim - 1))) - x
        return speed if mask is None else torch.where(mask, speed, 0)


@pytest.mark.parametrize("weights", [None, "universal"])
@pytest.mark.parametrize("shape", [(3, 90), (5, 2), (200, 1)])
def test_a_padded_sample_is_the_one_that_it_is_alone(weights, shape):
    # More and fewer entries than are looked at, padding in front and behind, of one channel or of all.
    solver = Learned() if weights else Learned(None)
    x, there = randn(4, *shape), torch.ones(4, *shape, dtype=torch.bool)
    for i in range(1, 4):
        there[i].view(-1)[: 2 * i] = False
    there[2].view(-1)[shape[0] * shape[1] // 2 + 3 :] = False
    grid = solver.grid(7, pf.CondOT())
    got = pf.integrate(solver, Shrinking(), torch.where(there, x, 0), grid, mask=there)
    for i in range(4):
        alone = pf.integrate(solver, Shrinking(), x[i][there[i]][None], grid)
        torch.testing.assert_close(got[i][there[i]], alone[0], rtol=1e-12, atol=1e-12)
    if weights:
        loose = pf.integrate(solver, Shrinking(), torch.where(there, x, 0), grid)
        assert (loose - got)[1:][there[1:]].abs().max() > 1e-6


def test_samples_of_one_grid_each_are_those_of_one_grid_for_all():
    field, x = mixture().field(pf.CondOT()), randn(5, 2)
    for solver in (Learned(), Learned(None), Learned(random_weights())):
        grid = solver.grid(6, pf.CondOT())
        each = pf.integrate(solver, field, x, grid.repeat(5, 1))
        torch.testing.assert_close(each, pf.integrate(solver, field, x, grid), rtol=1e-12, atol=0)


def test_states_of_half_precision_and_odd_shapes():
    path, law = pf.CondOT(), pf.GaussianMixture(randn(3, 15), 0.2)

    class Pictures:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity"):
            return law.field(path)(x.flatten(1).double(), t, want).reshape(x.shape).to(x.dtype)

    x = randn(4, 3, 1, 5)
    grid = Learned().grid(8, path)
    exact = pf.integrate(Learned(), law.field(path), x.flatten(1), grid).reshape(x.shape)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.1)):
        got = pf.integrate(Learned(), Pictures(), x.to(dtype), grid)
        assert got.dtype == dtype
        assert float((got.double() - exact).abs().max()) < bound


def test_gradients_flow_through_all_steps():
    path = pf.CondOT()
    field, x = mixture().field(path), randn(2, 2)
    times = Learned().grid(4, path)
    assert torch.autograd.gradcheck(
        lambda x: pf.integrate(Learned(), field, x, times), x.requires_grad_(), atol=1e-6
    )


def test_generate_takes_it_where_it_is_best():
    path = pf.CondOT()
    field = mixture().field(path)
    counted = Counted(field)
    counted.shape = (2,)
    got = pf.generate(counted, 16, nfe=7)
    assert counted.calls == 7
    assert torch.equal(got, pf.generate(field, 16, solver=Learned(), nfe=7))
    assert torch.equal(got, pf.generate(field, 16, solver=Learned(), grid=Learned().grid(7, path)))
    straight = Multistep("velocity", "time", 2)
    # Times of the user's, too few steps, and a source that is not noise.
    grid = pf.times.karras(7, path)
    assert torch.equal(
        pf.generate(field, 16, grid=grid), pf.generate(field, 16, solver=Learned(None), grid=grid)
    )
    assert torch.equal(
        pf.generate(field, 16, nfe=2), pf.generate(field, 16, solver=straight, nfe=2)
    )
    bridge = mixture().field(pf.CondOT(gaussian_source=False))
    start = randn(16, 2)
    assert torch.equal(
        pf.generate(bridge, 16, nfe=7, source=start),
        pf.generate(bridge, 16, nfe=7, source=start, solver=straight),
    )


def test_generate_computes_in_the_precision_of_its_source():
    field = mixture().field(pf.CondOT())
    assert pf.generate(field, 4, nfe=5, source=randn(4, 2).float()).dtype == torch.float32
    assert pf.generate(field, 4, nfe=5).dtype == torch.float64
