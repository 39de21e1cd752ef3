"""What the default values of the core do, and that every field is asked for its velocity unless told otherwise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.core.conditions import Fill
from pushforward.core.derivatives import divergence, quadratic_form
from pushforward.core.fields import Masked
from pushforward.core.times import LogitNormal, Uniform
from pushforward.guidance import Autoguidance, ClassifierFree, ClassifierGuidance

PATH = pf.Cosine()
LAW = mixture(2, 3, labels=[0, 1, 1])
FIELD, OTHER = LAW.field(PATH), mixture(2, 2, seed=9).field(PATH)
X, LABEL = randn(5, 2, seed=1), torch.tensor([0, 1, 1, 0, 1])


class Answer(nn.Module):
    """A network with one or two outputs for each channel."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        moved = 0.7 * x + t[:, None]
        return torch.cat([moved, 0.1 + 0.2 * moved][: self.outputs], 1)


def logits(x: Tensor, t: Tensor) -> Tensor:
    return torch.stack((x[:, 0], x[:, 1] ** 2), 1)


LEARNED = pf.Model(Answer(2), PATH, "data", outputs=("prediction", "variance"), nulls={"label": -1})
FIELDS = {
    "ExactField": (FIELD, {}),
    "ScheduleTransfer": (pf.ScheduleTransfer(FIELD, pf.CondOT()), {}),
    "Masked": (Masked(FIELD, told=False), {"mask": torch.ones(5, 2, dtype=torch.bool)}),
    "Autoguidance": (Autoguidance(FIELD, OTHER, 2.0), {}),
    "ClassifierFree": (ClassifierFree(FIELD, 2.0), {"label": LABEL}),
    "ClassifierGuidance": (ClassifierGuidance(OTHER, logits, 2.0), {"label": LABEL}),
    "Model": (pf.Model(Answer(), PATH, "data"), {}),
    "InstantaneousField": (pf.InstantaneousField(mixture(2, 1).flow_map(PATH)), {}),
    "PairField": (
        pf.GaussianPair([0, 0], torch.eye(2), [1, 1], torch.eye(2)).field(pf.BrownianBridge(1.0)),
        {},
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_gives_its_velocity_unless_another_prediction_is_asked_for(name):
    field, cond = FIELDS[name]
    velocity = field(X, 0.4, **cond)
    assert torch.equal(velocity, field(X, 0.4, "velocity", **cond))
    if name != "PairField":
        for other in ("data", "noise", "v"):
            assert not torch.allclose(velocity, field(X, 0.4, other, **cond))


@pytest.mark.parametrize(
    ("field", "cond"),
    [
        (LEARNED, {}),
        (pf.ScheduleTransfer(LEARNED, pf.CondOT()), {}),
        (Masked(LEARNED, told=False), {"mask": torch.ones(5, 2, dtype=torch.bool)}),
        (ClassifierFree(LEARNED, 2.0), {"label": LABEL}),
    ],
    ids=["Model", "ScheduleTransfer", "Masked", "ClassifierFree"],
)
def test_beside_a_variance_comes_the_data_unless_another_prediction_is_asked_for(field, cond):
    data, share = field.with_variance(X, 0.4, **cond)
    same, again = field.with_variance(X, 0.4, "data", **cond)
    assert torch.equal(data, same)
    assert torch.equal(share, again)
    assert not torch.allclose(data, field.with_variance(X, 0.4, "velocity", **cond)[0])


def test_a_network_predicts_the_velocity_unless_it_is_said_to_predict_another():
    class Velocity(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return FIELD(x, t)

    model = pf.Model(Velocity(), PATH)
    assert torch.allclose(model(X, 0.4, "data"), FIELD(X, 0.4, "data"), rtol=1e-9)


def test_a_field_of_padded_samples_is_told_of_the_padding():
    seen = []

    class Asked:
        path = PATH

        def __call__(self, x: Tensor, t, want: str = "velocity", **cond) -> Tensor:
            seen.append(sorted(cond))
            return x

    mask = torch.ones(5, 2, dtype=torch.bool)
    Masked(Asked())(X, 0.4, mask=mask)
    assert seen == [["mask"]]


def test_padding_has_neither_velocity_nor_score():
    field = pf.GaussianPair([0, 0], torch.eye(2), [1, 1], torch.eye(2)).field(
        pf.BrownianBridge(1.0)
    )
    mask = torch.tensor([[True, False]]).expand(5, 2)
    u, score = Masked(field, told=False).with_score(X, 0.4, mask=mask)
    truth = field.with_score(X, 0.4)
    for got, want in zip((u, score), truth, strict=True):
        assert torch.equal(got[:, 1], torch.zeros(5).double())
        assert torch.equal(got[:, 0], want[:, 0])


@pytest.mark.parametrize(
    "guided",
    [
        Autoguidance(FIELD, OTHER, 3.0),
        ClassifierFree(FIELD, 3.0),
        ClassifierGuidance(OTHER, logits, 3.0),
    ],
    ids=lambda field: type(field).__name__,
)
def test_guidance_acts_at_all_times(guided):
    cond = {} if isinstance(guided, Autoguidance) else {"label": LABEL}
    plain = guided.field if isinstance(guided, Autoguidance | ClassifierFree) else OTHER
    given = {} if isinstance(guided, ClassifierGuidance) else cond
    for t in (0.02, 0.4, 0.75, 0.98):
        assert not torch.allclose(guided(X, t, **cond), plain(X, t, **given), rtol=1e-4), t
    assert guided.breaks == ()


def test_guidance_in_an_interval_jumps_at_its_ends_unless_it_does_nothing():
    for make in (
        lambda scale: Autoguidance(FIELD, OTHER, scale, (0.3, 0.8)),
        lambda scale: ClassifierFree(FIELD, scale, (0.3, 0.8)),
    ):
        assert make(2.0).breaks == (0.3, 0.8)
        assert make(1.0).breaks == ()


def test_a_classifier_guides_a_field_that_is_not_given_the_label():
    # OTHER has no labels, and would say so.
    assert ClassifierGuidance(OTHER, logits, 1.0)(X, 0.4, label=LABEL).isfinite().all()


def test_what_stands_for_none_is_zero():
    assert torch.equal(Fill()(randn(3, 2)), torch.zeros(3, 2).double())


def test_derivatives_have_no_graph_unless_it_is_asked_for():
    x = X.clone().requires_grad_()
    value = x**3
    v = torch.ones_like(x)
    for derivative in (divergence(value, x), quadratic_form(value, x, v)):
        assert not derivative.requires_grad
        assert torch.allclose(derivative, 3 * (X**2).sum(1))
    assert divergence(x**3, x, create_graph=True).requires_grad


# Times and grids.


def test_the_default_shift_spends_half_of_the_steps_above_a_noise_level_of_three_quarters():
    # SD3, sec. 5.3.2: shift 3 for images of 1024 pixels a side.
    assert float(pf.times.shifted(2)[1]) == pytest.approx(1 - 3 / 4)


def test_infinite_noise_levels_are_taken_a_thousandth_from_their_end():
    # On CondOT the log-SNR a thousandth from the ends is -2 ln 999 and 2 ln 999.
    inner = pf.times.log_snr(3, pf.CondOT())[1:3]
    assert torch.allclose(
        inner / (1 - inner), torch.tensor([999 ** (-1 / 3), 999 ** (1 / 3)]).double()
    )
    middle = float(pf.times.karras(2, pf.CondOT())[1])
    # sigma^(1/7) halfway between those of 999 and 1/999.
    level = ((999 ** (1 / 7) + 999 ** (-1 / 7)) / 2) ** 7
    assert middle == pytest.approx(1 / (1 + level))


def test_draws_of_times_are_independent():
    # Evenly spread ones would cover each tenth of (0, 1) alike: the counts of independent ones scatter as Poisson's do.
    n, tenths = 2000, 10
    for draw in (Uniform(), LogitNormal()):
        u = draw(pf.Noise.batch(n, seed=3))
        share = u if isinstance(draw, Uniform) else torch.special.ndtr(u.logit())
        counts = (share * tenths).long().bincount(minlength=tenths).double()
        chi2 = float(((counts - n / tenths) ** 2 / (n / tenths)).sum())
        assert 1.0 < chi2 < 30.0  # of nine degrees of freedom; even ones have below 0.1


def test_the_named_bridges_have_unit_diffusion():
    half = torch.tensor([0.5], dtype=torch.float64)
    assert float(pf.BrownianBridge().gamma(half)) == 0.5
    assert float(pf.SmoothBridge().gamma(half)) == 1.0
    # Two-sided smoothing of Tong et al. 2023 by a hundredth, everywhere.
    assert float(pf.Tube().gamma(half)) == 0.01


def test_paths_have_the_parameters_that_their_papers_publish():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # Song et al. 2021, app. C: beta from 0.1 to 20, as the rate at which noise comes in.
    for path in (pf.VP(), pf.SubVP()):
        assert torch.allclose(
            2 * path.forward_sde(ends)[0], torch.tensor([20.0, 0.1]).double(), rtol=1e-6
        )
    assert pf.VE().sigma(ends).tolist() == pytest.approx([50.0, 0.01])
    # Karras et al. 2022, table 1, at the middle time of their grid.
    assert pf.EDM().sigma(ends).tolist() == pytest.approx([80.0, 0.002])
    assert float(pf.EDM().sigma(ends.mean())) == pytest.approx(2.515219, rel=1e-6)
    # Nichol & Dhariwal 2021: in the middle of the cosine schedule alpha-bar is near a half.
    cosine = pf.DDPMPath.cosine()
    assert cosine.steps == 1000
    truth = (math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert float(cosine.alpha(ends.mean()) ** 2) == pytest.approx(truth, rel=1e-6)
    assert pf.CondOT().sigma(ends).tolist() == [1.0, 0.0]
