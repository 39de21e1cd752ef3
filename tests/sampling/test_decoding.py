"""Sequences of laws that are small enough to be enumerated: the best of all, random ones, and alone as in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.sampling.decoding import Autoregression, Beam, Decoder, Greedy, Sampled

IDS, END, LENGTH = 4, 3, 4
Sequence = tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """What has been read of each sample, as text, and which law it is of."""

    rows: tuple[tuple[int, Sequence], ...]

    def take(self, rows: Tensor) -> Read:
        return Read(tuple(self.rows[i] for i in rows.tolist()))


def logits(law: int, read: Sequence) -> Tensor:
    """Of the id behind these: any numbers, a function of both."""
    key = sum((i + 1) * 5**k for k, i in enumerate(read))
    generator = torch.Generator().manual_seed(1000 * law + key)
    return 1.5 * torch.randn(IDS, generator=generator, dtype=torch.float64)


def law(*which: int, length: int = LENGTH, calls: list[int] | None = None) -> Autoregression:
    """Several laws, one of each sample."""

    def follow(ids: Tensor, state: Read) -> tuple[Tensor, Read]:
        if calls is not None:
            calls.append(len(ids))
        rows = tuple((w, (*r, i)) for (w, r), i in zip(state.rows, ids.tolist(), strict=True))
        return torch.stack([logits(w, r) for w, r in rows]), Read(rows)

    start = Read(tuple((w, ()) for w in which))
    return Autoregression(torch.stack([logits(w, ()) for w in which]), start, follow, END, length)


def all_sequences(which: int, length: int = LENGTH) -> dict[Sequence, float]:
    """ln p of every sequence that ends in time; those of the full length end because they must, at their own ln p."""
    found = {}
    for n in range(length):
        for words in product(range(END), repeat=n):
            line = (*words, END)
            found[line] = sum(
                float(logits(which, line[:k]).log_softmax(0)[i]) for k, i in enumerate(line)
            )
    return found


def sequences(decoder: Decoder, laws: Autoregression, noise: Noise | None = None) -> list[Sequence]:
    tokens = decoder(laws, noise).tokens
    return [
        tuple(v for v, m in zip(values, mask, strict=True) if m)
        for values, mask in zip(tokens.values.tolist(), tokens.mask.tolist(), strict=True)
    ]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty: float) -> None:
    which = range(24)
    decoded = Beam(IDS**LENGTH, penalty)(law(*which))
    found = sequences(Beam(IDS**LENGTH, penalty), law(*which))
    lengths = set()
    for w, line, ln_p in zip(which, found, decoded.log_prob.tolist(), strict=True):
        every = all_sequences(w)
        best = max(every, key=lambda s: every[s] / len(s) ** penalty)
        assert line == best
        assert ln_p == pytest.approx(every[best], abs=1e-12)
        lengths.add(len(line))
    assert len(lengths) > 1


def test_penalties_prefer_other_lengths() -> None:
    mean = [
        sum(map(len, sequences(Beam(IDS**LENGTH, p), law(*range(24))))) / 40
        for p in (0.0, 1.0, 3.0)
    ]
    assert mean[0] < mean[1] < mean[2]


def test_a_beam_of_one_is_greedy_and_wider_ones_are_no_worse_on_the_whole() -> None:
    which = range(60)
    found = sequences(Greedy(), law(*which))
    for w, line in zip(which, found, strict=True):
        for k, i in enumerate(line[: LENGTH - 1]):
            assert i == int(logits(w, line[:k]).argmax())
        assert line[-1] == END
        assert END not in line[:-1]
    assert sequences(Beam(1), law(*which)) == found
    totals = [float(Beam(k, 0.0)(law(*which)).log_prob.sum()) for k in (1, 2, 4, 16)]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


def test_a_search_ends_when_nothing_better_can_come() -> None:
    calls: list[int] = []
    longest = law(*range(5), length=30, calls=calls)
    short = Beam(3, 0.0)(longest)
    assert len(calls) < 29
    assert short.tokens.values.shape[1] <= len(calls) + 1


def test_a_search_does_not_end_while_a_longer_sequence_can_be_better() -> None:
    # To end at once has ln 0.5; 0 0 0 and the end have ln 0.4 together, over four ids.
    first = torch.tensor([[0.4, 0.05, 0.05, 0.5]]).double().log()
    sure = (
        torch.tensor([40.0, 0.0, 0.0, 0.0]).double(),
        torch.tensor([0.0, 0.0, 0.0, 40.0]).double(),
    )

    def follow(ids: Tensor, state: Read) -> tuple[Tensor, Read]:
        rows = tuple((w, (*r, i)) for (w, r), i in zip(state.rows, ids.tolist(), strict=True))
        return torch.stack([sure[len(r) >= 3] for _, r in rows]), Read(rows)

    one = Autoregression(first, Read(((0, ()),)), follow, END, LENGTH)
    assert sequences(Beam(2, 0.0), one) == [(END,)]
    assert sequences(Beam(2, 1.0), one) == [(0, 0, 0, END)]
    found = Beam(2, 1.0)(one).log_prob
    assert found.item() == pytest.approx(float(first[0, 0]), abs=1e-7)


@pytest.mark.parametrize("decoder", [Greedy(), Beam(3), Sampled(), Sampled(0.6, 0.8)])
def test_a_sample_is_alone_what_it_is_in_a_batch(decoder: Decoder) -> None:
    ids = torch.tensor([5, 9, 2**33, 0, 7])
    laws = [3, 1, 4, 1, 5]
    together = decoder(law(*laws), Noise(7, ids))
    lines = sequences(decoder, law(*laws), Noise(7, ids))
    for row, w in enumerate(laws):
        noise = Noise(7, ids[row : row + 1])
        assert sequences(decoder, law(w), noise) == [lines[row]]
        alone = decoder(law(w), noise).log_prob
        assert alone.item() == pytest.approx(together.log_prob[row].item(), abs=1e-12)
        assert alone.item() == pytest.approx(all_sequences(w)[lines[row]], abs=1e-12)
    assert not together.tokens.values[~together.tokens.mask].any()


def tempered(which: int, temperature: float, top_p: float) -> dict[Sequence, float]:
    """p of every sequence, by hand."""
    found: dict[Sequence, float] = {}

    def go(read: Sequence, p: float) -> None:
        if read and read[-1] == END:
            found[read] = p
            return
        q = (logits(which, read) / temperature).softmax(0)
        order = sorted(range(IDS), key=lambda i: -q[i])
        kept: list[int] = []
        for i in order:
            if sum(float(q[j]) for j in kept) >= top_p:
                break
            kept.append(i)
        if len(read) == LENGTH - 1:
            return go((*read, END), p)
        total = sum(float(q[j]) for j in kept)
        for i in kept:
            go((*read, i), p * float(q[i]) / total)

    go((), 1.0)
    return found


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.6, 0.8)])
def test_random_sequences_are_of_the_law(temperature: float, top_p: float) -> None:
    number = 3000
    drawn = sequences(Sampled(temperature, top_p), law(*[2] * number), Noise.batch(number, seed=11))
    want = tempered(2, temperature, top_p)
    assert sum(want.values()) == pytest.approx(1)
    assert set(drawn) <= set(want)
    often = [s for s in want if number * want[s] >= 5]
    counts = [drawn.count(s) for s in often]
    expected = [number * want[s] for s in often]
    counts.append(number - sum(counts))
    expected.append(number - sum(expected))
    if expected[-1] < 5:
        counts[-2:] = [sum(counts[-2:])]
        expected[-2:] = [sum(expected[-2:])]
    assert len(often) > 8
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="temperature is 0"):
        Sampled(0.0)
    with pytest.raises(InputError, match=r"top_p 1\.2"):
        Sampled(1.0, 1.2)
    with pytest.raises(InputError, match="width is 0"):
        Beam(0)
    with pytest.raises(InputError, match="need noise"):
        Sampled()(law(1, 2))
    with pytest.raises(InputError, match="need noise"):
        Sampled()(law(1, 2), Noise.batch(3))
    with pytest.raises(InputError, match="end 9"):
        Autoregression(torch.zeros(1, 3), None, lambda i, s: (i, s), 9, 4)
