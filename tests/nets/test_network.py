"""A network keeps the arguments that build it."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.nets import MLP, DiT, ImageClassifier, MLPClassifier, Network, UNet


class Mine(Network):
    """A user's own."""

    def __init__(self, width, sizes=(1, (2, 3)), *, act="silu", **more):
        super().__init__()
        self.seen = dict(self.config)
        self.layer = nn.Linear(width, 1)


class Finer(Mine):
    def __init__(self, depth=2):
        super().__init__(4 * depth, act="gelu")


class Inherits(Finer):
    pass


def test_arguments_are_kept_with_their_defaults_and_tuples_as_lists():
    net = Mine(3, other=(4,))
    assert net.config == {"width": 3, "sizes": [1, [2, 3]], "act": "silu", "other": [4]}
    assert net.seen == net.config  # already while it is built
    assert Mine.from_config(json.loads(json.dumps(net.to_config()))).config == net.config
    assert net.to_config() is not net.config
    net.to_config()["sizes"].append(5)
    assert net.config["sizes"] == [1, [2, 3]]


def test_a_subclass_keeps_its_own_arguments_and_not_those_that_it_passes_on():
    assert Finer(3).config == {"depth": 3}
    assert Finer.from_config({"depth": 3}).layer.in_features == 12
    assert Inherits(depth=5).config == {"depth": 5}
    assert MLPClassifier(2, 3).config == {
        "dim": 2, "classes": 3, "width": 128, "depth": 3, "time": "sinusoidal",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [MLP, UNet, DiT, MLPClassifier, ImageClassifier])
def test_the_configuration_has_every_argument_of_the_constructor(kind):
    small = {"width": 8, "heads": 2, "depth": 1, "classes": 2, "dim": 2, "channels": 1}
    names = list(inspect.signature(kind).parameters)
    net = kind(**{name: small[name] for name in names if name in small})
    assert list(net.config) == names
    again = kind.from_config(net.to_config())
    assert again.config == net.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }
    assert net.double_times
    assert not Network.double_times


def test_copies_keep_it():
    net = MLP(2, 8, 1, features=("a",))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.config == net.config
        assert torch.equal(other.conv_in.weight, net.conv_in.weight)


def test_what_cannot_be_written_down_or_is_not_known_is_an_error():
    with pytest.raises(pf.InputError, match="argument act is a builtin_function"):
        Mine(3, act=torch.relu).to_config()
    with pytest.raises(pf.InputError, match="MLP has no argument 'widht'; did you mean 'width'"):
        MLP.from_config({"dim": 2, "widht": 8})
    with pytest.raises(TypeError, match="args"):

        class Bad(Network):
            def __init__(self, *sizes):
                super().__init__()
