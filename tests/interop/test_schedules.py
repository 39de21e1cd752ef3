"""Schedulers as paths and predictions: our solvers on an imported network do what diffusers' own loop does."""

from __future__ import annotations

import diffusers
import pytest
import torch

import pushforward as pf
from interop import tiny
from pushforward.core.noise import SOLVER
from pushforward.interop.diffusers.grids import grid_of
from pushforward.interop.diffusers.schedules import READERS, read_schedule
from pushforward.solvers import DDIM, DDPM, Euler, FlowMapSampler, Multistep

SEED, COUNT = 5, 3
X = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def draw(i: int) -> torch.Tensor:
    """The noise of step i."""
    return pf.Noise.batch(COUNT, SEED).at(i).normal(X.shape[1:], SOLVER, torch.float32)


def imported(tmp_path, scheduler):
    """(the model of a pipeline, its U-Net in diffusers)."""
    net = tiny.unet()
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(tmp_path)
    return pf.from_diffusers(tmp_path), net


@torch.no_grad()
def theirs(scheduler, net, steps, **extra):
    """diffusers' own loop from the same noise, in the precision of the network."""
    scheduler.set_timesteps(steps)
    x = X.to(net.dtype) * float(getattr(scheduler, "init_noise_sigma", 1))
    scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)
    for i, t in enumerate(scheduler.timesteps):
        out = net(scaled(x, t), t).sample
        more = {name: make(i) if callable(make) else make for name, make in extra.items()}
        x = scheduler.step(out, t, x, return_dict=False, **more)[0]
    return x


BETAS = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
}
CLEAN = {"clip_sample": False}
# Schedulers that step in sigma/alpha, in float32: on a schedule with sigma/alpha of 150 at its start they lose digits.
GENTLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SAME = GENTLE | {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
DEIS = GENTLE | {"lower_order_final": False}
# Scheduler, what is off its defaults, our solver.
ODES = {
    "DDIM": ("DDIMScheduler", CLEAN, DDIM()),
    "DDIM to the first step": ("DDIMScheduler", CLEAN | {"set_alpha_to_one": False}, DDIM()),
    "TCD, eta 0": ("TCDScheduler", GENTLE | {"original_inference_steps": 50}, DDIM()),
    "DPM++1": ("DPMSolverMultistepScheduler", SAME | {"solver_order": 1}, Multistep(points=1)),
    "DPM++2M": ("DPMSolverMultistepScheduler", SAME, Multistep(weights="bh2", corrector="none")),
    "DPM++3M": (
        "DPMSolverMultistepScheduler", SAME | {"solver_order": 3, "solver_type": "heun"},
        Multistep(points=3, corrector="none", weights="halved"),
    ),
    "UniPC2": (
        "UniPCMultistepScheduler", SAME, Multistep(points=2, corrector="always", weights="bh2"),
    ),
    "UniPC3": (
        "UniPCMultistepScheduler", SAME | {"solver_order": 3}, Multistep(points=3, corrector="always", weights="bh2"),
    ),
    "DEIS2": ("DEISMultistepScheduler", DEIS, Multistep("noise", corrector="none")),
    "Euler": ("EulerDiscreteScheduler", GENTLE | {"timestep_spacing": "trailing"}, DDIM()),
}  # fmt: skip


# Differences of their last levels lose digits in float32: their loop is compared in float64.
PRECISE = ("UniPCMultistepScheduler", "DEISMultistepScheduler")


def exact(scheduler, monkeypatch):
    """The scheduler's levels in float64, at the steps that it asks at."""
    usual = scheduler.set_timesteps

    def set_timesteps(steps):
        usual(steps)
        path = read_schedule({"_class_name": type(scheduler).__name__, **scheduler.config}).path
        scheduler.sigmas = path.edm_sigma(grid_of(scheduler))

    monkeypatch.setattr(scheduler, "set_timesteps", set_timesteps)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", ODES)
def test_a_solver_at_the_times_of_a_scheduler_takes_its_steps(
    tmp_path, monkeypatch, name, prediction
):
    cls, config, solver = ODES[name]
    scheduler = getattr(diffusers, cls)(prediction_type=prediction, **config)
    model, net = imported(tmp_path, scheduler)
    if cls in PRECISE:
        exact(scheduler, monkeypatch)
        model, net = model.double(), net.double()
    want = theirs(scheduler, net, 10, **({"eta": 0.0} if cls == "TCDScheduler" else {}))
    times = grid_of(scheduler)
    # Euler steps in sigma/alpha, and starts at that of its first time.
    scale = (
        float(model.path.alpha(times[0]) * scheduler.init_noise_sigma)
        if cls.startswith("Euler")
        else 1.0
    )
    got = pf.generate(model, COUNT, solver=solver, grid=times, source=(scale * X).to(net.dtype))
    assert tiny.close(got, want)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("cls", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_so_it_does_on_every_schedule_of_betas(tmp_path, cls, betas):
    config = CLEAN if cls == "DDIMScheduler" else {"solver_order": 1, "lower_order_final": False}
    scheduler = getattr(diffusers, cls)(**BETAS[betas], **config)
    model, net = imported(tmp_path, scheduler)
    want = theirs(scheduler, net, 7)
    assert tiny.close(
        pf.generate(model, COUNT, solver=DDIM(), grid=grid_of(scheduler), source=X), want
    )


def test_so_it_does_from_a_terminal_snr_of_zero(tmp_path):
    config = {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    }
    scheduler = diffusers.DDIMScheduler(**GENTLE, **CLEAN, **config)
    model, net = imported(tmp_path, scheduler)
    assert float(model.path.alpha(torch.zeros(()))) == 0
    want, times = theirs(scheduler, net, 10), grid_of(scheduler)
    assert float(times[0]) == 0
    assert tiny.close(pf.generate(model, COUNT, solver=DDIM(), grid=times, source=X), want)


def test_the_sigmoid_and_given_betas_are_read(tmp_path):
    for config in (
        {"beta_schedule": "sigmoid"},
        {"trained_betas": torch.linspace(1e-3, 0.3, 40).tolist(), "num_train_timesteps": 40},
    ):
        scheduler = diffusers.DDPMScheduler(**config)
        path = read_schedule({"_class_name": "DDPMScheduler", **scheduler.config}).path
        k = torch.arange(1, path.steps + 1, dtype=torch.float64)
        assert torch.allclose(
            path.alpha(path.time_of_step(k)) ** 2,
            scheduler.alphas_cumprod.double(),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("variance", "kind"), [("beta-tilde", "fixed_small"), ("beta", "fixed_large")]
)
def test_ancestral_sampling_is_that_of_ddpm_with_the_same_noise(
    tmp_path, monkeypatch, variance, kind
):
    from diffusers.schedulers import scheduling_ddpm

    scheduler = diffusers.DDPMScheduler(variance_type=kind, **CLEAN)
    model, net = imported(tmp_path, scheduler)
    steps = iter(range(10))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: draw(next(steps)))
    want = theirs(scheduler, net, 10)
    got = pf.generate(
        model, COUNT, solver=DDPM(variance), grid=grid_of(scheduler), source=X, seed=SEED
    )
    assert tiny.close(got, want)


def test_ddim_with_noise_is_that_of_diffusers(tmp_path):
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", **CLEAN)
    model, net = imported(tmp_path, scheduler)
    want = theirs(scheduler, net, 10, eta=0.7, variance_noise=draw)
    got = pf.generate(model, COUNT, solver=DDIM(0.7), grid=grid_of(scheduler), source=X, seed=SEED)
    assert tiny.close(got, want)


def test_a_consistency_model_is_sampled_as_lcm_does(tmp_path, monkeypatch):
    from diffusers.schedulers import scheduling_lcm

    scheduler = diffusers.LCMScheduler()
    model, net = imported(tmp_path, scheduler)
    assert isinstance(model, pf.FlowMapModel)
    steps = iter(range(4))
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: draw(next(steps)))
    want = theirs(scheduler, net, 4)
    got = pf.generate(
        model, COUNT, solver=FlowMapSampler(1.0), grid=grid_of(scheduler), source=X, seed=SEED
    )
    # LCM adds 1/(20 tau)^2 of the state to the data, tau >= 259: 4e-8 of it.
    assert tiny.close(got, want, 1e-5)


FLOWS = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "FlowMapEulerDiscreteScheduler": {"shift": 2.0},
}


@pytest.mark.parametrize("cls", FLOWS)
def test_a_flow_is_sampled_as_diffusers_does_at_its_times(tmp_path, cls):
    scheduler = getattr(diffusers, cls)(**FLOWS[cls])
    model, net = imported(tmp_path, scheduler)
    assert model.path == pf.CondOT()
    assert model.sampling.shift == FLOWS[cls]["shift"]
    want, times = theirs(scheduler, net, 8), grid_of(scheduler)
    assert tiny.close(pf.generate(model, COUNT, solver=Euler(), grid=times, source=X), want)


@pytest.mark.parametrize("cls", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_other_solvers_on_flow_sigmas_ask_at_whole_steps_and_step_by_their_sigmas(tmp_path, cls):
    """The network is asked at int(1000 sigma), and ours at 1000 sigma: they differ by that and nothing else."""
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "lower_order_final": False,
              "final_sigmas_type": "sigma_min", "solver_order": 2}  # fmt: skip
    # Its last call moves nothing, and would correct the step before.
    config |= {"disable_corrector": list(range(8))} if cls.startswith("UniPC") else {}
    scheduler = getattr(diffusers, cls)(**config)
    model, net = imported(tmp_path, scheduler)
    assert model.path == pf.CondOT()
    rounded = lambda x, t: net(x, torch.as_tensor(t)).sample  # noqa: E731
    scheduler.set_timesteps(8)
    asked, times = scheduler.timesteps, grid_of(scheduler)
    assert (asked == (1000 * scheduler.sigmas[:8].double()).long()).all()
    solver = Multistep(points=2, corrector="none", weights="bh2")

    class Rounded(torch.nn.Module):
        def forward(self, x, t):
            return -rounded(x, (1000 * (1 - t) + 1e-9).floor().float())

    want = theirs(scheduler, net, 8)
    exact = pf.Model(Rounded(), pf.CondOT(), shape=(3, 8, 8))
    assert tiny.close(pf.generate(exact, COUNT, solver=solver, grid=times, source=X), want, 3e-5)
    ours = pf.generate(model, COUNT, solver=solver, grid=times, source=X)
    assert 1e-6 < float((ours - want).abs().max()) < 1e-2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_is_sampled_as_diffusers_does(tmp_path, prediction):
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.01,
        sigma_max=30.0,
        sigma_data=0.7,
        rho=5.0,
        prediction_type=prediction,
        final_sigmas_type="sigma_min",
    )
    model, net = imported(tmp_path, scheduler)
    assert model.path == pf.EDM(0.01, 30.0, 5.0)
    want, times = theirs(scheduler, net, 8), grid_of(scheduler)
    start = X * float(scheduler.init_noise_sigma)
    assert tiny.close(pf.generate(model, COUNT, solver=DDIM(), grid=times, source=start), want)


def test_edm_by_dpm_solver_is_that_of_diffusers(tmp_path):
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_max=20.0, final_sigmas_type="sigma_min", lower_order_final=False
    )
    model, net = imported(tmp_path, scheduler)
    want, times = theirs(scheduler, net, 8), grid_of(scheduler)
    start = X * float(scheduler.init_noise_sigma)
    solver = Multistep(weights="bh2", corrector="none")
    assert tiny.close(pf.generate(model, COUNT, solver=solver, grid=times, source=start), want)


def test_continuous_times_are_edm_of_variance_one_and_a_last_step_to_zero_is_the_data(tmp_path):
    scheduler = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.01, sigma_max=50.0,
        use_karras_sigmas=True,
    )  # fmt: skip
    model, net = imported(tmp_path, scheduler)
    want, times = theirs(scheduler, net, 8), grid_of(scheduler)
    start = X * float(scheduler.init_noise_sigma)
    got = pf.generate(model, COUNT, solver=DDIM(), grid=times, source=start)
    with torch.no_grad():
        assert tiny.close(model(got, 1.0, "data"), want)


@pytest.mark.parametrize("name", [name for name in READERS if name != "DPMSolverSDEScheduler"])
def test_what_a_configuration_does_not_say_is_as_in_diffusers(name):
    scheduler = getattr(diffusers, name)()
    bare, full = (
        read_schedule({"_class_name": name}),
        read_schedule({"_class_name": name, **scheduler.config}),
    )
    assert bare == full
    if isinstance(bare.path, pf.DDPMPath):
        k = torch.arange(1, bare.path.steps + 1, dtype=torch.float64)
        ours = bare.path.alpha(bare.path.time_of_step(k)) ** 2
        assert torch.allclose(ours, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "_class_name is missing"),
        ({"_class_name": "DDIMSchedular"}, "did you mean DDIMScheduler"),
        ({"_class_name": "VQDiffusionScheduler"}, "is not known here"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}, "beta_schedule is linear"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "flow"}, "prediction_type is one of"),
        ({"_class_name": "DDPMScheduler", "trained_betas": ["x"]}, "cannot be read"),
        ({"_class_name": "DDPMScheduler", "trained_betas": [0.1, 2.0]}, "not in"),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "use_flow_sigmas",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "predicts the flow"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "from data to noise",
        ),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "under EDM"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": None}, "cannot be read"),
    ],
)
def test_a_scheduler_that_is_not_understood_is_refused_with_the_reason(config, message):
    with pytest.raises(pf.InputError, match=message):
        read_schedule(config)
