"""What the default values of objectives do: conditions that reach the network, published figures, closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import has_share, mixture, randn
from pushforward.core.chain import Steps
from pushforward.core.times import Uniform
from pushforward.data.batch import Batch
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.objectives import (
    BridgeMatching,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    ControlledDenoising,
    DenoisingScoreMatching,
    DiffFlow,
    ExplicitScoreMatching,
    FlowMatching,
    Hybrid,
    ImplicitScoreMatching,
    Levels,
    Matching,
    MaximumLikelihood,
    MeanFlow,
    NoisePrediction,
    OneStep,
    ProgressiveDistillation,
    ProportionalFitting,
    PseudoHuber,
    Reflow,
    ScoreAndFlowMatching,
    Shortcut,
    SlicedScoreMatching,
    VariationalBound,
    important_steps,
    meanflow,
    weights,
)
from pushforward.objectives.matching import draw
from pushforward.solvers import DDIM, SolverFlowMap

FREE = pf.CondOT(gaussian_source=False)
FINE = pf.times.uniform(8)


class Listener(nn.Module):
    """A network that keeps what it is asked, and answers `weight * x`, as often as there are outputs for a channel."""

    def __init__(self, outputs: int = 1, weight: float = 0.3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.outputs, self.asked = outputs, list[dict[str, Tensor]]()

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        self.asked.append({"t": t, "s": s, "label": label})
        return torch.cat([self.weight * x] * self.outputs, 1)

    def seen(self, name: str) -> Tensor:
        return self.asked[-1][name].detach()


def model(
    net: nn.Module, path: pf.Path | None = None, prediction: str = "velocity", **more
) -> pf.Model:
    return pf.Model(net, path or pf.CondOT(), prediction, nulls={"label": -1}, **more)


def map_model(net: nn.Module, jumps="any", path: pf.Path | None = None) -> pf.FlowMapModel:
    return pf.FlowMapModel(model(net, path), jumps)


LAW = mixture(2, 3, labels=[0, 1, 1])
VARIANCE = {"outputs": ("prediction", "variance")}
# Every objective that may drop conditions, made of a network and with its other values left as they are.
DROPPING = {
    "Matching": lambda net: Matching(model(net)),
    "FlowMatching": lambda net: FlowMatching(model(net)),
    "DenoisingScoreMatching": lambda net: DenoisingScoreMatching(model(net, prediction="score")),
    "NoisePrediction": lambda net: NoisePrediction(model(net, prediction="noise")),
    "ImplicitScoreMatching": lambda net: ImplicitScoreMatching(model(net, prediction="score")),
    "SlicedScoreMatching": lambda net: SlicedScoreMatching(model(net, prediction="score")),
    "ControlledDenoising": lambda net: ControlledDenoising(model(net, prediction="score")),
    "ExplicitScoreMatching": lambda net: ExplicitScoreMatching(
        model(net, prediction="score"), LAW.field(pf.CondOT())
    ),
    "VariationalBound": lambda net: VariationalBound(
        model(net, pf.DDPMPath.linear(10)), bin_width=None
    ),
    "Hybrid": lambda net: Hybrid(
        model(net, pf.DDPMPath.linear(10), "noise", **VARIANCE), bin_width=None
    ),
    "MeanFlow": lambda net: MeanFlow(map_model(net)),
    "ContinuousConsistency": lambda net: ContinuousConsistency(map_model(net, "data")),
    "ConsistencyTraining": lambda net: ConsistencyTraining(map_model(net, "data")),
    "ConsistencyDistillation": lambda net: ConsistencyDistillation(
        map_model(net, "data"), teacher=SolverFlowMap(LAW.field(pf.CondOT()), DDIM())
    ),
    "ProgressiveDistillation": lambda net: ProgressiveDistillation(
        map_model(net), SolverFlowMap(LAW.field(pf.CondOT()), DDIM()), FINE
    ),
    "Shortcut": lambda net: Shortcut(map_model(net)),
    "ScoreAndFlowMatching": lambda net: ScoreAndFlowMatching(
        BridgeModel(net, pf.BrownianBridge(1.0), nulls={"label": -1})
    ),
    "Reflow": lambda net: Reflow(model(net, FREE)),
    "OneStep": lambda net: OneStep(model(net, FREE)),
}
TWO_OUTPUTS = {"Hybrid", "ScoreAndFlowMatching"}
PAIRED = {"Reflow", "OneStep"}


@pytest.mark.parametrize("name", DROPPING)
def test_every_label_reaches_the_network(name):
    net = Listener(2 if name in TWO_OUTPUTS else 1)
    n = 64
    noise, label = pf.Noise.batch(n, seed=1), torch.arange(n) % 2
    x0 = randn(n, 2, seed=1) if name in PAIRED else None
    batch = Batch(randn(n, 2, seed=2), {"label": label}, x0)
    DROPPING[name](net)(batch, noise)
    assert net.asked
    for asked in net.asked:
        # Some are asked for part of the batch, and some twice: no label is made none, and each comes up.
        assert set(asked["label"].tolist()) == {0, 1}
    assert any(torch.equal(asked["label"], label) for asked in net.asked)


def test_a_condition_that_no_probability_is_named_for_is_never_dropped():
    nulls = {"label": -1, "text": 0}

    class Both(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor, text: Tensor) -> Tensor:
            self.label, self.text = label, text
            return x

    net, n = Both(), 400
    objective = FlowMatching(
        pf.Model(net, pf.CondOT(), nulls=nulls), condition_dropout={"text": 0.5}
    )
    cond = {"label": torch.arange(n) % 3, "text": torch.ones(n, 2)}
    objective(Batch(randn(n, 2), cond), pf.Noise.batch(n))
    assert torch.equal(net.label, cond["label"])
    assert has_share(net.text[:, 0] == 0, 0.5)


# Distances and levels of consistency training.


def test_pseudo_hubers_constant_for_the_images_of_cifar_is_three_hundredths():
    # Song & Dhariwal 2023, sec. 3.3: c = 0.03 for D = 3072. Points at that distance are c (sqrt 2 - 1) apart.
    a, b = torch.zeros(1, 3, 32, 32, dtype=torch.float64), torch.zeros(1, 3, 32, 32).double()
    b[0, 0, 0, 0] = 0.03
    assert float(PseudoHuber()(a, b)) == pytest.approx(0.03 * (math.sqrt(2) - 1), rel=5e-3)


def test_the_curriculum_doubles_from_ten_levels_to_1280_in_eight_stages():
    # Song & Dhariwal 2023, eq. 7 and table 1, for K = 400 000 steps.
    levels = Levels(steps=400_000)
    counts = [levels.count(k) for k in (0, 49_999, 50_000, 100_000, 349_999, 350_000, 399_999)]
    assert counts == [10, 10, 20, 40, 640, 1280, 1280]
    # Without steps there is no curriculum.
    assert Levels().count(0) == 1280


def test_the_levels_are_those_of_karras_sampler():
    # Karras et al. 2022, eq. 5, for 18 steps: the noise levels that the authors' code prints.
    levels = Levels().table(pf.CondOT(), 17)[1]
    published = [80.0, 57.586, 40.7856, 28.3748, 19.3524, 12.9101, 8.4008, 5.3152, 3.2565, 1.9233]
    assert levels[:10].tolist() == pytest.approx(published, rel=3e-4)
    assert float(levels[-1]) == pytest.approx(0.002)


def test_levels_are_drawn_log_normally_about_a_third():
    # ln k ~ N(-1.1, 2^2), cut to [0.002, 80]: Song & Dhariwal 2023, sec. 3.5.
    n = 40_000
    t = Levels().draw(pf.CondOT(), pf.Noise.batch(n, seed=2))[0]
    z = (pf.CondOT().edm_sigma(t).log() + 1.1) / 2

    def cdf(value: float) -> float:
        low, high = ((math.log(k) + 1.1) / 2 for k in (0.002, 80.0))
        phi = torch.distributions.Normal(0.0, 1.0).cdf
        parts = [float(phi(torch.tensor(v))) for v in (value, low, high)]
        return (parts[0] - parts[1]) / (parts[2] - parts[1])

    for value in (-1.0, 0.0, 1.0):
        truth = cdf(value)
        share = float((z < value).double().mean())
        assert abs(share - truth) < 4.5 * math.sqrt(truth * (1 - truth) / n) + 2e-3


def test_consistency_losses_are_divided_by_the_distance_of_their_levels():
    objective = ConsistencyTraining(map_model(Listener(), "data"))
    noise, x1 = pf.Noise.batch(16), randn(16, 2)
    weighted, plain = (
        objective(x1, noise)["loss"],
        replace(objective, weighted=False)(x1, noise)["loss"],
    )
    apart = objective.levels.draw(pf.CondOT(), noise)[2]
    assert torch.allclose(weighted * apart, plain)
    # And there is no slow copy: the target is the model itself.
    assert objective.state is None


def constant_map(path: pf.Path, jumps="any"):
    """A flow map whose mean velocity is one vector, and the parameter that is it."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
            return self.u.expand_as(x) + 0 * x

    net = Constant()
    return pf.FlowMapModel(pf.Model(net, path), jumps), net.u


@pytest.mark.parametrize("size", [0.02, 0.1, 3.0])
def test_tangents_are_normalised_with_a_tenth_added_from_the_first_step_on(size):
    # Lu & Song 2024, alg. 1: g/(|g| + 0.1). With U = 0 on CondOT g is v, and the gradient of mean (U - U- - g/..)^2
    # in U is -2 g/(|g| + 0.1)/D.
    flow, u = constant_map(FREE, "data")
    x0, v = randn(1, 2, seed=1), torch.tensor([[size, size]], dtype=torch.float64)
    loss = ContinuousConsistency(flow)(Batch(x0 + v, {}, x0), pf.Noise.batch(1))["loss"]
    (gradient,) = torch.autograd.grad(loss.sum(), u)
    # |g| is the root mean square, here `size`.
    assert torch.allclose(gradient, -v[0] / (size + 0.1), rtol=1e-9)


def test_the_whole_tangent_counts_from_the_first_step_on():
    # U = w x on CondOT, from t to the data: X = x + (1 - t) w x, and g = dX/dt = v + (1 - t) w v - w x at once.
    net = Listener()
    x0, v = randn(1, 2, seed=1), randn(1, 2, seed=2)
    noise = pf.Noise.batch(1)
    loss = ContinuousConsistency(map_model(net, "data", FREE))(Batch(x0 + v, {}, x0), noise)["loss"]
    (gradient,) = torch.autograd.grad(loss.sum(), net.weight)
    t, w = net.seen("t"), net.weight.detach()
    x = x0 + t * v
    g = v + (1 - t) * w * v - w * x
    size = (g**2).mean().sqrt()
    assert float(loss.detach()) == pytest.approx(float(size**2))
    assert float(gradient) == pytest.approx(float(-(g * x).sum() / (size + 0.1)))


@pytest.mark.parametrize("size", [0.01, 0.05, 2.0])
def test_meanflow_weighs_an_error_by_its_inverse_with_a_thousandth_added(size):
    # Geng et al. 2025, app. B.1: w = 1/(|error|^2 + 1e-3)^1.
    flow, u = constant_map(FREE)
    x0, v = randn(1, 2, seed=1), torch.tensor([[size, size]], dtype=torch.float64)
    loss = MeanFlow(flow)(Batch(x0 + v, {}, x0), pf.Noise.batch(1))["loss"]
    assert float(loss.detach()) == pytest.approx(size**2)
    (gradient,) = torch.autograd.grad(loss.sum(), u)
    assert torch.allclose(gradient, -v[0] / (size**2 + 1e-3), rtol=1e-9)


def test_three_quarters_of_meanflows_samples_learn_the_velocity_and_none_is_sent_to_the_end():
    # Geng et al. 2025, table 1a: r != t in 25%; times of lognorm(-0.4, 1) in their direction.
    n, net = 6000, Listener()
    MeanFlow(map_model(net))(randn(n, 1), pf.Noise.batch(n))
    t, s = net.seen("t"), net.seen("s")
    assert has_share(t == s, 0.75)
    assert not bool((s == 1).any())
    assert has_share(t[t == s].logit() < 0.4, 0.5)
    assert has_share(t[t == s].logit() < 1.4, 0.8413447)


def test_three_quarters_of_shortcuts_samples_learn_the_velocity_and_the_shortest_jump_is_two_128ths():
    # Frans et al. 2024, sec. 3 and app. B: a quarter of the batch for self-consistency, 128 smallest steps.
    n, net = 6000, Listener()
    Shortcut(map_model(net))(randn(n, 1), pf.Noise.batch(n))
    t, s = net.seen("t"), net.seen("s")
    assert has_share(t == s, 0.75)
    lengths = (s - t)[t != s].unique().double()
    lengths = lengths[torch.cat((torch.tensor([True]), lengths.diff() > 1e-6))]
    assert torch.allclose(lengths, 2.0 ** -torch.arange(6, -1, -1).double(), atol=1e-6)
    for length in lengths:
        assert has_share(((s - t) - length).abs()[t != s] < 1e-6, 1 / 7)


def test_continuous_consistency_draws_its_times_log_normally_about_the_middle():
    n, net = 6000, Listener()
    ContinuousConsistency(map_model(net, "data"))(randn(n, 1), pf.Noise.batch(n))
    t = net.seen("t")
    assert has_share(t.logit() < 0, 0.5)
    assert has_share(t.logit() < 1.6, 0.8413447)


def test_nothing_is_compiled_unless_asked_for(monkeypatch):
    def never():
        raise AssertionError("compiled")

    monkeypatch.setattr(meanflow, "_compiled", never)
    for objective in (
        MeanFlow(map_model(Listener())),
        ContinuousConsistency(map_model(Listener(), "data")),
    ):
        objective(randn(4, 2), pf.Noise.batch(4))
        with pytest.raises(AssertionError, match="compiled"):
            replace(objective, compiled=True)(randn(4, 2), pf.Noise.batch(4))
    t = torch.full((4,), 0.5, dtype=torch.float64)
    meanflow.mean_velocity(map_model(Listener()), randn(4, 2), t, t, randn(4, 2), {})


def test_a_draw_keeps_all_conditions():
    n = 200
    drawn = draw(
        model(Listener()),
        Batch(randn(n, 2), {"label": torch.arange(n) % 3}),
        pf.Noise.batch(n),
        Uniform(),
    )
    assert torch.equal(drawn.cond["label"], torch.arange(n) % 3)


def test_an_objective_that_says_nothing_of_masks_takes_none():
    batch = Batch(randn(4, 2), mask=torch.ones(4, 2, dtype=torch.bool))
    with pytest.raises(pf.InputError, match="does not mind masks"):
        draw(model(Listener()), batch, pf.Noise.batch(4), Uniform())


def test_progressive_distillation_in_v_is_snr_plus_one_of_the_error_of_the_data():
    # Salimans & Ho 2022, sec. 4: on a variance-preserving path |v error|^2 = (SNR + 1) |data error|^2.
    path, net = pf.Cosine(), Listener()
    teacher = SolverFlowMap(LAW.field(path), DDIM())
    fine = pf.times.uniform(8, 0.1, 0.9)
    objective = ProgressiveDistillation(map_model(net, path=path), teacher, fine)
    noise, x1 = pf.Noise.batch(32), randn(32, 2)
    loss = objective(x1, noise)["loss"]
    snr = path.log_snr(net.seen("t").double()).exp()
    in_data = replace(objective, loss_in="data")(x1, noise)["loss"]
    assert torch.allclose(loss, (snr + 1) * in_data, rtol=1e-6)


# Regression: in which prediction errors are squared.


@pytest.mark.parametrize(
    ("objective", "prediction"),
    [(FlowMatching, "velocity"), (DenoisingScoreMatching, "score"), (NoisePrediction, "noise")],
)
def test_errors_are_squared_in_the_prediction_of_the_name(objective, prediction):
    # Of a network that answers 0 for what the objective is named after, the error is the target's own.
    net, path, n = Listener(weight=0.0), pf.CondOT(), 12
    noise, x1 = pf.Noise.batch(n, seed=4), randn(n, 2)
    loss = objective(model(net, path, prediction), times=Uniform(0.1, 0.9))(x1, noise)["loss"]
    x0 = noise.normal((2,), pf.core.noise.SOURCE, torch.float64)
    t = net.seen("t")[:, None]
    target = {"velocity": x1 - x0, "score": x0 / (1 - t), "noise": x0}[prediction]
    assert torch.allclose(loss, (target**2).mean(1), rtol=1e-6)


def test_sliced_score_matching_takes_one_projection_of_its_reduced_variance():
    # For the score -A x the loss is (|A x|^2 - 2 v . A v)/D: of one probe of signs v . A v is tr A + 2 a or tr A - 2 a,
    # of more of them also what lies between, and |A x|^2 has no probe in it.
    a = torch.tensor([[1.0, 0.35], [0.35, 2.0]], dtype=torch.float64)

    class Linear(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.x = x.detach()
            return -x @ a

    net, n = Linear(), 40
    loss = SlicedScoreMatching(pf.Model(net, pf.CondOT(), "score"))(randn(n, 2), pf.Noise.batch(n))[
        "loss"
    ]
    trace = ((net.x @ a).square().sum(1) - 2 * loss.detach()) / 2
    near = torch.stack([(trace - value).abs() for value in (3.0 - 0.7, 3.0 + 0.7)])
    assert float(near.amin(0).max()) < 1e-9
    assert (near < 1e-9).any(1).all()


# Weights.

TIMES = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)


def at_snr(path: pf.Path, *snr: float) -> Tensor:
    return path.time_of_log_snr(torch.tensor(snr, dtype=torch.float64).log())


def test_min_snr_is_cut_at_five():
    w = weights.MinSNR(pf.VP(), "data")
    assert w(at_snr(pf.VP(), 4.9, 5.1, 300.0)).tolist() == pytest.approx([4.9, 5.0, 5.0])


def test_p2_halves_where_signal_and_noise_are_even():
    w = weights.P2(pf.VP(), "noise")
    assert w(at_snr(pf.VP(), 1.0, 3.0, 9.0)).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 10])


def test_edms_weight_is_one_for_the_raw_network_and_four_more_than_the_snr():
    # Karras et al. 2022, table 1: sigma_data = 1/2.
    path = pf.EDM()
    k = path.edm_sigma(TIMES)
    assert torch.allclose(weights.EDMWeight(path, "data")(TIMES), 1 / k**2 + 4, rtol=1e-9)
    wrap = EDMPreconditioning()(path, TIMES)
    assert torch.allclose(wrap.out**2 * weights.EDMWeight(path, "data")(TIMES), torch.ones_like(k))


def test_the_sigmoid_halves_the_likelihoods_weight_at_a_log_snr_of_two():
    path = pf.VP()
    t = path.time_of_log_snr(torch.tensor([2.0], dtype=torch.float64))
    ratio = weights.Sigmoid(path, "noise")(t) / weights.Likelihood(path, "noise")(t)
    assert float(ratio) == pytest.approx(0.5, rel=1e-9)


def test_unweighted_is_the_loss_of_flow_matching_in_another_prediction():
    noise, x1, path = pf.Noise.batch(20), randn(20, 2), pf.CondOT()
    times = Uniform(0.1, 0.9)
    truth = FlowMatching(model(Listener()), times=times)(x1, noise)["loss"]
    weight = weights.Unweighted(path, "data")
    got = Matching(model(Listener()), "data", times=times, weight=weight)(x1, noise)["loss"]
    assert torch.allclose(got, truth, rtol=1e-6)


def test_importance_covers_all_times_by_4096_cells():
    draw = weights.Importance(lambda t: 1 + t)
    ends = draw.quantile(torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([0, 1], abs=1e-8)
    # The density is that of one cell throughout, and another in the next.
    cell = torch.tensor([0.0, 17.0, 2000.0, 4095.0], dtype=torch.float64)
    first, last, after = (
        draw.weight(t) / (1 + t) for t in ((cell + u) / 4096 for u in (0.02, 0.98, 1.02))
    )
    assert torch.allclose(first, last, rtol=1e-12)
    assert ((after - last)[:3].abs() > 1e-6).all()


# The variational bound.

BYTES = (torch.arange(24).reshape(6, 4) * 11 % 256).double() / 127.5 - 1
CHAIN = pf.DDPMPath.linear(10)
LAST = Steps(CHAIN, probabilities=torch.cat((torch.full((9,), 1e-6), torch.ones(1))))


def test_the_bound_takes_bytes_scaled_to_the_interval_from_minus_one_to_one():
    net = Listener()
    for objective in (VariationalBound, Hybrid):
        outputs = {} if objective is VariationalBound else VARIANCE
        net.outputs = 1 if objective is VariationalBound else 2
        bound = objective(model(net, CHAIN, "noise", **outputs), steps=LAST)
        loss = bound(BYTES, pf.Noise.batch(6))["loss"]
        # 8 bits are what ignorance costs: a mass in 256 bins, and no density.
        assert torch.allclose(
            loss, replace(bound, bin_width=2 / 255)(BYTES, pf.Noise.batch(6))["loss"]
        )
        for wrong in (BYTES + 0.4 / 255, 0.5 * BYTES, BYTES + 2 / 255 * 10):
            with pytest.raises(pf.InputError, match=r"do not lie on the values -1, -0\.992157"):
                bound(wrong, pf.Noise.batch(6))
    with pytest.raises(pf.InputError, match=r"do not lie on the values -1, -0\.992157"):
        important_steps(LAW.field(CHAIN), 0.4 * randn(3, 2), Steps(CHAIN))


def test_the_mass_of_all_256_bytes_is_one():
    # The last term of the bound of each byte, as a probability: they add up to one.
    values = (torch.arange(256).double() / 127.5 - 1)[:, None]
    objective = VariationalBound(model(Listener(weight=0.0), CHAIN, "data"), steps=LAST)
    noise = pf.Noise(0, torch.zeros(256, dtype=torch.int64))
    bits = objective(values, noise)["loss"]
    share = float(LAST.shares[-1])
    prior = (CHAIN.alpha(torch.zeros(1).double()) / CHAIN.sigma(torch.zeros(1).double())) ** 2
    nats = bits * math.log(2) - prior * values[:, 0] ** 2 / 2
    assert float((-nats.detach() * share).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_steps_of_the_bound_have_the_variance_of_the_posterior():
    # With b~ the terms before the last have no part of their own, ln(v/b~) + b~/v - 1 = 0: where the data are known
    # exactly they vanish.
    x = randn(8, 2)

    class Knows(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return x

    first = Steps(CHAIN, probabilities=torch.cat((torch.ones(9), torch.full((1,), 1e-9))))
    bound = VariationalBound(pf.Model(Knows(), CHAIN, "data"), steps=first, bin_width=None)
    loss = bound(x, pf.Noise.batch(8))["loss"] * 2 * math.log(2)
    prior = (
        (x**2).sum(1)
        * (CHAIN.alpha(torch.zeros(1).double()) / CHAIN.sigma(torch.zeros(1).double())) ** 2
        / 2
    )
    assert torch.allclose(loss, prior, rtol=1e-9)


def test_the_hybrid_is_the_simple_loss_and_a_thousandth_of_the_bound():
    # Nichol & Dhariwal 2021, sec. 3.1: lambda = 0.001.
    net = model(Listener(2), CHAIN, "noise", **VARIANCE)
    x, noise = randn(20, 2), pf.Noise.batch(20)
    hybrid = Hybrid(net, bin_width=None)
    rest = hybrid(x, noise)["loss"] - replace(hybrid, vlb_weight=0.0)(x, noise)["loss"]
    bound = VariationalBound(net, variance="learned", bin_width=None)(x, noise)["loss"]
    assert torch.allclose(1000 * rest, bound, rtol=1e-6)


class Shifted:
    """A field that is wrong about the data x by `error` in each dimension."""

    def __init__(self, x: Tensor, error: float) -> None:
        self.x, self.error, self.path = x, error, CHAIN

    def __call__(self, x_t: Tensor, t: Tensor, want: str = "velocity") -> Tensor:
        return self.x + self.error


def test_important_steps_leave_a_hundredth_to_chance():
    # With b~ and the data known, only the decoder has a term: all others are left 0.01/n.
    x = randn(5, 2)
    steps = important_steps(Shifted(x, 0.0), x, Steps(CHAIN), variance="beta-tilde", bin_width=None)
    assert torch.allclose(steps.shares[:-1], torch.full((9,), 0.01 / 10).double(), rtol=1e-9)


def test_important_steps_take_all_bytes():
    x = torch.tensor([[0.0, 255.0], [128.0, 7.0]], dtype=torch.float64) / 127.5 - 1
    assert important_steps(Shifted(x, 0.1), x, Steps(CHAIN)).shares.sum() == pytest.approx(1)


def test_important_steps_take_the_best_variance_of_each_step():
    # Bao et al. 2022, thm. 1: v = b~ + pull^2 error^2, and the term is D/2 ln(v/b~).
    x, error = randn(7, 2), 0.3
    steps = important_steps(Shifted(x, error), x, Steps(CHAIN), bin_width=None)
    _, tilde, pull = Steps(CHAIN).table
    size = (1 + pull**2 * error**2 / tilde).log()[:-1]
    shares = steps.shares[:-1] - 0.01 / 10
    assert torch.allclose(shares / shares.sum(), size / size.sum(), rtol=1e-6)


# Bridges, likelihoods, and what is simulated.


class Drift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.times = list[Tensor]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t.detach())
        return self.weight * x


def test_half_bridges_are_trained_a_thousand_steps_each_on_twenty_steps_of_simulation():
    for objective in (BridgeMatching, ProportionalFitting):
        ahead, back = Drift(), Drift()
        trained = objective(HalfBridges(ahead, back, pf.BrownianBridge(1.0)))
        for step in (1000, 1999, 2000):
            ahead.times, back.times = [], []
            ahead.weight.grad = back.weight.grad = None
            trained(randn(4, 2), pf.Noise.batch(4, step=step))["loss"].sum().backward()
            phase = step // 1000
            # BridgeMatching trains `back` in odd phases, ProportionalFitting `ahead`.
            is_back = (phase % 2 == 1) == (objective is BridgeMatching)
            learned, simulated = (back, ahead) if is_back else (ahead, back)
            assert learned.weight.grad is not None
            assert simulated.weight.grad is None
            assert len(simulated.times) == 20


def test_bridge_matching_asks_four_times_on_the_way_of_each_pair():
    # Pairs are what costs: Shi et al. 2023 have as many draws of the time as the bridge's cache gives.
    ahead, back = Drift(), Drift()
    BridgeMatching(HalfBridges(ahead, back, pf.BrownianBridge(1.0)))(randn(5, 2), pf.Noise.batch(5))
    assert ahead.times[0].shape == (20,)
    assert len(ahead.times[0].unique()) == 20


class Turning(nn.Module):
    """A velocity with a diagonal Jacobian, which one probe of signs gives exactly and one of normals does not."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64))
        self.times = list[Tensor]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t.detach())
        return self.rates * x


def test_maximum_likelihood_simulates_twenty_steps_of_runge_kutta_between_jittered_times():
    net = Turning()
    loss = MaximumLikelihood(pf.Model(net, pf.CondOT()))(randn(4, 3), pf.Noise.batch(4))["loss"]
    assert len(net.times) == 20 * 4
    # From step to step, of the grid k/20, inner times are moved within half a step, for each sample by itself.
    starts = torch.stack(net.times[::4])
    off = starts - (1 - torch.arange(20, dtype=torch.float64) / 20)[:, None]
    assert torch.equal(off[0], torch.zeros(4).double())
    assert (off[1:].abs() <= 0.5 / 20).all()
    assert (off[1:].std(1) > 1e-3).all()
    # The graphs are not kept: the backward pass simulates each step again.
    loss.sum().backward()
    assert len(net.times) == 2 * 20 * 4


def test_one_probe_of_signs_and_no_energies_give_the_exact_likelihood_of_a_diagonal_flow():
    x = randn(4, 3)
    net = Turning()
    loss = MaximumLikelihood(pf.Model(net, pf.CondOT()), probes=1)(x, pf.Noise.batch(4))["loss"]
    # dx/dt = r x: ln p_1(x) = ln N(e^{-r} x; 0, I) - sum r.
    rates = net.rates.detach()
    truth = torch.distributions.Normal(0.0, 1.0).log_prob((-rates).exp() * x).sum(1) - rates.sum()
    assert torch.allclose(-loss, truth, rtol=1e-6)


def test_diffflow_simulates_each_step_again_for_its_gradient():
    drift, score = Drift(), Drift()
    trained = pf.DiffFlowModel(pf.Model(score, pf.VP(), "score"), drift, steps=5)
    loss = DiffFlow(trained)(randn(4, 2), pf.Noise.batch(4))["loss"]
    forward = len(drift.times)
    loss.sum().backward()
    assert len(drift.times) == forward + 5


def test_times_are_uniform():
    n, net = 6000, Listener()
    FlowMatching(model(net))(randn(n, 1), pf.Noise.batch(n))
    t = net.seen("t")
    for level in (0.1, 0.5, 0.9):
        assert has_share(t < level, level)
