"""Records, nulls, declared outputs and networks of every model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.core.conditions import Empty, Fill, drop
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.diffflow import DiffFlowModel
from pushforward.nets import MLP, MLPClassifier

SPEC = DataSpec((2,), "plane", classes=3, class_names=("a", "b", "c"), law="moons")
RECORDS = {
    "spec": SPEC,
    "sampling": SamplingDefaults(nfe=7, guidance=2.0),
    "provenance": Provenance(recipe="toy2d", step=3),
}


def net(outputs: int = 1, **options) -> MLP:
    return MLP(2, 8, 1, classes=3, outputs=outputs, **options)


def scored(**more) -> pf.Model:
    return pf.Model(net(), pf.VP(), "noise", **more)


# Every kind of model, by the records that it is given; its networks.
MODELS = {
    "model": (lambda **r: pf.Model(net(), pf.CondOT(), **r), ["net"]),
    "flow map": (lambda **r: pf.FlowMapModel(pf.Model(net(two_times=True), pf.CondOT(), **r)), ["model.net"]),
    "bridge": (lambda **r: pf.BridgeModel(net(2), pf.BrownianBridge(), **r), ["net"]),
    "half-bridges": (
        lambda **r: pf.HalfBridges(net(), net(), pf.BrownianBridge(), **r), ["forward_drift", "backward_drift"],
    ),
    "DiffFlow": (lambda **r: DiffFlowModel(scored(**r), net()), ["score.net", "drift"]),
    "DiffFlow without a drift": (lambda **r: DiffFlowModel(scored(**r)), ["score.net"]),
    "classifier": (lambda **r: pf.NoisyClassifier(MLPClassifier(2, 3), pf.CondOT(), **r), ["net"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_its_records_and_can_be_given_others(name: str) -> None:
    make, _ = MODELS[name]
    model = make(**RECORDS)
    assert {key: getattr(model, key) for key in RECORDS} == RECORDS
    assert (model.shape, model.classes) == ((2,), 3)
    model.sampling = replace(model.sampling, nfe=9)
    model.provenance = replace(model.provenance, step=4)
    model.spec = replace(model.spec, law="pinwheel")
    inner = getattr(model, "model", getattr(model, "score", model))
    assert (inner.sampling.nfe, inner.provenance.step, inner.spec.law) == (9, 4, "pinwheel")
    plain = make(shape=[2], classes=3)
    assert plain.spec == DataSpec((2,), classes=3)
    assert (plain.sampling, plain.provenance) == (SamplingDefaults(), Provenance())


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_named_by_their_place_and_hold_every_parameter(name: str) -> None:
    make, places = MODELS[name]
    model = make(**RECORDS)
    networks = model.networks()
    assert list(networks) == places
    assert all(model.get_submodule(place) is network for place, network in networks.items())
    held = {id(p) for network in networks.values() for p in network.parameters()}
    assert held == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("change", [{"shape": (3,)}, {"classes": 4}])
def test_shape_and_classes_that_contradict_the_spec_are_refused(change: dict) -> None:
    with pytest.raises(pf.InputError, match="in spec: pass one of them"):
        pf.Model(net(), pf.CondOT(), spec=SPEC, **change)
    assert pf.Model(net(), pf.CondOT(), spec=SPEC, shape=(2,), classes=3).spec == SPEC


def test_what_may_be_dropped_is_declared_and_is_the_label_where_there_are_classes() -> None:
    assert pf.Model(net(), pf.CondOT(), classes=3).nulls == {"label": Fill(-1)}
    # A network of the library that has classes declares them itself.
    assert pf.Model(net(), pf.CondOT()).nulls == {"label": Fill(-1)}
    assert pf.Model(MLP(2, 8, 1), pf.CondOT()).nulls == {}
    assert pf.NoisyClassifier(MLPClassifier(2, 3), pf.CondOT(), classes=3).nulls == {}
    given = pf.Model(net(), pf.CondOT(), classes=3, nulls={"text": "empty", "pooled": 0})
    assert given.nulls == {"text": Empty(), "pooled": Fill(0)}


class Row(nn.Module):
    """A learned row that stands for no embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.ones(width))

    def forward(self, value: Tensor) -> Tensor:
        return self.row.expand_as(value)


def test_a_learned_null_is_a_part_of_the_model_and_gets_a_gradient() -> None:
    row = Row(4)
    model = pf.Model(net(), pf.CondOT(), nulls={"embedding": row, "label": -1})
    assert model.nulls == {"embedding": row, "label": Fill(-1)}
    assert model.networks() == {"learned_nulls.embedding": row, "net": model.net}
    assert "learned_nulls.embedding.row" in model.state_dict()
    cond = {"embedding": torch.zeros(3, 4), "label": torch.arange(3)}
    dropped = drop(cond, model.nulls, torch.tensor([True, False, True]))
    dropped["embedding"].sum().backward()
    assert torch.equal(row.row.grad, torch.full((4,), 2.0))
    assert dropped["label"].tolist() == [-1, 1, -1]


TWO = ("prediction", "variance")


def test_outputs_are_declared_and_those_of_library_networks_are_checked_when_the_model_is_made() -> (
    None
):
    with pytest.raises(pf.InputError, match="built with outputs=2, and the model reads 1 of each"):
        pf.Model(net(2), pf.CondOT())
    with pytest.raises(pf.InputError, match="built with outputs=1, and the model reads 2 of each"):
        pf.Model(net(1), pf.CondOT(), outputs=TWO)
    with pytest.raises(pf.InputError, match="in this order, not"):
        pf.Model(net(2), pf.CondOT(), outputs=TWO[::-1])
    with pytest.raises(pf.InputError, match="build the network with outputs=2"):
        pf.BridgeModel(net(1), pf.BrownianBridge())
    with pytest.raises(pf.InputError, match="build the network with outputs=1"):
        pf.HalfBridges(net(), net(2), pf.BrownianBridge())
    with pytest.raises(pf.InputError, match="gives no variance"):
        pf.Model(net(1), pf.CondOT()).with_variance(torch.zeros(2, 2), 0.5)


class Answers(nn.Module):
    """A network of somebody's own, which answers with `count` values for each channel."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x * (k + 1) for k in range(self.count)], dim=1)


def test_an_answer_of_twice_the_channels_is_an_error_unless_it_was_declared() -> None:
    x = torch.ones(3, 2, 5)
    with pytest.raises(
        pf.InputError,
        match=r"Answers answered \(3, 4, 5\) to x of shape \(3, 2, 5\); it must answer \(3, 2, 5\)",
    ):
        pf.Model(Answers(2), pf.CondOT())(x, 0.5)
    value, v = pf.Model(Answers(2), pf.CondOT(), outputs=TWO).with_variance(x, 0.5, "velocity")
    assert torch.equal(value, x)
    assert torch.equal(v, 2 * x)
    with pytest.raises(pf.InputError, match=r"it must answer \(3, 4, 5\)"):
        pf.Model(Answers(1), pf.CondOT(), outputs=TWO)(x, 0.5)
    with pytest.raises(pf.InputError, match=r"answers logits \(3, 4\)"):
        pf.NoisyClassifier(Answers(1), pf.CondOT(), classes=4)(x[..., 0], 0.5)


def test_a_clean_classifier_says_so() -> None:
    assert not pf.NoisyClassifier(MLPClassifier(2, 3), pf.CondOT(), classes=3).clean
    assert pf.NoisyClassifier(MLPClassifier(2, 3), pf.CondOT(), classes=3, clean=True).clean
    with pytest.raises(pf.InputError, match="nothing to tell apart"):
        pf.NoisyClassifier(MLPClassifier(2, 1), pf.CondOT(), classes=1)
