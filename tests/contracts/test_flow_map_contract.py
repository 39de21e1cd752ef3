"""What every objective for few steps keeps to."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.flow_maps import ExactNet, Free, flow_model, gradient
from contracts.members import FLOW_MAP_OBJECTIVES, mixture, randn

LAW, PATH = mixture(2, 1), pf.CondOT()
FLOW, FIELD = LAW.flow_map(PATH), LAW.field(PATH)


class Deaf:
    """An exact field or flow map that does not hear what it is told."""

    def __init__(self, inside) -> None:
        self.inside, self.path = inside, inside.path

    def __call__(self, x, t, more="velocity", **cond):
        return self.inside(x, t, more)


class DeafMap(Deaf):
    jumps = "any"


def build(make, net, **options):
    return make(flow_model(net, PATH), Deaf(FIELD), DeafMap(FLOW), **options)


@pytest.mark.parametrize(("make", "taught"), FLOW_MAP_OBJECTIVES)
def test_the_exact_map_is_a_fixed_point_of_what_an_exact_teacher_teaches(make, taught):
    """Zero loss and zero gradient, to rounding. Without a teacher the pair's own velocity leaves its variance."""
    noise = pf.Noise.batch(40, seed=5)
    x1 = LAW.draw(noise)
    found = {}
    for factor in (1.0, 1.05):
        net = ExactNet(LAW, PATH, "velocity", factor=factor)
        loss = build(make, net)(x1, noise)["loss"]
        found[factor] = float(loss.detach().mean()), float(gradient(loss.mean(), net).abs().max())
    if taught:
        assert found[1.0][0] < 1e-12
        assert found[1.0][1] < 1e-9
        assert min(found[1.05]) > 1e-6
    else:
        assert found[1.0][0] > 1e-6


@pytest.mark.parametrize(("make", "taught"), FLOW_MAP_OBJECTIVES)
def test_losses_do_not_depend_on_the_batch(make, taught):
    net = Free()
    objective = build(make, net)
    noise, label = pf.Noise.batch(23, seed=3, start=50), torch.arange(23) % 3
    batch = pf.Batch(randn(23, 2, seed=1), {"label": label})
    whole = objective(batch, noise)["loss"]
    assert whole.shape == (23,)
    parts = []
    for i in (0, 9, 18):
        rows = slice(i, i + 9)
        part = pf.Batch(batch.x1[rows], {"label": label[rows]})
        parts.append(objective(part, noise[rows])["loss"])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(objective(batch, noise.at(1))["loss"], whole)
    # So do their gradients.
    split = sum(gradient(part.sum(), net) for part in parts)
    torch.testing.assert_close(gradient(whole.sum(), net), split, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("make", "taught"), FLOW_MAP_OBJECTIVES)
def test_labels_are_dropped_with_the_probability_drop_and_nothing_else_changes(make, taught):
    net, n = Free(), 3000
    label = torch.arange(n) % 3
    batch, noise = pf.Batch(randn(n, 2, seed=1), {"label": label}), pf.Noise.batch(n, seed=3)
    build(make, net, condition_dropout=0.3)(batch, noise)
    x, t, s, cond = net.asked[-1]
    got = cond["label"]
    dropped = got == -1
    assert abs(float(dropped.double().mean()) - 0.3) < 4.5 * (0.21 / n) ** 0.5
    assert torch.equal(got[~dropped], label[~dropped])
    net.asked.clear()
    build(make, net, condition_dropout=0.9)(batch, noise)
    for mine, theirs in zip(net.asked[-1][:3], (x, t, s), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("make", "taught"), FLOW_MAP_OBJECTIVES)
def test_noise_for_another_batch_is_an_error(make, taught):
    objective = build(make, Free())
    with pytest.raises(pf.InputError, match="3 noise ids for a batch of 4"):
        objective(randn(4, 2), pf.Noise.batch(3))
