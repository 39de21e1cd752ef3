"""Encoders of words: ids, unknown words, cutting, and that padding and dropping change nothing."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.models.text import NoText, Together, Words, split_words
from pushforward.nets import DiT, Prompted, UViT, WordTransformer

WORDS = Words(("a", "red", "circle", "blue", "square", "left", "of"), 6)


def test_texts_are_words_and_marks_in_lower_case() -> None:
    assert split_words("A RED circle, isn't it? Café_au lait!") == [
        "a", "red", "circle", ",", "isn't", "it", "?", "café", "au", "lait", "!",
    ]  # fmt: skip
    assert split_words(" \n") == []


def test_the_vocabulary_is_the_most_frequent_words_whatever_the_order_of_texts() -> None:
    lines = ["a b", "a c", "a b d"]
    assert Words.of(lines, most=3).vocabulary == ("a", "b", "c")
    assert Words.of(lines[::-1]) == Words.of(lines)
    with pytest.raises(pf.InputError, match="hold no words"):
        Words.of(["", "  "])


def test_each_word_has_its_id_and_unknown_ones_share_one() -> None:
    found = WORDS(["A red circle", "", "green red red"])["words"]
    assert found.values.tolist() == [[2, 3, 4], [0, 0, 0], [1, 3, 3]]
    assert found.mask.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert WORDS.unknown("a Green circle, blue") == ["green", ","]
    assert WORDS.unknown("a red circle") == []
    assert WORDS.size == 9
    assert int(WORDS(["of zebra"])["words"].values.max()) < WORDS.size
    empty = WORDS([])["words"]
    assert empty.values.shape == (0, 1)


def test_texts_are_cut_between_words() -> None:
    long = "a red circle left of a blue square"
    assert WORDS.cut(long) == "a red circle left of a"
    assert WORDS.cut("a red circle left of a") is None
    found = WORDS([long, WORDS.cut(long) or ""])["words"]
    assert torch.equal(found.values[0], found.values[1])
    assert found.values.shape == (2, 6)


def test_what_is_no_list_of_texts_is_said() -> None:
    for given in ("a red circle", ["a", 3], [None]):
        with pytest.raises(pf.InputError, match="takes a list of texts"):
            WORDS(given)


def test_the_digest_is_of_what_changes_ids() -> None:
    same = Words.from_config(WORDS.to_config())
    assert (same, same.digest) == (WORDS, WORDS.digest)
    others = [Words(WORDS.vocabulary, 7), Words(WORDS.vocabulary[::-1], 6), Words(("a",), 6)]
    assert len({WORDS.digest, *(other.digest for other in others)}) == 4


def test_none_is_no_tokens_and_zeros() -> None:
    given = {
        "tokens": Tokens(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)),
        "pooled": torch.ones(2, 5),
    }
    none = NoText()(given)
    assert not none["tokens"].mask.any()
    assert none["tokens"].values.shape == (2, 3, 4)
    assert (none["pooled"] == 0).all()


def network(kind: str) -> Prompted:
    torch.manual_seed(0)
    net = {
        "DiT": lambda: DiT(1, 2, 32, 2, 2, context=16),
        "in-context": lambda: DiT(1, 2, 32, 2, 2, context=16, conditioning="in-context"),
        "UViT": lambda: UViT(1, (16,), 1, 32, 32, 1, 2, context=16),
    }[kind]()
    whole = Prompted(net, {"words": WordTransformer(WORDS.size, 16, 2, 2, 6)})
    for parameter in whole.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return whole.eval()


KINDS = ["DiT", "in-context", "UViT"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_alone_is_the_same_text_padded_in_a_batch(kind: str) -> None:
    net = network(kind)
    texts = ["red", "a red circle left of a", "", "blue square"]
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    with torch.no_grad():
        together = net(x, t, **WORDS(texts))
        for i, text in enumerate(texts):
            alone = net(x[i : i + 1], t[i : i + 1], **WORDS([text]))
            assert (together[i] - alone[0]).abs().max() < 1e-6 * (1 + alone.abs().max())
    # Texts matter at all, and so does the order of their words.
    with torch.no_grad():
        pair = net(
            x[:1].expand(3, -1, -1, -1), t[:1].expand(3), **WORDS(["red blue", "blue red", "red a"])
        )
    assert min((pair[i] - pair[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_text_is_an_empty_one_and_no_text(kind: str) -> None:
    net = network(kind)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    cond = WORDS(["a red circle", "blue"])
    with torch.no_grad():
        none = net(x, t)
        dropped = net(x, t, **conditions.drop(cond, WORDS.nulls))
        empty = net(x, t, **WORDS(["", ""]))
        assert (dropped - none).abs().max() < 1e-6 * (1 + none.abs().max())
        assert (empty - none).abs().max() < 1e-6 * (1 + none.abs().max())
        # One of two.
        mask = torch.tensor([True, False])
        half = net(x, t, **conditions.drop(cond, WORDS.nulls, mask))
        assert (half[0] - none[0]).abs().max() < 1e-6 * (1 + none.abs().max())
        assert (half[1] - net(x, t, **cond)[1]).abs().max() < 1e-6 * (1 + none.abs().max())
        assert (half[1] - none[1]).abs().max() > 1e-4


def test_encoders_are_dropped_each_on_its_own() -> None:
    both = Together((WORDS, Words(("x",), 4, "other")))
    cond = both(["a red x", "x"])
    masks = {"words": torch.tensor([True, False]), "other": torch.tensor([False, True])}
    found = conditions.drop(cond, both.nulls, masks)
    assert found["words"].mask.any(1).tolist() == [False, True]
    assert found["other"].mask.any(1).tolist() == [True, False]
    assert both.cut("x x x x x") == "x x x x"
    with pytest.raises(pf.InputError, match="at least one encoder"):
        Together(())
