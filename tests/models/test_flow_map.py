"""Flow maps: the exact ones, a network as one, and their three laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import PATHS, UserPath, mixture, rand, randn
from pushforward.core.derivatives import jvp
from pushforward.core.predictions import jump, secant
from pushforward.solvers import DDIM

FIVE_PATHS = [
    pytest.param(path, id=name)
    for name, path in {
        "CondOT": pf.CondOT(), "Cosine": pf.Cosine(), "VP": pf.VP(), "EDM": pf.EDM(), "user-made": UserPath(),
    }.items()
]  # fmt: skip
LINE = mixture(1, 3)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def states(law: pf.GaussianMixture, path: pf.Path, t: Tensor, seed: int = 0) -> Tensor:
    """States at the times t (B,), every other one twice as far out."""
    n = len(t)
    x0, x1 = randn(n, *law.shape, seed=seed), law.sample(n, seed=seed)
    x = path.sample(x0, x1, t)
    x[::2] = 2 * x[::2] + 0.1
    return x


# DDIM's step, and the prediction that makes one.


@pytest.mark.parametrize("want", pf.PREDICTIONS)
@pytest.mark.parametrize("path", FIVE_PATHS)
def test_a_jump_carries_every_pair_along_its_own_line_and_the_secant_is_its_prediction(path, want):
    """For one pair (x0, x1) all predictions are known, and x_s is on the path of the pair."""
    x0, x1 = randn(8, 2, seed=1), randn(8, 2, seed=2)
    t, s = 0.05 + 0.9 * rand(8, seed=3), 0.05 + 0.9 * rand(8, seed=4)
    x_t, x_s = path.sample(x0, x1, t), path.sample(x0, x1, s)
    # The pair's prediction, as the exact field of a point: given x1, all of it is determined.
    told = torch.cat([
        pf.Empirical(x1[i : i + 1]).field(path)(x_t[i : i + 1], t[i : i + 1], want) for i in range(8)
    ])  # fmt: skip
    a, b = jump(want, path.coefficients(t), path.coefficients(s))
    torch.testing.assert_close(a[:, None] * x_t + b[:, None] * told, x_s, rtol=1e-9, atol=1e-9)
    scale = float(told.abs().max())
    got = secant(x_t, x_s, t, s, path, want)
    torch.testing.assert_close(got, told, rtol=1e-7, atol=1e-8 * scale)


# Networks as flow maps.


class Wild(nn.Module):
    """A smooth network of x, t and s that knows nothing."""

    def __init__(self, dim: int = 2, seed: int = 0, known: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.known, self.asked = known, list[tuple[Tensor, Tensor, Tensor | None]]()
        self.layers = nn.Sequential(nn.Linear(dim + 2, 16), nn.Tanh(), nn.Linear(16, dim)).double()

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        self.asked.append((x, t, s))
        s = torch.zeros_like(t) if s is None or not self.known else s
        return self.layers(torch.cat((x, t[:, None], s[:, None]), 1))


MODELS = [
    *(pytest.param(lambda p, k=k: pf.Model(Wild(), p, k), id=k) for k in pf.PREDICTIONS),
    pytest.param(
        lambda p: pf.Model(Wild(), p, "data", pf.EDMPreconditioning()), id="preconditioned"
    ),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", MODELS)
def test_a_jump_of_no_length_stays_whatever_the_network_says(make, path):
    flow = pf.FlowMapModel(make(path))
    t = column(0, 1e-5, 3e-4, 0.3, 0.77, 0.9995, 1 - 1e-6, 1)
    x = 3 * randn(8, 2, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(flow(x, t, t), x, rtol=1e-12, atol=1e-12)
        # A jump of some length is not one that stays, and is finite from each end of time to any other time.
        for start in (0.0, 1.0):
            ends = flow(x, start, column(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
            assert bool(ends.isfinite().all())
            assert float((ends - x).abs().max()) > 1e-3


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP()], ids=repr)
@pytest.mark.parametrize("t", [0.9995, 0.0003, 0.5])
@pytest.mark.parametrize("prediction", ["data", "v", "velocity"])
def test_a_short_jump_is_a_short_way_within_the_margin_as_elsewhere(prediction, t, path):
    """x_s - x = (s - t) u, and |u| is some 1/(1 - t) near the end: no leap where the network is asked elsewhere."""
    flow = pf.FlowMapModel(pf.Model(Wild(), path, prediction))
    x, h = randn(6, 2, seed=1), 1e-9
    with torch.no_grad():
        moved = (flow(x, t, t + h) - x).abs().max()
        assert 0 < float(moved) < 100 * h / (1 - t)
        twice = (flow(x, t, t + 2 * h) - x).abs().max()
        assert float(twice / moved) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("path", FIVE_PATHS)
@pytest.mark.parametrize("make", MODELS)
def test_the_derivative_in_the_end_at_the_start_is_the_velocity_of_the_model(make, path):
    model = make(path)
    flow = pf.FlowMapModel(model)
    t, x = column(0.1, 0.35, 0.5, 0.7, 0.9), randn(5, 2, seed=2)
    told = t if model.preconditioning is None else path.log_snr(t) / -8
    with torch.no_grad():
        truth = model(x, t, s=told)
        _, slope = jvp(lambda s: flow(x, t, s), (t.clone(),), (torch.ones_like(t),))
        torch.testing.assert_close(slope, truth, rtol=1e-9, atol=1e-9)
        for want in pf.PREDICTIONS:
            got = pf.InstantaneousField(flow)(x, t, want)
            torch.testing.assert_close(got, model(x, t, want, s=told), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", FIVE_PATHS)
@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
def test_a_network_that_does_not_know_where_it_goes_makes_the_steps_of_ddim(prediction, path):
    model = pf.Model(Wild(known=False), path, prediction)
    flow = pf.FlowMapModel(model)
    x = randn(6, 2, seed=3)
    t = column(0.1, 0.2, 0.5, 0.9, 0.7, 0.55)
    s = column(0.3, 0.9, 0.55, 0.2, 0.6, 0.5)
    with torch.no_grad():
        for rows in (s > t, s < t):  # a grid goes one way
            times = torch.stack((t, s), 1)[rows]
            truth = pf.integrate(DDIM(), model, x[rows], times)
            torch.testing.assert_close(flow(x, t, s)[rows], truth, rtol=1e-8, atol=1e-8)


def test_to_the_end_of_edms_path_with_its_preconditioning_it_is_a_consistency_model():
    """c_out is that of Song et al. 2023, app. C; c_skip is 1 at the end, and theirs up to its epsilon."""
    path, sd, eps = pf.EDM(), 0.5, 0.002
    net = Wild()
    model = pf.Model(net, path, "data", pf.EDMPreconditioning(sd))
    flow = pf.FlowMapModel(model, "data")
    t, x = column(0.0, 0.2, 0.5, 0.8, 0.95, 1.0), randn(6, 2, seed=4)
    with torch.no_grad():
        got = flow(x, t, 1.0)
        asked, noise, s = net.asked[-1]
        sigma = (80 ** (1 / 7) + t * (eps ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert s is None
        torch.testing.assert_close(noise, sigma.log() / 4)
        torch.testing.assert_close(asked, x / (sd**2 + sigma**2).sqrt()[:, None])
        c_out = sd * (sigma - eps) / (sd**2 + sigma**2).sqrt()
        raw = net.layers(torch.cat((asked, noise[:, None], 0 * noise[:, None]), 1))
        skipped = got - c_out[:, None] * raw
        c_skip = (skipped / x).mean(1)
        torch.testing.assert_close(skipped, c_skip[:, None] * x, rtol=1e-9, atol=1e-10)
        theirs = sd**2 / ((sigma - eps) ** 2 + sd**2)
        assert float((c_skip - theirs).abs().max()) < eps / sd
        torch.testing.assert_close(got[-1], x[-1])
        # Where no noise is left at the end, it is the preconditioned network itself.
        model = pf.Model(net, pf.Cosine(), "data", pf.EDMPreconditioning(sd))
        clean = pf.FlowMapModel(model, "data")(x[:5], t[:5], 1.0)
        torch.testing.assert_close(clean, model(x[:5], t[:5], "data"))


def test_the_network_is_shown_both_times_alike():
    net, path = Wild(), pf.VP()
    t, s, x = column(0.2, 0.4), column(0.9, 0.6), randn(2, 2)
    pf.FlowMapModel(pf.Model(net, path, "v"))(x, t, s)
    assert torch.equal(net.asked[-1][1], t)
    assert torch.equal(net.asked[-1][2], s)
    pf.FlowMapModel(pf.Model(net, path, "data", pf.EDMPreconditioning()))(x, t, s)
    for got, at in zip(net.asked[-1][1:], (t, s), strict=True):
        torch.testing.assert_close(got, (path.sigma(at) / path.alpha(at)).log() / 4)


def test_a_map_of_some_jumps_makes_those_and_refuses_all_others():
    path, net, x = pf.CondOT(), Wild(known=False), randn(3, 2, seed=5)
    model = pf.Model(net, path, "data")
    free, data, grid = (pf.FlowMapModel(model, k) for k in ("any", "data", (0.0, 0.3, 0.5, 1.0)))
    t, s = column(0.5, 0.0, 0.3), column(1.0, 0.3, 0.5)
    torch.testing.assert_close(grid(x, t, s), free(x, t, s))
    torch.testing.assert_close(grid(x, t.float(), s.float()), free(x, t, s), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(data(x, t, 1.0), free(x, t, 1.0))
    for bad in ((0.0, 0.5), (0.3, 1.0), (0.3, 0.3), (0.3, 0.0), (0.1, 0.3), (0.9, 1.0)):
        with pytest.raises(pf.UndefinedError, match="the 3 steps of its own grid"):
            grid(x, *bad)
    with pytest.raises(pf.UndefinedError, match="the way to the data alone"):
        data(x, t, s)
    for few in (data, grid):
        with pytest.raises(pf.UndefinedError, match="knows no jumps from t to times near t"):
            pf.InstantaneousField(few)


def test_what_cannot_be_a_flow_map_is_refused():
    for path in (pf.BrownianBridge(0.5), pf.Tube(0.1)):
        with pytest.raises(pf.InputError, match="adds noise on the way"):
            pf.FlowMapModel(pf.Model(Wild(), path))
    pf.FlowMapModel(pf.Model(Wild(), pf.CondOT(gaussian_source=False)))
    model = pf.Model(Wild(), pf.CondOT())
    with pytest.raises(pf.InputError, match="'any', 'data' or a grid of times, not 'all'"):
        pf.FlowMapModel(model, "all")
    for bad in ((0.0,), (0.0, 0.5, 0.5), (0.5, 0.0), (-0.1, 1.0), (0.0, 1.1)):
        with pytest.raises(pf.InputError, match="increasing times"):
            pf.FlowMapModel(model, bad)
    check = pf.InstantaneousField(LINE.flow_map(pf.CondOT(gaussian_source=False)))
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        check(randn(2, 1), 0.5, "score")


class Constant(nn.Module):
    """An answer that is the same for all states and times."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.full_like(x, 0.7)


@pytest.mark.parametrize(("prediction", "end"), [("data", 1.0), ("noise", 0.0)])
def test_from_an_end_where_the_prediction_says_nothing_the_jump_is_that_from_the_margin(
    prediction, end
):
    """On CondOT at m = end -+ margin: data x1 = c has noise (x - m c)/(1 - m), noise c has data (x - (1 - m) c)/m."""
    x, s, c = randn(5, 2, seed=1), 0.4, 0.7
    flow = pf.FlowMapModel(pf.Model(Constant(), pf.CondOT(), prediction, margin=0.01))
    m = abs(end - 0.01)
    data, noise = (c, (x - m * c) / (1 - m)) if end == 1 else ((x - (1 - m) * c) / m, c)
    torch.testing.assert_close(flow(x, end, s), s * data + (1 - s) * noise)
