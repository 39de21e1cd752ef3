"""Flow maps on disk: equal answers after a round trip, nothing hostile accepted, slow copies and averages kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyrun import IDENTITY, dataset, newest, outcome

import pushforward as pf
from pushforward.core.spec import Provenance, SamplingDefaults
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.nets import MLP, UNet
from pushforward.objectives import ConsistencyDistillation, Levels, Matching, Objective
from pushforward.solvers import FlowMapSampler, Heun, SolverFlowMap
from pushforward.streams.shuffled import Shuffled
from pushforward.streams.stream import Stream
from pushforward.train.settings import Settings
from pushforward.train.state import under
from pushforward.train.trainer import Trainer
from saving.folders import refusal, reweigh, rewrite

GRID = (0.0, 0.25, 0.6, 1.0)
JUMPS = [
    pytest.param("any", id="any"), pytest.param("data", id="data"), pytest.param(GRID, id="grid"),
]  # fmt: skip


def flow_map(jumps: Any, edm: bool = False, images: bool = False, seed: int = 0) -> pf.FlowMapModel:
    """A flow map none of whose layers is at 0."""
    options: dict[str, Any] = {"classes": 3, "time": "smooth", "two_times": jumps == "any"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet(1, 8, (1, 2), **options) if images else MLP(2, 8, 1, **options)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model = pf.Model(
        net,
        pf.EDM() if edm else pf.Cosine(),
        "data" if edm else "v",
        EDMPreconditioning(0.7) if edm else None,
        margin=2e-3,
        shape=(1, 4, 4) if images else (2,),
        classes=3,
        sampling=SamplingDefaults(guidance=1.5),
        provenance=Provenance(method="meanflow"),
    )
    return pf.FlowMapModel(model, jumps)


def ways(jumps: Any) -> list[tuple[float, float]]:
    """Jumps that it makes."""
    if jumps == "any":
        return [(0.0, 1.0), (0.1, 0.7), (0.4, 0.4), (0.9, 0.2), (0.0, 0.3)]
    return [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0)] if jumps == "data" else list(zip(GRID, GRID[1:]))  # noqa: B905, RUF007


# Sharing.


@pytest.mark.parametrize("images", [False, True], ids=["points", "pictures"])
@pytest.mark.parametrize("edm", [False, True], ids=["plain", "edm"])
@pytest.mark.parametrize("jumps", JUMPS)
def test_a_loaded_flow_map_has_the_answers_of_the_one_that_was_saved_bit_for_bit(
    jumps: Any, edm: bool, images: bool, tmp_path: Path
) -> None:
    flow = flow_map(jumps, edm, images).eval()
    digest = pf.save(flow, tmp_path)
    assert digest == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    loaded = pf.load(tmp_path)
    assert type(loaded) is pf.FlowMapModel
    assert (loaded.jumps, loaded.path, loaded.prediction) == (jumps, flow.path, flow.prediction)
    assert loaded.preconditioning == flow.preconditioning
    assert (loaded.model.margin, loaded.shape, loaded.classes) == (2e-3, flow.shape, 3)
    assert loaded.sampling == flow.sampling
    assert loaded.provenance == Provenance(method="meanflow", sha256=digest)
    assert loaded.net.config == flow.net.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    x, label = pf.Noise.batch(6, 3).normal(flow.shape), torch.tensor([0, 1, 2, -1, 0, 2])
    with torch.no_grad():
        for t, s in ways(jumps):
            a, b = (f(x, t, s, label=label) for f in (flow, loaded))
            assert torch.equal(a, b)
            assert bool(a.isfinite().all())
            # The label is heard: the answer is not one for all.
            assert t == s or not torch.equal(a, flow(x, t, s, label=label.flip(0)))
    a, b = (pf.generate(f, 6, seed=2, label=label) for f in (flow, loaded))
    assert torch.equal(a, b)
    # A second round changes no byte.
    pf.save(loaded, tmp_path / "again")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_flow_map_keeps_the_precision_in_which_it_was_saved(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    flow = flow_map("any").to(dtype)
    pf.save(flow, tmp_path)
    for name, value in pf.load(tmp_path).state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, flow.state_dict()[name])


@pytest.mark.parametrize(
    ("jumps", "message"),
    [
        ("all", "jumps are 'any', 'data' or a grid of times, not 'all'"),
        ("", "jumps are 'any', 'data' or a grid of times, not ''"),
        ([0.0, 0.6, 0.5, 1.0], "two or more increasing times"),
        ([0.0, 0.5, 0.5, 1.0], "two or more increasing times"),
        ([0.0, 2.0], "two or more increasing times"),
        ([-0.1, 1.0], "two or more increasing times"),
        ([0.0, float("nan"), 1.0], "two or more increasing times"),
        ([0.0, float("inf")], "two or more increasing times"),
        ([1.0], "two or more increasing times"),
        ([], "two or more increasing times"),
        (None, "self cannot be built: FlowMapModel"),
        (3, "self cannot be built: FlowMapModel"),
        (True, "self cannot be built: FlowMapModel"),
        ([[0.0], [1.0]], "self cannot be built: FlowMapModel"),
        (["__import__('os')", 1.0], "self cannot be built: FlowMapModel"),
        ({"os.system": 1}, "self cannot be built: FlowMapModel"),
    ],
)  # fmt: skip
def test_a_description_of_jumps_that_are_none_is_refused(
    jumps: Any, message: str, tmp_path: Path
) -> None:
    pf.save(flow_map("any"), tmp_path / "model")
    rewrite(tmp_path / "model", lambda d: d["parts"]["self"]["config"].update(jumps=jumps))
    assert message in refusal(tmp_path / "model")


def test_a_description_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    pf.save(flow_map("any"), folder)
    text = (folder / "model.json").read_text()

    def part(place: str, **changes: Any):
        return lambda d: d["parts"][place].update(changes)

    def config(place: str, **changes: Any):
        return lambda d: d["parts"][place]["config"].update(changes)

    for change, message in (
        (part("self", **{"class": "Model"}), "self cannot be built: Model"),
        (part("self", **{"class": "BridgeModel"}), "self cannot be built: BridgeModel"),
        (part("self", **{"class": "DiffFlowModel"}), "self cannot be built: DiffFlowModel"),
        (config("model.net", two_times=False), "unexpected: conditioning.way.0.bias"),
        (part("model.path", **{"class": "Tube", "config": {}}), "the v does not follow from the velocity"),
        (config("model", margin=0.7), "margin is 0.7"),
        (lambda d: d["parts"]["self"]["config"].pop("model"), "self cannot be built: FlowMapModel"),
    ):  # fmt: skip
        (folder / "model.json").write_text(text)
        rewrite(folder, change)
        assert message in refusal(folder), message


def test_damage_to_a_flow_map_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    pf.save(flow_map(GRID), folder)
    text = (folder / "model.json").read_text()
    assert "0.25" in text
    (folder / "model.json").write_text(text.replace("0.25", "0.26"))
    assert "is damaged or was edited: its SHA-256 differs" in refusal(folder)
    (folder / "model.json").write_text(text)
    content = (folder / "model.safetensors").read_bytes()
    for bad in (content[:-3], content[:-1] + bytes([content[-1] ^ 1])):
        (folder / "model.safetensors").write_bytes(bad)
        assert "its SHA-256 differs" in refusal(folder)
    (folder / "model.safetensors").write_bytes(content)
    reweigh(folder, lambda w: w.update({"conv_in.bias": torch.zeros(9)}), "model.net")
    assert "conv_in.bias: torch.float32 (9,), expected torch.float32 (8,)" in refusal(folder)


# Training.


class Cut:
    """A stream that fails at one step."""

    def __init__(self, stream: Stream, step: int) -> None:
        self.stream, self.step, self.batch_size = stream, step, stream.batch_size

    def at(self, step: int) -> pf.Batch:
        if step == self.step:
            raise RuntimeError("power cut")
        return self.stream.at(step)


LEVELS = Levels(last=6, std=None)


def trainer(folder: Path, cut: int = -1, decay: float | None = 0.9, **settings: Any) -> Trainer:
    """Consistency distillation, all of whose objects are new."""
    folder.mkdir(parents=True, exist_ok=True)
    student = flow_map("data", seed=1)
    teacher = SolverFlowMap(flow_map("any", seed=2).model.requires_grad_(False), Heun())
    objective = ConsistencyDistillation(
        student, LEVELS, decay=decay, condition_dropout=0.3, teacher=teacher
    )
    options = {
        "steps": 20, "warmup": 0, "log_every": 4, "sample_every": 0, "checkpoint_every": 6, "lr": 1e-2, "ema": 0.8,
    }  # fmt: skip
    stream = Shuffled(dataset(), 8, seed=0)
    return Trainer(
        objective, student, Cut(stream, cut), Settings(**options | settings), folder, IDENTITY
    )


def slow(run: Trainer) -> dict[str, torch.Tensor]:
    assert isinstance(run.objective, ConsistencyDistillation)
    assert run.objective.state is not None
    return run.objective.state.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    run = trainer(tmp_path_factory.mktemp("whole") / "run")
    run.start()
    assert run.run()
    return run


@pytest.mark.parametrize("step", [8, 13, 17])
def test_a_run_with_a_slow_copy_ends_in_the_same_bits_however_it_was_interrupted(
    step: int, whole: Trainer, tmp_path: Path
) -> None:
    first = trainer(tmp_path / "run", cut=step)
    first.start()
    with pytest.raises(RuntimeError, match="power cut"):
        first.run()
    second = trainer(tmp_path / "run")
    second.resume()
    assert second.run()
    assert outcome(tmp_path / "run") == outcome(whole.folder)
    assert equal(slow(second), slow(whole))
    assert equal(second.model.state_dict(), whole.model.state_dict())


def test_the_slow_copy_in_a_checkpoint_is_that_of_its_step_and_no_other_weights_would_do(
    whole: Trainer, tmp_path: Path
) -> None:
    run = trainer(tmp_path / "run", steps=12)
    run.start()
    assert run.run()
    _, tensors = newest(tmp_path / "run", IDENTITY)
    parts = {name: under(name, tensors) for name in ("objective", "model", "ema")}
    assert equal(parts["objective"], slow(run))
    # What it follows, by the definition, from the weights after each step.
    follow = trainer(tmp_path / "follow", steps=12)
    copy = {k: v.clone() for k, v in follow.model.state_dict().items()}
    for _ in range(12):
        follow._one_step()
        for key, value in follow.model.state_dict().items():
            copy[key] = 0.9 * copy[key] + 0.1 * value
    for key, value in parts["objective"].items():
        torch.testing.assert_close(value, copy[key], rtol=1e-5, atol=1e-6)
    # It is neither the model nor its average nor what a new run starts from: not restored, it would be another run.
    start = trainer(tmp_path / "start").model.state_dict()
    for other in (parts["model"], parts["ema"], start):
        assert max(float((parts["objective"][k] - other[k]).abs().max()) for k in other) > 1e-2
    for wrong in (start, parts["model"]):
        second = trainer(tmp_path / "run")
        second.resume()
        assert second.objective.state is not None
        second.objective.state.load_state_dict(wrong)
        second._one_step()
        right = trainer(tmp_path / "run")
        right.resume()
        right._one_step()
        assert not equal(second.model.state_dict(), right.model.state_dict())


def test_a_checkpoint_without_the_slow_copy_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", decay=None, steps=3)
    run.start()
    assert run.run()
    _, tensors = newest(tmp_path / "run", IDENTITY)
    assert not under("objective", tensors)
    with pytest.raises(
        pf.CheckpointError, match=r"the checkpoint does not fit .*missing: objective"
    ):
        trainer(tmp_path / "run").resume()


def test_the_slow_copy_is_not_shared(whole: Trainer) -> None:
    model = pf.load(whole.folder)
    assert equal(model.state_dict(), whole.ema.model.state_dict())
    assert isinstance(model, pf.FlowMapModel)
    assert (model.jumps, model.provenance.step) == ("data", 20)


def test_the_average_of_a_flow_map_is_one_of_its_weights_and_a_flow_map(tmp_path: Path) -> None:
    """d = min(0.8, (1 + k)/(10 + k)) after step k, written out."""
    run = trainer(tmp_path, decay=None, steps=6)
    average = {k: v.double().clone() for k, v in run.model.state_dict().items()}
    for k in range(6):
        run._one_step()
        d = min(0.8, (1 + k) / (10 + k))
        for key, value in run.model.state_dict().items():
            average[key] = d * average[key] + (1 - d) * value.double()
    mean = run.ema.model
    assert type(mean) is pf.FlowMapModel
    assert (mean.jumps, mean.path, mean.prediction) == ("data", run.model.path, "v")
    for key, value in mean.state_dict().items():
        torch.testing.assert_close(value.double(), average[key], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, run.model.state_dict()[key])
    x = pf.Noise.batch(5, 1).normal((2,))
    with torch.no_grad():
        a, b = (
            pf.generate(flow, 5, source=x, solver=FlowMapSampler()) for flow in (mean, run.model)
        )
    assert not torch.allclose(a, b, atol=1e-4)


def test_only_what_has_a_state_takes_a_place_in_a_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    assert run.stateful is run.objective
    plain: Objective = Matching(flow_map("any").model)
    other = Trainer(plain, run.model, run.stream, run.settings, tmp_path, IDENTITY)
    assert other.stateful is None
