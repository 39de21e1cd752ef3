"""Rules of guidance: diffusers' guiders state by state, what each keeps, and where it is the linear one."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import diffusers
import pytest
import torch
from diffusers.guiders.magnitude_aware_guidance import MagnitudeAwareGuidance

import pushforward as pf
from contracts.members import randn
from guidance.laws import LABEL, LAW, T, X
from pushforward.core.conditions import Fill
from pushforward.core.fields import breaks_of
from pushforward.core.predictions import convert
from pushforward.guidance import (
    ClassifierFree,
    Frequencies,
    MagnitudeAware,
    Projected,
    Rescaled,
    Tangential,
    ZeroStar,
)

FREE, GIVEN = randn(3, 2, 8, 16, seed=1), randn(3, 2, 8, 16, seed=2) + 0.5
ANY = torch.full((3,), 0.5, dtype=torch.float64)


def rows(*w: float) -> torch.Tensor:
    return torch.tensor(w, dtype=torch.float64)


# Rule of ours at weight w, and diffusers' guider that is the same.
PEERS = {
    "rescaled": (
        Rescaled(0.6),
        lambda w: diffusers.ClassifierFreeGuidance(guidance_scale=w, guidance_rescale=0.6),
    ),
    # Its own default form drops the parallel part of g - f at weight 1 too; the paper's is the "original" one.
    "projected": (
        Projected(0.25, largest=9.0),
        lambda w: diffusers.AdaptiveProjectedGuidance(
            guidance_scale=w - 1, adaptive_projected_guidance_rescale=9.0, eta=0.25, use_original_formulation=True
        ),
    ),
    "zero star": (
        ZeroStar(),
        lambda w: diffusers.ClassifierFreeZeroStarGuidance(guidance_scale=w, zero_init_steps=0),
    ),
    "tangential": (
        Tangential(),
        lambda w: diffusers.TangentialClassifierFreeGuidance(guidance_scale=w),
    ),
    "magnitude": (
        MagnitudeAware(0.7),
        lambda w: MagnitudeAwareGuidance(guidance_scale=w, alpha=0.7),
    ),
    "frequencies": (
        Frequencies((1.0, 0.5, 0.25)),
        lambda w: diffusers.FrequencyDecoupledGuidance([w, 1 + (w - 1) / 2, 1 + (w - 1) / 4]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("w", [2.5, 7.0])
def test_a_rule_is_diffusers_guider(name, w):
    rule, make = PEERS[name]
    if name == "frequencies":
        pytest.importorskip("kornia", reason="diffusers' own needs kornia")
    guider = make(w)
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(999))
    # float32: theirs is computed in it.
    free, given = FREE.float(), GIVEN.float()
    if name == "magnitude":  # theirs takes tokens (B, L, D) alone
        free, given = free.flatten(2), given.flatten(2)
    want = guider.forward(given, free).pred
    got = rule(free, given, torch.full((3,), w), ANY.float())
    assert torch.allclose(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_rescaled_keeps_the_standard_deviation_of_the_conditional_prediction():
    got = Rescaled(1.0)(FREE, GIVEN, rows(1, 4, 9), ANY)
    assert torch.allclose(got.flatten(1).std(1), GIVEN.flatten(1).std(1), atol=1e-12)
    # Half way between them: std is linear, for what is rescaled is a multiple.
    plain = Rescaled(0.0)(FREE, GIVEN, rows(4, 4, 4), ANY).flatten(1).std(1)
    half = Rescaled(0.5)(FREE, GIVEN, rows(4, 4, 4), ANY).flatten(1).std(1)
    assert torch.allclose(half, (plain + GIVEN.flatten(1).std(1)) / 2, atol=1e-12)


def test_projected_pushes_across_the_prediction_and_no_further_than_its_limit():
    push = Projected(0.0)(FREE, GIVEN, rows(2, 4, 9), ANY) - GIVEN
    assert torch.allclose((push * GIVEN).flatten(1).sum(1), rows(0, 0, 0), atol=1e-9)
    capped = Projected(1.0, largest=3.0)(FREE, GIVEN, rows(2, 4, 9), ANY) - GIVEN
    assert torch.allclose(capped.flatten(1).norm(dim=1), 3.0 * rows(1, 3, 8), atol=1e-9)


def test_zero_star_takes_the_multiple_of_the_free_prediction_that_is_nearest():
    # At weight 0 what is left is that multiple: the residual is across the free prediction.
    best = ZeroStar()(FREE, GIVEN, rows(0, 0, 0), ANY)
    assert torch.allclose(((GIVEN - best) * FREE).flatten(1).sum(1), rows(0, 0, 0), atol=1e-9)
    ratio = (best / FREE).flatten(1)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-9)


def test_tangential_keeps_what_lies_along_the_first_singular_vector():
    kept = Tangential()(FREE, GIVEN, rows(0, 0, 0), ANY).flatten(1)
    for f, g, k in zip(FREE.flatten(1), GIVEN.flatten(1), kept, strict=True):
        v = torch.linalg.svd(torch.stack((f, g)), full_matrices=False).Vh[0]
        assert torch.allclose(k, (f @ v) * v, atol=1e-10)


@pytest.mark.parametrize(
    "rule", [Projected(1.0), Rescaled(0.0), MagnitudeAware(0.0), Frequencies((1.0, 1.0, 1.0))]
)
def test_without_its_effect_a_rule_is_the_linear_one(rule):
    got = rule(FREE, GIVEN, rows(0, 3, 9), ANY)
    want = FREE + rows(0, 3, 9)[:, None, None, None] * (GIVEN - FREE)
    assert torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(
    "rule", [Projected(0.2, 4.0), Rescaled(0.7), MagnitudeAware(), Frequencies((1.0, 0.3))]
)
def test_at_weight_one_a_rule_changes_nothing(rule):
    assert torch.allclose(rule(FREE, GIVEN, rows(1, 1, 1), ANY), GIVEN, atol=1e-12)


def test_frequencies_leave_the_coarse_level_alone():
    got = Frequencies((1.0, 0.0))(FREE, GIVEN, rows(5, 5, 5), ANY)
    # Constant pictures are the coarse level alone, and a picture whose halved one is 0 the fine level alone.
    even = GIVEN.mean((2, 3), keepdim=True).expand_as(GIVEN)
    flat = Frequencies((1.0, 0.0))(
        FREE.mean((2, 3), keepdim=True).expand_as(FREE), even, rows(5, 5, 5), ANY
    )
    assert torch.allclose(flat, even, atol=1e-12)
    assert not torch.allclose(got, GIVEN, atol=0.1)
    with pytest.raises(pf.InputError, match="halved 2 times"):
        Frequencies((1.0, 1.0, 1.0))(FREE[..., :6], GIVEN[..., :6], rows(1, 1, 1), ANY)


@pytest.mark.parametrize("want", ["velocity", "data", "noise", "v"])
@pytest.mark.parametrize(
    "rule", [Projected(0.0, 0.4), Rescaled(0.7), ZeroStar(), Tangential("data")]
)
def test_a_rule_acts_in_its_own_prediction_and_is_converted(rule, want):
    path = pf.VP()
    field = LAW.field(path)
    got = ClassifierFree(field, 3.0, rule=rule)(X, T, want, label=LABEL)
    free = field(X, T, rule.space, label=torch.full_like(LABEL, -1))
    given = field(X, T, rule.space, label=LABEL)
    guided = rule(free, given, torch.full((5,), 3.0, dtype=torch.float64), T)
    assert torch.allclose(got, convert(guided, X, T, path, rule.space, want), atol=1e-10)


def test_a_rule_acts_within_the_interval_alone():
    field = LAW.field(pf.CondOT())
    guided = ClassifierFree(field, 3.0, (0.3, 0.6), rule=Projected(0.0))
    plain, all_times = field(X, T, label=LABEL), ClassifierFree(field, 3.0, rule=Projected(0.0))
    inside = (T >= 0.3) & (T <= 0.6)
    want = torch.where(inside[:, None], all_times(X, T, label=LABEL), plain)
    assert torch.allclose(guided(X, T, label=LABEL), want, atol=1e-12)


def test_the_ends_of_time_are_finite_and_the_limit():
    field = LAW.field(pf.CondOT())
    guided = ClassifierFree(field, 3.0, rule=Projected(0.3))
    at = torch.tensor([1.0], dtype=torch.float64)
    end = guided(X, at, label=LABEL)
    near = guided(X, at - 1e-5, label=LABEL)
    assert torch.allclose(end, near, atol=1e-3 * float(near.abs().max()))
    assert guided(X, at * 0, label=LABEL).isfinite().all()


def test_a_scale_may_be_a_function_of_time():
    field = LAW.field(pf.CondOT())
    guided = ClassifierFree(field, lambda t: 1 + 4 * t)
    for k, t in enumerate(T):
        row = X[k : k + 1]
        want = ClassifierFree(field, 1 + 4 * float(t))(row, t, label=LABEL[k : k + 1])
        assert torch.allclose(guided(X, T, label=LABEL)[k : k + 1], want, atol=1e-12)


def test_zero_star_stands_still_at_first_and_its_solver_stops_there():
    field = LAW.field(pf.CondOT())
    guided = ClassifierFree(field, 2.0, rule=ZeroStar(0.25))
    assert breaks_of(guided) == (0.25,)
    x0 = randn(6, 2, seed=4)
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    seen = {}
    times = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    pf.integrate(
        pf.solvers.Euler(), guided, x0, times, label=label,
        callback=lambda i, t, x: seen.__setitem__(round(float(t[0]), 6), x),
    )  # fmt: skip
    assert torch.equal(seen[0.25], x0)
    moved = ClassifierFree(field, 2.0, rule=ZeroStar())(x0, 0.25, label=label)
    assert torch.allclose(seen[0.4], x0 + 0.15 * moved, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Rescaled(1.5), "amount is 1.5"),
        (lambda: Projected(largest=0.0), "must be positive"),
        (lambda: ZeroStar(1.0), "until is 1.0"),
        (lambda: ZeroStar(0.1, space="data"), "space='velocity'"),
        (lambda: Frequencies((1.0,)), "two levels at least"),
        (lambda: ClassifierFree(LAW.field(pf.CondOT()), 2.0, rule=Rescaled(space="nois")), "'nois'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make, why):
    with pytest.raises(pf.InputError, match=why):
        make()


RULES = [
    Rescaled(0.7), Projected(0.0, 1.0), ZeroStar(), Tangential(), MagnitudeAware(), Frequencies((1.0, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_where_both_predictions_agree_or_are_nothing_values_and_derivatives_are_finite(rule):
    # Labels of -1 make them equal, and a network that starts at 0 makes them nothing.
    for given in (GIVEN[:2, :, :4, :4].clone(), torch.zeros(2, 1, 4, 4).double()):
        if isinstance(rule, Tangential) and not given.any():
            assert not rule(given, given, rows(3, 3), ANY).any()
            continue
        free, aimed = given.clone().requires_grad_(), given.clone().requires_grad_()
        got = rule(free, aimed, rows(3, 3), ANY[:2])
        assert torch.allclose(got, given, atol=1e-12)
        for gradient in torch.autograd.grad(got.sum(), (free, aimed)):
            assert gradient.isfinite().all()


def test_rescaling_leaves_a_prediction_of_one_number_alone():
    free, given = randn(3, 1, seed=3), randn(3, 1, seed=4)
    got = Rescaled(0.7)(free, given, rows(3, 3, 3), ANY)
    assert torch.allclose(got, free + 3 * (given - free))


@pytest.mark.parametrize("rule", RULES[1:5], ids=lambda r: type(r).__name__)
def test_in_half_precision_sums_over_a_sample_do_not_overflow(rule):
    class Two:
        """Velocities of size 16 with 65536 numbers, whose squares sum to 1.7e7."""

        path = pf.CondOT()
        nulls: ClassVar = {"label": Fill(-1)}

        def __call__(self, x, t, want="velocity", *, label):
            sign = torch.where(label < 0, 1.0, 3.0).to(x)[:, None]
            return 16 + sign * torch.linspace(-1, 1, x.shape[1]).to(x)

    x = torch.zeros(2, 65536, dtype=torch.float16)
    guided = ClassifierFree(Two(), 3.0, rule=replace(rule, space="velocity"))
    got = guided(x, 0.5, label=torch.tensor([1, 1]))
    want = guided(x.double(), 0.5, label=torch.tensor([1, 1]))
    assert got.dtype == torch.float16
    assert torch.allclose(got.double(), want, rtol=5e-3, atol=5e-2)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_a_padded_sample_is_guided_as_it_is_alone_or_refused(rule):
    class Wide:
        """Not 0 at padding."""

        path = pf.CondOT()
        nulls: ClassVar = {"label": Fill(-1)}

        def __call__(self, x, t, want="velocity", *, label, mask):
            return torch.sin(3 * x + 1 + label[:, None].to(x)) + 2

    x = randn(2, 6, seed=7)
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    x, label = x * mask, torch.tensor([1, 2])
    guided = ClassifierFree(Wide(), 3.0, rule=replace(rule, space="velocity"))
    if isinstance(rule, Rescaled | Frequencies):
        with pytest.raises(pf.InputError, match="these are padded"):
            guided(x, 0.5, label=label, mask=mask)
        return
    got = guided(x, 0.5, label=label, mask=mask)
    alone = guided(x[:1, :4], 0.5, label=label[:1], mask=mask[:1, :4])
    assert torch.allclose(got[:1, :4], alone, atol=1e-12)


def test_a_scale_by_time_keeps_the_precision_and_has_one_weight_for_each_time():
    field = LAW.field(pf.CondOT())
    want = ClassifierFree(field, 2.0)(X, T, label=LABEL)
    for scale in (lambda t: 2.0, lambda t: torch.tensor([2.0]), lambda t: 2 + 0 * t.float()):
        assert torch.equal(ClassifierFree(field, scale)(X, T, label=LABEL), want)
        assert torch.allclose(
            ClassifierFree(field, scale)(X, T[:1], label=LABEL),
            ClassifierFree(field, 2.0)(X, T[:1], label=LABEL),
        )
    with pytest.raises(pf.InputError, match=r"a weight of shape \(5, 1\)"):
        ClassifierFree(field, lambda t: t[:, None])(X, T, label=LABEL)


def test_zero_star_moves_from_its_time_on():
    field = LAW.field(pf.CondOT())
    guided = ClassifierFree(field, 2.0, rule=ZeroStar(0.5))
    moving = ClassifierFree(field, 2.0, rule=ZeroStar())(X, T, label=LABEL)
    assert torch.equal(guided(X, T, label=LABEL), torch.where((T >= 0.5)[:, None], moving, 0))
