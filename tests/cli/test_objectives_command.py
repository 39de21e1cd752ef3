"""Every objective and coupling that the command line names trains, is saved, and is sampled; nonsense is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.recipes import Digits, Toy2D
from pushforward.recipes.families import AnyObjective
from pushforward.recipes.flat import leaves, members, names_of
from pushforward.recipes.run import train

TINY = {
    "width": 8, "depth": 1, "steps": 6, "batch_size": 32, "warmup": 0, "sample_every": 0, "log_every": 3,
    "device": "cpu",
}  # fmt: skip
# Of those that have them.
SHORT = {"phase": 4, "simulation_steps": 3}
OBJECTIVES = [name for member in members(AnyObjective) for name in names_of(member)]
COUPLINGS = ["independent", "ot", "conditional-ot", "sinkhorn"]
# What each objective's model can be asked for.
WANTS = {"diffflow": ("velocity", "score"), "sf2m": ("velocity", "score"), "dsb": ("velocity",)}


def tiny_recipe(**options: object) -> Toy2D:
    there = {leaf.flag for leaf in leaves(Toy2D, options)}
    short = {name: value for name, value in SHORT.items() if name in there}
    return Toy2D.of(**TINY | short | options)


def tiny(tmp_path: Path, **options: object) -> pf.Model:
    folder, signal = train(tiny_recipe(**options, out=tmp_path / "run"), quiet=True)
    assert signal == 0
    return pf.load(folder)


@pytest.mark.parametrize("objective", OBJECTIVES)
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
    assert model.sampling.source == "moons"
    with pytest.raises(pf.InputError, match="trained to start from moons"):
        pf.generate(model, 4)
    law = pf.laws.Moons()
    states: list[torch.Tensor] = []
    pf.generate(model, 4, nfe=4, source=law, callback=lambda i, t, x: states.append(x))
    assert torch.equal(states[0], law.sample(4))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_every_coupling_trains(coupling: str, tmp_path: Path) -> None:
    more = {"regularisation": 1.0} if coupling == "sinkhorn" else {}
    model = tiny(tmp_path, coupling=coupling, **more)
    assert model.path.gaussian_source == (coupling == "independent")
    assert bool(pf.generate(model, 8, nfe=4).isfinite().all())


@pytest.mark.parametrize("objective", ["dsbm", "dsb", "sf2m", "diffflow", "maximum-likelihood"])
def test_a_run_cut_off_within_a_phase_ends_in_the_same_bits(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pushforward.train.trainer import Trainer

    options = {"objective": objective, "checkpoint_every": 3}
    if objective not in ("diffflow", "maximum-likelihood"):
        options["source"] = "moons"
    train(tiny_recipe(**options, out=tmp_path / "whole"), quiet=True)
    one_step = Trainer._one_step

    def cut(self: Trainer) -> dict[str, object]:
        if self.step == 5:
            raise KeyboardInterrupt
        return one_step(self)

    monkeypatch.setattr(Trainer, "_one_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(**options, out=tmp_path / "cut"), quiet=True)
    monkeypatch.undo()
    train(Toy2D.of(out=tmp_path / "cut", resume=True, device="cpu"), quiet=True)
    names = [file.name for file in (tmp_path / "whole").glob("*.safetensors")]
    assert names
    for name in (*names, "log.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("objective", ["variational", "hybrid"])
def test_digits_train_with_a_learned_variance(objective: str) -> None:
    experiment = Digits.of(objective=objective, width=8, batch_size=8, device="cpu").build()
    assert experiment.objective.bin_width == pytest.approx(2 / 16)
    loss = experiment.objective(experiment.stream.at(0), pf.Noise.batch(8))["loss"]
    assert loss.shape == (8,)
    assert bool(loss.isfinite().all())
    x = pf.Noise.batch(4).normal((1, 8, 8))
    assert experiment.model.with_variance(x, 0.5)[1].shape == x.shape


# What the data rule out.
REFUSED = {
    "a score from moons": ({"objective": "sliced", "source": "moons"}, "is defined only where"),
    "likelihood from moons": ({"objective": "maximum-likelihood", "source": "moons"}, "density of the source"),
    "diffflow from moons": ({"objective": "diffflow", "source": "moons"}, "is defined only where"),
    "bound from moons": ({"objective": "hybrid", "source": "moons"}, "is defined only where"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_data_rule_out_is_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(pf.Error, match=message):
        tiny_recipe(**options).build()


@pytest.mark.parametrize("source", ["gaussian", "moons"])
def test_a_network_is_given_a_coordinate_of_its_target(source: str, tmp_path: Path) -> None:
    """Condition-aware transport in the plane: samples follow the coordinate that was asked for."""
    options = {
        "width": 64, "depth": 2, "steps": 300, "batch_size": 128, "lr": 5e-3, "ema": 0.98, "sample_every": 0,
        "device": "cpu", "checkpoint_every": 10**4,
    }  # fmt: skip
    recipe = Toy2D.of(
        **options,
        condition="horizontal",
        coupling="conditional-ot",
        source=source,
        out=tmp_path / "run",
    )
    batch = recipe.build().stream.at(3)
    assert torch.equal(batch.cond["horizontal"], batch.x1[:, 0])
    folder, _ = train(recipe, quiet=True)
    model = pf.load(folder)
    assert model.spec.columns == ("horizontal",)
    x0 = None if source == "gaussian" else pf.laws.Moons()
    for value in (-3.5, 3.5):
        x = pf.generate(model, 200, nfe=20, source=x0, horizontal=torch.full((200,), value))
        assert abs(float(x[:, 0].mean()) - value) < 1
