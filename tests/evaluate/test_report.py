"""The figures by which a model is judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.data import Dataset, load_digits
from pushforward.data.shares import labels_in_shares
from pushforward.evaluate.features import Pixels
from pushforward.evaluate.metrics.agreement import everything
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.evaluate.report import judge_dataset, judge_law
from pushforward.laws import EightGaussians
from pushforward.nets import MLP
from pushforward.solvers import Euler

ONCE = {"solver": Euler(), "nfe": 1}


class Memory(torch.nn.Module):
    """A Field that ends at samples of the data of the class that is asked for, one after the other."""

    path, shape, classes = pf.CondOT(), (1, 8, 8), 10

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self.x, self.y = everything(data, 10_000)

    def forward(self, x, t, want="velocity", label=None):
        turn = [int((label[:i] == c).sum()) for i, c in enumerate(label)]
        place = [(self.y == c).nonzero()[k, 0] for k, c in zip(turn, label.tolist(), strict=True)]
        return self.x[place].to(x) - x


class ByClass(torch.nn.Module):
    """A Field that ends, in one step of Euler, at draws of N(centre of the class, 1), exactly the law of `by_class`."""

    path, shape = pf.CondOT(), (4,)

    def __init__(self, classes: int, spec: DataSpec | None = None) -> None:
        super().__init__()
        self.classes = classes
        self.spec = spec or DataSpec((4,), classes=classes)

    def forward(self, x, t, want="velocity", label=None):
        return 6.0 * label[:, None] * torch.ones(4)


def by_class(counts: list[int], seed: int, names: list[str] | None = None) -> Dataset:
    """N(6 c, 1) in four dimensions, so many of each class c, in the order of classes."""
    label = np.arange(len(counts)).repeat(counts)
    x = np.random.default_rng(seed).normal(6.0 * label[:, None], 1, (len(label), 4))
    return Dataset.from_arrays(x.astype(np.float32), label, class_names=names, kind="vector")


def ratios(counts: list[int], num: int, repetitions: int) -> tuple[float, float]:
    """The mean of the ratio at equal numbers for perfect samples, and its standard error."""
    found = []
    for k in range(repetitions):
        figures, _, _ = judge_dataset(
            ByClass(len(counts)), by_class(counts, 2 * k), by_class(counts, 2 * k + 1), num, seed=k, **ONCE
        )  # fmt: skip
        found.append(math.log(figures["frechet_ratio_equal"]))
        assert figures["agreement"] > 0.99
        assert figures["classifier_accuracy"] > 0.99
    values = torch.tensor(found)
    return float(values.mean()), float(values.std()) / math.sqrt(repetitions)


def test_perfect_samples_have_a_ratio_of_one_whatever_the_shares_of_the_classes() -> None:
    """1900 of one class and 100 of another: with equal shares the distance to the data would be that of two laws."""
    mean, error = ratios([1900, 100], 2000, 12)
    assert error < 0.15
    assert abs(mean) < 4 * error


def test_data_in_the_order_of_their_classes_are_compared_as_a_whole() -> None:
    """Two classes, one after the other, of more samples than are used: the first 10 000 would be mostly of one."""
    counts = [11_000, 9_000]
    figures, _, label = judge_dataset(
        ByClass(2), by_class(counts, 0), by_class(counts, 1), 10_000, **ONCE
    )
    assert label is not None
    assert label.bincount().tolist() == [5500, 4500]
    assert figures["classifier_accuracy"] > 0.99
    # Both distances are those of two sets of 10 000 of one law, about the trace over the number: below 0.05.
    assert figures["frechet_train"] < 0.05
    assert figures["frechet"] < 0.05


def test_classes_without_data_are_not_drawn() -> None:
    """Labels 1 and 3 of 0 ... 4."""
    counts = [0, 60, 0, 40, 0]
    figures, _, label = judge_dataset(
        ByClass(5), by_class(counts, 0), by_class(counts, 1), 50, **ONCE
    )
    assert label is not None
    assert label.bincount(minlength=5).tolist() == [0, 30, 0, 20, 0]
    assert figures["agreement"] == 1


def test_classes_of_data_that_are_named_in_another_order_are_those_of_the_model() -> None:
    spec = DataSpec((4,), classes=2, class_names=("far", "near"))

    class Turned(ByClass):
        def forward(self, x, t, want="velocity", label=None):
            return super().forward(x, t, label=1 - label)

    train, held_out = (by_class([90, 10], k, ["near", "far"]) for k in (0, 1))
    figures, _, label = judge_dataset(Turned(2, spec), train, held_out, 100, **ONCE)
    assert label is not None
    assert label.bincount().tolist() == [10, 90]
    assert figures["agreement"] == 1


def test_one_class_is_judged_by_distance_alone() -> None:
    figures, _, label = judge_dataset(ByClass(1), by_class([50], 0), by_class([50], 1), 40, **ONCE)
    assert label is not None
    assert set(figures) == {"frechet", "frechet_train", "frechet_ratio"}
    figures, _, _ = judge_dataset(
        ByClass(2), by_class([50, 0], 0), by_class([50, 0], 1), 40, **ONCE
    )
    assert set(figures) == {"frechet", "frechet_train", "frechet_ratio"}


class Untouched(ByClass):
    def forward(self, x, t, want="velocity", label=None):
        raise AssertionError("samples were drawn")


@pytest.mark.parametrize(
    ("counts", "apart", "num", "match"),
    [
        ([5], [1], 10, "1 of the vectors held out"),
        ([1], [5], 10, "1 of the vectors to train on"),
        ([5], [5], 1, "1 of the vectors to draw"),
    ],
)
def test_too_few_samples_are_one_sentence_before_any_is_drawn(counts, apart, num, match) -> None:
    with pytest.raises(pf.InputError, match=match):
        judge_dataset(Untouched(1), by_class(counts, 0), by_class(apart, 1), num)


def test_what_has_no_figure_is_refused_before_any_sample_is_drawn() -> None:
    large = Dataset.from_arrays(np.zeros((4, 1, 80, 80), np.float32))
    model = Untouched(1, DataSpec((1, 80, 80)))
    with pytest.raises(pf.InputError, match="no figure for images of more than 4096 values"):
        judge_dataset(model, large, large, 10)
    few = Dataset.from_arrays(np.zeros((4, 1, 8, 8), np.float32))
    with pytest.raises(pf.InputError, match="more than 5 images that are held out"):
        judge_dataset(Untouched(1, DataSpec((1, 8, 8))), few, few, 10, features=Pixels((1, 8, 8)))
    with pytest.raises(pf.InputError, match="the model draws vectors"):
        judge_dataset(Untouched(1), few, few, 10)


def test_samples_that_are_the_training_data_get_the_figures_of_perfect_samples() -> None:
    train, held_out = load_digits().halves(seed=0)
    figures, samples, label = judge_dataset(
        Memory(train), train, held_out, 400, batch_size=400, **ONCE
    )
    assert label is not None
    assert label.tolist() == labels_in_shares(400, train.class_counts or ()).tolist()
    assert samples.shape == (400, 1, 8, 8)
    assert figures["agreement"] >= 0.99
    assert figures["classifier_accuracy"] >= 0.97
    real, seen = everything(held_out, 10_000)[0], everything(train, 10_000)[0]
    assert figures["frechet"] == pytest.approx(frechet_distance(samples, real))
    assert figures["frechet_train"] == pytest.approx(frechet_distance(seen, real))
    assert figures["frechet_ratio"] == pytest.approx(figures["frechet"] / figures["frechet_train"])
    assert "frechet_ratio_equal" not in figures


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
