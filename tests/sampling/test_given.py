"""What is given to be sampled under: labels and conditions by name, misspelt arguments, batches, parts of the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.sampling.generate import generate_batches

NAMES = ("cat", "dog", "eel")
LAW = pf.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), 0.1, labels=[0, 1, 2])


class Exact(nn.Module):
    """The exact field of a law, as a network."""

    def forward(self, x, t, label=None):
        return LAW.field(pf.CondOT())(x, t, label=label)


SPEC = DataSpec((2,), "plane", classes=3, class_names=NAMES)
MODEL = pf.Model(Exact(), pf.CondOT(), spec=SPEC)
PLAIN = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT(), shape=(2,))


@pytest.mark.parametrize(
    ("label", "same"),
    [
        ("dog", 1), (["cat", "eel", "dog", "none"], [0, 2, 1, -1]), (np.array([0, 1, 2, -1]), [0, 1, 2, -1]),
        ([0, "eel", 1, "2"], [0, 2, 1, 2]), (torch.tensor(2), 2),
    ],
)  # fmt: skip
def test_labels_go_by_name_or_number(label, same):
    got, want = (pf.generate(MODEL, 4, nfe=6, label=v) for v in (label, same))
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("dag", "there is no class 'dag'.*did you mean 'dog'"), (3, "knows the classes 0 to 2"),
        (["cat"] * 3, "label has 3 entries for 4 samples"), (1.5, "an integer, a name"), (True, "an integer, a name"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_said(label, words):
    with pytest.raises(pf.InputError, match=words):
        pf.generate(MODEL, 4, nfe=6, label=label)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 10}, "no argument 'steps'; did you mean nfe"),
        ({"num_inference_steps": 10}, "did you mean nfe"),
        ({"guidance_scale": 2.0}, "did you mean guidance"),
        ({"gudance": 2.0}, "did you mean guidance"),
        ({"sead": 3}, "did you mean seed"),
        ({"labels": torch.zeros(4).long()}, "did you mean label"),
        ({"text": torch.zeros(4, 3)}, "nor does this model's network take such a condition"),
        ({"label": 1, "guidance": 2.0, "negative": {"txt": torch.zeros(4)}}, "no argument .txt."),
        ({"negative": {"label": torch.tensor([1])}, "label": 0}, "negative conditions act by guidance"),
        ({"guidance": 2.0}, "guidance moves samples towards a condition: give one"),
        ({"from_time": 0.5}, "give it as source="),
        ({"from_time": 0.5, "source": torch.zeros(3, 2), "grid": pf.times.uniform(4)}, "the grid is from 0 to 1"),
        ({"to_time": 0.5, "grid": pf.times.uniform(4)}, "the grid is from 0 to 1"),
        ({"to_time": 0.5, "grid": pf.times.karras, "nfe": 4}, "the grid is a rule for the whole way"),
        ({"from_time": 0.5, "to_time": 0.2}, "need 0 <= from_time < to_time <= 1"),
        ({"source": torch.zeros(4, 3)}, r"source has states \(3,\), and samples are \(2,\)"),
        ({"source": torch.zeros(4, 2).long()}, "must be floating numbers"),
    ],
)  # fmt: skip
def test_what_generate_does_not_take_is_said_before_anything_is_drawn(options, words):
    with pytest.raises(pf.InputError, match=words):
        generate_batches(MODEL, 4, **options)


def test_guidance_needs_something_to_drop():
    with pytest.raises(pf.InputError, match="guidance needs a model with classes"):
        pf.generate(PLAIN, 4, guidance=2.0)
    assert pf.generate(PLAIN, 4, guidance=1.0, nfe=3).shape == (4, 2)


def test_a_negative_condition_is_what_samples_move_away_from():
    """u_w = (1 - w) u(negative) + w u(positive), here against the law's own fields."""
    field, x = LAW.field(pf.CondOT()), torch.randn(4, 2, dtype=torch.float64)
    positive, negative = torch.tensor([0, 1, 2, 0]), torch.tensor([1])
    guided = pf.guidance.ClassifierFree(field, 3.0, negative={"label": negative})
    want = -2 * field(x, 0.6, label=negative.expand(4)) + 3 * field(x, 0.6, label=positive)
    assert torch.allclose(guided(x, 0.6, label=positive), want, rtol=1e-10)
    # Each sample may have its own.
    own = torch.tensor([1, 2, 0, -1])
    each = pf.guidance.ClassifierFree(field, 3.0, negative={"label": own})
    want = -2 * field(x, 0.6, label=own) + 3 * field(x, 0.6, label=positive)
    assert torch.allclose(each(x, 0.6, label=positive), want, rtol=1e-10)


def test_batches_are_the_samples_of_one_call():
    options = {"nfe": 8, "seed": 3, "label": torch.arange(10) % 3}
    parts = list(generate_batches(MODEL, 10, batch_size=4, **options))
    assert [len(part) for part in parts] == [4, 4, 2]
    # Equal up to rounding: the matrix products of the sampler differ in their last bit by the size of a batch.
    whole = pf.generate(MODEL, 10, batch_size=10, **options)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-9)


def test_progress_counts_the_steps_of_all_batches():
    told = []
    pf.generate(MODEL, 5, batch_size=2, nfe=4, label=0, progress=lambda *a: told.append(a))
    assert told == [(k, 12) for k in range(1, 13)]


def test_the_way_may_be_gone_in_two_parts():
    solver = pf.solvers.DormandPrince(1e-9, 1e-10)
    field = LAW.field(pf.CondOT())
    whole = pf.generate(field, 6, solver=solver, seed=2)
    half = pf.generate(field, 6, solver=solver, seed=2, to_time=0.4)
    rest = pf.generate(field, 6, solver=solver, source=half, from_time=0.4)
    assert torch.allclose(rest, whole, atol=1e-7)
    default = pf.generate(field, 6, nfe=60, source=half, from_time=0.4)
    assert torch.allclose(default, whole, atol=1e-4)


def test_calls_are_at_most_those_asked_for_also_where_guidance_sets_in_and_ends():
    calls = []

    class Counted(nn.Module):
        def forward(self, x, t, label=None):
            calls.append(float(t[0]))
            return LAW.field(pf.CondOT())(x, t, label=label)

    model = pf.Model(Counted(), pf.CondOT(), spec=SPEC)
    for nfe in (6, 9, 20):
        calls.clear()
        pf.generate(model, 3, nfe=nfe, label=0, guidance=2.0, interval=(0.2, 0.7))
        assert len(calls) == nfe
        assert {0.2, 0.7} < {round(t, 12) for t in calls}
