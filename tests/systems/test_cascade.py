"""Cascades: exact in law on Gaussian pictures, whatever the level, and plain conditioning at level 0."""

from __future__ import annotations

import math

import pytest
import torch
from tinysystem import Conditional, deviations, upsampler
from torch import Tensor

import pushforward as pf
from pushforward.core.augmentation import NoiseAugmentation
from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset
from pushforward.data.images.coarse import Small
from pushforward.objectives import Matching
from pushforward.streams.augmented import Augmented
from pushforward.streams.shuffled import Shuffled
from pushforward.systems.cascade import Upsampler, levels_of, upsample

N = 4000
# Pictures of 2 x 2 pixels with this law; their coarse ones are the means of all four.
MEAN = torch.tensor([0.5, -0.2, 0.1, 0.3], dtype=torch.float64)
ROOT = torch.tensor(
    [[0.9, 0, 0, 0], [0.4, 0.6, 0, 0], [0.3, -0.2, 0.5, 0], [0.2, 0.3, 0.1, 0.4]],
    dtype=torch.float64,
)
COV = ROOT @ ROOT.T
MEANS = torch.full((4,), 0.25, dtype=torch.float64)
LOW, LOW_VAR = float(MEANS @ MEAN), float(MEANS @ COV @ MEANS)


def given(s: float) -> tuple[Tensor, Tensor, Tensor]:
    """(offset, gain, covariance) of x given c = sqrt(1 - s^2) mean(x) + s z."""
    a = math.sqrt(1 - s * s)
    variance = a * a * LOW_VAR + s * s
    gain = a * COV @ MEANS / variance
    return MEAN - gain * a * LOW, gain[:, None], COV - torch.outer(gain, gain) * variance


class Exact(torch.nn.Module):
    """The exact denoiser of x given its augmented coarse picture, at the level that it is told."""

    def forward(self, x: Tensor, t: Tensor, control: dict, augment_level: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for s in augment_level.unique().tolist():
            rows = augment_level == s
            net = Conditional(*given(s))
            c = control["coarse"][rows].flatten(1).to(x.dtype)
            out[rows] = net.denoise(x[rows].flatten(1), t[rows], c).unflatten(1, x.shape[1:])
        return out


def exact(level: float = 0.0) -> Upsampler:
    model = pf.Model(Exact(), pf.CondOT(), "data", shape=(1, 2, 2))
    return Upsampler(model, NoiseAugmentation(0.9), level)


def base() -> pf.Model:
    """The exact model of coarse pictures (1, 1, 1)."""

    class Net(Conditional):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.denoise(x.flatten(1), t, x.new_zeros(len(x), 1))[..., None, None]

    one = torch.tensor([LOW], dtype=torch.float64)
    cov = torch.tensor([[LOW_VAR]], dtype=torch.float64)
    net = Net(one, torch.zeros(1, 1, dtype=torch.float64), cov)
    return pf.Model(net, pf.CondOT(), "data", shape=(1, 1, 1))


@pytest.mark.parametrize("level", [0.0, 0.3, 0.9])
def test_a_cascade_draws_the_joint_law_of_coarse_and_fine_pictures(level: float) -> None:
    low = pf.generate(base(), N, nfe=20, seed=pf.Noise.chained(4, 0))
    x = upsample([exact()], low, levels=level, seed=pf.Noise.chained(4, 1), nfe=20)
    # Fine pictures have their own law at every level.
    assert deviations(x.flatten(1), MEAN, COV).abs().max() < 4.5
    a = math.sqrt(1 - level * level)
    cross = given(level)[1][:, 0] * a * LOW_VAR
    if level == 0:
        # What was drawn first is kept.
        assert torch.allclose(x.mean((1, 2, 3)), low.flatten(), atol=0.02)
        return
    pairs = torch.cat((low.flatten(1), x.flatten(1)), 1)
    joint = torch.zeros(5, 5, dtype=torch.float64)
    joint[0, 0], joint[1:, 1:], joint[0, 1:], joint[1:, 0] = LOW_VAR, COV, cross, cross
    mean = torch.cat((torch.tensor([LOW], dtype=torch.float64), MEAN))
    assert deviations(pairs, mean, joint).abs().max() < 4.5


def test_stages_of_one_seed_have_independent_noise() -> None:
    # Two stages that pass on their noise: with one seed for both they would start alike.
    seen = []

    class Start(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, control: dict, augment_level: Tensor) -> Tensor:
            if float(t[0]) == 0:
                seen.append(x.flatten(1)[:, :4])
            return torch.zeros_like(x)

    stages = []
    for size in (2, 4):
        model = pf.Model(Start(), pf.CondOT(), shape=(1, size, size))
        stages.append(Upsampler(model, NoiseAugmentation(), 0.1))
    upsample(stages, torch.zeros(N, 1, 1, 1), seed=3, nfe=1, batch_size=N)
    product = (seen[0] * seen[1]).mean(0) * math.sqrt(N)
    assert product.abs().max() < 4.5


def test_level_zero_is_plain_conditioning_in_the_same_bits() -> None:
    stage = upsampler(8, level=0.0)
    torch.manual_seed(0)
    low = torch.randn(3, 3, 4, 4)
    plain = pf.generate(
        stage.model, 3, control=low, augment_level=torch.zeros(3), nfe=4, seed=9, start=2
    )
    assert torch.equal(stage.upsample(low, nfe=4, seed=9, start=2), plain)
    assert not torch.allclose(
        stage.upsample(low, level=0.3, nfe=4, seed=9, start=2), plain, atol=1e-3
    )


def test_the_network_is_told_the_level_and_noise_is_that_of_a_sample_alone() -> None:
    stage = upsampler()
    low = torch.randn(4, 3, 4, 4)
    cond = stage.conditions(low, level=0.4, seed=1)
    again = {**cond, "augment_level": torch.full((4,), 0.1)}
    x, t = torch.randn(4, 3, 8, 8), torch.full((4,), 0.5)
    assert not torch.allclose(stage.model(x, t, **cond), stage.model(x, t, **again), atol=1e-4)
    whole = stage.upsample(low, seed=1, nfe=3, batch_size=3)
    part = stage.upsample(low[2:], seed=1, start=2, nfe=3)
    assert torch.allclose(whole[2:], part, atol=1e-5)


def test_the_loss_in_training_is_that_of_the_exact_conditional_law() -> None:
    # The exact network is right at every level of the stream, and so its loss is the variance that is left.
    torch.manual_seed(1)
    values = (MEAN + torch.randn(N, 4, dtype=torch.float64) @ ROOT.T).reshape(N, 1, 2, 2).float()
    data = Dataset.from_arrays(values.numpy(), kind="image")
    from dataclasses import replace

    data = replace(data, hints={"coarse": Small(2)}, columns={"augment_level": torch.zeros(N)})
    stream = Augmented(Shuffled(data, 1000, 0), NoiseAugmentation(0.9), seed=0)
    model = exact().model
    objective = Matching(model)
    excess, levels = [], []
    for step in range(3):
        batch = stream.at(step)
        batch = replace(batch, x1=batch.x1.double())
        noise = pf.Noise.batch(1000, 0, step)
        with torch.no_grad():
            loss = objective(batch, noise)["loss"]
        t = objective.times(noise)
        levels.append(batch.cond["augment_level"])
        for row, s in enumerate(levels[-1].tolist()):
            cov, time = given(s)[2], float(t[row])
            inner = time**2 * cov + (1 - time) ** 2 * torch.eye(4, dtype=torch.float64)
            left = cov - time**2 * cov @ torch.linalg.solve(inner, cov)
            excess.append(float(loss[row] - left.trace() / 4))
    found = torch.tensor(excess)
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(len(found))
    # Levels are uniform on [0, most].
    s = torch.cat(levels) / 0.9
    assert abs(float(s.mean()) - 0.5) < 4 / math.sqrt(12 * len(s))
    assert abs(float((s**2).mean()) - 1 / 3) < 4 * 0.3 / math.sqrt(len(s))


def test_what_does_not_fit_a_cascade_is_said() -> None:
    stage = upsampler(8)
    with pytest.raises(
        InputError, match=r"level is 0\.7; this model was trained at levels from 0 to 0\.5"
    ):
        stage.upsample(torch.zeros(1, 3, 4, 4), level=0.7)
    with pytest.raises(InputError, match="3 x 3 are no whole blocks"):
        stage.upsample(torch.zeros(1, 3, 3, 3))
    with pytest.raises(InputError, match=r"takes low-resolution pictures \(N, 3, h, w\), got \(0,"):
        stage.upsample(torch.zeros(0, 3, 4, 4))
    with pytest.raises(InputError, match="2 augmentation levels for a cascade of 1"):
        levels_of([stage], [0.1, 0.2])
    with pytest.raises(InputError, match="a Model of pictures"):
        Upsampler(pf.Model(pf.nets.MLP(3, 8, 1), pf.CondOT(), shape=(3,)), NoiseAugmentation())
