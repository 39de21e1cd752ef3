"""A student's network that starts as its teacher's: same answers, whatever its features and its scale of time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.core.conditions import Tokens
from pushforward.nets import MLP, Prompted, UNet, UViT, WordTransformer
from pushforward.train import warm_start as module
from pushforward.train.warm_start import warm_start

VP, COSINE = pf.VP(), pf.Cosine()


def same(t: Tensor) -> Tensor:
    return t


def of_vp(t: Tensor) -> Tensor:
    """The time of VP at which signal and noise are in the proportion of Cosine's at t."""
    return VP.time_of_log_snr(COSINE.log_snr(t.double()).clamp(-9, 12))


def mlp(time: str, seed: int, two_times: bool = False) -> nn.Module:
    return made(lambda: MLP(2, 32, 2, classes=3, time=time, two_times=two_times), seed)


def unet(time: str, seed: int, two_times: bool = False) -> nn.Module:
    return made(lambda: UNet(1, 8, (1, 2), classes=3, time=time, two_times=two_times), seed)


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network none of whose layers is at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make().eval()
        for name, parameter in net.named_parameters():
            if ".way." not in name and not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.2)
    return net


@dataclass
class Case:
    """What starts as what."""

    make: Callable[..., nn.Module]
    shape: tuple[int, ...]
    theirs: str = "smooth"
    mine: str = "smooth"
    two_times: bool = False
    time: Callable[[Tensor], Tensor] = same
    between: tuple[float, float] = (0.0, 1.0)
    # Largest relative error of the embedding.
    worst: float = 0.06
    student: nn.Module = field(init=False)
    teacher: nn.Module = field(init=False)
    before: dict[str, Tensor] = field(init=False)
    error: float = field(init=False)

    def fit(self) -> Case:
        self.teacher = self.make(self.theirs, 1)
        if (
            self.theirs == "fourier"
        ):  # a fast one, which no smooth features can follow: of lower frequencies
            self.teacher.conditioning.features.frequencies.mul_(0.02)
        self.student = self.make(self.mine, 2, self.two_times)
        self.before = copy.deepcopy(self.student.state_dict())
        self.error = warm_start(self.student, self.teacher, self.time, self.between, seed=3)
        return self

    def times(self, n: int) -> Tensor:
        low, high = self.between
        return low + (high - low) * torch.linspace(0, 1, n, dtype=torch.float64)


CASES = {
    "smooth to smooth, two times": Case(mlp, (2,), two_times=True),
    "other features": Case(mlp, (2,), theirs="fourier", two_times=True),
    "another path": Case(mlp, (2,), theirs="fourier", time=of_vp),
    "scaled times": Case(mlp, (2,), theirs="fourier", between=(-5.0, 5.0)),
    "pictures": Case(unet, (1, 4, 4), theirs="fourier", two_times=True),
}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROUNDS", 700)
        return {name: case.fit() for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_student_answers_as_its_teacher_does_at_all_states_and_times(
    name: str, fitted: dict[str, Case]
) -> None:
    case = fitted[name]
    t = case.times(257)
    x = 2 * pf.Noise.batch(len(t), 5).normal(case.shape)
    label = torch.arange(len(t)) % 4 - 1
    # All weights but those of time.
    copied = case.make(case.mine, 2, case.two_times)
    fitted_too = case.student.state_dict()
    copied.load_state_dict(
        {k: case.before[k] if ".mix." in k else v for k, v in fitted_too.items()}
    )
    with torch.no_grad():
        goal, wrong = (case.teacher(x, case.time(at), label=label) for at in (t, t.flip(0)))
        got, without = (net(x, t, label=label) for net in (case.student, copied))
    # How much of an answer is due to the time.
    due = float((wrong - goal).square().mean().sqrt())
    assert due > 0.01
    error = float((got - goal).square().mean().sqrt())
    assert error < 0.05 * due
    assert error < float((without - goal).square().mean().sqrt()) / 20
    # No time is left out: the ends are as good as all else.
    rows = (got - goal).flatten(1).square().mean(1).sqrt()
    assert float(rows[0]) < 0.6 * due
    assert float(rows[-1]) < 0.6 * due


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.two_times])
def test_a_second_time_makes_no_difference_yet(name: str, fitted: dict[str, Case]) -> None:
    case = fitted[name]
    t = case.times(20)
    x, label = pf.Noise.batch(20, 5).normal(case.shape), torch.arange(20) % 4 - 1
    with torch.no_grad():
        alone = case.student(x, t, label=label)
        for s in (t, t.flip(0), torch.ones_like(t)):
            assert torch.equal(case.student(x, t, label=label, s=s), alone)
    # But it can be learned: it reaches the answer by weights that are there, at 0.
    moved = copy.deepcopy(case.student)
    with torch.no_grad():
        moved.conditioning.way[-1].weight.fill_(0.1)
        assert not torch.allclose(moved(x, t, label=label, s=torch.ones_like(t)), alone, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_all_weights_but_those_of_time_are_the_teachers_bit_for_bit(
    name: str, fitted: dict[str, Case]
) -> None:
    case = fitted[name]
    theirs, kinds = case.teacher.state_dict(), dict[str, list[str]]()
    for key, value in case.student.state_dict().items():
        if "conditioning.mix." in key:
            kind = "fitted"
            assert not torch.equal(value, case.before[key])
        elif "conditioning.way." in key:
            kind = "own"
            assert torch.equal(value, case.before[key])
        else:
            kind = "copied"
            assert torch.equal(value, theirs[key])
        kinds.setdefault(kind, []).append(key)
    assert len(kinds["fitted"]) == 4
    assert len(kinds["copied"]) > 8
    assert len(kinds.get("own", ())) == (4 if case.two_times else 0)
    # The teacher is left as it was.
    again = case.make(case.theirs, 1).state_dict()
    assert all(torch.equal(theirs[key], again[key]) for key in theirs if "frequencies" not in key)


@pytest.mark.parametrize("name", CASES)
def test_the_error_that_is_returned_is_that_of_the_embedding(
    name: str, fitted: dict[str, Case]
) -> None:
    """By Simpson's rule, at other times than those of the function."""
    case = fitted[name]
    t = case.times(4001)
    with torch.no_grad():
        mine = case.student.conditioning(t, None)
        theirs = case.teacher.conditioning(case.time(t), None)
        no_label = case.teacher.conditioning.label(None, len(t))
    weights = torch.full((4001, 1), 2.0, dtype=torch.float64)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    gap, size = (
        float((weights * part.detach().double() ** 2).sum())
        for part in (mine - theirs, theirs - no_label)
    )
    assert case.error == pytest.approx(math.sqrt(gap / size), rel=0.02)
    assert 0 < case.error < case.worst


def test_it_is_a_function_of_the_seed_and_leaves_the_generator_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROUNDS", 15)
    teacher, weights = mlp("sinusoidal", 1), []
    for number, seed in ((0, 4), (1, 4), (2, 5)):
        student = mlp("smooth", 2, True)
        torch.manual_seed(number)
        before = torch.get_rng_state()
        warm_start(student, teacher, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(student.state_dict())
        assert all(p.grad is None for p in student.parameters())
        assert all(p.requires_grad for p in student.parameters())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    first, _, other = (held["conditioning.mix.0.weight"] for held in weights)
    assert not torch.equal(first, other)


def test_a_loaded_teacher_whose_weights_are_frozen_teaches_within_no_grad(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROUNDS", 15)
    teacher, student, free = mlp("smooth", 1), mlp("smooth", 2), mlp("smooth", 2)
    warm_start(free, teacher)
    teacher.requires_grad_(False)
    with torch.no_grad():
        warm_start(student, teacher)
    for a, b in zip(student.parameters(), free.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_embedding_of_time_of_a_network_in_parts_is_fitted() -> None:
    def whole(seed: int, **options: object) -> nn.Module:
        def make() -> nn.Module:
            net = UViT(1, (8,), 1, 8, 64, 1, 1, context=16, **options)  # type: ignore[arg-type]
            return Prompted(net, {"words": WordTransformer(9, 16, 1, 2, 4)})

        return made(make, seed)

    teacher = whole(1, time="smooth")
    student = whole(2, time="smooth", two_times=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROUNDS", 500)
        error = warm_start(student, teacher, seed=3)
    assert 0 < error < 0.2
    x, t = pf.Noise.batch(33, 5).normal((1, 4, 4)), torch.linspace(0, 1, 33)
    words = Tokens(torch.arange(2, 6).expand(33, 4), torch.ones(33, 4, dtype=torch.bool))
    with torch.no_grad():
        goal, got = teacher(x, t, words=words), student(x, t, words=words)
        wrong = teacher(x, t.flip(0), words=words)
    due = float((wrong - goal).square().mean())
    assert float((got - goal).square().mean()) < 0.1 * due
    before = whole(2, time="smooth", two_times=True).state_dict()
    fitted = [name for name in before if "conditioning.mix." in name]
    assert len(fitted) == 8
    assert not any(torch.equal(before[name], student.state_dict()[name]) for name in fitted)
