"""What the default values of sampling do: how much is asked of a field, at a time and in all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.sampling import generate as generating
from pushforward.sampling import tune as tuning
from pushforward.sampling.generate import generate_together
from pushforward.sampling.pairs import generate_pairs
from pushforward.solvers import DDIM, Euler, Learned
from pushforward.solvers.learned import universal

LAW = pf.GaussianMixture([[1.0], [-0.5]], [0.3, 0.1], [0.4, 0.6])


class Rows:
    """A field that keeps how many samples it was asked about in each call, and the first and the last time."""

    def __init__(self, field) -> None:
        self.field, self.path, self.shape = field, field.path, field.shape
        self.rows: list[int] = []
        self.times: list[float] = []

    def __call__(self, x: Tensor, t, want: str = "velocity", **cond) -> Tensor:
        self.rows.append(len(x))
        self.times.append(float(torch.as_tensor(t).flatten()[0]))
        return self.field(x, t, want, **cond)


FLAT = {"solver": Euler(), "nfe": 2}
MAKERS = {
    "generate": lambda field: pf.generate(field, 600, **FLAT),
    "generate_batches": lambda field: list(pf.generate_batches(field, 600, **FLAT)),
    "sample_with_log_prob": lambda field: pf.sample_with_log_prob(
        field, 600, solver=Euler(), grid=pf.times.uniform(2)
    ),
    "generate_pairs": lambda field, folder: generate_pairs(
        field, folder, 600, solver=Euler(), nfe=2
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_256_samples_are_made_at_a_time(name, tmp_path):
    field = Rows(LAW.field(pf.CondOT()))
    MAKERS[name](field, *([tmp_path / "pairs"] if name == "generate_pairs" else []))
    # Pairs ask once more, for the fingerprint of their teacher.
    assert field.rows[-6:] == [256, 256, 256, 256, 88, 88]


@pytest.mark.parametrize("name", ["generate", "generate_batches"])
def test_samples_go_all_the_way_from_noise_to_data(name):
    field = Rows(LAW.field(pf.CondOT()))
    seen = []
    options = {"solver": Euler(), "nfe": 4, "callback": lambda i, t, x: seen.append(float(t[0]))}
    made = getattr(pf, name)(field, 3, **options)
    list(made)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_guidance_is_at_all_times_and_a_share_starts_with_sample_0():
    labelled = mixture(2, 3, labels=[0, 1, 1]).field(pf.CondOT())
    options = {
        "nfe": 6,
        "solver": Euler(),
        "guidance": 3.0,
        "label": torch.tensor([0, 1, 1]),
        "shape": (2,),
    }
    truth = pf.generate(labelled, 3, interval=(0.0, 1.0), **options)
    assert torch.equal(pf.generate(labelled, 3, **options), truth)
    assert torch.equal(torch.cat(list(pf.generate_batches(labelled, 3, **options))), truth)
    assert torch.equal(generate_together(labelled, 3, **options), truth)
    late = pf.generate(labelled, 3, interval=(0.0, 0.7), **options)
    assert not torch.allclose(late, truth)


def test_pairs_take_a_hundred_calls_and_ten_thousand_of_them_fill_a_file(tmp_path):
    field = Rows(LAW.field(pf.CondOT()))
    generate_pairs(field, tmp_path / "a", 3, solver=Euler())
    assert field.rows.count(3) == 100
    generate_pairs(field, tmp_path / "b", 10_001, solver=Euler(), nfe=1)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) == 2
    generate_pairs(field, tmp_path / "c", 10_000, solver=Euler(), nfe=1)
    assert len(list((tmp_path / "c").glob("*.safetensors"))) == 1


def test_an_inversion_is_exact_and_of_fifty_steps():
    field, x = mixture(2, 3).field(pf.CondOT()), randn(5, 2, seed=1)
    x0 = pf.invert(field, x)
    back = pf.generate(field, 5, solver=DDIM(), nfe=50, source=x0)
    assert float((back - x).abs().max()) < 1e-10


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_process_draws_its_share_and_all_where_there_are_fewer_samples_than_processes(
    monkeypatch, rank
):
    class Three:
        count = 3

        def __init__(self) -> None:
            self.rank = rank

        def gather(self, rows: Tensor) -> Tensor:
            return rows  # its own alone, that the test may see them

    field = LAW.field(pf.CondOT())
    monkeypatch.setattr(generating.Processes, "current", Three)
    whole = pf.generate(field, 6, **FLAT)
    assert torch.equal(generate_together(field, 6, **FLAT), whole[2 * rank : 2 * rank + 2])
    assert torch.equal(generate_together(field, 2, **FLAT), whole[:2])


# Fitting a sampler.


def test_a_sampler_is_fitted_by_gradient_on_1024_samples_in_300_steps_of_128_and_judged_on_512(
    monkeypatch,
):
    sizes, taught = [], []
    solve, roll_out = tuning._Problem.solve, tuning._roll_out

    def kept(self, solver, steps, rows=slice(None)):
        sizes.append((steps, len(self.x0[rows])))
        return solve(self, solver, steps, rows)

    def rolled(problem, weights, rows):
        taught.append(len(rows))
        return roll_out(problem, weights, rows)

    monkeypatch.setattr(tuning._Problem, "solve", kept)
    monkeypatch.setattr(tuning, "_roll_out", rolled)
    field = Rows(LAW.field(pf.CondOT()))
    pf.tune(field, 3)
    assert sizes[0] == (200, 1024 + 512)
    assert sizes[1] == (100, 512)
    assert taught == [128] * 300
    assert max(field.rows) == 128
    assert [size for steps, size in sizes[2:] if steps == 3][-2:] == [512, 512]


def test_adams_first_step_is_a_tenth_of_three_thousandths():
    # Its length is the rate, whatever the gradient: 0.003 after ten steps of warm-up.
    field = LAW.field(pf.CondOT())
    fitted = pf.tune(field, 3, num=200, held_out=50, iterations=1, batch_size=200)
    moved = (fitted.solver.weights.bias - universal().bias).abs()
    assert isinstance(fitted.solver, Learned)
    assert float(moved.max()) == pytest.approx(3e-4, rel=1e-3)
