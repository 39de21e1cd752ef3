"""Flow maps on disk: equal answers after a round trip, nothing hostile accepted, slow copies and averages kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from tinyrun import IDENTITY, dataset, outcome, tree

import pushforward as pf
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.nets import MLP, UNet
from pushforward.objectives import ConsistencyDistillation, Levels, Matching, Objective
from pushforward.saving.folder import _digest
from pushforward.solvers import FlowMapSampler, Heun, SolverFlowMap
from pushforward.streams.shuffled import Shuffled
from pushforward.streams.stream import Stream
from pushforward.train.checkpoint import Checkpoints, under
from pushforward.train.trainer import Settings, Trainer

GRID = (0.0, 0.25, 0.6, 1.0)
JUMPS = [
    pytest.param("any", id="any"), pytest.param("data", id="data"), pytest.param(GRID, id="grid"),
]  # fmt: skip


def flow_map(
    jumps: Any, edm: bool = False, images: bool = False, seed: int = 0, **about: Any
) -> pf.FlowMapModel:
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
        info={"guidance": 1.5, "method": "x", **about},
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
    assert loaded.info == flow.info | {"sha256": digest}
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


def refusal(folder: Path) -> str:
    before = tree(folder)
    with pytest.raises(pf.CheckpointError) as caught:
        pf.load(folder)
    assert tree(folder) == before
    assert str(folder) in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, **changes: Any) -> None:
    """A model.json that somebody made on purpose: its own SHA-256 is right."""
    description = json.loads((folder / "model.json").read_text()) | changes
    description["check"] = _digest(description)
    (folder / "model.json").write_text(json.dumps(description))


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
        (None, "not a model description: TypeError"),
        (3, "not a model description: TypeError"),
        (True, "not a model description: TypeError"),
        ([[0.0], [1.0]], "not a model description: TypeError"),
        (["__import__('os')", 1.0], "not a model description: ValueError"),
        ({"os.system": 1}, "not a model description: ValueError"),
    ],
)  # fmt: skip
def test_a_description_of_jumps_that_are_none_is_refused(
    jumps: Any, message: str, tmp_path: Path
) -> None:
    pf.save(flow_map("any"), tmp_path / "model")
    rewrite(tmp_path / "model", jumps=jumps)
    assert message in refusal(tmp_path / "model")


def test_a_description_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    pf.save(flow_map("any"), folder)
    whole = json.loads((folder / "model.json").read_text())
    assert (whole["kind"], whole["jumps"]) == ("flow-map", "any")
    arguments = dict(whole["net"]["arguments"])
    del arguments["two_times"]
    without = whole["net"] | {"arguments": arguments}
    for changes, message in (
        ({"kind": "os.system"}, "unknown kind of model 'os.system'; known are model, flow-map"),
        ({"kind": ["flow-map"]}, "not a model description: TypeError"),
        ({"kind": "model"}, "does not fit the model"),
        ({"kind": "bridge"}, "does not fit the model"),
        ({"kind": "classifier"}, "does not fit the model"),
        ({"kind": "diffflow"}, "not a model description: KeyError"),
        ({"net": without}, "unexpected: model.net.conditioning.way.0.bias"),
        ({"path": {"name": "Tube", "arguments": {}}}, "adds noise on the way"),
        ({"prediction": "os.system"}, ""),
        ({"margin": 0.7}, "margin is 0.7"),
    ):
        rewrite(folder, **whole | changes)
        assert message in refusal(folder), changes
    del whole["jumps"]
    whole["check"] = _digest(whole)
    (folder / "model.json").write_text(json.dumps(whole))
    assert "not a model description: KeyError: 'jumps'" in refusal(folder)


def test_damage_to_a_flow_map_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    pf.save(flow_map(GRID), folder)
    text = (folder / "model.json").read_text()
    assert "0.25" in text
    (folder / "model.json").write_text(text.replace("0.25", "0.26"))
    assert "is damaged or was edited: its SHA-256 differs" in refusal(folder)
    (folder / "model.json").write_text(text)
    content = (folder / "model.safetensors").read_bytes()
    tensors = load_tensors(content)
    tensors["model.net.conv_in.bias"] = torch.zeros(9)
    for bad, message in (
        (content[:-3], "its SHA-256 differs"),
        (content[:-1] + bytes([content[-1] ^ 1]), "its SHA-256 differs"),
        (save_tensors(tensors), "its SHA-256 differs"),
    ):
        (folder / "model.safetensors").write_bytes(bad)
        assert message in refusal(folder)
    # The same with all hashes right.
    rewrite(folder, sha256=hashlib.sha256(bad).hexdigest())
    assert "model.net.conv_in.bias: torch.float32 (9,), expected torch.float32 (8,)" in refusal(
        folder
    )


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
    _, tensors = Checkpoints(tmp_path / "run" / "checkpoints").read(IDENTITY)
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
    _, tensors = Checkpoints(tmp_path / "run" / "checkpoints").read(IDENTITY)
    assert not under("objective", tensors)
    with pytest.raises(
        pf.CheckpointError, match=r"the checkpoint does not fit .*missing: objective"
    ):
        trainer(tmp_path / "run").resume()


def test_the_slow_copy_is_not_shared(whole: Trainer) -> None:
    model = pf.load(whole.folder)
    assert equal(model.state_dict(), whole.ema.model.state_dict())
    assert isinstance(model, pf.FlowMapModel)
    assert (model.jumps, model.info["step"]) == ("data", 20)


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
