"""What is written for diffusers ends in the data: by diffusers' own schedulers, with an exact field."""

from __future__ import annotations

from itertools import pairwise

import diffusers
import pytest
import torch

import pushforward as pf
from pushforward.interop.diffusers.schedules import read_schedule, scheduler_config
from pushforward.models.preconditioning import EDMPreconditioning

# The data are N(MEAN, STD^2). A solver without noise maps the noise by a line, whose ends tell the law that it draws.
MEAN, STD = 0.5, 0.1
LAW = pf.GaussianMixture(
    torch.tensor([[MEAN]]).double(), torch.tensor([[[STD**2]]]).double(), torch.ones(1).double()
)

MODELS = {
    "flow": (pf.CondOT(), "velocity", None, None),
    "flow, shifted": (pf.CondOT(), "velocity", None, 3.0),
    "linear": (pf.DDPMPath.linear(), "noise", None, None),
    "scaled linear": (pf.DDPMPath.scaled_linear(), "v", None, None),
    "cosine": (pf.DDPMPath.cosine(), "v", None, None),
    "zero terminal SNR": (pf.DDPMPath.linear().rescaled(), "v", None, None),
    "given betas": (pf.DDPMPath.linear(300, 1e-3, 0.06), "data", None, None),
    "continuous": (pf.VP(), "noise", None, None),
    "EDM": (pf.EDM(), "data", EDMPreconditioning(), None),
}  # fmt: skip


def law_drawn(scheduler, schedule, field, steps: int) -> tuple[float, float]:
    """Mean and standard deviation of what a scheduler draws."""
    scheduler.set_timesteps(steps)
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * float(
        getattr(scheduler, "init_noise_sigma", 1)
    )
    for i, tau in enumerate(scheduler.timesteps):
        path = schedule.path
        if isinstance(path, pf.CondOT):
            t = 1 - tau.double() / 1000
        elif isinstance(path, pf.EDM):
            t = path.time_of_edm_sigma(scheduler.sigmas[i].double()).clamp(0, 1)
        else:
            t = path.time_of_step(tau.double() + 1)
        if schedule.preconditioning is None:
            given = schedule.sign * field(x, t, schedule.prediction)
        else:
            scheduler.scale_model_input(x, tau)
            c = schedule.preconditioning(path, t)
            given = (field(x, t, "data") - c.skip * x) / c.out
        x = scheduler.step(given, tau, x, return_dict=False)[0].double()
    low, high = x.flatten().tolist()
    return (low + high) / 2, (high - low) / 2


# Numbers that divide 1000, and that do not; few, and as many as there are.
COUNTS = (4, 25, 60, 250, 299, 600, 997, 1000)


def errors(config, counts=COUNTS) -> tuple[list[float], list[float]]:
    """|mean - MEAN| and |std/STD - 1| by the number of steps."""
    schedule = read_schedule(config)
    field = LAW.field(schedule.path)
    found = [
        law_drawn(
            getattr(diffusers, config["_class_name"]).from_config(config), schedule, field, steps
        )
        for steps in counts
    ]
    return [abs(mean - MEAN) for mean, _ in found], [abs(std / STD - 1) for _, std in found]


@pytest.mark.parametrize("name", MODELS)
def test_the_law_of_the_scheduler_that_is_written_gets_better_with_any_number_of_steps(name):
    path, prediction, wrap, shift = MODELS[name]
    sign = -1 if isinstance(path, pf.CondOT) else 1
    config = scheduler_config(path, prediction, wrap, shift, sign=sign)
    counts = [
        n
        for n in COUNTS
        if n < config["num_train_timesteps"] or n == 1000 == config["num_train_timesteps"]
    ]
    mean, std = errors(config, counts)
    # What is left of the data in the noise: alpha(0) of the mean, 0.068 on Stable Diffusion's schedule.
    assert max(mean) < 0.004
    assert all(later < earlier + 5e-3 for earlier, later in pairwise(std))
    assert std[-1] < 0.05


FAULTS = {
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, (250, 300, 600)),
    "DEIS on flow sigmas": (
        "DEISMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, (5,),
    ),
    "DPM++ of 1000 steps": ("DPMSolverMultistepScheduler", {}, (250, 1000)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_the_check_sees_the_faults_that_are_avoided(name):
    cls, config, counts = FAULTS[name]
    full = {"_class_name": cls, **getattr(diffusers, cls)(**config).config}
    mean, std = errors(full, counts)
    better = all(later < earlier + 5e-3 for earlier, later in pairwise(std))
    assert not (max(mean) < 0.004 and better)


def test_a_shift_is_written_so_that_it_acts_once():
    n, s = 6, 3.0
    u = 1 - torch.arange(n + 1, dtype=torch.float64) / n
    once = s * u / (1 + (s - 1) * u)
    config = scheduler_config(pf.CondOT(), "velocity", shift=s, sign=-1)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(n)
    assert torch.allclose(scheduler.sigmas, once)
    usual = diffusers.FlowMatchEulerDiscreteScheduler(shift=s)
    usual.set_timesteps(n)
    assert float(usual.sigmas[-2]) < 0.01 < 0.3 < float(once[-2])
    # Levels that a pipeline passes are shifted once.
    config = scheduler_config(pf.CondOT(), "velocity", shift=s, sign=-1, given_levels=True)
    assert config["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    usual.set_timesteps(sigmas=u[:-1].tolist())
    assert torch.allclose(usual.sigmas.double(), once, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "prediction", "wrap"),
    [
        (pf.SubVP(), "noise", None),
        (pf.CondOT(0.1), "velocity", None),
        (pf.CondOT(), "noise", None),
        (pf.DDPMPath.linear(), "velocity", None),
        (pf.VP(), "data", EDMPreconditioning()),
        (pf.VE(), "noise", None),
    ],
)
def test_paths_and_predictions_that_diffusers_has_not_are_refused(path, prediction, wrap):
    with pytest.raises(pf.InputError, match=r"diffusers has|of diffusers"):
        scheduler_config(path, prediction, wrap)


def test_a_continuous_schedule_is_exact_at_its_steps():
    config = scheduler_config(pf.VP(0.2, 15.0), "noise")
    path = read_schedule(config).path
    t = 1 - torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert torch.allclose(path.alpha(t), pf.VP(0.2, 15.0).alpha(t), rtol=1e-9, atol=0)
    assert torch.allclose(path.sigma(t), pf.VP(0.2, 15.0).sigma(t), rtol=1e-9, atol=0)
