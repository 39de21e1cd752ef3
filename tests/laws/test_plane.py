"""Laws in the plane: samples and densities are one law, and the densities are exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from pushforward import laws
from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.core.paths import CondOT
from pushforward.laws.plane import CurveLaw, MixtureLaw, PlaneLaw

LAWS = [pytest.param(kind(), id=name) for name, kind in laws.LAWS.items()]
MIXTURES = [p for p in LAWS if isinstance(p.values[0], MixtureLaw)]
CURVES = [p for p in LAWS if isinstance(p.values[0], CurveLaw)]


def cells(law: PlaneLaw, per_cell: int = 10) -> Tensor:
    """The probabilities of the 14 x 14 unit cells of [-7, 7]^2, by the midpoint rule."""
    axis = (torch.arange(14 * per_cell).double() + 0.5) / per_cell - 7
    density = law.log_prob(torch.cartesian_prod(axis, axis)).exp()
    return density.reshape(14, per_cell, 14, per_cell).sum((1, 3)) / per_cell**2


def chi_square(samples: Tensor, law: PlaneLaw) -> tuple[float, float]:
    """Pearson's statistic of samples in the cells of the grid, and its 0.999 quantile under the law."""
    expected = cells(law) * len(samples)
    cell = (samples.double() + 7).floor().clamp(0, 13).long()
    counts = torch.zeros(14, 14, dtype=torch.float64)
    counts.index_put_((cell[:, 0], cell[:, 1]), torch.ones(len(samples)).double(), accumulate=True)
    large = expected >= 5
    e = torch.cat((expected[large], (len(samples) - expected[large].sum()).clamp(min=1)[None]))
    n = torch.cat((counts[large], counts[~large].sum()[None]))
    return float(((n - e) ** 2 / e).sum()), float(chi2.ppf(0.999, len(e) - 1))


@pytest.mark.parametrize("law", LAWS)
def test_the_density_integrates_to_one(law: PlaneLaw) -> None:
    torch.testing.assert_close(cells(law, per_cell=14).sum().item(), 1.0, rtol=0, atol=1e-8)


@pytest.mark.parametrize("law", LAWS)
def test_samples_have_the_density(law: PlaneLaw) -> None:
    statistic, limit = chi_square(law.sample(20_000, seed=1), law)
    assert statistic < limit


@pytest.mark.parametrize(
    ("law", "other"),
    [
        (laws.EightGaussians(), laws.EightGaussians(std=0.36)),
        (laws.Moons(), laws.Moons(shift=-0.9)),
        (laws.SCurve(), laws.SCurve(scale=2.06)),
        (laws.Spirals(), laws.Spirals(turns=1.55)),
        (laws.Pinwheel(), laws.Pinwheel(rate=0.36)),
        (laws.Pinwheel(), laws.Pinwheel(tangential_std=0.24)),
    ],
)
def test_samples_of_a_law_nearby_are_told_apart(law: PlaneLaw, other: PlaneLaw) -> None:
    statistic, limit = chi_square(other.sample(20_000, seed=1), law)
    assert statistic > limit


def test_checkerboard_samples_moved_by_a_tenth_are_told_apart() -> None:
    law = laws.Checkerboard()
    statistic, limit = chi_square(law.sample(20_000) + 0.1, law)
    assert statistic > limit


def test_checkerboard_samples_never_leave_the_board() -> None:
    law = laws.Checkerboard()
    assert (law.log_prob(law.sample(100_000)) == -torch.tensor(32.0).log()).all()
    ends = torch.tensor([2**-33, 1 - 2**-33], dtype=torch.float64)
    corners = torch.cartesian_prod((torch.arange(8).double() + 0.5) / 8, ends, ends, ends)
    assert law.log_prob(law.transform(corners).float()).isfinite().all()


def test_checkerboard_covers_exactly_half_of_its_board() -> None:
    centre = torch.arange(-4.5, 5) * 1.0
    points = torch.cartesian_prod(centre, centre).double()
    on = laws.Checkerboard().log_prob(points).isfinite()
    assert on.sum() == 32
    assert not on[points.abs().amax(1) > 4].any()


@pytest.mark.parametrize("law", LAWS)
def test_a_sample_does_not_depend_on_its_batch(law: PlaneLaw) -> None:
    whole = law.sample(64, seed=3)
    assert torch.equal(law.draw(Noise.batch(7, 3, start=20)), whole[20:27])
    assert torch.equal(law.draw(Noise(3, torch.tensor([41]))), whole[41:42])
    assert whole.dtype == torch.float32
    assert not torch.equal(law.draw(Noise.batch(64, 3, step=1)), whole)
    assert not torch.equal(law.sample(64, seed=4), whole)


@pytest.mark.parametrize("law", LAWS)
def test_log_prob_has_a_finite_gradient_on_its_samples(law: PlaneLaw) -> None:
    x = law.sample(200).double().requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    assert gradient.isfinite().all()
    if not isinstance(law, laws.Checkerboard):
        assert (gradient.abs().sum(1) > 0).all()
        assert torch.autograd.gradcheck(law.log_prob, (x[:5],))


@pytest.mark.parametrize("law", CURVES)
def test_twice_the_panels_give_the_same_density(law: CurveLaw) -> None:
    x = torch.cat((law.sample(300).double(), 6 * torch.rand(300, 2).double() - 3))
    means, weights, std = law.components(refine=2)
    square = ((x[:, None] - means) ** 2).sum(2)
    log_joint = weights.log() - square / (2 * std**2) - math.log(2 * math.pi * std**2)
    expected = log_joint.logsumexp(1)
    near = expected > -40
    assert near[:300].all()
    torch.testing.assert_close(law.log_prob(x)[near], expected[near], rtol=0, atol=1e-12)


@pytest.mark.parametrize("law", CURVES)
def test_too_few_panels_are_noticed(law: CurveLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    x = law.sample(300).double()
    exact = law.log_prob(x)
    monkeypatch.setattr("pushforward.laws.plane.PANEL_WIDTH", 40.0)
    assert (law.log_prob(x) - exact).abs().max() > 1e-6


@pytest.mark.parametrize("law", MIXTURES)
def test_the_exact_field_ends_in_the_law(law: MixtureLaw) -> None:
    x = law.sample(50).double()
    field = law.field(CondOT())
    torch.testing.assert_close(field.log_prob(x, 1.0), law.log_prob(x), rtol=0, atol=1e-9)
    normal = -(x**2).sum(1) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close(field.log_prob(x, 0.0), normal, rtol=0, atol=1e-10)


def test_moons_and_s_curve_are_the_curves_of_scikit_learn() -> None:
    from sklearn import datasets

    points = 3 * datasets.make_moons(200, random_state=0)[0] - 1
    law = laws.Moons(noise=0.01)
    on_curve = -math.log(2 * math.pi * 0.03**2) / 2 - math.log(2 * 3 * math.pi)
    value = law.log_prob(torch.from_numpy(points))
    torch.testing.assert_close(value.median().item(), on_curve, rtol=0, atol=1e-3)
    assert value.min() > on_curve - 1  # at an end half of the Gaussian is missing

    points = 2 * datasets.make_s_curve(200, random_state=0)[0][:, [0, 2]]
    value = laws.SCurve(noise=0.01).log_prob(torch.from_numpy(points))
    on_curve = -math.log(2 * math.pi * 0.02**2) / 2 - math.log(2 * 3 * math.pi)
    torch.testing.assert_close(value.median().item(), on_curve, rtol=0, atol=1e-3)
    assert value.min() > on_curve - 1


def test_eight_gaussians_are_equally_likely_at_their_centres() -> None:
    law = laws.EightGaussians(radius=5, std=math.sqrt(0.1))
    x = 5 * torch.tensor([[1.0, 0], [0, -1], [0.5**0.5, -(0.5**0.5)]], dtype=torch.float64)
    expected = torch.full_like(x[:, 0], -math.log(8 * 2 * math.pi * 0.1))
    torch.testing.assert_close(law.log_prob(x), expected, rtol=0, atol=1e-12)


def test_pinwheel_with_no_twist_and_one_arm_is_a_gaussian() -> None:
    law = laws.Pinwheel(arms=1, rate=0.0)
    x = torch.tensor([[2.0, 0.0], [2.6, 0.2]], dtype=torch.float64)
    expected = -math.log(2 * math.pi * 0.6 * 0.2) - torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(law.log_prob(x), expected)
    assert replace(law, rate=0.4).log_prob(torch.zeros(1, 2)).isfinite()


@pytest.mark.parametrize("law", LAWS)
def test_log_prob_keeps_the_dtype_and_wants_points_of_the_plane(law: PlaneLaw) -> None:
    assert law.log_prob(law.sample(3)).dtype == torch.float32
    for wrong in (torch.zeros(3), torch.zeros(3, 3)):
        with pytest.raises(InputError, match=r"\(B, 2\)"):
            law.log_prob(wrong)
    with pytest.raises(InputError, match=r"int64.*x.float\(\)"):
        law.log_prob(torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: laws.EightGaussians(std=0),
        lambda: laws.Moons(noise=-1),
        lambda: laws.SCurve(scale=math.inf),
        lambda: laws.Spirals(arms=0),
        lambda: laws.Pinwheel(radial_std=math.nan),
    ],
)
def test_a_law_without_density_is_refused(make: object) -> None:
    with pytest.raises(InputError, match="it must be"):
        make()  # type: ignore[operator]


def test_a_quarter_of_a_spiral_lies_within_half_its_radius() -> None:
    inner = (laws.Spirals(std=0.01).sample(10_000).norm(dim=1) < 2).float().mean()
    assert abs(inner - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 10_000)


# What the default values give: where the laws are, and how wide.


def peak(std: float, share: float = 1.0) -> float:
    """ln of the density in the middle of a Gaussian of the plane."""
    return math.log(share / (2 * math.pi * std**2))


def test_eight_gaussians_of_width_three_tenths_lie_at_distance_four() -> None:
    law = laws.EightGaussians()
    at = torch.tensor([[4.0, 0.0], [0.0, -4.0], [8**0.5, 8**0.5]], dtype=torch.float64)
    assert law.log_prob(at).tolist() == pytest.approx([peak(0.3, 1 / 8)] * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("law", "point", "normal", "density", "std"),
    [
        # A point of a curve far from its ends, the direction across it, the share of the law in a unit of its length
        # there, and the width of the noise: across the curve the density is that share times a Gaussian's.
        (laws.Moons(), (-1.0, 2.0), (0.0, 1.0), 1 / (2 * 3 * math.pi), 3 * 0.05),
        (laws.SCurve(), (2.0, -2.0), (1.0, 0.0), 1 / (2 * 2 * 1.5 * math.pi), 2 * 0.05),
    ],
    ids=["moons", "s-curve"],
)
def test_curves_have_their_published_size_and_a_noise_of_a_twentieth(
    law, point, normal, density, std
) -> None:
    across = (
        torch.tensor(point).double()
        + torch.tensor([[0.0], [1.0], [-1.0]]) * std * torch.tensor(normal).double()
    )
    truth = math.log(density / math.sqrt(2 * math.pi * std**2)) - torch.tensor([0.0, 0.5, 0.5])
    # Up to the curvature, of relative size std over the radius.
    assert torch.allclose(law.log_prob(across), truth.double(), atol=0.06)


def test_two_arms_of_a_spiral_turn_one_and_a_half_times_out_to_a_radius_of_four() -> None:
    law, width = laws.Spirals(), 0.15
    # Away from the ends the ridges of the density cross the axes where the angle is a multiple of pi: arm k at
    # radius 4 v, angle 2 pi (1.5 v + k/2).
    for v, k in ((1 / 3, 0), (2 / 3, 0), (0.5, 1), (5 / 6, 1)):
        angle = 2 * math.pi * (1.5 * v + k / 2)
        on = 4 * v * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        # Density of the arm in its length: of v it is 2 v, and the length is 4 hypot(1, 3 pi v) dv.
        share = 2 * v / (4 * math.hypot(1, 3 * math.pi * v)) / 2
        truth = math.log(share / math.sqrt(2 * math.pi * width**2))
        assert float(law.log_prob(on[None])) == pytest.approx(truth, abs=0.05)
    # The angle between the arms' ends is half a turn, and nothing is beyond.
    assert float(law.log_prob(torch.tensor([[5.0, 0.0]]))) < -15


def test_five_blades_of_a_pinwheel_lie_at_distance_two_and_are_twisted_by_two_fifths_of_it() -> (
    None
):
    law = laws.Pinwheel()
    blades = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    share = math.log(1 / (5 * 2 * math.pi * 0.6 * 0.2))
    for distance, lower in ((2.0, 0.0), (2.6, 0.5), (1.4, 0.5)):
        angle = blades + 0.4 * distance
        on = distance * torch.stack((angle.cos(), angle.sin()), 1)
        assert law.log_prob(on).tolist() == pytest.approx([share - lower] * 5, abs=1e-3)
    # Across a blade, a fifth wide.
    angle = 0.4 * 2.0 + 0.1
    side = 2 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    radial = ((2 * math.cos(0.1) - 2) / 0.6) ** 2 / 2
    assert float(law.log_prob(side)) == pytest.approx(
        share - (2 * math.sin(0.1) / 0.2) ** 2 / 2 - radial, abs=1e-6
    )
