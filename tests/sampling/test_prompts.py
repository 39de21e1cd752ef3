"""Samples by prompts: of a model with an encoder of words, saved and found again bit for bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pushforward as pf
from pushforward.models.text import Words
from pushforward.nets import DiT, Prompted, WordTransformer
from pushforward.sampling import generate as generating

PROMPTS = ["a red circle", "blue", "a blue square left of a red circle"]


@pytest.fixture(scope="module")
def model() -> pf.Model:
    words = Words(("a", "red", "circle", "blue", "square", "left", "of"), 12)
    torch.manual_seed(0)
    net = Prompted(
        DiT(1, 2, 32, 2, 2, context=16), {"words": WordTransformer(words.size, 16, 1, 2, 12)}
    )
    for parameter in net.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return pf.Model(net, pf.CondOT(), shape=(1, 6, 6), encoders={"prompt": words})


def draw(model: pf.Model, **options) -> torch.Tensor:
    return pf.generate(model, **{"nfe": 4, **options})


def test_there_are_as_many_samples_as_prompts_each_by_its_own(model) -> None:
    found = draw(model, prompt=PROMPTS)
    assert found.shape == (3, 1, 6, 6)
    # Padding, batches and neighbours change nothing.
    assert torch.allclose(draw(model, prompt=PROMPTS, batch_size=1), found, atol=1e-5)
    assert torch.allclose(draw(model, prompt=PROMPTS[:1]), found[:1], atol=1e-5)
    assert torch.allclose(draw(model, prompt=PROMPTS[2:], start=2), found[2:], atol=1e-5)
    assert torch.equal(draw(model, prompt=tuple(PROMPTS)), found)
    # One for all.
    assert torch.allclose(draw(model, num=3, prompt="blue")[1], found[1], atol=1e-5)
    assert draw(model, prompt="blue").shape == (1, 1, 6, 6)
    assert (draw(model, num=3, prompt="blue") - found).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-3


@pytest.mark.parametrize("negative", ["red", ["red", "blue", "of", "left", "a"]])
def test_processes_share_prompts_and_negative_ones(model, monkeypatch, negative) -> None:
    options = {
        "prompt": [*PROMPTS, *PROMPTS[:2]],
        "negative": {"prompt": negative},
        "guidance": 2.0,
        "nfe": 4,
    }
    whole = pf.generate(model, 5, **options)
    for rank in (0, 1):
        two = SimpleNamespace(count=2, rank=rank, gather=lambda rows: rows)
        monkeypatch.setattr(generating.Processes, "current", lambda two=two: two)
        own = generating.generate_together(model, 5, **options)
        assert torch.allclose(own[: 3 - rank], whole[3 * rank : 3 * rank + 3], atol=1e-5)


def test_an_empty_prompt_is_none(model) -> None:
    assert torch.allclose(draw(model, num=2, prompt=""), draw(model, num=2), atol=1e-5)


def test_guidance_moves_away_from_none_or_from_the_negative_prompt(model) -> None:
    """v = v_- + w (v_+ - v_-), by hand in one Euler step from noise."""
    noise = pf.Noise.batch(3, 0)
    x, t, w = noise.normal((1, 6, 6), pf.noise.START, torch.float32), torch.zeros(()), 3.0
    words = model.encoders["prompt"]

    def velocity(texts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return model(x, t, **words(texts))

    positive = velocity(PROMPTS)
    cases = [
        ({}, [""] * 3),
        ({"negative": {"prompt": "a square"}}, ["a square"] * 3),
        ({"negative": {"prompt": ["", "red", "a"]}}, ["", "red", "a"]),
    ]
    for given, texts in cases:
        found = pf.generate(
            model, prompt=PROMPTS, guidance=w, solver=pf.solvers.Euler(), nfe=1, **given
        )
        less = velocity(texts)
        assert torch.allclose(found, x + less + w * (positive - less), atol=1e-5)


def test_a_model_of_prompts_is_saved_and_found_again_bit_for_bit(model, tmp_path: Path) -> None:
    options = {"prompt": PROMPTS, "guidance": 2.0, "negative": {"prompt": "red"}}
    want = draw(model, **options)
    pf.save(model, tmp_path)
    back = pf.load(tmp_path)
    assert torch.equal(draw(back, **options), want)
    assert back.encoders == model.encoders


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": PROMPTS, "num": 4}, "prompt has 3 entries for 4 samples"),
        ({}, "how many samples. Give num, or a list of prompts"),
        ({"prompt": 5}, "prompt is one text for all samples, or a list of one for each, not a int"),
        ({"prompt": [1, 2]}, "takes a list of texts, not 1"),
        ({"promt": "a", "num": 1}, "there is no argument 'promt'; did you mean prompt. .* only for prompt"),
        ({"promt": ["a"]}, "did you mean prompt"),
        ({"prompt": "a", "negative": {"prompt": "b"}}, "negative conditions act by guidance"),
        ({"prompt": "a", "guidance": 2.0, "negative": {"prompt": ["b", "c"]}}, "prompt has 2 entries for 1 samples"),
        ({"guidance": 2.0, "negative": {"prompt": "b"}, "num": 1}, "the negative prompt has no positive one"),
        ({"prompt": "a", "guidance": 2.0, "negative": "b"}, "negative maps names of conditions to values"),
        ({"prompt": "a", "negative_prompt": "b"}, "did you mean negative"),
        ({"prompt": {"a", "b"}}, "not a set"),
        ({"prompt": b"abc"}, "not a bytes"),
        ({"prompt": "a", "words": torch.zeros(1)}, "prompt gives the condition 'words' already"),
        ({"num": 1, "guidance": 2.0}, r"give one \(prompt=\)"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_meant_are_said(model, options, words) -> None:
    with pytest.raises(pf.InputError, match=words):
        draw(model, **options)


def test_a_model_without_encoders_says_that_it_takes_no_prompt() -> None:
    plain = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT(), shape=(2,))
    for options in ({"prompt": ["a"]}, {"prompt": "a", "num": 1}):
        with pytest.raises(
            pf.InputError, match=r"no argument 'prompt'\. This model has an encoder for no text"
        ):
            draw(plain, **options)
