"""The figures by which a model is judged."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.data import Dataset, load_digits
from pushforward.evaluate.metrics.agreement import everything
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.evaluate.report import judge_dataset, judge_law
from pushforward.laws import EightGaussians
from pushforward.nets import MLP


class Memory(torch.nn.Module):
    """A Field that ends at samples of the data of the class that is asked for."""

    path, shape, classes, info = pf.CondOT(), (1, 8, 8), 10, {}

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self.x, self.y = everything(data, 10_000)

    def forward(self, x, t, want="velocity", label=None):
        place = [(self.y == c).nonzero()[i // 10, 0] for i, c in enumerate(label.tolist())]
        return (self.x[place].to(x) - x) / (1 - t)[:, None, None, None].clamp(min=1e-9)


def test_samples_that_are_the_training_data_get_the_figures_of_perfect_samples() -> None:
    from pushforward.solvers import Euler

    train, held_out = load_digits().halves(seed=0)
    figures, samples, label = judge_dataset(
        Memory(train), train, held_out, 400, solver=Euler(), nfe=1, batch_size=400
    )
    assert label.tolist() == [i % 10 for i in range(400)]
    assert samples.shape == (400, 1, 8, 8)
    assert figures["agreement"] >= 0.99
    assert figures["classifier_accuracy"] >= 0.97
    real, seen = everything(held_out, 10_000)[0], everything(train, 10_000)[0]
    assert figures["frechet"] == pytest.approx(frechet_distance(samples, real))
    assert figures["frechet_train"] == pytest.approx(frechet_distance(seen, real))
    assert figures["frechet_ratio"] == pytest.approx(figures["frechet"] / figures["frechet_train"])
    assert 0.5 < figures["frechet_ratio"] < 4
    assert "frechet_ratio_equal" not in figures


def test_the_ratio_at_equal_numbers_is_that_of_as_many_samples_as_there_are_in_training() -> None:
    from pushforward.solvers import Euler

    train, held_out = load_digits().halves(seed=0)
    few = train.subset(torch.arange(100))
    figures, samples, _ = judge_dataset(Memory(train), few, held_out, 300, solver=Euler(), nfe=1)
    real, seen = everything(held_out, 10_000)[0], everything(few, 10_000)[0]
    want = frechet_distance(samples[:100], real) / frechet_distance(seen, real)
    assert figures["frechet_ratio_equal"] == pytest.approx(want)
    assert 0.5 < want < 2


def test_a_network_that_was_not_trained_gets_figures_that_say_so() -> None:
    torch.manual_seed(0)
    law = EightGaussians()
    model = pf.Model(MLP(2, 8, 1), pf.CondOT(), shape=(2,))
    bad = judge_law(model, law, 500, nfe=2)[0]
    good = judge_law(law.field(pf.CondOT()), law, 500, nfe=60)[0]
    assert bad["energy"] > 0.5
    assert abs(good["energy"]) < 0.1
    assert abs(good["energy_law"]) < 0.1
    assert good["log_density"] == pytest.approx(good["log_density_law"], abs=0.25)
    assert bad["log_density"] < good["log_density"] - 1
    assert good["outside"] == 0
    assert good == judge_law(law.field(pf.CondOT()), law, 500, nfe=60)[0]


def atoms(*places: list[float]) -> pf.ExactField:
    """The field of a law that is all but concentrated in some places."""
    means = torch.tensor(places)
    spread = 1e-4 * torch.eye(means.shape[1]).expand(len(means), -1, -1)
    return pf.GaussianMixture(means, spread).field(pf.CondOT())


class Uniform:
    """The uniform law on the unit square, whose density is 1 there and 0 elsewhere."""

    def draw(self, noise):
        return noise.uniform((2,))

    def sample(self, n, seed=0):
        return self.draw(pf.Noise.batch(n, seed))

    def log_prob(self, x):
        return torch.where(((x >= 0) & (x <= 1)).all(1), 0.0, -math.inf)


def test_samples_off_the_support_are_counted_and_left_out_of_the_density() -> None:
    field = atoms([0.5, 0.5], [3.0, 0.5])
    figures, samples, _ = judge_law(field, Uniform(), 200, nfe=40)
    assert figures["log_density"] == figures["log_density_law"] == 0
    assert figures["outside"] == pytest.approx(float((samples[:, 0] > 1).double().mean()))
    assert 0.3 < figures["outside"] < 0.7


def test_the_draws_of_a_judgement_are_apart_from_the_samples_and_from_each_other() -> None:
    seeds = []

    class Watched(Uniform):
        def sample(self, n, seed=0):
            seeds.append(seed)
            return super().sample(n, seed)

    field = atoms([0.5, 0.5])
    judge_law(field, Watched(), 10, nfe=4, seed=2**64 - 1)
    assert len({2**64 - 1, *seeds}) == 3
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_law_of_another_shape_is_refused() -> None:
    field = atoms([0.0, 0.0, 0.0])
    with pytest.raises(pf.InputError, match=r"the law has samples \(2,\), the model \(3,\)"):
        judge_law(field, Uniform(), 5, nfe=4)
