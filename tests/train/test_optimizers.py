"""Optimisers: which parameters they have, and steps known in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tinyrun import outcome, trainer
from torch import nn

import pushforward as pf
from pushforward.nets import MLP, DiT
from pushforward.train.optimizers import AdamW, Group, Muon, Optimizers, Rule


def built(model: nn.Module, **rules: Rule) -> Optimizers:
    return Optimizers(rules, model, dict(model.named_parameters()), False)


def network(seed: int = 0) -> MLP:
    """No weight of it is 0."""
    torch.manual_seed(seed)
    net = MLP(2, 8, 1, classes=3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(1 + torch.rand_like(p))
    return net


def step(
    optimizers: Optimizers, model: nn.Module, gradient: float, number: int = 0
) -> dict[str, torch.Tensor]:
    """One step with the same gradient everywhere: by what factor each weight has changed, or how far."""
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, gradient)
    optimizers.set_rates(number, 10)
    optimizers.step()
    return {n: (before[n], p.detach()) for n, p in model.named_parameters()}


def test_weight_decay_shrinks_weights_by_the_rate_times_it_and_spares_vectors_if_asked() -> None:
    for vectors in (True, False):
        net = network()
        rule = AdamW(lr=0.1, warmup=0, weight_decay=0.5, decay_vectors=vectors)
        for name, (before, after) in step(built(net, loss=rule), net, 0.0).items():
            shrinks = vectors or before.ndim > 1
            torch.testing.assert_close(after, before * (0.95 if shrinks else 1.0)), name


def test_the_first_step_of_adam_is_the_rate_and_groups_have_their_own() -> None:
    net = network()
    groups = (
        Group("conv_in.*", lr=0.5), Group("*.bias", weight_decay=0.0), Group("conv_*", lr=7.0, weight_decay=1.0),
    )  # fmt: skip
    rule = AdamW(lr=0.1, warmup=0, weight_decay=0.2, groups=groups)
    for name, (before, after) in step(built(net, loss=rule), net, 3.0).items():
        factor = 0.5 if name.startswith("conv_in") else 1.0
        decay = 0.2
        if name.endswith(".bias") and not name.startswith("conv_in"):  # the first that fits
            decay = 0.0
        elif name == "conv_out.weight":
            factor, decay = 7.0, 1.0
        want = before * (1 - 0.1 * factor * decay) - 0.1 * factor
        torch.testing.assert_close(after, want, rtol=1e-5, atol=1e-6), name


def test_every_optimiser_follows_its_own_schedule() -> None:
    net = network()
    rules = {
        "a": AdamW(lr=1.0, warmup=4, decay="linear", parameters=("conv_*",)),
        "b": AdamW(
            lr=2.0, warmup=0, decay="linear", parameters=("first*", "second*", "modulate*", "cond*")
        ),
    }
    optimizers = built(net, **rules)
    assert optimizers.set_rates(1, 10) == pytest.approx({"a": 0.5, "b": 1.8})
    assert optimizers.set_rates(7, 10) == pytest.approx({"a": 0.5, "b": 0.6})
    rates = {group["lr"] for made in optimizers for group in made.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.5, 0.6])


def test_each_parameter_belongs_to_one_optimiser() -> None:
    net = network()
    some, rest = AdamW(parameters=("conv_*",)), AdamW(parameters=("[!c]*", "cond*"))
    built(net, a=some, b=rest)
    with pytest.raises(
        pf.InputError, match=r"conditioning\.mix\.0\.weight is taken by no optimiser"
    ):
        built(net, a=some)
    with pytest.raises(pf.InputError, match=r"conv_in\.weight is taken by a and b"):
        built(net, a=some, b=AdamW())
    with pytest.raises(
        pf.InputError, match="the optimiser 'b' has no parameters: none fits nothing"
    ):
        built(net, a=AdamW(), b=AdamW(parameters=("nothing",)))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"lr": 0.0}, "lr is 0"), ({"clip": float("inf")}, "clip is inf"), ({"warmup": -1}, "warmup is -1"),
     ({"weight_decay": -0.1}, "weight_decay is -0.1")],
)  # fmt: skip
def test_numbers_that_are_none_of_an_optimiser_are_refused(options: dict, words: str) -> None:
    for kind in (AdamW, Muon):
        with pytest.raises(pf.InputError, match=words):
            kind(**options)


def test_muon_has_the_hidden_matrices_and_adam_the_rest() -> None:
    torch.manual_seed(0)
    net = DiT(1, 2, 16, 2, 2, classes=3, positions="learned", size=4)
    muon, adam = built(net, loss=Muon())
    names = {p: name for name, p in net.named_parameters()}
    found = [
        {names[p] for group in made.optimizer.param_groups for p in group["params"]}
        for made in (muon, adam)
    ]
    assert found[0] | found[1] == set(names.values())
    assert not found[0] & found[1]
    assert {n for n in found[0] if ".attention." in n or ".mlp." in n}
    assert all(dict(net.named_parameters())[n].ndim == 2 for n in found[0])
    outside = {n for n in names.values() if "conv_in" in n or "conv_out" in n or "label.table" in n}
    assert len(outside) >= 4
    assert outside <= found[1]
    assert all(n in found[1] for n in names.values() if dict(net.named_parameters())[n].ndim != 2)


def test_a_step_of_muon_is_an_orthogonal_matrix_in_the_singular_vectors_of_the_gradient() -> None:
    """U^T dW V is diagonal: a polynomial of the gradient has its singular vectors. The size is that of a step of Adam,
    0.2 in root mean square."""
    layer = nn.Sequential(nn.Linear(24, 16, bias=False))
    optimizers = built(layer, loss=Muon(lr=0.1, warmup=0))
    gradient = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
    before = layer[0].weight.detach().clone()
    layer[0].weight.grad = gradient.clone()
    optimizers.set_rates(0, 10)
    optimizers.step()
    change = (before - layer[0].weight.detach()) / (0.1 * 0.2 * 24**0.5)
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    inside = u.T @ change @ vh.T
    apart = inside - torch.diag(inside.diagonal())
    assert apart.abs().max() < 0.02  # bfloat16
    assert (inside.diagonal() > 0.5).all()
    # It is not the gradient, whose singular values differ by a factor of six.
    assert torch.linalg.svdvals(gradient).max() > 6 * torch.linalg.svdvals(gradient).min()
    assert inside.diagonal().max() < 2 * inside.diagonal().min()


def test_a_model_without_hidden_matrices_is_refused_by_muon() -> None:
    with pytest.raises(pf.InputError, match="this model has none: take AdamW"):
        built(nn.Conv2d(1, 1, 3), loss=Muon())


def test_muon_says_which_torch_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(pf.InputError, match=r"Muon needs torch 2\.9 or later"):
        built(network(), loss=Muon())


@pytest.mark.parametrize(
    "rule",
    [Muon(lr=1e-2, warmup=2), AdamW(lr=1e-2, warmup=2, decay_vectors=False, weight_decay=0.1,
                                    groups=(Group("*conv_out*", lr=3.0),))],
    ids=["muon", "groups"],
)  # fmt: skip
def test_a_run_with_another_optimiser_is_resumed_bit_for_bit(rule: Rule, tmp_path: Path) -> None:
    options = {"optimizers": {"loss": rule}, "steps": 12, "checkpoint_every": 5}
    whole = trainer(tmp_path / "whole", **options)
    whole.start()
    assert whole.run()
    cut = trainer(tmp_path / "cut", **options)
    cut.start()
    for _ in range(7):
        cut._one_step()
        if cut.step == 5:
            cut.save()
    again = trainer(tmp_path / "cut", **options)
    again.resume()
    assert again.step == 5
    kept = [set(state) for made in again.optimizers for state in made.optimizer.state.values()]
    assert {"momentum_buffer"} in kept or isinstance(rule, AdamW)
    # The line of step 4 was logged by the first one.
    assert again.run()
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    ends = [outcome(tmp_path / name) for name in ("cut", "whole")]
    name = "checkpoints/00000012/state.safetensors"
    assert ends[0][name] == ends[1][name]


def test_a_checkpoint_of_another_optimiser_is_refused_and_the_difference_listed(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path / "run", steps=3)
    run.start()
    assert run.run()
    other = trainer(tmp_path / "run", steps=3, optimizers={"loss": Muon()})
    with pytest.raises(
        pf.CheckpointError, match=r"missing: optimizer\.net\.first\.0\.weight\.momentum_buffer"
    ):
        other.resume()
