"""A student's network that starts as its teacher's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pushforward.core.noise import Noise
from pushforward.nets.layers import Conditioning

# Rounds of the fit, and times in each.
ROUNDS, TIMES = 1500, 256


def warm_start(
    student: nn.Module,
    teacher: nn.Module,
    time: Callable[[Tensor], Tensor] = lambda t: t,
    between: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> float:
    """Give a network the weights of another of the same layout, its embedding of time fitted to the other's.

        min over mix of E_t | mix(features(t)) - mix'(features'(time(t))) |^2,   t ~ U(between)

    All else is copied. The student may have other features of time (smooth ones, since its derivative in time is to be
    taken), another scale of time (along another path: time(t) is the teacher's at the student's t), and a second time,
    which makes no difference yet. Afterwards it answers as the teacher does, up to the error of this fit, which takes a
    few seconds.

    Returns that error, in root mean square, relative to the size of the teacher's embedding.
    """
    own = {
        name: value
        for name, value in teacher.state_dict().items()
        if ".features." not in f".{name}" and ".mix." not in f".{name}"
    }
    student.load_state_dict(own, strict=False)
    embeddings = [
        (part, teacher.get_submodule(name))
        for name, part in student.named_modules()
        if isinstance(part, Conditioning)
    ]
    # Others keep their features of time, and start as they are along the same path alone.
    return max((_fit(a, b, time, between, seed) for a, b in embeddings), default=0.0)


def _fit(
    mine: Conditioning,
    theirs: nn.Module,
    time: Callable[[Tensor], Tensor],
    between: tuple[float, float],
    seed: int,
) -> float:
    assert isinstance(theirs, Conditioning)
    low, high = between
    device = next(mine.parameters()).device
    with torch.enable_grad():
        mix = mine.mix.train()
        optimizer = torch.optim.Adam(mix.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS)
        for k in range(ROUNDS):
            # The ends count as much as all else: sampling starts at one of them.
            t = low + (high - low) * Noise.batch(TIMES, seed, k, device=device).uniform(())
            t[0], t[1] = low, high
            with torch.no_grad():
                goal = theirs.mix(theirs.features(time(t)))
            loss = (mix(mine.features(t)) - goal).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        optimizer.zero_grad(set_to_none=True)
    t = torch.linspace(low, high, 1001, dtype=torch.float64, device=device)
    with torch.no_grad():
        goal = theirs.mix(theirs.features(time(t)))
        error = (mix(mine.features(t)) - goal).square().mean().sqrt()
    return float(error / goal.square().mean().sqrt())
