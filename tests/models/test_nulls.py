"""A learned vector that stands for no condition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.core.conditions import Tokens, drop
from pushforward.nets import MLP


def test_a_dropped_embedding_is_the_learned_vector_and_all_others_stay() -> None:
    null = pf.LearnedNull(3)
    with torch.no_grad():
        null.row.copy_(torch.tensor([1.0, 2.0, 3.0]))
    value = torch.arange(12.0).reshape(4, 3)
    mask = torch.tensor([True, False, False, True])
    out = drop({"pooled": value, "label": torch.arange(4)}, {"pooled": null}, mask)
    assert out["pooled"].tolist() == [[1, 2, 3], [3, 4, 5], [6, 7, 8], [1, 2, 3]]
    assert torch.equal(out["label"], torch.arange(4))
    out["pooled"].sum().backward()
    assert torch.equal(null.row.grad, torch.full((3,), 2.0))
    assert null(value.double()).dtype == torch.float64


def test_dropped_tokens_are_one_learned_token() -> None:
    null = pf.LearnedNull(2)
    torch.nn.init.constant_(null.row, 5.0)
    tokens = Tokens(torch.ones(2, 3, 2), torch.tensor([[True, True, False], [True, True, True]]))
    out = drop({"text": tokens}, {"text": null}, torch.tensor([False, True]))["text"]
    assert out.mask.tolist() == [[True, True, False], [True, False, False]]
    assert out.values[1, 0].tolist() == [5.0, 5.0]
    assert torch.equal(out.values[0], tokens.values[0])


def test_it_starts_at_zero_and_refuses_what_it_cannot_stand_for() -> None:
    assert not pf.LearnedNull(4).row.any()
    for value in (torch.zeros(3, 5), torch.zeros(4), {"a": torch.zeros(3, 4)}):
        with pytest.raises(pf.InputError, match="a LearnedNull of width 4 stands for"):
            pf.LearnedNull(4)(value)
    with pytest.raises(pf.InputError, match="width is 0"):
        pf.LearnedNull(0)


def test_it_is_saved_and_loaded_with_its_model(tmp_path: Path) -> None:
    null = pf.LearnedNull(2)
    torch.nn.init.normal_(null.row)
    model = pf.Model(MLP(2, 8, 1), pf.CondOT(), shape=(2,), nulls={"style": null})
    pf.save(model, tmp_path)
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {
        "net.safetensors",
        "nulls.style.safetensors",
    }
    again = pf.load(tmp_path)
    assert torch.equal(again.nulls["style"].row, null.row)
    assert list(again.networks()) == ["net", "learned_nulls.style"]
