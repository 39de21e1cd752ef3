"""What every encoder of texts keeps to."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import ENCODERS
from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.saving.parts import config_of, rebuild

TEXTS = ["a red circle", "a", "b a circle . red red red red red", "a red circle"]


def same(a, b):
    a, b = (dict(conditions.leaves(conditions.trimmed(x))) for x in (a, b))
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, Tokens):
            assert torch.equal(value.mask, b[name].mask)
            there = value.mask
            assert torch.allclose(
                value.values[there].double(), b[name].values[there].double(), atol=1e-5
            )
        else:
            assert torch.allclose(value, b[name], atol=1e-5)


@pytest.mark.parametrize("make", ENCODERS)
def test_each_text_has_a_row_that_it_has_alone_and_in_any_order(make):
    encoder = make()
    cond = encoder(TEXTS)
    assert conditions.size(cond) == len(TEXTS)
    for i, text in enumerate(TEXTS):
        same(conditions.take(cond, slice(i, i + 1)), encoder([text]))
    turned = torch.tensor([2, 0, 3, 1])
    same(encoder([TEXTS[i] for i in turned]), conditions.take(cond, turned))
    first, last = (conditions.take(cond, slice(i, i + 1)) for i in (0, 3))
    same(first, last)
    short, long = (conditions.leaves(conditions.take(cond, slice(i, i + 1))) for i in (1, 2))
    assert any(
        (isinstance(a, Tokens) and int(a.mask.sum()) != int(b.mask.sum()))
        or (isinstance(a, torch.Tensor) and not torch.equal(a, b))
        for (_, a), (_, b) in zip(short, long, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("make", ENCODERS)
def test_its_nulls_are_those_of_its_conditions_and_leave_no_token(make):
    encoder = make()
    cond = encoder(TEXTS)
    assert encoder.nulls.keys() == cond.keys()
    none = conditions.drop(cond, encoder.nulls)
    assert conditions.size(none) == len(TEXTS)
    for _, value in conditions.leaves(none):
        if isinstance(value, Tokens):
            assert not value.mask.any()
        else:
            assert not value.any()


@pytest.mark.parametrize("make", ENCODERS)
def test_it_is_rebuilt_from_its_configuration_with_the_same_digest(make, tmp_path):
    encoder = make()
    again = rebuild(type(encoder), config_of(encoder))
    assert again.digest == encoder.digest
    same(again(TEXTS), encoder(TEXTS))
    # With a model it is saved, loaded, and asked by its name; its conditions may be dropped.
    model = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT(), shape=(2,), encoders={"prompt": encoder})
    assert model.nulls.keys() == encoder.nulls.keys()
    pf.save(model, tmp_path)
    loaded = pf.load(tmp_path)
    assert loaded.encoders["prompt"].digest == encoder.digest
