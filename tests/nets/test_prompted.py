"""Networks that take texts through several encoders: what the inner network sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets import MLP, DiT, Prompted, TextFeatures, WordTransformer


class Inner(nn.Module):
    """It keeps what it is given."""

    def forward(self, x, t, context=None, pooled=None, label=None):
        self.seen = {"context": context, "pooled": pooled, "label": label}
        return x


def features(length: int, tokens: int, pooled: int, value: float) -> dict:
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, -1] = False
    return {
        "tokens": Tokens(torch.full((2, length, tokens), value), mask),
        "pooled": torch.full((2, pooled), value),
    }


@pytest.fixture
def net() -> Prompted:
    torch.manual_seed(0)
    texts = {
        "one": TextFeatures(6, 4, 3),
        "two": TextFeatures(6, 5, None),
        "three": TextFeatures(6, None, 2),
    }
    return Prompted(Inner(), texts)


def test_sequences_and_vectors_are_joined_in_their_order(net) -> None:
    x, t = torch.zeros(2, 1), torch.zeros(2)
    one, two, three = features(2, 4, 3, 1.0), features(3, 5, 7, 2.0), features(1, 1, 2, 3.0)
    net(x, t, three=three, two=two, one=one, label=torch.tensor([1, 2]))
    seen = net.net.seen
    assert seen["context"].values.shape == (2, 5, 6)
    assert seen["context"].mask.tolist() == [[True] * 5, [True, False, True, True, False]]
    want = net.texts["two"]({"tokens": two["tokens"]})[0].values
    assert torch.equal(seen["context"].values[:, 2:], want)
    assert seen["pooled"].tolist() == [[1, 1, 1, 3, 3]] * 2
    assert seen["label"].tolist() == [1, 2]


def test_what_is_missing_is_no_tokens_and_zeros_in_its_place(net) -> None:
    x, t = torch.zeros(2, 1), torch.zeros(2)
    net(x, t, three=features(1, 1, 2, 3.0))
    assert net.net.seen["context"] is None
    assert net.net.seen["pooled"].tolist() == [[0, 0, 0, 3, 3]] * 2
    net(x, t)
    assert net.net.seen["pooled"].tolist() == [[0] * 5] * 2


def test_networks_that_take_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="MLP takes no text"):
        Prompted(MLP(2, 8, 1), {"words": WordTransformer(5)})
    with pytest.raises(InputError, match="at least one encoder's output"):
        Prompted(DiT(1, 2, 16, 1, 2, context=8), {})
