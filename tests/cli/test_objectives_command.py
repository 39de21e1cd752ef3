"""Every objective and coupling that the command line names trains, is saved, and is sampled; nonsense is refused."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

import pushforward as pf
from pushforward.recipes import Digits, Toy2D
from pushforward.recipes.experiment import train
from pushforward.recipes.options import CouplingName, ObjectiveName

TINY = {
    "width": 8, "depth": 1, "steps": 6, "batch_size": 32, "warmup": 0, "sample_every": 0, "log_every": 3,
    "device": "cpu", "phase": 2, "simulation_steps": 3,
}  # fmt: skip
# What each objective's model can be asked for.
WANTS = {"diffflow": ("velocity", "score"), "sf2m": ("velocity", "score"), "dsb": ("velocity",)}


def tiny(tmp_path: Path, **options: object) -> pf.Model:
    folder, signal = train("toy2d", Toy2D(**TINY | options, out=tmp_path / "run"), quiet=True)
    assert signal == 0
    return pf.load(folder)


@pytest.mark.parametrize("objective", get_args(ObjectiveName))
def test_every_objective_trains_is_saved_and_draws_samples(objective: str, tmp_path: Path) -> None:
    model = tiny(tmp_path, objective=objective)
    x = pf.generate(model, 16, nfe=4)
    assert bool(x.isfinite().all())
    # Another seed starts elsewhere, so that the samples are not the noise that came in.
    assert not torch.equal(x, pf.generate(model, 16, nfe=4, seed=1))
    if isinstance(model, pf.FlowMap):
        assert bool(model(x, 0.5, 1.0).isfinite().all())
        return
    for want in WANTS.get(objective, ("velocity",)):
        assert bool(model(x, 0.5, want).isfinite().all())


@pytest.mark.parametrize("objective", ["matching", "sf2m", "dsbm", "dsb"])
def test_a_run_from_one_law_to_another_starts_its_samples_there(
    objective: str, tmp_path: Path
) -> None:
    model = tiny(tmp_path, objective=objective, source="moons", target="8gaussians")
    assert model.info["source"] == "moons"
    with pytest.raises(pf.InputError, match="trained to start from moons"):
        pf.generate(model, 4)
    law = pf.laws.Moons()
    states: list[torch.Tensor] = []
    pf.generate(model, 4, nfe=4, source=law, callback=lambda i, t, x: states.append(x))
    assert torch.equal(states[0], law.sample(4))


@pytest.mark.parametrize("coupling", get_args(CouplingName))
def test_every_coupling_trains(coupling: str, tmp_path: Path) -> None:
    regularisation = 1.0 if coupling == "sinkhorn" else None
    model = tiny(tmp_path, coupling=coupling, regularisation=regularisation)
    assert model.path.gaussian_source == (coupling == "independent")
    assert bool(pf.generate(model, 8, nfe=4).isfinite().all())


@pytest.mark.parametrize("objective", ["dsbm", "dsb", "sf2m", "diffflow", "maximum-likelihood"])
def test_a_run_cut_off_within_a_phase_ends_in_the_same_bits(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pushforward.train.trainer import Trainer

    options = TINY | {"objective": objective, "phase": 4, "checkpoint_every": 3, "source": "moons"}
    if objective in ("diffflow", "maximum-likelihood"):
        del options["source"]
    train("toy2d", Toy2D(**options, out=tmp_path / "whole"), quiet=True)
    one_step = Trainer._one_step

    def cut(self: Trainer) -> dict[str, object]:
        if self.step == 5:
            raise KeyboardInterrupt
        return one_step(self)

    monkeypatch.setattr(Trainer, "_one_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train("toy2d", Toy2D(**options, out=tmp_path / "cut"), quiet=True)
    monkeypatch.undo()
    train("toy2d", Toy2D(out=tmp_path / "cut", resume=True, device="cpu"), quiet=True)
    for name in ("model.safetensors", "log.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("objective", ["variational", "hybrid"])
def test_digits_train_with_a_learned_variance(objective: str) -> None:
    experiment = Digits(objective=objective, width=8, batch_size=8, device="cpu").build()
    assert experiment.objective.bin_width == pytest.approx(2 / 16)
    loss = experiment.objective(experiment.stream.at(0), pf.Noise.batch(8))["loss"]
    assert loss.shape == (8,)
    assert bool(loss.isfinite().all())
    x = pf.Noise.batch(4).normal((1, 8, 8))
    assert experiment.model.with_variance(x, 0.5)[1].shape == x.shape


REFUSED = {
    "leaves --loss-in": ({"objective": "sf2m", "loss_in": "data"}, "--loss-in is for --objective matching"),
    "leaves --weight": ({"objective": "hybrid", "weight": "p2"}, "--weight is for --objective matching"),
    "a bridge needs its path": ({"objective": "dsb", "path": "condot"}, "takes --path brownian"),
    "std without a tube": ({"std": 0.1}, "--std is for the paths tube, brownian and smooth-bridge"),
    "infinite variance": ({"path": "brownian"}, "infinite variance at its ends"),
    "regularisation of nothing": ({"regularisation": 0.1}, "--regularisation is for --coupling sinkhorn"),
    "sinkhorn without one": ({"coupling": "sinkhorn"}, "needs --regularisation"),
    "a score after a coupling": ({"objective": "sliced", "coupling": "ot"}, "is defined only where"),
    "likelihood from moons": ({"objective": "maximum-likelihood", "source": "moons"}, "density of the source"),
    "diffflow from moons": ({"objective": "diffflow", "source": "moons"}, "is defined only where"),
    "bound from moons": ({"objective": "hybrid", "source": "moons"}, "is defined only where"),
    "a coupling of no use": ({"coupling": "conditional-ot", "objective": "dsb"}, "leave --coupling out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(pf.Error, match=message):
        Toy2D(**TINY | options).build()
