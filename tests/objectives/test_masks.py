"""Padded samples are trained on as if they were alone, or an objective says that it does not mind masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward import objectives as obj
from pushforward.core.noise import Noise
from pushforward.core.times import Constant

LENGTHS = (3, 6, 1, 4)
MASK = (torch.arange(6) < torch.tensor(LENGTHS)[:, None])[:, None]


class Pooled(nn.Module):
    """A network over sequences (B, 1, L), whose answers depend on all that is data and on nothing else."""

    double_times = True

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs
        self.a, self.b = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.4))

    def forward(self, x, t, mask=None, s=None, label=None):
        count = x.shape[2] if mask is None else mask.expand_as(x).sum(2, keepdim=True)
        data = x if mask is None else torch.where(mask, x, 0.0)
        mean = (data**2).sum(2, keepdim=True) / count
        gap = 0.0 if s is None else (s - t).to(x.dtype)[:, None, None]
        shift = 0.0 if label is None else 0.2 * label.to(x.dtype)[:, None, None]
        out = (
            torch.tanh(self.a * x)
            + self.b * mean * t.to(x.dtype)[:, None, None]
            + 0.3 * gap
            + shift
        )
        return torch.cat([out, 0.5 * out][: self.outputs], 1)


def model(path=None, prediction="velocity", **more) -> pf.Model:
    return pf.Model(Pooled(), path or pf.CondOT(), prediction, nulls={"label": -1}, **more)


def teacher() -> pf.Model:
    other = model()
    with torch.no_grad():
        other.net.a.fill_(-0.4)
    return other


FREE = pf.CondOT(gaussian_source=False)
MINDING = {
    "FlowMatching": lambda: obj.FlowMatching(model()),
    "FlowMatching, dropout": lambda: obj.FlowMatching(model(), condition_dropout=0.5),
    "NoisePrediction": lambda: obj.NoisePrediction(model(pf.VP(), "noise")),
    "DenoisingScoreMatching": lambda: obj.DenoisingScoreMatching(model(pf.VP(), "noise"), times=Constant(0.4)),
    "Matching, Tube": lambda: obj.Matching(model(pf.Tube(0.3))),
    "Reflow": lambda: obj.Reflow(model(FREE)),
    "OneStep": lambda: obj.OneStep(model(FREE)),
    "ScoreAndFlowMatching": lambda: obj.ScoreAndFlowMatching(pf.BridgeModel(Pooled(2), pf.BrownianBridge(0.8))),
    "MeanFlow": lambda: obj.MeanFlow(pf.FlowMapModel(model()), share=0.5),
    "ProgressiveDistillation": lambda: obj.ProgressiveDistillation(
        pf.FlowMapModel(model(), (0.0, 0.5, 1.0)), pf.solvers.SolverFlowMap(teacher()), pf.times.uniform(4)
    ),
}  # fmt: skip


def batch(dtype: torch.dtype, pairs: bool) -> pf.Batch:
    g = torch.Generator().manual_seed(0)
    x1 = torch.randn(4, 1, 6, generator=g).to(dtype)
    x0 = torch.randn(4, 1, 6, generator=g).to(dtype) if pairs else None
    # What stands in the padding is anything.
    return pf.Batch(x1, {"label": torch.tensor([0, 1, 2, 1])}, x0, mask=MASK)


def losses_and_gradient(objective, given, noise):
    found = objective(given, noise)["loss"]
    net = objective.model.net if hasattr(objective.model, "net") else objective.model.model.net
    return found, torch.autograd.grad(found.sum(), list(net.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MINDING)
def test_a_padded_sample_has_the_loss_and_the_gradient_that_it_has_alone(name, dtype):
    objective = MINDING[name]()
    objective.model.to(dtype)
    given, noise = batch(dtype, name in ("Reflow", "OneStep")), Noise.batch(4, seed=5)
    whole, gradient = losses_and_gradient(objective, given, noise)
    alone, gradients = [], []
    for i, length in enumerate(LENGTHS):
        part = given[torch.tensor([i])]
        cut = pf.Batch(
            part.x1[..., :length],
            part.cond,
            None if part.x0 is None else part.x0[..., :length],
            mask=part.mask[..., :length],
        )
        found, own = losses_and_gradient(objective, cut, noise[torch.tensor([i])])
        alone.append(found)
        gradients.append(own)
    bound = 1e-6 if dtype == torch.float32 else 1e-12
    scale = float(whole.detach().abs().max())
    assert float((torch.cat(alone) - whole).detach().abs().max()) < bound * scale
    for k, value in enumerate(gradient):
        total = sum(own[k] for own in gradients)
        assert float((total - value).abs()) < 10 * bound * max(1.0, float(value.abs()))


@pytest.mark.parametrize("name", MINDING)
def test_a_mask_that_leaves_out_nothing_changes_nothing(name):
    objective = MINDING[name]()
    given, noise = batch(torch.float32, name in ("Reflow", "OneStep")), Noise.batch(4, seed=5)
    full = pf.Batch(given.x1, given.cond, given.x0, mask=torch.ones_like(MASK))
    plain = pf.Batch(given.x1, given.cond, given.x0)
    a, b = (objective(v, noise)["loss"] for v in (full, plain))
    assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("name", MINDING)
def test_a_network_sees_zeros_in_the_padding_whatever_the_batch_holds_there(name):
    """So that a convolution, which pads by zeros, sees the end of a sample as it does alone."""
    objective = MINDING[name]()
    given, noise = batch(torch.float32, name in ("Reflow", "OneStep")), Noise.batch(4, seed=5)
    rubbish = pf.Batch(
        torch.where(MASK, given.x1, torch.nan), given.cond,
        None if given.x0 is None else torch.where(MASK, given.x0, torch.nan), mask=MASK,
    )  # fmt: skip
    seen = []

    def hear(module, inputs):
        if isinstance(module, Pooled):
            seen.append(inputs[0].detach())

    handle = nn.modules.module.register_module_forward_pre_hook(hear)
    try:
        losses = [objective(v, noise)["loss"].detach() for v in (given, rubbish)]
    finally:
        handle.remove()
    assert seen
    # Later calls, from where a teacher leads, are its own affair.
    for x in (seen[0], seen[len(seen) // 2]):
        assert bool((x[~MASK.expand_as(x)] == 0).all())
        assert bool((x[MASK.expand_as(x)] != 0).all())
    # Padding of the target is in no loss either.
    assert torch.equal(*losses)


REFUSING = {
    "ConsistencyTraining": lambda: obj.ConsistencyTraining(pf.FlowMapModel(model(), "data")),
    "ContinuousConsistency": lambda: obj.ContinuousConsistency(pf.FlowMapModel(model())),
    "Shortcut": lambda: obj.Shortcut(pf.FlowMapModel(model())),
    "ImplicitScoreMatching": lambda: obj.ImplicitScoreMatching(model(pf.VP(), "noise")),
    "MaximumLikelihood": lambda: obj.MaximumLikelihood(model(), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSING)
def test_objectives_that_do_not_mind_masks_say_so(name):
    with pytest.raises(pf.InputError, match="does not mind masks"):
        REFUSING[name]()(batch(torch.float32, False), Noise.batch(4))


def test_each_condition_may_be_dropped_with_a_probability_of_its_own():
    seen = {}

    class Net(nn.Module):
        def forward(self, x, t, label, text):
            seen.update(label=label, text=text)
            return 0 * x

    two = pf.Model(Net(), pf.CondOT(), nulls={"label": -1, "text": 0})
    n = 20_000
    given = pf.Batch(torch.zeros(n, 2), {"label": torch.ones(n).long(), "text": torch.ones(n, 3)})
    obj.FlowMatching(two, condition_dropout={"label": 0.1, "text": 0.5})(given, Noise.batch(n))
    label, text = seen["label"] == -1, (seen["text"] == 0).all(1)
    bound = 4.5 * (0.25 / n) ** 0.5
    assert abs(float(label.double().mean()) - 0.1) < bound
    assert abs(float(text.double().mean()) - 0.5) < bound
    # Independent of each other.
    assert abs(float((label & text).double().mean()) - 0.05) < bound
    with pytest.raises(pf.InputError, match="names 'sound'"):
        obj.FlowMatching(two, condition_dropout={"sound": 0.1})


def test_dropping_from_a_model_that_names_nothing_to_drop_is_an_error():
    with pytest.raises(pf.InputError, match="names none that may be"):
        obj.FlowMatching(pf.Model(Pooled(), pf.CondOT()), condition_dropout=0.1)
