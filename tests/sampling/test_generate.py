"""generate: samples are a function of (seed, i) and of nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.core import times
from pushforward.core.noise import START
from pushforward.core.spec import SamplingDefaults
from pushforward.guidance import ClassifierFree
from pushforward.nets import MLP, UNet
from pushforward.solvers import RK4, Euler, EulerMaruyama, Heun, Midpoint, SolverFlowMap


def mixture() -> pf.GaussianMixture:
    return pf.GaussianMixture(
        torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]]),
        torch.tensor([0.3, 0.2, 0.5])[:, None, None] * torch.eye(2),
        torch.tensor([0.5, 0.3, 0.2]),
        labels=torch.tensor([0, 1, 2]),
    )


def network(dropout: float = 0.0, **model) -> pf.Model:
    torch.manual_seed(1)
    net = UNet(1, 8, (1, 2), classes=3, dropout=dropout)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return pf.Model(net, pf.CondOT(), shape=(1, 4, 4), classes=3, **model)


class Recorder:
    """A Field that notes what it is asked."""

    def __init__(self, field, **attributes) -> None:
        self.field, self.path, self.calls = field, field.path, []
        self.shape = getattr(field, "shape", ())
        for name, value in attributes.items():
            setattr(self, name, value)

    def __call__(self, x, t, want="velocity", **cond):
        self.calls.append(
            (len(x), t.clone(), {name: value.clone() for name, value in cond.items()})
        )
        return self.field(x, t, want, **cond)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.VE(), pf.EDM(), pf.Cosine()], ids=str)
def test_samples_are_the_noise_carried_along_the_field(path: pf.Path) -> None:
    field = mixture().field(path)
    noise = pf.Noise.batch(7, 5)
    start = path.source_std * noise.normal((2,), START, torch.float64)
    want = pf.integrate(Heun(), field, start, times.straight(10, path))
    assert torch.equal(pf.generate(field, 7, solver=Heun(), nfe=20, seed=5), want)
    assert want.dtype == torch.float64


@pytest.mark.parametrize(
    "solver", [Euler(), Heun(), RK4(), EulerMaruyama(pf.VP().sigma)], ids=lambda s: type(s).__name__
)
def test_samples_of_exact_laws_do_not_depend_on_the_batch_size(solver: pf.Solver) -> None:
    field = mixture().field(pf.VP())
    label = torch.arange(23) % 3
    whole = pf.generate(field, 23, solver=solver, nfe=20, label=label, seed=3)
    for batch_size in (1, 4, 23, 1000):
        part = pf.generate(field, 23, solver=solver, nfe=20, label=label, seed=3, batch_size=batch_size)  # fmt: skip
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)
    fewer = pf.generate(field, 9, solver=solver, nfe=20, label=label[:9], seed=3)
    torch.testing.assert_close(fewer, whole[:9], rtol=1e-12, atol=1e-12)
    share = pf.generate(field, 14, solver=solver, nfe=20, label=label[9:], seed=3, start=9, batch_size=5)  # fmt: skip
    torch.testing.assert_close(share, whole[9:], rtol=1e-12, atol=1e-12)


def test_samples_of_networks_do_not_depend_on_the_batch_size_beyond_rounding() -> None:
    model = network()
    label = torch.arange(11) % 3
    whole = pf.generate(model, 11, nfe=10, label=label, guidance=2.0)
    for batch_size in (1, 4):
        part = pf.generate(model, 11, nfe=10, label=label, guidance=2.0, batch_size=batch_size)
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)


def test_samples_differ_by_seed_and_from_each_other_and_repeat() -> None:
    field = mixture().field(pf.CondOT())
    a, b = (pf.generate(field, 50, nfe=4, seed=seed) for seed in (0, 1))
    assert torch.equal(a, pf.generate(field, 50, nfe=4, seed=0))
    assert not (a == b).any()
    assert len(a.unique(dim=0)) == 50


def test_the_noise_of_a_stochastic_solver_differs_by_seed_too() -> None:
    field, states = mixture().field(pf.CondOT()), torch.zeros(9, 2)
    solver = EulerMaruyama(pf.CondOT().sigma)
    a, b = (pf.generate(field, 9, solver=solver, nfe=9, source=states, seed=s) for s in (0, 1))
    assert not (a == b).any()


def test_samples_follow_the_law() -> None:
    law = mixture()
    x = pf.generate(law.field(pf.CondOT()), 4000, nfe=100, batch_size=4000)
    torch.testing.assert_close(x.mean(0), torch.tensor([0.7, -0.1], dtype=x.dtype), atol=0.1, rtol=0)  # fmt: skip
    for label, mean in enumerate(([2.0, 0.0], [-1.0, 1.0], [0.0, -2.0])):
        x = pf.generate(law.field(pf.CondOT()), 500, nfe=100, label=label)
        torch.testing.assert_close(x.mean(0), torch.tensor(mean, dtype=x.dtype), atol=0.12, rtol=0)


@pytest.mark.parametrize(
    ("solver", "calls"), [(Euler(), 1), (Midpoint(), 2), (Heun(), 2), (RK4(), 4)], ids=str
)
@pytest.mark.parametrize("nfe", [4, 7, 21])
def test_the_network_is_called_as_often_as_allowed_and_not_more(solver, calls: int, nfe: int) -> None:  # fmt: skip
    field = Recorder(mixture().field(pf.CondOT()))
    pf.generate(field, 3, solver=solver, nfe=nfe)
    assert len(field.calls) == nfe // calls * calls


def test_a_solver_that_counts_its_own_calls_takes_no_number_of_calls() -> None:
    field = mixture().field(pf.CondOT())
    solver = pf.solvers.DormandPrince()
    assert bool(pf.generate(field, 3, solver=solver).isfinite().all())
    with pytest.raises(pf.InputError, match="no nfe to choose"):
        pf.generate(field, 3, solver=solver, nfe=20)


def test_the_number_of_calls_is_50_or_what_the_model_says() -> None:
    field = Recorder(mixture().field(pf.CondOT()))
    pf.generate(field, 2)
    assert len(field.calls) == 50
    field = Recorder(mixture().field(pf.CondOT()), sampling=SamplingDefaults(nfe=6))
    pf.generate(field, 2)
    assert len(field.calls) == 6
    pf.generate(field, 2, nfe=8)
    assert len(field.calls) == 14


def test_fewer_calls_than_one_step_takes_are_refused() -> None:
    field = mixture().field(pf.CondOT())
    with pytest.raises(
        pf.InputError,
        match="RK4 calls the network 4 times in a step: nfe must be at least that, not 3",
    ):
        pf.generate(field, 2, solver=RK4(), nfe=3)
    assert len(pf.generate(field, 2, solver=RK4(), nfe=4)) == 2


def test_a_grid_takes_the_place_of_the_number_of_calls() -> None:
    field = mixture().field(pf.CondOT())
    grid = torch.tensor([0.0, 0.1, 0.6, 1.0])
    start = pf.Noise.batch(4, 0).normal((2,), START, torch.float64)
    want = pf.integrate(Heun(), field, start, grid)
    assert torch.equal(pf.generate(field, 4, solver=Heun(), grid=grid), want)
    with pytest.raises(pf.InputError, match="either nfe or a grid, not both"):
        pf.generate(field, 4, grid=grid, nfe=6)


def test_a_source_is_states_or_a_law_in_place_of_noise() -> None:
    field = mixture().field(pf.CondOT())
    states = torch.randn(7, 2, generator=torch.Generator().manual_seed(0)).double()
    want = pf.integrate(Heun(), field, states.double(), times.straight(5, pf.CondOT()))
    for batch_size in (3, 7):
        got = pf.generate(field, 7, solver=Heun(), nfe=10, source=states, batch_size=batch_size)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    law = pf.GaussianMixture(torch.ones(1, 2), 0.1 * torch.eye(2)[None], torch.ones(1))
    want = pf.integrate(
        Heun(), field, law.draw(pf.Noise.batch(7, 9)).double(), times.straight(5, pf.CondOT())
    )
    for batch_size in (3, 7):
        got = pf.generate(
            field, 7, solver=Heun(), nfe=10, source=law, seed=9, batch_size=batch_size
        )
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_guidance_is_that_of_classifier_free_within_its_interval() -> None:
    field, label = mixture().field(pf.CondOT()), torch.tensor([0, 1, 2, 1])
    start = pf.Noise.batch(4, 0).normal((2,), START, torch.float64)
    for interval in ((0.0, 1.0), (0.2, 0.7)):
        want = pf.integrate(
            Heun(),
            ClassifierFree(field, 2.5, interval),
            start,
            times.straight(10 if interval == (0.0, 1.0) else 8, pf.CondOT()),
            label=label,
        )
        got = pf.generate(
            field, 4, solver=Heun(), nfe=20, guidance=2.5, interval=interval, label=label
        )
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    plain = pf.generate(field, 4, nfe=20, label=label)
    torch.testing.assert_close(pf.generate(field, 4, nfe=20, guidance=1.0, label=label), plain)
    assert not torch.allclose(want, plain)


def test_a_negative_condition_is_one_for_all_or_one_for_each_sample_by_number_or_name() -> None:
    spec = pf.DataSpec((1, 4, 4), kind="image", classes=3, class_names=("a", "b", "c"))
    torch.manual_seed(1)
    net = UNet(1, 8, (1, 2), classes=3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model = pf.Model(net, pf.CondOT(), spec=spec)
    options = {"nfe": 4, "guidance": 2.5, "seed": 3, "solver": Euler()}

    def drawn(negative, num: int = 5, **more):
        return pf.generate(
            model, num, label=[0, 1, 2, 0, 1][:num], negative=negative, **options | more
        )

    # By hand: the velocity under the label moves away from that under the negative one.
    def by_hand(negative: list[int]) -> torch.Tensor:
        x = pf.Noise.batch(5, 3).normal((1, 4, 4), START, torch.float32)
        positive, other = torch.tensor([0, 1, 2, 0, 1]), torch.tensor(negative)
        grid = times.straight(4, pf.CondOT())
        with torch.no_grad():
            for t, s in pairwise(grid):
                u, v = model(x, t, label=other), model(x, t, label=positive)
                x = x + (s - t) * (u + 2.5 * (v - u))
        return x

    each = [1, 2, 0, 2, 0]
    assert torch.allclose(drawn({"label": each}), by_hand(each), atol=1e-5)
    for batch_size in (2, 5):
        cut = drawn({"label": torch.tensor(each)}, batch_size=batch_size)
        assert torch.allclose(cut, by_hand(each), atol=1e-5)
    for one in (1, "b", torch.tensor([1])):
        assert torch.allclose(drawn({"label": one}, batch_size=2), by_hand([1] * 5), atol=1e-5)
    with pytest.raises(pf.InputError, match="no class 'd'"):
        drawn({"label": "d"})


def test_conditions_of_any_name_reach_a_network_that_judges_them_itself() -> None:
    model = pf.Model(MLP(2, 8, 1, features=["dose"]), pf.CondOT(), shape=(2,))
    torch.nn.init.normal_(model.net.conv_out.weight)
    low, high = (pf.generate(model, 3, nfe=4, dose=torch.full((3,), d)) for d in (0.0, 1.0))
    assert not torch.allclose(low, high)
    with pytest.raises(pf.InputError, match="did you mean 'dose'"):
        pf.generate(model, 3, nfe=4, doze=torch.zeros(3))


def test_a_label_is_one_for_all_or_one_for_each_sample_and_follows_its_sample() -> None:
    field = Recorder(mixture().field(pf.CondOT()), classes=3)
    for label in (1, torch.tensor(1), [1] * 5, torch.tensor([1] * 5, dtype=torch.int32)):
        field.calls.clear()
        pf.generate(field, 5, nfe=2, label=label, batch_size=2)
        seen = [call[2]["label"].tolist() for call in field.calls[::2]]
        assert seen == [[1, 1], [1, 1], [1]]
        assert all(call[2]["label"].dtype == torch.int64 for call in field.calls)
    field.calls.clear()
    pf.generate(field, 5, nfe=2, label=[0, 1, 2, -1, 0], batch_size=2)
    assert [call[2]["label"].tolist() for call in field.calls[::2]] == [[0, 1], [2, -1], [0]]
    field.calls.clear()
    pf.generate(field, 5, nfe=2)
    assert field.calls[0][2] == {}


def test_other_conditions_are_cut_as_the_samples_are() -> None:
    class Shift(nn.Module):
        path, shape = pf.CondOT(), (2,)

        def forward(self, x, t, want="velocity", shift=None):
            return shift

    shift = torch.arange(10, dtype=torch.float64).reshape(5, 2)
    zero = torch.zeros(5, 2, dtype=torch.float64)
    got = pf.generate(Shift(), 5, nfe=2, source=zero, shift=shift, batch_size=2)
    torch.testing.assert_close(got, shift)
    with pytest.raises(pf.InputError, match="shift has 5 entries for 4 samples"):
        pf.generate(Shift(), 4, nfe=2, shift=shift)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "num and batch_size must be positive, got 0 and 256"),
        ({"batch_size": 0}, "num and batch_size must be positive, got 4 and 0"),
        ({"label": 3}, "label 3: this model knows the classes 0 to 2, and -1 for none"),
        ({"label": [0, 1, -2, 7]}, "label -2, 7: this model knows"),
        ({"label": 1.0}, "label must be an integer, a name, or a list of 4 of these"),
        ({"label": [[0, 1, 2, 0]]}, "label must be an integer, a name, or a list of 4 of these"),
        ({"label": [0, 1]}, "label has 2 entries for 4 samples"),
        ({"interval": (0.7, 0.2), "guidance": 2.0}, "the guidance interval is"),
        ({"source": torch.zeros(4, 1, 4, 4) / 0}, "x holds NaN or infinite values"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(pf.InputError, match=message):
        pf.generate(network(), **({"num": 4, "nfe": 2} | arguments))


def test_a_flow_map_says_the_guidance_that_it_was_trained_with() -> None:
    """Scale 1, that of the conditional law itself, where none is recorded."""
    flow = SolverFlowMap(mixture().field(pf.CondOT()), Heun())
    options = {"label": 1, "shape": (2,)}
    with pytest.raises(pf.InputError, match=r"trained with \(scale 1\)"):
        pf.generate(flow, 2, guidance=3.0, **options)
    unguided = pf.generate(flow, 2, guidance=1.0, **options)
    assert torch.equal(unguided, pf.generate(flow, 2, **options))


def test_a_model_of_unknown_shape_needs_one() -> None:
    model = pf.Model(MLP(2, 8, 1), pf.CondOT())
    with pytest.raises(pf.InputError, match="the shape of a sample is not known"):
        pf.generate(model, 2)
    assert pf.generate(model, 3, nfe=2, shape=(2,)).shape == (3, 2)
    assert pf.generate(model, 3, nfe=2, source=torch.zeros(3, 2)).shape == (3, 2)


class Broken(nn.Module):
    """Carries the samples of some labels to infinity."""

    path, shape = pf.CondOT(), (2,)

    def forward(self, x, t, want="velocity", label=None):
        return torch.where(label[:, None] == 1, float("inf"), x)


def test_samples_that_are_not_finite_are_counted_and_named() -> None:
    words = r"1 of the samples 2 to 3 are not finite \(the first: \[3\]\)"
    with pytest.raises(pf.NonFiniteError, match=words):
        pf.generate(Broken(), 5, nfe=4, label=[0, 0, 0, 1, 1], batch_size=2)


def test_a_model_samples_without_dropout_or_gradient_and_is_left_as_it_was() -> None:
    model = network(dropout=0.9)
    model.train()
    model.net.conv_in.eval()
    modes = [m.training for m in model.modules()]
    a = pf.generate(model, 3, nfe=4, label=0)
    assert torch.equal(a, pf.generate(model, 3, nfe=4, label=0))
    assert not a.requires_grad
    assert [m.training for m in model.modules()] == modes
    model.path = None  # Anything that fails.
    with pytest.raises(AttributeError):
        pf.generate(model, 3, nfe=4, label=0)
    assert [m.training for m in model.modules()] == modes


def test_sampling_leaves_the_callers_generator_as_it_was() -> None:
    model = network()  # itself draws its weights
    torch.manual_seed(20)
    before = torch.get_rng_state()
    pf.generate(model, 3, solver=EulerMaruyama(pf.CondOT().sigma), nfe=4, label=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("dtype", "state"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_states_are_kept_in_float32_at_least(dtype: torch.dtype, state: torch.dtype) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=dtype))

        def forward(self, x, t):
            return x.to(dtype) * self.weight

    model = pf.Model(Net(), pf.CondOT(), shape=(2,))
    assert pf.generate(model, 2, nfe=2).dtype == state


def test_the_callback_sees_every_state_of_every_batch() -> None:
    seen = []
    field = mixture().field(pf.CondOT())
    x = pf.generate(
        field, 5, nfe=6, batch_size=3, solver=Heun(), callback=lambda i, t, x: seen.append((i, x))
    )
    assert [i for i, _ in seen] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert torch.equal(torch.cat((seen[3][1], seen[7][1])), x)


def test_no_public_name_is_hidden_by_a_module_of_that_name() -> None:
    """`import pushforward.x` sets pf.x to the module, whatever pf.x was meant to be."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(pf.__path__)}
    assert not modules & pf._HOME.keys()
