"""CoCa: causal, with what is kept as without it, padding changes nothing, and every weight has a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets import CoCa, WordDecoder
from pushforward.nets.attention import Attention, CrossAttention
from pushforward.nets.coca import AttentionalPooler

WORDS, LENGTH = 9, 6


def coca() -> CoCa:
    torch.manual_seed(0)
    image = {"size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    words = {"vocabulary": WORDS, "width": 12, "depth": 2, "looking": 2, "heads": 2, "length": LENGTH}  # fmt: skip
    net = CoCa(image, words, queries=3, dim=8).double()
    with torch.no_grad():
        for p in (
            net.parameters()
        ):  # Off what some begin with, so that nothing is symmetric or too small to see.
            p.add_(0.3 * torch.randn_like(p))
        net.logit_scale.fill_(2.0)
    return net


def pictures(count: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64)


def captions() -> Tokens:
    ids = torch.tensor([[2, 3, 4, 5, 8], [6, 8, 0, 0, 0], [7, 7, 2, 8, 0]])
    return Tokens(ids, ids > 0)


def test_a_word_depends_on_those_before_it_and_on_the_picture_alone() -> None:
    net, x, text = coca(), pictures(), captions()
    logits = net(x, text)[2]
    for k in range(5):
        other = text.values.clone()
        other[:, k:] = 3
        found = net(x, Tokens(other, torch.ones_like(text.mask)))[2]
        assert torch.allclose(found[:, : k + 1], logits[:, : k + 1], atol=1e-12)
    changed = net(x, Tokens(text.values.roll(1, 0), text.mask))[2]
    assert (changed[:, 1] - logits[:, 1]).abs().amin(0).max() > 1e-3
    assert (net(x.flip(0), text)[2][0, 0] - logits[0, 0]).abs().max() > 1e-3


def test_padding_changes_nothing_whatever_it_holds() -> None:
    net, x, text = coca(), pictures(), captions()
    u, v, logits, _ = net(x, text)
    for row in range(3):
        n = int(text.mask[row].sum())
        alone = Tokens(text.values[row : row + 1, :n], text.mask[row : row + 1, :n])
        a, b, ln, _ = net(x[row : row + 1], alone)
        assert torch.allclose(a[0], u[row], atol=1e-12)
        assert torch.allclose(b[0], v[row], atol=1e-12)
        assert torch.allclose(ln[0], logits[row, :n], atol=1e-12)
    rubbish = Tokens(torch.where(text.mask, text.values, 5), text.mask)
    for a, b in zip(net(x, rubbish)[:2], (u, v), strict=True):
        assert torch.equal(a, b)


def test_the_vector_of_a_text_depends_on_every_word_of_it_but_the_end_and_not_on_the_picture() -> (
    None
):
    net, x, text = coca(), pictures(), captions()
    v = net(x, text)[1]
    assert torch.equal(net(x.flip(0), text)[1], v)
    assert torch.allclose(net.texts(text), v, atol=1e-14)
    assert torch.allclose(net.images(x), net(x, text)[0], atol=1e-14)
    for k in range(4):
        other = text.values.clone()
        other[0, k] = 6
        assert (net.texts(Tokens(other, text.mask))[0] - v[0]).abs().max() > 1e-4
    assert torch.allclose(v.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_what_is_kept_of_words_gives_the_logits_of_the_whole_text() -> None:
    net, x, text = coca(), pictures(), captions()
    whole = net(x, text)[2]
    found, past = net.words.begin(net.look(x))
    assert torch.allclose(found, whole[:, 0], atol=1e-12)
    for k in range(4):
        found, past = net.words.follow(text.values[:, k], past)
        assert past.count == k + 2
        # Of the text that is shorter, up to its end: no more of it is asked for.
        there = text.mask[:, k + 1]
        assert torch.allclose(found[there], whole[there, k + 1], atol=1e-12)


def test_what_is_kept_may_be_picked_from_in_any_order() -> None:
    net, x = coca(), pictures()
    _, past = net.words.begin(net.look(x))
    rows = torch.tensor([2, 0, 0])
    ids = torch.tensor([3, 4, 5])
    found, _ = net.words.follow(ids, past.take(rows))
    _, again = net.words.begin(net.look(x[rows]))
    assert torch.allclose(found, net.words.follow(ids, again)[0], atol=1e-12)


def test_a_text_may_be_as_long_as_the_network_and_no_longer() -> None:
    net, x = coca(), pictures(1)
    text = Tokens(torch.full((1, LENGTH + 1), 2), torch.ones(1, LENGTH + 1, dtype=torch.bool))
    with pytest.raises(InputError, match=f"L <= {LENGTH}"):
        net(x, text)
    net(x, Tokens(text.values[:, :-1], text.mask[:, :-1]))
    with pytest.raises(InputError, match=f"from 0 to {WORDS - 1}"):
        net(x, Tokens(torch.tensor([[WORDS]]), torch.tensor([[True]])))
    _, past = net.words.begin(net.look(x))
    for _ in range(LENGTH - 1):
        _, past = net.words.follow(torch.tensor([2]), past)
    with pytest.raises(InputError, match=f"at most {LENGTH} words"):
        net.words.follow(torch.tensor([2]), past)


def test_every_weight_has_a_gradient_but_those_of_words_that_do_not_occur() -> None:
    net, x, text = coca(), pictures(), captions()
    u, v, logits, scale = net(x, text)
    (scale * (u @ v.T).square().sum() + (text.mask[..., None] * logits).square().sum()).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        if name == "words.embedding.weight":
            assert p.grad[8].abs().max() == 0  # The end is asked for, and never read.
            assert p.grad[2:8].abs().amax(1).min() > 0
        elif name == "words.places.weight":
            assert p.grad[5].abs().max() == 0
            assert p.grad[:5].abs().amax(1).min() > 0
        elif not name.endswith("k_proj.bias"):  # It moves all scores of a query alike.
            assert p.grad.abs().max() > 1e-12, name


def test_recomputed_activations_give_the_same_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        net = coca()
        net.checkpointing = checkpointing
        assert net.image.checkpointing is net.words.checkpointing is checkpointing
        net(pictures(), captions())[2].square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(*found, rtol=1e-10)


def test_a_pooler_answers_with_means_of_its_values() -> None:
    torch.manual_seed(3)
    pool = AttentionalPooler(4, 8, 2, 6).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    assert torch.allclose(pool(x), pool(x[:, torch.tensor([3, 1, 0, 4, 2])]), atol=1e-12)
    one = x[:, :1].expand(-1, 5, -1)
    assert torch.allclose(pool(one), pool(x[:, :1]), atol=1e-12)
    assert pool(x).shape == (2, 4, 8)


def test_attention_in_parts_is_attention_at_once() -> None:
    torch.manual_seed(4)
    own, cross = Attention(8, 2, qk_norm=True).double(), CrossAttention(8, 2, 6, True).double()
    x, context = torch.randn(2, 5, 8).double(), torch.randn(2, 3, 6).double()
    before = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, -1, -1)
    whole = own(x, keep=before)
    first, past = own.extend(x[:, :2], None, before[:, :2, :2])
    second, past = own.extend(x[:, 2:], past, before[:, 2:])
    assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-12)
    assert past[0].shape == (2, 2, 5, 4)
    keep = torch.tensor([[True, True, False], [False, True, True]])
    assert torch.allclose(
        cross.look(x, cross.read(context), keep), cross(x, context, keep), atol=1e-12
    )


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="must be positive"):
        WordDecoder(5, 4, depth=0)
    with pytest.raises(InputError, match="queries and dim"):
        CoCa({"size": 8, "patch": 4, "width": 16, "heads": 2}, {"vocabulary": 5}, queries=0)
