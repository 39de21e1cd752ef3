"""The times at which a scheduler of diffusers steps, to sample by them with solvers of this library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward.core.ddpm import DDPMPath
from pushforward.core.errors import InputError
from pushforward.core.paths import CondOT
from pushforward.interop.diffusers.schedules import read_schedule


def grid_of(scheduler: Any) -> Tensor:
    """Times (n + 1,), float64, of a scheduler after `set_timesteps(n)`, on the path that `read_schedule` reads.

        scheduler.set_timesteps(20)
        pf.generate(model, 64, solver=pf.solvers.DDIM(), grid=grid_of(scheduler))

    On betas t = 1 - (k + 1)/T, k being the step at which the network is asked; on a flow t = 1 - sigma; elsewhere the
    time of the noise level sigma. Methods of several calls for a step name each level twice: they have the times of
    their steps, and a last step that goes nowhere is dropped. Where the last level is 0 on a path that ends above it
    (EDM, VE), the grid ends where the path does, and what is left is the data that are predicted there.
    """
    config = {"_class_name": type(scheduler).__name__, **dict(scheduler.config)}
    path = read_schedule(config).path
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise InputError("the scheduler has no times yet: call its set_timesteps first")
    levels = getattr(scheduler, "sigmas", None)
    if isinstance(path, DDPMPath):
        steps = _distinct(torch.as_tensor(scheduler.timesteps).double().cpu())
        last = 0.0 if _ends_at_data(scheduler, levels) else 1.0
        return path.time_of_step(_distinct(torch.cat((steps + 1, steps.new_tensor([last])))))
    assert levels is not None
    levels = _distinct(torch.as_tensor(levels).double().cpu())
    if isinstance(path, CondOT):
        return 1 - levels
    ends = levels[-1] == 0
    times = path.time_of_edm_sigma(levels[: len(levels) - int(ends)])
    # What was rounded to float32 may lie beyond the ends by that much.
    times = torch.where(times < 1e-6, 0.0, torch.where(times > 1 - 1e-6, 1.0, times))
    return _distinct(times)


def _distinct(values: Tensor) -> Tensor:
    """Without what repeats the value before."""
    keep = torch.ones(len(values), dtype=torch.bool)
    keep[1:] = values[1:] != values[:-1]
    return values[keep]


def _ends_at_data(scheduler: Any, levels: Any) -> bool:
    """Whether the last step goes to sigma = 0, or to step 0 of the schedule alone."""
    if levels is not None:
        return bool(levels[-1] == 0)
    if type(scheduler).__name__ == "TCDScheduler":
        return False
    final = getattr(scheduler, "final_alpha_cumprod", None)
    return final is None or float(final) == 1
