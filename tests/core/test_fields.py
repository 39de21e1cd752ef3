"""Models and schedule transfer: whatever a network predicts and however it is wrapped, the field is the same."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import PATHS, Lookup, mixture, randn, relative

T = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
INNER = torch.linspace(0.25, 0.75, 6, dtype=torch.float64)


class Zero(nn.Module):
    def forward(self, x, t, **cond):
        return torch.zeros_like(x)


class Spy(nn.Module):
    """Answers with `answer(x, t)` and remembers what it was asked."""

    def __init__(self, answer=lambda x, t: torch.zeros_like(x)):
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, x, t, **cond):
        self.asked.append((x, t, cond))
        return self.answer(x, t)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
def test_a_model_of_any_prediction_gives_every_prediction_of_the_law(prediction, path):
    field = mixture(3).field(path)
    model = pf.Model(Lookup(field, prediction), path, prediction)
    x = path.sample(randn(6, 3, seed=1), randn(6, 3, seed=2), T)
    for want in pf.PREDICTIONS:
        assert relative(model(x, T, want), field(x, T, want)) < 1e-9, want
    assert torch.equal(model(x, T), model(x, T, "velocity"))
    assert isinstance(model, pf.Field)
    assert isinstance(field, pf.Field)


@pytest.mark.parametrize(
    ("old", "new"),
    [(a, b) for a, b in itertools.product(PATHS, PATHS) if a.id != b.id or a.id == "VP"],
)
def test_a_law_on_one_path_asked_on_another_is_the_law_on_the_other(old, new):
    old, new = (p.values[0] if hasattr(p, "values") else p for p in (old, new))
    law = mixture(2)
    # Times of the new path whose log-SNR lies in the old one's range.
    grid = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    back = old.time_of_log_snr(new.log_snr(grid))
    inside = (back > 0.02) & (back < 0.98)
    t = grid[inside][:: max(1, int(inside.sum()) // 8)]
    assert len(t) >= 3
    x = new.sample(randn(len(t), 2, seed=1), randn(len(t), 2, seed=2), t)
    transferred, exact = pf.ScheduleTransfer(law.field(old), new), law.field(new)
    assert transferred.path is new
    for want in pf.PREDICTIONS:
        assert relative(transferred(x, t, want), exact(x, t, want)) < 1e-8, want


@pytest.mark.parametrize("new", PATHS)
@pytest.mark.parametrize("old", [pf.CondOT(), pf.VP(), pf.SubVP(), pf.EDM()], ids=repr)
def test_a_transferred_field_is_finite_at_both_ends_and_carries_noise_to_the_data(old, new):
    law = mixture(2)
    field = pf.ScheduleTransfer(law.field(old), new)
    x0 = new.source_std * randn(5, 2, seed=1)
    for t in (0.0, 1.0):
        assert field(x0, t).isfinite().all()
    assert pf.integrate(pf.solvers.Heun(), field, x0, pf.times.karras(20, new)).isfinite().all()


def test_beyond_the_old_range_the_nearest_end_is_asked():
    law, asked = mixture(2), []

    class Watch:
        path = pf.EDM(0.5, 2.0)

        def __call__(self, x, t, want="velocity", **cond):
            asked.append(t)
            return law.field(self.path)(x, t, want)

    transferred = pf.ScheduleTransfer(Watch(), pf.CondOT())
    transferred(randn(2, 2), torch.tensor([0.1, 0.99], dtype=torch.float64))
    assert torch.allclose(asked[0], torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-12)


def test_conditions_pass_through_models_and_transfers():
    net = Spy()
    model = pf.Model(net, pf.CondOT())
    label = torch.tensor([1, 2])
    pf.ScheduleTransfer(model, pf.VP())(randn(2, 2), 0.5, label=label)
    assert torch.equal(net.asked[0][2]["label"], label)


# Preconditioning.


def test_on_unscaled_data_the_scales_are_table_1_of_karras():
    path, s, t = pf.EDM(), 0.5, torch.linspace(0, 1, 9, dtype=torch.float64)
    sigma = path.sigma(t).numpy()
    c = pf.EDMPreconditioning(s)(path, t)
    assert np.allclose(c.skip, s**2 / (sigma**2 + s**2), rtol=1e-12)
    assert np.allclose(c.out, sigma * s / np.sqrt(s**2 + sigma**2), rtol=1e-12)
    assert np.allclose(c.input, 1 / np.sqrt(sigma**2 + s**2), rtol=1e-12)
    assert np.allclose(c.noise, np.log(sigma) / 4, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_inputs_and_targets_of_the_network_have_unit_variance_on_every_path(path):
    # x1 ~ N(0, s^2), x0 ~ N(0, 1): variances of c_in x_t and of (x1 - c_skip x_t)/c_out, in closed form.
    s = 0.8
    c = pf.EDMPreconditioning(s)(path, T)
    alpha, sigma = path.alpha(T), path.sigma(T)
    assert torch.allclose(
        c.input**2 * (alpha**2 * s**2 + sigma**2), torch.ones(6).double(), rtol=1e-10
    )
    target = (1 - c.skip * alpha) ** 2 * s**2 + c.skip**2 * sigma**2
    assert torch.allclose(target / c.out**2, torch.ones(6).double(), rtol=1e-8)
    # c_skip is the least-squares coefficient: the error is uncorrelated with x_t.
    assert torch.allclose((1 - c.skip * alpha) * alpha * s**2, c.skip * sigma**2, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_a_network_of_zeros_is_the_best_denoiser_of_gaussian_data(path):
    s = 0.8
    law = pf.GaussianMixture(torch.zeros(1, 3), s**2)
    model = pf.Model(Zero(), path, "data", pf.EDMPreconditioning(s))
    x = path.sample(randn(6, 3, seed=1), s * randn(6, 3, seed=2), T)
    for want in pf.PREDICTIONS:
        assert relative(model(x, T, want), law.field(path)(x, T, want)) < 1e-8


def test_a_preconditioned_network_is_fed_and_read_as_documented():
    net = Spy(lambda x, t: 2 * x + 1)
    path, wrap = pf.VP(), pf.EDMPreconditioning(0.5)
    x = randn(6, 1, 2, 2, seed=1)
    model = pf.Model(net, path, "data", wrap)
    got, c = model(x, T, "data"), wrap(path, T)
    assert torch.allclose(net.asked[0][0], c.input.view(-1, 1, 1, 1) * x)
    assert torch.allclose(net.asked[0][1], c.noise)
    raw = 2 * c.input.view(-1, 1, 1, 1) * x + 1
    assert torch.allclose(got, c.skip.view(-1, 1, 1, 1) * x + c.out.view(-1, 1, 1, 1) * raw)


@pytest.mark.parametrize("path", PATHS)
def test_the_noise_feature_is_finite_at_both_ends(path):
    noise = pf.EDMPreconditioning()(path, torch.tensor([0.0, 1.0])).noise
    assert (noise.abs() <= 5).all()
    assert noise[0] > noise[1]
    inside = pf.EDMPreconditioning()(path, T).noise
    assert torch.allclose(inside, path.edm_sigma(T).log() / 4)


# The margin at singular ends.


def asked_times(path, prediction, t, **extra):
    net = Spy()
    times = torch.tensor(t, dtype=torch.float64)
    pf.Model(net, path, prediction, **extra)(randn(len(t), 2).double(), times)
    return net.asked[0][1].tolist()


SINGULAR_PATHS = [pf.CondOT(), pf.Cosine(), pf.VP(), pf.SubVP(), pf.DDPMPath.linear()]


@pytest.mark.parametrize("path", [p.values[0] for p in PATHS], ids=repr)
def test_a_velocity_model_is_asked_at_exactly_the_time_given(path):
    assert asked_times(path, "velocity", [0.0, 1.0]) == [0.0, 1.0]


def test_models_are_moved_by_the_margin_only_where_their_velocity_does_not_exist():
    low, high, none = [1e-6, 1.0], [0.0, 1 - 1e-6], [0.0, 1.0]
    both = [1e-6, 1 - 1e-6]
    expected = {
        pf.CondOT(): {"data": high, "noise": low, "score": both, "v": none},
        pf.CondOT(sigma_min=0.1): {"data": none, "noise": low, "score": low, "v": none},
        pf.Cosine(): {"data": high, "noise": low, "score": both, "v": none},
        pf.VP(): {"data": high, "noise": high, "score": high, "v": high},
        pf.VE(): {"data": none, "noise": none, "score": none, "v": none},
        pf.EDM(): {"data": none, "noise": none, "score": none, "v": none},
    }
    for path, cases in expected.items():
        for prediction, times in cases.items():
            got = asked_times(path, prediction, [0.0, 1.0])
            assert got == pytest.approx(times, abs=1e-15), (path, prediction)
    assert asked_times(pf.CondOT(), "data", [0.3, 1.0], margin=0.01) == pytest.approx([0.3, 0.99])
    # Nothing but the singular point itself is moved.
    inside = [1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9]
    for path in SINGULAR_PATHS:
        for prediction in pf.PREDICTIONS:
            assert asked_times(path, prediction, inside) == inside, (path, prediction)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
def test_every_model_is_sampled_from_the_very_first_to_the_very_last_time(prediction, path):
    law = pf.GaussianMixture(torch.zeros(1, 2), 0.5)
    model = pf.Model(Lookup(law.field(path), prediction), path, prediction)
    x0 = path.source_std * randn(4, 2, seed=1)
    got = pf.integrate(pf.solvers.Heun(), model, x0, pf.times.uniform(40))
    assert got.isfinite().all()
    # The exact flow of a centred Gaussian: the ratio of its standard deviations.
    alpha, sigma = (
        f(torch.tensor([0.0, 1.0], dtype=torch.float64)) for f in (path.alpha, path.sigma)
    )
    std = (0.5 * alpha**2 + sigma**2).sqrt()
    assert relative(got, std[1] / std[0] * x0) < 0.1


def test_a_model_answers_in_the_dtype_of_its_state():
    model = pf.Model(Lookup(mixture(2).field(pf.CondOT()), "data"), pf.CondOT(), "data")
    assert model(torch.zeros(2, 2), 0.5).dtype == torch.float32
    assert model(torch.zeros(2, 2, dtype=torch.float64), 0.5).dtype == torch.float64


def test_arguments_that_make_no_model_are_errors():
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        pf.Model(Zero(), pf.CondOT(gaussian_source=False), "score")
    with pytest.raises(pf.InputError, match="predicts the data"):
        pf.Model(Zero(), pf.CondOT(), "velocity", pf.EDMPreconditioning())
    for margin in (0.0, 0.5, -1.0):
        with pytest.raises(pf.InputError, match="margin"):
            pf.Model(Zero(), pf.CondOT(), margin=margin)
    with pytest.raises(pf.InputError, match="no prediction"):
        pf.Model(Zero(), pf.CondOT(), "flow")
    with pytest.raises(pf.InputError, match="sigma_data"):
        pf.EDMPreconditioning(0.0)
    with pytest.raises(pf.InputError, match="data"):
        pf.EDMPreconditioning(0.5, "noise")


def test_fields_are_values():
    law = mixture()
    assert dataclasses.replace(law.field(pf.VP()), path=pf.CondOT()).path == pf.CondOT()
