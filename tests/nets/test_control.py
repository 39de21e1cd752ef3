"""Networks steered by hints: locked, with copies of their first half added by layers that start at 0."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import NETS, randn
from contracts.test_net_contract import build, inputs
from pushforward.core.conditions import Tokens
from pushforward.guidance import ClassifierFree
from pushforward.nets import MLP, Branch, Controlled, DiT, MMDiT, Network, Prompted, UNet, UViT
from pushforward.nets.stages import Stage

# Every network of images, and text that goes into one.
IMAGES = [
    p for p in NETS
    if len(p.values[1]) == 3 and not build(p.values[0], None)[0].config.get("channels_last")
    and not isinstance(build(p.values[0], None)[0], MLP)
]  # fmt: skip
TEXTS = [
    pytest.param(lambda: UViT(1, (8,), 1, 8, 16, 3, 2, context=5), (1, 6, 5), None, id="UViT-text"),
    pytest.param(
        lambda: DiT(1, 2, 16, 3, 2, context=5, conditioning="in-context"), (1, 6, 5), None, id="DiT-text"
    ),
    pytest.param(lambda: MMDiT(1, 2, 16, 1, 2, 5, 3), (1, 6, 5), None, id="MMDiT-one-block"),
]  # fmt: skip


def controlled(make, shape, classes, **options):
    """A network off its zero start, the same with a branch, and what both are asked with; `control` holds a hint."""
    net, cond = build(make, classes)
    if net.config.get("context"):
        there = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
        cond["context"] = Tokens(randn(3, 3, 5, seed=7, dtype=torch.float32), there)
    x, t = inputs(shape)
    net.requires_grad_(False)
    torch.manual_seed(1)
    branch = Branch.of(net, 2, 8, **options)
    f = options.get("factor", 1)
    hint = randn(len(x), 2, *(f * s for s in shape[1:]), seed=9, dtype=torch.float32)
    hints = {"edges": hint}
    if "control" in cond:
        hints["own"] = cond["control"]
    return net, Controlled(net, {"edges": branch}), (x, t), cond, hints


def rest(cond):
    return {name: value for name, value in cond.items() if name != "control"}


def trained(net, x, t, steps=3, **cond):
    """Some steps towards noise."""
    some = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(some, 1e-2)
    goal = randn(*x.shape, seed=2, dtype=torch.float32)
    for _ in range(steps):
        optimiser.zero_grad()
        (net(x, t, **cond) - goal).square().mean().backward()
        optimiser.step()
    return net


@pytest.mark.parametrize(("make", "shape", "classes"), IMAGES + TEXTS)
def test_a_control_starts_as_its_base_and_leaves_it_as_it_was(make, shape, classes):
    net, both, (x, t), cond, hints = controlled(make, shape, classes)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    want = net(x, t, **cond)
    assert torch.equal(both(x, t, control=hints, **rest(cond)), want)
    trained(both, x, t, control=hints, **rest(cond))
    got = both(x, t, control=hints, **rest(cond))
    assert (got - want).abs().max() > 1e-3
    branch = both.branches["edges"]
    for name, p in branch.named_parameters():
        # Off, in a published layout, only where it has no part in the result.
        assert not p.requires_grad or (p.grad is not None and (p.grad != 0).any()), name
    assert (
        sum(not p.requires_grad for p in branch.parameters())
        <= sum(not p.requires_grad for p in make().parameters()) + 3
    )
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    # And at no strength it is the base again, hint or none.
    off = Controlled(net, {"edges": branch}, {"edges": 0.0})
    own = {"control": {"own": hints["own"]}} if "own" in hints else {}
    assert torch.equal(off(x, t, **own, **rest(cond)), want)


@pytest.mark.parametrize(("make", "shape", "classes"), IMAGES + TEXTS)
def test_a_branch_starts_as_the_first_half_of_its_network(make, shape, classes):
    net, both, (x, t), cond, hints = controlled(make, shape, classes)
    branch = both.branches["edges"]
    mine, theirs = [], []
    net.begin(lambda k, h: (mine.append(h), h)[1], x, t, **cond)
    given = {"own": hints["own"]} if "own" in hints else {}
    features = branch.read(hints["edges"])
    branch.copy.begin(
        lambda k, h: (theirs.append(h), h)[1], x, t, control={**given, "~": features}, **rest(cond)
    )
    assert len(mine) == len(theirs) == len(net.stages()) == len(branch.zeros)
    for a, b, stage in zip(mine, theirs, net.stages(), strict=True):
        assert a.shape[1 if stage.kind == "map" else 2] == stage.channels
        # Their layers differ in how many zeros they sum, and at the end in a text that nothing reads.
        assert torch.allclose(a, b, atol=1e-5)


def test_hints_of_latents_are_larger_by_a_factor():
    net, both, (x, t), _, hints = controlled(lambda: UNet(1, 8), (1, 6, 4), None, factor=3)
    assert torch.equal(both(x, t, control=hints), net(x, t))
    trained(both, x, t, control=hints)
    moved = hints["edges"].clone()
    moved[0, 1, 17, 11] += 1  # the last pixel of the hint belongs to the last of the state
    change = (both(x, t, control={"edges": moved}) - both(x, t, control=hints)).abs()
    assert (change[1:] == 0).all()
    assert change[0].max() > 0


def test_controls_add_up_each_at_its_strength():
    net, both, (x, t), _, hints = controlled(lambda: UNet(1, 8, (1, 2)), (1, 6, 6), None)
    a = trained(both, x, t, control=hints).branches["edges"]
    torch.manual_seed(2)
    b = Branch.of(net, 1, 4)
    other = randn(len(x), 1, 6, 6, seed=4, dtype=torch.float32)
    trained(Controlled(net, {"masks": b}), x, t, control=other)
    two = Controlled(net, {"edges": a, "masks": b}, {"masks": 0.3})
    control = {"edges": hints["edges"], "masks": other}
    with torch.no_grad():
        first, second = a(x, t, control["edges"]), b(x, t, other)
        assert len(first) == len(net.stages()) == 5
        state = net.begin(lambda k, h: h + (first[k] + 0.3 * second[k]), x, t)
        assert torch.allclose(two(x, t, control=control), net.finish(state), atol=1e-6)
        # Twice half a branch is the branch, and one at no strength is none.
        halves = Controlled(net, {"one": a, "other": a}, {"one": 0.5, "other": 0.5})
        once = Controlled(net, {"edges": a})(x, t, control=hints)
        doubled = halves(x, t, control={"one": hints["edges"], "other": hints["edges"]})
        assert torch.allclose(doubled, once, atol=1e-5)
        off = Controlled(net, {"edges": a, "masks": b}, {"masks": 0})
        assert torch.equal(off(x, t, control=hints), once)


def test_recomputed_activations_and_half_precision_give_the_same():
    gradients = []
    for recomputed in (False, True):
        net, both, (x, t), _, hints = controlled(
            lambda: UNet(1, 8, (1, 2), attention=(1,)), (1, 6, 6), None
        )
        trained(both, x, t, 2, control=hints)
        both.zero_grad()
        both.checkpointing = recomputed
        assert net.checkpointing == both.branches["edges"].copy.checkpointing == recomputed
        both(x, t, control=hints).square().sum().backward()
        gradients.append([p.grad.clone() for p in both.branches.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        near = both(x, t, control=hints)
    assert (near.float() - both(x, t, control=hints)).abs().max() < 0.1


class Recorder(Controlled):
    """Keeps what it was asked with."""

    def forward(self, x, t, **cond):
        self.asked.append({"control": cond["control"], "label": cond["label"]})
        return super().forward(x, t, **cond)


def test_guidance_drops_the_class_and_keeps_the_hint():
    net, both, (x, t), _, hints = controlled(lambda: UNet(1, 8, classes=3), (1, 6, 6), 3)
    recorder = Recorder(net, dict(both.branches.items()))
    recorder.asked = []
    model = pf.Model(recorder, pf.CondOT(), shape=(1, 6, 6), classes=3)
    label = torch.tensor([0, 1, 2])
    ClassifierFree(model, 3.0)(x, t, label=label, control=hints)
    (asked,) = recorder.asked
    assert asked["label"].tolist() == [-1, -1, -1, 0, 1, 2]
    assert torch.equal(asked["control"]["edges"], hints["edges"].repeat(2, 1, 1, 1))
    # The same by `generate`, in batches of their own.
    recorder.asked = []
    pf.generate(model, 3, nfe=2, guidance=2.0, label=label, batch_size=2, control=hints)
    assert [len(a["label"]) for a in recorder.asked] == [4, 4, 2, 2]
    assert torch.equal(recorder.asked[2]["control"]["edges"], hints["edges"][[2, 2]])


class Texts(nn.Module):
    pooled = None

    def forward(self, given):
        return Tokens(given.values, given.mask), None


def test_a_controlled_network_takes_texts():
    net, both, (x, t), cond, hints = controlled(*TEXTS[0].values)
    words = Prompted(both, {"words": Texts()})
    plain = Prompted(net, {"words": Texts()})
    want = plain(x, t, words=cond["context"])
    assert torch.equal(want, net(x, t, **cond))
    assert torch.equal(words(x, t, words=cond["context"], control=hints), want)
    trained(words, x, t, words=cond["context"], control=hints)
    assert not torch.equal(words(x, t, words=cond["context"], control=hints), want)
    words.checkpointing = True
    assert net.checkpointing


class Lines(Network):
    """v = g_k (a_k (x, control) + b_k) at the times t = k/4: a network that can be solved for."""

    dims, double_times = 2, True

    def __init__(self, channels: int, in_channels: int | None = None) -> None:
        super().__init__()
        self.channels, self.control = channels, (in_channels or channels) - channels
        self.checkpointing = False
        self.a = nn.Parameter(torch.zeros(4, in_channels or channels))
        self.b, self.g = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4))

    def stages(self):
        return (Stage(1, "map"),)

    def begin(self, at, x, t, control=None):
        k = (4 * t).round().long()
        parts = [x] if control is None else [x, *(control[name] for name in sorted(control))]
        joined = torch.cat(parts, 1)
        h = (self.a[k][:, :, None, None] * joined).sum(1, keepdim=True)
        h = h + self.b[k][:, None, None, None]
        return (h if at is None else at(0, h)), k

    def finish(self, begun):
        h, k = begun
        return self.g[k][:, None, None, None] * h

    def halve(self):
        del self.g

    def first_half(self):
        return self.state_dict()

    def forward(self, x, t, control=None):
        return self.finish(self.begin(None, x, t, control))


class Lined(Branch):
    kinds: ClassVar = {"Lines": Lines}


def test_a_trained_control_is_the_field_of_the_law_under_its_hint():
    """x1 ~ N(+-2, s^2) where the hint is 1 or 0, and x0 ~ N(0, 1): the velocity under the hint is linear in x,

        u(x, t | c) = m_c + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (x - t m_c)

    and that under none, as far as a line goes, is the same with mean 0 and variance s^2 + 4. Least squares of lines see
    two moments of the data alone, so that two points stand for each normal law.
    """
    s, means = 0.6, (-2.0, 2.0)
    grid = [
        (x0, m + e * s, float(c), k / 4)
        for c, m in enumerate(means) for x0 in (-1.0, 1.0) for e in (-1.0, 1.0) for k in range(4)
    ]  # fmt: skip
    x0, x1, c, t = torch.tensor(grid, dtype=torch.float64).unbind(1)
    x = ((1 - t) * x0 + t * x1)[:, None, None, None]
    hint, goal = c[:, None, None, None], (x1 - x0)[:, None, None, None]

    def velocity(x, t, mean, variance):
        slope = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)
        return mean + slope * (x - t * mean)

    at = torch.linspace(-3, 3, 28).double()[:, None, None, None]
    when = torch.arange(28).double() % 4 / 4
    wide = when[:, None, None, None]
    base = Lines(1).double()
    with torch.no_grad():
        base.a[:, 0] = torch.stack(
            [
                velocity(1.0, k / 4, 0.0, torch.tensor(s**2 + 4, dtype=torch.float64))
                for k in range(4)
            ]
        )
    base.requires_grad_(False)
    torch.manual_seed(0)
    both = Controlled(base, {"side": Lined.of(base, 1, 4).double()})
    mine = [p for p in both.parameters() if p.requires_grad]
    assert torch.equal(both(at, when, control=torch.ones_like(at)), base(at, when))
    # Two layers in a row are 0, and the base is the best without a hint: a saddle, off which batches' noise comes.
    (both(x, t, control=hint) - goal).square().mean().backward()
    assert max(float(p.grad.abs().max()) for p in mine) < 1e-12
    with torch.no_grad():
        for p in mine:
            p.add_(0.1 * torch.randn_like(p))
    optimiser = torch.optim.Adam(mine, 1e-2)
    for _ in range(1000):
        optimiser.zero_grad()
        (both(x, t, control=hint) - goal).square().mean().backward()
        optimiser.step()
    for side, mean in enumerate(means):
        got = both(at, when, control=torch.full_like(at, float(side)))
        assert torch.allclose(got, velocity(at, wide, mean, s**2), atol=1e-4)
    assert torch.allclose(base(at, when), velocity(at, wide, 0.0, s**2 + 4), atol=1e-12)


def test_what_a_hint_and_a_control_cannot_be_is_said():
    net, both, (x, t), _, hints = controlled(lambda: UNet(1, 8), (1, 6, 6), None)
    branch = both.branches["edges"]
    for control, message in (
        (None, r"'edges' has no hint: give it as control=\{'edges'"),
        ({}, "'edges' has no hint"),
        ({"edge": hints["edges"]}, "no control 'edge'; did you mean 'edges'"),
        ({"edges": hints["edges"][:, :1]}, r"is \(B, channels, H, W\) = \(3, 2, 6, 6\) here, got \(3, 1, 6, 6\)"),
        ({"edges": hints["edges"][..., :5]}, r"got \(3, 2, 6, 5\)"),
        ({"edges": hints["edges"][:2]}, r"got \(2, 2, 6, 6\)"),
        ({"edges": 1.0}, "got float"),
    ):  # fmt: skip
        with pytest.raises(pf.InputError, match=message):
            both(x, t, control=control)
    two = Controlled(net, {"edges": branch, "masks": branch})
    with pytest.raises(pf.InputError, match="several controls: give their hints by name"):
        two(x, t, control=hints["edges"])
    with pytest.raises(pf.InputError, match="no control 'edge'; did you mean 'edges'"):
        Controlled(net, {"edges": branch}, {"edge": 0.5})
    with pytest.raises(pf.InputError, match="at least one branch"):
        Controlled(net, {})
    with pytest.raises(pf.InputError, match="is for another network"):
        Controlled(UNet(1, 16), {"edges": branch})
    with pytest.raises(pf.InputError, match="a MLP has no stages"):
        Branch.of(MLP(2, 8, 1))
    for other in (UNet(1, 8, dims=1), DiT(1, channels_last=True, width=8, heads=2, depth=1)):
        with pytest.raises(pf.InputError, match="for networks of images"):
            Branch.of(other)
    with pytest.raises(pf.InputError, match="not of a 'Unet'; did you mean 'UNet'"):
        Branch("Unet", {"channels": 1})
