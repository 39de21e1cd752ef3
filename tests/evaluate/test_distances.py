"""Distances between sets of samples against closed forms and against the plainest possible code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

import pushforward as pf
from pushforward.data import Dataset, load_digits
from pushforward.evaluate.agreement import everything, train_classifier
from pushforward.evaluate.energy import energy_distance
from pushforward.evaluate.frechet import centred, frechet_distance
from pushforward.evaluate.report import balanced_labels, judge_dataset, judge_law
from pushforward.laws import EightGaussians
from pushforward.nets import MLP


def normals(n: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed)).double()


def test_the_frechet_distance_is_that_of_scipys_matrix_root() -> None:
    mix = normals(6, (6,), 0)
    a, b = normals(50, (6,), 1) @ mix + 1, normals(80, (6,), 2) @ mix.T
    cov_a, cov_b = (np.cov(x.numpy().T) for x in (a, b))
    root = sqrtm(cov_a @ cov_b)
    gap = a.mean(0).numpy() - b.mean(0).numpy()
    want = gap @ gap + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-9)


def test_the_frechet_distance_of_samples_with_given_moments_is_that_of_their_gaussians() -> None:
    """Commuting covariances diag(s^2), diag(r^2): |m_a - m_b|^2 + sum (s - r)^2."""
    white = normals(40, (3,), 3)
    white -= white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    s, r = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.1]).double()
    shift = torch.tensor([0.5, 0.0, -2.0]).double()
    want = float(shift.square().sum() + (s - r).square().sum())
    assert frechet_distance(white * s, white * r + shift) == pytest.approx(want, rel=1e-10)


def test_the_frechet_distance_of_a_set_to_itself_is_0_even_when_it_spans_less_than_the_space() -> None:  # fmt: skip
    few = normals(5, (1, 4, 4), 4)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 0.5) == pytest.approx(16 * 0.25, rel=1e-6)
    assert frechet_distance(torch.ones(4, 3), torch.ones(5, 3)) == 0


@pytest.mark.parametrize(("n", "m"), [(7, 80), (80, 7), (5, 9), (11, 12), (12, 12)])
def test_the_frechet_distance_of_few_samples_is_that_of_their_moments(n: int, m: int) -> None:
    """Beside the definition, with roots of the eigenvalues of C_a C_b, which are those of C_a^{1/2} C_b C_a^{1/2}."""
    mix = normals(12, (12,), 0)
    a, b = normals(n, (3, 4), 1) * 2 + 1, (normals(m, (12,), 2) @ mix).reshape(m, 3, 4)
    cov_a, cov_b = (np.cov(x.flatten(1).numpy().T) for x in (a, b))
    values = np.linalg.eigvals(cov_a @ cov_b).real
    gap = (a.mean(0) - b.mean(0)).numpy().ravel()
    want = gap @ gap + np.trace(cov_a + cov_b) - 2 * np.sqrt(values.clip(0)).sum()
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-6)


def test_centred_samples_have_the_unbiased_covariance_in_float64() -> None:
    x = normals(30, (2, 3), 5).float()
    mean, rows = centred(x)
    assert (mean.dtype, rows.shape) == (torch.float64, (30, 6))
    flat = x.double().flatten(1).numpy()
    np.testing.assert_allclose(mean, flat.mean(0))
    np.testing.assert_allclose(rows.T @ rows, np.cov(flat, rowvar=False))
    with pytest.raises(pf.InputError, match="two samples"):
        centred(x[:1])


def test_the_energy_distance_is_the_plain_double_sum() -> None:
    a, b = normals(7, (2, 2), 6), normals(9, (2, 2), 7) + 1
    a, b = a.float(), b.float()

    def mean(x, y, same: bool) -> float:
        distances = [
            math.dist(p.flatten().tolist(), q.flatten().tolist())
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (same and i == j)
        ]
        return sum(distances) / len(distances)

    want = 2 * mean(a, b, False) - mean(a, a, True) - mean(b, b, True)
    assert energy_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert energy_distance(b, a) == pytest.approx(want, rel=1e-9)


def test_the_energy_distance_of_points_of_two_atoms_is_exact() -> None:
    a, b = torch.zeros(4, 1), torch.full((3, 1), 5.0)
    assert energy_distance(a, b) == 10.0
    assert energy_distance(a, torch.zeros(9, 1)) == 0.0


def test_the_energy_distance_of_two_sets_from_one_law_is_0_on_average() -> None:
    values = torch.tensor(
        [energy_distance(normals(8, (2,), 2 * k), normals(8, (2,), 2 * k + 1)) for k in range(1500)]
    )
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert values.std() / math.sqrt(len(values)) < 0.01
    assert (values < 0).any()


def test_the_energy_distance_does_not_depend_on_how_rows_are_cut() -> None:
    a, b = normals(2100, (2,), 8), normals(2050, (2,), 9) + 0.5
    plain = 2 * torch.cdist(a, b).mean()
    for x in (a, b):
        plain -= torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum() / (
            len(x) * (len(x) - 1)
        )
    assert energy_distance(a, b) == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize("distance", [energy_distance, frechet_distance])
def test_distances_refuse_sets_that_cannot_be_compared(distance) -> None:
    with pytest.raises(pf.InputError):
        distance(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(pf.InputError):
        distance(torch.zeros(1, 2), torch.zeros(5, 2))
    with pytest.raises(pf.InputError):
        distance(torch.zeros(5, 2), torch.zeros(1, 2))


def test_the_classifier_knows_digits_that_it_has_not_seen() -> None:
    train, held_out = load_digits().halves(seed=0)
    classifier = train_classifier(train, held_out)
    assert classifier.accuracy >= 0.97
    x, y = everything(held_out, 10_000)
    assert classifier.agreement(x, y) == classifier.accuracy
    wrong = (y + 1) % 10
    assert classifier.agreement(x, wrong) <= 0.03
    half = torch.where(torch.arange(len(y)) % 2 == 0, y, wrong)
    assert classifier.agreement(x, half) == pytest.approx(0.5, abs=0.03)
    assert classifier.predict(x).shape == y.shape


def test_a_classifier_needs_labels() -> None:
    data = Dataset.from_arrays(np.zeros((4, 2), np.float32))
    with pytest.raises(pf.InputError, match="needs labels"):
        train_classifier(data, data)


def test_everything_is_the_first_samples_with_their_labels() -> None:
    data = Dataset.from_arrays(np.arange(8, dtype=np.float32).reshape(4, 2), np.array([1, 0, 2, 1]))
    x, y = everything(data, 3)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert y.tolist() == [1, 0, 2]
    bare = Dataset.from_arrays(data.values)
    assert everything(bare, 99)[1].tolist() == [-1] * 4


def test_labels_come_in_equal_shares() -> None:
    assert balanced_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


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
    return pf.GaussianMixture(means, spread, torch.ones(len(means))).field(pf.CondOT())


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
