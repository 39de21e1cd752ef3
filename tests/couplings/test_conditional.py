"""Plain transport skews the source given a condition; conditional transport does not."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import randn
from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.couplings import ConditionalTransport, OptimalTransport, squared_euclidean
from pushforward.couplings.conditional import weight

NOISE = pf.Noise.batch(1)


def two_classes(n, step):
    """x0 ~ N(0, I); label 0 at x = -3, label 1 at x = 3, at even odds."""
    noise = pf.Noise.batch(n, seed=1, step=step)
    label = (noise.uniform((), 2000) < 0.5).long()
    x1 = 0.3 * noise.normal((2,), 2001, torch.float64)
    x1[:, 0] += 6.0 * label - 3
    return noise, noise.normal((2,), 2002, torch.float64), x1, label


def source_given_label(coupling, n=64, steps=120):
    """All x0 that were paired with data of label 1, (N, 2)."""
    found = []
    for step in range(steps):
        noise, x0, x1, label = two_classes(n, step)
        i, j = coupling(x0, x1, noise, {"label": label})
        found.append(x0[i][label[j] == 1])
    return torch.cat(found)


def test_plain_transport_starts_a_class_from_one_half_of_the_source():
    x0 = source_given_label(OptimalTransport())
    # The limit is the half normal, of mean sqrt(2/pi) and variance 1 - 2/pi.
    assert float(x0[:, 0].mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.1)
    assert float(x0[:, 0].var()) < 0.5


def test_conditional_transport_keeps_the_source_given_the_label():
    x0 = source_given_label(ConditionalTransport())
    error = 1 / math.sqrt(len(x0))
    assert (x0.mean(0).abs() < 4.5 * error).all()
    assert ((x0.var(0) - 1).abs() < 4.5 * math.sqrt(2) * error).all()
    assert abs(float((x0[:, 0] * x0[:, 1]).mean())) < 4.5 * error


def test_starts_that_sampling_draws_were_never_seen_by_plain_transport():
    x = pf.Noise.batch(400, seed=9).normal((2,), dtype=torch.float64)
    far = {}
    for coupling in (OptimalTransport, ConditionalTransport):
        seen = source_given_label(coupling(), steps=40)
        distance = squared_euclidean(x, seen[: len(x)]).topk(20, largest=False).values.mean(1)
        far[coupling] = float((distance.sqrt() > 0.6).double().mean())
    # A third of N(0, I) lies out of reach of what this label is trained on; else only its tails.
    assert far[OptimalTransport] > 0.3
    assert far[ConditionalTransport] < 0.15


def test_no_pair_crosses_classes_and_each_class_is_solved_exactly():
    _, x0, x1, _ = two_classes(120, 3)
    label = torch.arange(120) % 4 - 1  # -1, no label, is a class of its own
    i, j = ConditionalTransport()(x0, x1, NOISE, {"label": label})
    assert torch.equal(label[i], label[j])
    for k in range(-1, 3):
        rows = (label == k).nonzero().flatten()
        a, b = OptimalTransport()(x0[rows], x1[rows], NOISE)
        assert torch.equal(i[rows], rows[a])
        assert torch.equal(rows[b], rows)


def test_several_labels_are_one_and_a_class_may_have_one_member():
    _, x0, x1, label = two_classes(30, 1)
    other = torch.zeros(30, 2, dtype=torch.int64)
    other[7] = 5
    i, _ = ConditionalTransport()(x0, x1, NOISE, {"label": label, "token": other})
    assert int(i[7]) == 7
    assert torch.equal(label[i], label)
    j, _ = ConditionalTransport(names=("token",))(x0, x1, NOISE, {"label": label, "token": other})
    assert int(j[7]) == 7
    assert not torch.equal(label[j], label)
    k, _ = ConditionalTransport(names=("flag",))(x0, x1, NOISE, {"flag": label == 1})
    assert torch.equal(label[k], label)


def test_without_conditions_it_is_plain_transport():
    _, x0, x1, label = two_classes(64, 0)
    i, _ = OptimalTransport()(x0, x1, NOISE)
    for coupling, cond in (
        (ConditionalTransport(), None),
        (ConditionalTransport(), {"label": torch.zeros_like(label)}),
        (ConditionalTransport(ratio=1.0), {"y": randn(64, 3)}),
        (ConditionalTransport(names=()), {"label": label}),
    ):
        assert torch.equal(coupling(x0, x1, NOISE, cond)[0], i)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.1, 0.4, 1.0])
def test_the_weight_leaves_the_share_of_pairs_that_was_asked_for(ratio):
    n = 40
    c, apart = squared_euclidean(randn(n, 2), randn(n, 2, seed=1)), randn(n, n, seed=2) ** 2
    w = weight(c, apart, ratio)

    def left(w):
        better = c + w * apart <= c.diagonal()[:, None]
        return int(better.sum() - better.diagonal().sum()) / (n * (n - 1))

    plain = left(0.0)
    assert left(w * (1 + 1e-9) + 1e-12) == pytest.approx(
        min(ratio, plain), abs=1 / (n * (n - 1)) * 1.01
    )
    if 0 < ratio < plain:
        assert left(w * (1 - 1e-6)) > ratio


def test_equal_values_are_a_class():
    _, x0, x1, label = two_classes(80, 2)
    by_label, _ = ConditionalTransport()(x0, x1, NOISE, {"label": label})
    by_value, _ = ConditionalTransport()(x0, x1, NOISE, {"y": label.double()[:, None] - 0.5})
    assert torch.equal(by_label, by_value)


def skew(coupling, steps=60, n=100):
    """Correlation of x0 with a condition y on the line x1 = (3 y, noise), and what the pairs cost."""
    products, costs = [], []
    for step in range(steps):
        noise = pf.Noise.batch(n, seed=4, step=step)
        y = 2 * noise.uniform((1,), 2000) - 1
        x0 = noise.normal((2,), 2001, torch.float64)
        x1 = torch.cat((3 * y, 0.3 * noise.normal((1,), 2002, torch.float64)), 1)
        i, j = coupling(x0, x1, noise, {"y": y})
        products.append((x0[i][:, 0] * y[j][:, 0]).mean() * math.sqrt(3))
        costs.append((x0[i] - x1[j]).square().sum(1).mean())
    return float(torch.stack(products).mean()), float(torch.stack(costs).mean())


def test_a_smaller_ratio_trades_cost_for_the_source_given_a_value():
    plain, cheap = skew(OptimalTransport())
    assert plain > 0.85
    loose, middle = skew(ConditionalTransport(ratio=0.05))
    tight, dear = skew(ConditionalTransport(ratio=0.002))
    none, independent = skew(pf.couplings.independent)
    assert plain > 3 * loose > 3 * tight
    assert cheap < middle < dear < independent
    assert abs(tight) < 0.1
    assert abs(none) < 4.5 / math.sqrt(6000)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_the_unit_of_a_continuous_condition_does_not_matter(factor):
    _, x0, x1, _ = two_classes(60, 4)
    y = randn(60, 2, seed=7)
    i, _ = ConditionalTransport(ratio=0.05)(x0, x1, NOISE, {"y": y})
    k, _ = ConditionalTransport(ratio=0.05)(x0, x1, NOISE, {"y": factor * y})
    assert torch.equal(i, k)
    assert not torch.equal(i, torch.arange(60))


def test_a_continuous_condition_is_kept_apart_within_each_label():
    _, x0, x1, label = two_classes(80, 5)
    y = randn(80, 1, seed=8)
    i, _ = ConditionalTransport(ratio=0.05)(x0, x1, NOISE, {"label": label, "y": y})
    assert torch.equal(label[i], label)
    for k in (0, 1):
        rows = (label == k).nonzero().flatten()
        a, _ = ConditionalTransport(ratio=0.05)(x0[rows], x1[rows], NOISE, {"y": y[rows]})
        assert torch.equal(i[rows], rows[a])


def test_continuous_conditions_are_the_columns_of_one():
    _, x0, x1, _ = two_classes(60, 6)
    y = randn(60, 5, seed=9)
    whole, _ = ConditionalTransport()(x0, x1, NOISE, {"y": y})
    cond = {"control": {"a": y[:, :2].reshape(60, 1, 2), "b": y[:, 2]}, "z": y[:, 3:]}
    parts, _ = ConditionalTransport()(x0, x1, NOISE, cond)
    assert torch.equal(parts, whole)
    group, _ = ConditionalTransport(names=("control",))(x0, x1, NOISE, cond)
    some, _ = ConditionalTransport()(x0, x1, NOISE, {"y": y[:, :3]})
    assert torch.equal(group, some)
    one, _ = ConditionalTransport(names=("control.b",))(x0, x1, NOISE, cond)
    alone, _ = ConditionalTransport()(x0, x1, NOISE, {"y": y[:, 2:3]})
    assert torch.equal(one, alone)
    # A price on conditions of one's own: all apart from the first column are free.
    first = ConditionalTransport(condition_cost=lambda a, b: squared_euclidean(a[:, :1], b[:, :1]))
    assert torch.equal(first(x0, x1, NOISE, {"y": y})[0], first(x0, x1, NOISE, {"y": y[:, :1]})[0])


def captions(count, length=4):
    """Four captions of one to four tokens, by number, and their padding filled with rubbish."""
    which = torch.arange(count) % 4
    words = torch.tensor([[3, 9, 9, 9], [3, 5, 8, 8], [3, 5, 2, 7], [3, 5, 2, 2]])
    mask = torch.arange(length) <= which[:, None]
    rubbish = torch.randint(0, 99, (count, length), generator=torch.Generator().manual_seed(1))
    return which, Tokens(torch.where(mask, words[which], rubbish), mask)


def test_equal_captions_are_a_class_whatever_their_padding_holds():
    _, x0, x1, _ = two_classes(80, 7)
    which, text = captions(80)
    i, _ = ConditionalTransport()(x0, x1, NOISE, {"text": text})
    k, _ = ConditionalTransport()(x0, x1, NOISE, {"label": which})
    assert torch.equal(i, k)
    # Of equal tokens, but not of equal length.
    ones = Tokens(torch.zeros_like(text.values), text.mask)
    assert torch.equal(ConditionalTransport()(x0, x1, NOISE, {"text": ones})[0], k)


def test_embedded_tokens_count_where_they_are_tokens():
    _, x0, x1, _ = two_classes(40, 8)
    values, mask = randn(40, 3, 2, seed=3), torch.arange(3) < torch.tensor([2] * 40)[:, None]
    i, _ = ConditionalTransport()(x0, x1, NOISE, {"text": Tokens(values, mask)})
    values = torch.where(mask[..., None], values, math.nan)
    j, _ = ConditionalTransport()(x0, x1, NOISE, {"text": Tokens(values, mask)})
    k, _ = ConditionalTransport()(x0, x1, NOISE, {"y": values[:, :2]})
    assert torch.equal(i, j)
    assert torch.equal(i, k)


def test_captions_of_different_lengths_are_compared_in_any_basis_of_their_embedding():
    """A rotation or a reflection changes no distance, those to padding too: padding lies at its fixed point."""
    x0, x1, values = randn(80, 2, seed=11), randn(80, 2, seed=12), randn(80, 3, 2, seed=3)
    mask = torch.arange(3) <= torch.arange(80)[:, None] % 3
    found = [
        ConditionalTransport(ratio=0.3)(x0, x1, NOISE, {"text": Tokens(values @ basis, mask)})[0]
        for basis in (
            torch.eye(2, dtype=torch.float64),
            -torch.eye(2, dtype=torch.float64),
            torch.linalg.qr(randn(2, 2, seed=4))[0],
        )
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], ConditionalTransport()(x0, x1, NOISE)[0])


@pytest.mark.parametrize(
    "coupling",
    [
        pf.couplings.independent, OptimalTransport(), pf.couplings.Sinkhorn(1.0), ConditionalTransport(),
        pf.couplings.UnbalancedSinkhorn(1.0, 50.0),
    ],
    ids=lambda c: type(c).__name__,
)  # fmt: skip
def test_every_coupling_takes_conditions_of_every_kind(coupling):
    n = 24
    x0, x1 = randn(n, 2), randn(n, 2, seed=1)
    _, text = captions(n)
    cond = {"label": torch.arange(n) % 3, "text": text, "control": {"edges": randn(n, 1, 2, 2)}}
    i, j = coupling(x0, x1, pf.Noise.batch(n), cond)
    moved = conditions.take(cond, j)
    assert i.shape == (n,)
    assert torch.equal(moved["text"].mask, text.mask[j])
    assert torch.equal(moved["control"]["edges"], cond["control"]["edges"][j])


def test_conditions_that_do_not_fit_are_errors():
    _, x0, x1, label = two_classes(10, 0)
    with pytest.raises(pf.InputError, match="no condition text; it has label"):
        ConditionalTransport(names=("text",))(x0, x1, NOISE, {"label": label})
    with pytest.raises(pf.InputError, match="label has 9 entries for 10 samples"):
        ConditionalTransport()(x0, x1, NOISE, {"label": label[:9]})
    y = randn(10)
    y[3] = float("nan")
    with pytest.raises(pf.InputError, match=r"condition y has .* rows: 3"):
        ConditionalTransport()(x0, x1, NOISE, {"y": y})
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(pf.InputError, match="ratio"):
            ConditionalTransport(ratio=ratio)
