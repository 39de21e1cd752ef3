"""What is no number, grid, source or model is refused by name; arrays and lists do as tensors do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf


class Own(nn.Module):
    """A user's own network, which takes no conditions."""

    def forward(self, x, t):
        return x * t[:, None]


MODEL = pf.Model(Own(), pf.CondOT(), shape=(2,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nfe": 2.5}, "nfe is 2.5; it must be a whole number"),
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"num": "10"}, "num is '10'; it must be a whole number"),
        ({"batch_size": 2.0}, "batch_size is 2.0; it must be a whole number"),
        ({"grid": "karras"}, "grid='karras' is a name: pass times"),
        ({"source": pf.laws.Moons}, r"source=Moons is a class: pass Moons\(\)"),
        ({"source": 3}, "source is a int: pass states"),
        ({"label": 1}, r"^this model's network takes no condition label \(it takes none\)$"),
    ],
)
def test_what_is_no_such_argument_is_refused_by_name(options, message):
    with pytest.raises(pf.InputError, match=message):
        pf.generate(MODEL, **{"num": 4, "nfe": 4} | options)


def test_lists_and_arrays_do_as_tensors_do():
    grid, states = [0.0, 0.25, 1.0], np.linspace(-1, 1, 8).reshape(4, 2)
    given = pf.generate(MODEL, np.int64(4), grid=grid, source=states)
    expected = pf.generate(
        MODEL, 4, grid=torch.tensor(grid, dtype=torch.float64), source=torch.from_numpy(states)
    )
    assert torch.equal(given, expected)


@pytest.mark.parametrize(
    "ask",
    [
        lambda net: pf.generate(net, 4),
        lambda net: pf.objectives.FlowMatching(net),
        lambda net: pf.integrate(pf.solvers.Heun(), net, torch.zeros(4, 2), [0.0, 1.0]),
    ],
)
def test_a_network_or_a_function_alone_is_no_model(ask):
    with pytest.raises(pf.InputError, match=r"Own is a network.*pf\.Model\(Own"):
        ask(Own())
    with pytest.raises(pf.InputError, match="is no model or field: it has no path"):
        ask(lambda x, t: x)


def test_a_model_is_made_of_objects():
    for path in ("condot", pf.CondOT):
        with pytest.raises(pf.InputError, match=r"a path is an object, such as (pf\.)?CondOT\(\)"):
            pf.Model(Own(), path)
    with pytest.raises(pf.InputError, match=r"shape is 2; it is a tuple.*\(2,\)"):
        pf.Model(Own(), pf.CondOT(), shape=2)
    with pytest.raises(pf.InputError, match=r"net is .*torch\.nn\.Module"):
        pf.Model(lambda x, t: x, pf.CondOT())
    with pytest.raises(pf.InputError, match="classes must be positive"):
        pf.nets.MLP(2, classes=0)


@pytest.mark.parametrize(
    "batch", [np.zeros((4, 2)), torch.zeros(4, 2).long(), (torch.zeros(4, 2),)]
)
def test_a_batch_is_floating_numbers(batch):
    with pytest.raises(pf.InputError, match="a batch is a tensor of floating numbers"):
        pf.objectives.FlowMatching(MODEL)(batch, pf.Noise.batch(4))


def test_an_error_inside_a_network_comes_with_what_it_was_asked():
    model = pf.Model(nn.Bilinear(2, 2, 2), pf.CondOT(), shape=(3,))
    with pytest.raises(RuntimeError) as caught:
        pf.generate(model, 4, nfe=4)
    assert caught.value.__notes__ == ["Bilinear was asked about x (4, 3) float32 at t (4,) float32"]
