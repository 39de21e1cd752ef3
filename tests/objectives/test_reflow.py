"""Reflow: the pairs of a flow straighten it, at no convex cost; and one step takes the place of a straight one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import has_share
from pushforward.core.interpolants import Tube
from pushforward.evaluate.metrics.transport import COSTS, follow, transport_costs
from pushforward.evaluate.metrics.wasserstein import wasserstein
from pushforward.objectives import FlowMatching, OneStep, Reflow
from pushforward.sampling.pairs import generate_pairs
from pushforward.solvers import Euler
from pushforward.streams.shuffled import Shuffled

PATH = pf.CondOT(gaussian_source=False)


class Affine(nn.Module):
    """a x + b + c t: a velocity whose least squares are known."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        self.b, self.c = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        extra = 0.0 if label is None else label[:, None].to(x.dtype)
        return x @ self.a.T + self.b + self.c * t[:, None].to(x.dtype) + extra


def pairs(n: int = 400) -> pf.Batch:
    """x1 = A x0 + m, of which the best affine map is itself."""
    x0 = pf.Noise.batch(n, 3).normal((2,), dtype=torch.float64)
    x1 = x0 @ torch.tensor([[2.0, 0.3], [-0.4, 0.5]], dtype=torch.float64).T + torch.tensor(
        [1.0, -2.0]
    )
    return pf.Batch(x1, x0=x0)


def set_affine(net: Affine, a: list, b: list, c: list) -> None:
    with torch.no_grad():
        for parameter, value in ((net.a, a), (net.b, b), (net.c, c)):
            parameter.copy_(torch.tensor(value, dtype=torch.float64))


def test_one_step_is_zero_at_the_map_and_nowhere_near_it() -> None:
    batch, noise = pairs(), pf.Noise.batch(400)
    model = pf.Model(Affine(), PATH)
    # u(x0, 0) = x1 - x0, whatever it is later.
    set_affine(model.net, [[1.0, 0.3], [-0.4, -0.5]], [1.0, -2.0], [5.0, 7.0])
    assert float(OneStep(model)(batch, noise)["loss"].detach().max()) < 1e-24
    ends = pf.generate(model, 400, solver=Euler(), nfe=1, source=batch.x0)
    torch.testing.assert_close(ends, batch.x1)
    with torch.no_grad():
        model.net.b += torch.tensor([0.1, -0.3])
    loss = OneStep(model)(batch, noise)["loss"]
    torch.testing.assert_close(loss, torch.full_like(loss, (0.01 + 0.09) / 2))


def test_one_step_is_least_squares_of_the_displacement() -> None:
    batch = pf.Batch(pairs().x1 + 0.1 * pairs().x1 ** 2, x0=pairs().x0)
    net = Affine()
    model = pf.Model(net, PATH)
    x0 = batch.x0
    design = torch.cat((x0, torch.ones(400, 1, dtype=torch.float64)), 1)
    best = torch.linalg.lstsq(design, batch.x1 - x0).solution
    set_affine(net, best[:2].T.tolist(), best[2].tolist(), [1.0, 1.0])
    OneStep(model)(batch, pf.Noise.batch(400))["loss"].mean().backward()
    for parameter in (net.a, net.b):
        assert float(parameter.grad.abs().max()) < 1e-12
    assert net.c.grad is None or float(net.c.grad.abs().max()) == 0


def test_reflow_regresses_the_displacement_at_the_point_between() -> None:
    batch, noise = pairs(), pf.Noise.batch(400, seed=4)
    net = Affine()
    set_affine(net, [[0.2, -0.7], [1.1, 0.4]], [0.3, 0.1], [-1.0, 2.0])
    loss = Reflow(pf.Model(net, PATH))(batch, noise)["loss"]
    t = pf.times.Uniform()(noise)
    between = batch.x0 + t[:, None] * (batch.x1 - batch.x0)
    want = ((net(between, t) - (batch.x1 - batch.x0)) ** 2).mean(1)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(loss, FlowMatching(pf.Model(net, PATH))(batch, noise)["loss"])


def test_conditions_are_dropped_where_noise_says() -> None:
    n = 400
    batch = pairs()
    batch = pf.Batch(batch.x1, {"label": torch.full((n,), 3)}, batch.x0)
    noise = pf.Noise.batch(400, seed=1)
    model = pf.Model(Affine(), PATH, nulls={"label": -1})
    kept, dropped = (OneStep(model, condition_dropout=p)(batch, noise)["loss"] for p in (0.0, 1.0))
    d = batch.x1 - batch.x0
    torch.testing.assert_close(kept, ((3 - d) ** 2).mean(1))
    torch.testing.assert_close(dropped, ((-1 - d) ** 2).mean(1))
    some = OneStep(model, condition_dropout=0.3)(batch, noise)["loss"]
    assert ((some == dropped) | (some == kept)).all()
    assert has_share(some == dropped, 0.3)


@pytest.mark.parametrize("objective", [Reflow, OneStep])
def test_what_is_not_pairs_is_refused(objective) -> None:
    model = pf.Model(Affine(), PATH)
    noise = pf.Noise.batch(5)
    for bad in (torch.zeros(5, 2), pf.Batch(torch.zeros(5, 2))):
        with pytest.raises(pf.InputError, match="no x0"):
            objective(model)(bad, noise)
    with pytest.raises(pf.InputError, match="noise ids"):
        objective(model)(pf.Batch(torch.zeros(4, 2), x0=torch.zeros(4, 2)), noise)
    with pytest.raises(pf.InputError, match="gaussian_source=False"):
        objective(pf.Model(Affine(), pf.CondOT()))
    for path in (pf.VE(gaussian_source=False), pf.CondOT(0.1, gaussian_source=False)):
        with pytest.raises(pf.InputError, match="from x0 to x1"):
            objective(pf.Model(Affine(), path))
    objective(pf.Model(Affine(), pf.Cosine(gaussian_source=False)))
    objective(pf.Model(Affine(), Tube()))
    with pytest.raises(pf.InputError, match="condition_dropout"):
        objective(model, condition_dropout=1.5)


def fit(model: pf.Model, objective, data, steps: int, seed: int = 0) -> pf.Model:
    stream, loss_of = Shuffled(data, 256, seed), objective(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        loss = loss_of(stream.at(step), pf.Noise.batch(256, seed, step))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def network(seed: int, path: pf.Path = PATH) -> pf.Model:
    torch.manual_seed(seed)
    return pf.Model(pf.nets.MLP(2, 48, 2), path, shape=(2,))


def ends(model, start: Tensor, steps: int) -> Tensor:
    return pf.generate(
        model, len(start), solver=Euler(), nfe=steps, source=start, batch_size=len(start)
    )


def check(first, second, law, n: int, seed: int = 0) -> None:
    """What reflow promises: of a flow `first` and the flow `second` that was trained on its pairs."""
    start = pf.Noise.batch(n, 100 + seed).normal((2,))
    before, after = (follow(flow, start, steps=20) for flow in (first, second))
    for name, cost in transport_costs(before.start, before.end).items():
        again = transport_costs(after.start, after.end)[name]
        assert again.value <= cost.value + 2 * cost.standard_error, name
    assert after.straightness().value < 0.1 * before.straightness().value
    data = law.sample(n, seed=200 + seed)
    one, many = (float(wasserstein(ends(second, start, k), data)) for k in (1, 100))
    assert one <= 1.3 * many
    # Not of the flow before, nor because both are bad.
    assert float(wasserstein(ends(first, start, 1), data)) > 2 * one
    other = float(wasserstein(law.sample(n, seed=300 + seed), data))
    assert many < other + 0.3


def test_rectifying_independent_pairs_lowers_every_convex_cost() -> None:
    """Jensen's inequality along the exact flow; costs that are neither even nor powers, too."""
    law = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]], 0.1)
    start = pf.Noise.batch(1000, 1).normal((2,), dtype=torch.float64)
    flow = follow(law.field(pf.CondOT()), start, steps=20)
    own = {"exp": lambda d: d[:, 0].exp(), "hinge": lambda d: (d[:, 0] - d[:, 1]).relu()}
    costs = dict(COSTS) | own
    independent = transport_costs(start, law.sample(1000, seed=5), costs)
    for name, cost in transport_costs(flow.start, flow.end, costs).items():
        margin = cost.standard_error + independent[name].standard_error
        assert cost.value < independent[name].value - 2 * margin, name


def test_the_second_flow_is_straight_costs_no_more_and_takes_one_step(tmp_path: Path) -> None:
    """Of the exact flow to a mixture."""
    law = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]], 0.1)
    first = law.field(pf.CondOT())
    data = generate_pairs(first, tmp_path, 4000, nfe=20, batch_size=4000)
    second = fit(network(0), Reflow, data, 400)
    check(first, second, law, 600)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_flows_trained_once_and_again_and_one_step_of_each(tmp_path: Path, seed: int) -> None:
    law = pf.laws.EightGaussians(5.0, 0.1**0.5)

    class Independent:
        def __len__(self) -> int:
            return 20_000

        def __getitem__(self, index: Tensor) -> pf.Batch:
            noise = pf.Noise(seed, index)
            return pf.Batch(law.draw(noise), x0=noise.normal((2,)), ids=index)

    first = fit(network(seed), FlowMatching, Independent(), 1500, seed)
    start = pf.Noise.batch(10_000, seed).normal((2,))
    data = generate_pairs(first, tmp_path, 10_000, source=start, seed=seed, batch_size=10_000)
    second = fit(network(seed + 10), Reflow, data, 1500, seed)
    check(first, second, law, 1500, seed)
    student = fit(second, OneStep, data, 500, seed)
    held = pf.Noise.batch(1500, 100 + seed).normal((2,))
    real = law.sample(1500, seed=200 + seed)
    one, many = (
        float(wasserstein(x, real)) for x in (ends(student, held, 1), ends(first, held, 100))
    )
    assert one <= 1.3 * many
