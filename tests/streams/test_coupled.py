"""Pairs in the stream are those that the coupling would form in the objective."""

from __future__ import annotations

import torch

import pushforward as pf
from pushforward.core.noise import SOURCE
from pushforward.streams import Coupled, Drawn


def law():
    return pf.GaussianMixture([[2.0, 0.0], [-2.0, 1.0]], 0.1)


def test_coupled_batches_train_as_the_coupling_in_the_objective_does():
    path = pf.CondOT(gaussian_source=False)
    torch.manual_seed(0)
    model = pf.Model(pf.nets.MLP(2, 16, 1, classes=2), path, classes=2)
    with torch.no_grad():
        model.net.conv_out.weight.normal_()
    for coupling in (
        pf.couplings.OptimalTransport(),
        pf.couplings.ConditionalTransport(),
        pf.couplings.Sinkhorn(1.0),
        lambda x0, x1, noise, cond=None: (torch.arange(16), torch.arange(16).flip(0)),
    ):
        stream = Labelled(Drawn(law(), 16, seed=3))
        whole = pf.objectives.FlowMatching(model, coupling=coupling, condition_dropout=0.3)
        plain = pf.objectives.FlowMatching(model, condition_dropout=0.3)
        pairs = Coupled(stream, coupling, seed=3)
        for step in (0, 5):
            noise = pf.Noise.batch(16, 3, step)
            truth = whole(stream.at(step), noise)["loss"]
            assert torch.equal(plain(pairs.at(step), noise)["loss"], truth)


class Labelled:
    def __init__(self, stream):
        self.stream, self.batch_size = stream, stream.batch_size

    def at(self, step):
        batch = self.stream.at(step)
        return pf.Batch(batch.x1, {"label": (batch.x1[:, 0] > 0).long()}, ids=batch.ids + 100)


def test_labels_and_ids_follow_their_data():
    stream = Labelled(Drawn(law(), 16, seed=3))
    flip = lambda x0, x1, noise, cond=None: (torch.arange(16), torch.arange(16).flip(0))  # noqa: E731
    batch, plain = Coupled(stream, flip, seed=3).at(2), stream.at(2)
    assert torch.equal(batch.x1, plain.x1.flip(0))
    assert torch.equal(batch.ids, plain.ids.flip(0))
    assert torch.equal(batch.cond["label"], (batch.x1[:, 0] > 0).long())
    assert torch.equal(batch.x0, pf.Noise.batch(16, 3, 2).normal((2,), SOURCE))
