"""Conditions of any kind are cut, joined, moved, repeated and dropped as one, row by row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.core import conditions
from pushforward.core.conditions import Empty, Fill, Tokens

SOURCE = Path(pf.__file__).parent


def made(count: int = 5, length: int = 4, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (count,), generator=g)
    mask = torch.arange(length) < lengths[:, None]
    return {
        "label": torch.randint(0, 3, (count,), generator=g),
        "text": Tokens(torch.randn(count, length, 2, generator=g), mask),
        "control": {"edges": torch.randn(count, 1, 3, 3, generator=g)},
    }


def rows_of(cond: dict, row: int) -> list[torch.Tensor]:
    """What one sample has: its numbers, and of its tokens those that are there."""
    text = cond["text"]
    return [cond["label"][row], text.values[row][text.mask[row]], cond["control"]["edges"][row]]


def assert_rows(got: dict, row: int, want: dict, other: int) -> None:
    for a, b in zip(rows_of(got, row), rows_of(want, other), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "rows",
    [slice(1, 4), torch.tensor([4, 0, 0, 2]), torch.tensor([True, False, False, True, True])],
    ids=["slice", "indices", "mask"],
)
def test_taking_rows_takes_those_of_every_condition(rows):
    cond = made()
    got = conditions.take(cond, rows)
    for k, row in enumerate(torch.arange(5)[rows].tolist()):
        assert_rows(got, k, cond, row)
    assert conditions.size(got) == len(torch.arange(5)[rows])


def test_repeating_goes_sample_by_sample_and_tiling_batch_by_batch():
    cond = made(3)
    for k, row in enumerate([0, 0, 1, 1, 2, 2]):
        assert_rows(conditions.repeat(cond, 2), k, cond, row)
    for k, row in enumerate([0, 1, 2, 0, 1, 2]):
        assert_rows(conditions.tile(cond, 2), k, cond, row)


def test_joined_batches_keep_their_rows_and_the_shorter_tokens_are_padded():
    a, b = made(2, 3, seed=1), made(3, 6, seed=2)
    both = conditions.cat((a, b))
    assert conditions.size(both) == 5
    assert both["text"].values.shape == (5, 6, 2)
    for k in range(2):
        assert_rows(both, k, a, k)
    for k in range(3):
        assert_rows(both, 2 + k, b, k)
    with pytest.raises(pf.InputError, match="with and without the condition text"):
        conditions.cat((a, {k: v for k, v in b.items() if k != "text"}))


def test_only_what_has_a_null_is_dropped_and_only_in_the_samples_named():
    cond = made()
    where = torch.tensor([True, False, True, False, False])
    got = conditions.drop(cond, {"label": Fill(-1), "text": Empty()}, where)
    assert torch.equal(got["label"][where], torch.full((2,), -1))
    assert not got["text"].mask[where].any()
    for row in (1, 3, 4):
        assert_rows(got, row, cond, row)
    assert torch.equal(got["control"]["edges"], cond["control"]["edges"])
    # Each on its own.
    apart = conditions.drop(cond, {"label": Fill(-1), "text": Empty()}, {"text": where})
    assert torch.equal(apart["label"], cond["label"])
    assert not apart["text"].mask[where].any()
    everywhere = conditions.drop(cond, {"label": Fill(-1)})
    assert (everywhere["label"] == -1).all()


def test_rows_that_differ_in_number_are_named():
    cond = made(5) | {"extra": torch.zeros(4)}
    with pytest.raises(pf.InputError, match=r"label 5, text 5, control\.edges 5, extra 4"):
        conditions.size(cond)
    with pytest.raises(pf.InputError, match="extra has 4 entries for 5 samples"):
        conditions.check_size(cond, 5)
    with pytest.raises(pf.InputError, match="guess is a str"):
        conditions.size({"guess": "3"})


def test_no_other_file_cuts_moves_or_joins_conditions_by_hand():
    by_hand = re.compile(r": *\w+\[[^\]]+\](\.to\([^)]*\))?\s+for \w+, \w+ in \w*(cond|given)\w*\.items\(\)"
                         r"|\.to\([^)]*\) for \w+, \w+ in \w*cond\w*\.items\(\)")  # fmt: skip
    found = []
    for file in SOURCE.rglob("*.py"):
        if file.name != "conditions.py" and by_hand.search(file.read_text()):
            found.append(str(file.relative_to(SOURCE)))
    assert not found
    assert by_hand.search("{name: value[rows] for name, value in cond.items()}")
    assert by_hand.search("{k: v.to(device) for k, v in batch.cond.items()}".replace("batch.", ""))


def test_what_stands_for_none_is_named_by_a_number_a_word_or_an_object():
    nulls = conditions.as_nulls(
        {"label": -1, "text": "empty", "size": "unknown", "own": torch.zeros_like}
    )
    text = Tokens(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert nulls["label"](torch.tensor([3, 4])).tolist() == [-1, -1]
    assert not bool(nulls["text"](text).mask.any())
    assert bool(nulls["size"](torch.ones(2)).isnan().all())
    assert nulls["own"](torch.ones(2)).tolist() == [0, 0]
    for wrong in ("none", True, None, [1]):
        with pytest.raises(
            pf.InputError, match="what stands for no label is a number, 'empty', 'unknown'"
        ):
            conditions.as_nulls({"label": wrong})


def test_tokens_are_trimmed_to_the_longest_row_and_keep_gaps():
    mask = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    values = torch.arange(20.0).reshape(2, 5, 2)
    cond = {
        "text": {"tokens": Tokens(values, mask), "pooled": torch.ones(2, 3)},
        "label": torch.arange(2),
    }
    found = conditions.trimmed(cond)
    assert torch.equal(found["text"]["tokens"].values, values[:, :3])
    assert torch.equal(found["text"]["tokens"].mask, mask[:, :3])
    assert torch.equal(found["text"]["pooled"], torch.ones(2, 3))
    assert torch.equal(found["label"], torch.arange(2))
    empty = conditions.trimmed({"text": Tokens(values, torch.zeros_like(mask))})
    assert empty["text"].values.shape == (2, 1, 2)
