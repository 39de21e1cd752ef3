"""Networks over words: padding changes nothing, and what an encoder does not give is asked for."""

from __future__ import annotations

import pytest
import torch

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets import TextFeatures, WordTransformer


def tokens(rows: list[list[int]], length: int, junk: int = 0) -> Tokens:
    ids = torch.full((len(rows), length), junk)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    return Tokens(ids, mask)


@pytest.fixture
def net() -> WordTransformer:
    torch.manual_seed(0)
    made = WordTransformer(10, 12, 2, 3, 8).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


@torch.no_grad()
def test_padding_of_words_changes_nothing_whatever_stands_there(net) -> None:
    rows = [[2, 3], [4, 5, 6, 7, 8], [9]]
    states, pooled = net(tokens(rows, 8, junk=7))
    for i, row in enumerate(rows):
        alone, vector = net(tokens([row], len(row)))
        assert torch.allclose(states.values[i, : len(row)], alone.values[0], atol=1e-6)
        assert (states.values[i, len(row) :] == 0).all()
        assert torch.allclose(pooled[i], vector[0], atol=1e-6)
        # The mean over words.
        assert torch.allclose(vector[0], alone.values[0].mean(0), atol=1e-6)
    # Words see those after them, and their place.
    first, second = (net(tokens([row], 2))[0].values[0, 0] for row in ([2, 3], [2, 4]))
    assert (first - second).abs().max() > 1e-3


@torch.no_grad()
def test_a_text_without_words_is_zero_and_finite(net) -> None:
    states, pooled = net(tokens([[], [3]], 3))
    assert (states.values[0] == 0).all()
    assert (pooled[0] == 0).all()
    assert states.values.isfinite().all()
    assert pooled[1].abs().max() > 0


def test_gradients_are_finite_with_empty_texts(net) -> None:
    states, pooled = net(tokens([[], [3, 4]], 4))
    (states.values.square().sum() + pooled.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    # The padding's id is never learned from.
    assert (net.words.weight.grad[5:] == 0).all()


def test_what_are_no_ids_of_words_is_said(net) -> None:
    for given in (
        tokens([[1] * 9], 9),
        Tokens(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)),
    ):
        with pytest.raises(InputError, match=r"words are ids \(B, L\) with L <= 8"):
            net(given)
    with pytest.raises(InputError, match="must be positive"):
        WordTransformer(0)


def test_features_are_brought_to_the_width_and_masked() -> None:
    torch.manual_seed(0)
    net = TextFeatures(6, tokens=4, pooled=3)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    values = torch.randn(2, 3, 4).masked_fill(~mask[..., None], float("nan"))
    pooled = torch.randn(2, 3)
    found, vector = net({"tokens": Tokens(values, mask), "pooled": pooled})
    assert found.values.shape == (2, 3, 6)
    assert (found.values[~mask] == 0).all()
    weight, bias = net.project.weight, net.project.bias
    assert torch.allclose(found.values[0, :2], values[0, :2] @ weight.T + bias, atol=1e-6)
    assert torch.equal(vector, pooled)
    assert TextFeatures(6, pooled=3)({"pooled": pooled})[0] is None
    with pytest.raises(InputError, match="takes the tokens of a text encoder"):
        net({"pooled": pooled})
    with pytest.raises(InputError, match="takes the pooled vector of a text encoder"):
        net({"tokens": Tokens(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))})
    with pytest.raises(InputError, match="tokens, a pooled vector, or both"):
        TextFeatures(6)
