"""An exported file draws what `generate` draws, of any batch size."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from exported import MODELS, digits, flow_map, plane, randomised, text
from torch import Tensor

import pushforward as pf
from pushforward.interop.exporting import RECORD
from pushforward.solvers import (
    DDIM,
    RK4,
    DPMSolver,
    Euler,
    EulerMaruyama,
    FlowMapSampler,
    Heun,
    Multistep,
)  # fmt: skip

onnxruntime = pytest.importorskip("onnxruntime")

TEXTS = ["a blue circle", "a", "square above a small red circle", "", "red"]


def given(model, count: int) -> tuple[dict, list[Tensor]]:
    """Conditions for `generate`, and the same as inputs of a file."""
    if "prompt" in model.encoders:
        texts = [TEXTS[i % len(TEXTS)] for i in range(count)]
        (tokens,) = model.encoders["prompt"](texts).values()
        return {"prompt": texts}, [tokens.values, tokens.mask]
    if model.spec.columns:
        dose = torch.linspace(-2, 2, count)
        return {"dose": dose}, [dose]
    if model.classes is not None:
        label = torch.arange(count) % model.classes - 1  # and no class
        return {"label": label}, [label]
    return {}, []


def run(path, values: list[Tensor]) -> Tensor:
    """What a file of either format gives."""
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(*values)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [place.name for place in session.get_inputs()]
    (out,) = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
    return torch.from_numpy(out)


def assert_equal(path, model, count: int, **options) -> None:
    cond, values = given(model, count)
    noise = torch.randn(count, *model.shape, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        source = model.path.source_std * noise
        ours = pf.generate(model, count, source=source, **cond, **options)
    got = run(path, [noise, *values])
    assert got.dtype == torch.float32
    assert got.shape == ours.shape
    assert float((got - ours).abs().max()) <= 1e-5 * max(1.0, float(ours.abs().max()))


@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("name", MODELS)
def test_an_exported_file_draws_the_samples_of_generate_for_any_batch(name, format, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    guidance = 2.0 if model.nulls else None
    path = tmp_path / ("model.pt2" if format == "torch" else "model.onnx")
    found = pf.export(model, path, format, nfe=3, guidance=guidance)
    assert found.nfe == 3
    for count in (1, 5):
        assert_equal(path, model, count, nfe=3, guidance=guidance)


@pytest.mark.parametrize(
    "solver",
    [
        Euler(),
        Heun(),
        RK4(),
        DDIM(),
        DPMSolver(2),
        DPMSolver(3, "data"),
        Multistep(),
        Multistep("noise", points=3),
    ],
    ids=repr,
)
def test_every_solver_of_a_fixed_grid_is_exported(solver, tmp_path):
    torch.manual_seed(0)
    model = pf.Model(
        randomised(pf.nets.MLP(2, 16, classes=3)), pf.VP(), "noise", shape=(2,), classes=3
    )
    options = {"solver": solver, "nfe": 3 * solver.calls, "guidance": 1.5, "interval": (0.3, 0.8)}
    path = tmp_path / "model.pt2"
    pf.export(model, path, **options)
    assert_equal(path, model, 4, **options)


def test_numbers_of_the_schedule_are_constants_of_the_graph(tmp_path):
    model = pf.Model(randomised(pf.nets.MLP(2, 16)), pf.VP(), "noise", shape=(2,))
    path = tmp_path / "model.pt2"
    pf.export(model, path, solver=Heun(), nfe=6)
    names = {
        str(node.target).split(".")[1]
        for node in torch.export.load(path).graph.nodes
        if "aten" in str(node.target)
    }
    of_networks = {
        "linear",
        "silu",
        "cos",
        "sin",
        "cat",
        "unsqueeze",
        "expand",
        "mul",
        "add",
        "to",
        "addcmul",
    }
    assert names <= of_networks | {"_assert_tensor_metadata", "sym_size", "slice"}


def test_negative_conditions_are_constants(tmp_path):
    torch.manual_seed(0)
    model = digits()
    options = {"nfe": 2, "guidance": 3.0, "negative": {"label": 7}}
    path = tmp_path / "model.onnx"
    found = pf.export(model, path, "onnx", **options)
    assert list(found.inputs) == ["noise", "label"]
    assert_equal(path, model, 4, **options)


def test_parts_of_a_group_are_inputs_of_their_own(tmp_path):
    torch.manual_seed(0)
    net = randomised(pf.nets.UNet(1, 8, in_channels=3))
    model = pf.Model(net, pf.CondOT(), shape=(1, 8, 8))
    control = {name: torch.randn(4, 1, 8, 8) for name in ("depth", "edges")}
    path = tmp_path / "model.onnx"
    found = pf.export(model, path, "onnx", nfe=2, example={"control": control})
    assert list(found.inputs) == ["noise", "control_depth", "control_edges"]
    noise = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        ours = pf.generate(model, 4, source=noise, nfe=2, control=control)
    got = run(path, [noise, control["depth"], control["edges"]])
    torch.testing.assert_close(got, ours, atol=1e-5, rtol=0)


def test_a_model_in_another_precision_is_exported_in_single(tmp_path):
    torch.manual_seed(0)
    model = plane().to(torch.bfloat16)
    pf.export(model, tmp_path / "model.onnx", "onnx", nfe=3)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert_equal(tmp_path / "model.onnx", model.float(), 5, nfe=3)


def test_a_saved_program_needs_nothing_of_this_library(tmp_path):
    torch.manual_seed(0)
    model = text()
    path = tmp_path / "model.pt2"
    pf.export(model, path, nfe=2, guidance=2.0)
    (_, values), noise = given(model, 4), torch.randn(4, 1, 8, 8)
    torch.save([noise, *values], tmp_path / "inputs.pt")
    code = (
        "import sys, torch; sys.modules['pushforward'] = None\n"
        f"inputs = torch.load({str(tmp_path / 'inputs.pt')!r})\n"
        f"torch.save(torch.export.load({str(path)!r}).module()(*inputs), {str(tmp_path / 'out.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={}, cwd=tmp_path)
    # Another process may take other kernels.
    torch.testing.assert_close(
        torch.load(tmp_path / "out.pt"), run(path, [noise, *values]), atol=1e-5, rtol=0
    )


def test_files_hold_how_they_draw_and_what(tmp_path):
    torch.manual_seed(0)
    model = pf.Model(
        randomised(pf.nets.MLP(2, 8, classes=2)), pf.CondOT(),
        spec=pf.DataSpec((2,), "plane", (-1.0, 1.0), classes=2, class_names=("up", "down")),
    )  # fmt: skip
    found = pf.export(model, tmp_path / "model.onnx", "onnx", nfe=4, guidance=2.0)
    pf.export(model, tmp_path / "model.pt2", nfe=4, guidance=2.0)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    extra = {RECORD: ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    for record in (session.get_modelmeta().custom_metadata_map["pushforward"], extra[RECORD]):
        known = json.loads(record)
        assert known["spec"]["class_names"] == ["up", "down"]
        assert known["spec"]["value_range"] == [-1.0, 1.0]
        assert known["sampler"]["guidance"] == 2.0
        assert np.allclose(known["sampler"]["times"], pf.solvers.Learned().grid(4, model.path))
    assert found.inputs == {"noise": "float32 (B, 2)", "label": "int64 (B)"}
    assert found.output == {"samples": "float32 (B, 2)"}
    assert found.opset == 20
    assert found.difference < 1e-5


def test_a_consistency_model_is_exported_for_one_step_and_not_for_two(tmp_path):
    torch.manual_seed(0)
    model = pf.FlowMapModel(
        pf.Model(randomised(pf.nets.MLP(2, 8)), pf.CondOT(), shape=(2,)), "data"
    )
    pf.export(model, tmp_path / "one.onnx", "onnx")
    assert_equal(tmp_path / "one.onnx", model, 5)
    with pytest.raises(pf.InputError, match="draws noise on the way"):
        pf.export(model, tmp_path / "two.onnx", "onnx", nfe=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onxx"}, "did you mean onnx"),
        ({"format": "safetensors"}, "format is torch or onnx, not 'safetensors'"),
        ({"solver": EulerMaruyama()}, "EulerMaruyama: the solver draws noise on the way"),
        ({"solver": pf.solvers.DormandPrince()}, "DormandPrince chooses its steps"),
        ({"guidance": 2.0}, "guidance"),
        ({"example": {"edges": torch.zeros(2, 2)}}, "edges"),
        ({"example": {"edges": torch.zeros(0, 2)}}, "edges has no samples"),
        ({"solver": Heun(), "nfe": 1}, "nfe must be at least"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(options, message, tmp_path):
    with pytest.raises(pf.InputError, match=message):
        pf.export(plane(), tmp_path / "model.pt2", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"mine")
    with pytest.raises(pf.InputError, match="is there already"):
        pf.export(plane(), path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(pf.InputError, match="is a folder"):
        pf.export(plane(), tmp_path, "onnx")
    with pytest.raises(pf.InputError, match=r"end in \.pt2"):
        pf.export(plane(), tmp_path / "model.bin")
    with pytest.raises(pf.InputError, match="no folder"):
        pf.export(plane(), path / "model.onnx", "onnx")
    pf.export(plane(), path, nfe=2, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    from pushforward.interop import onnx

    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        pf.InputError,
        match=r"onnxscript, which is not installed: pip install -e '\.\[export\]'",
    ):
        pf.export(plane(), tmp_path / "model.onnx", "onnx")


def test_a_network_that_branches_on_values_is_refused(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x if bool(x.sum() > 0) else x

    model = pf.Model(Branching(), pf.CondOT(), shape=(2,))
    with pytest.raises(pf.InputError, match=r"torch.export cannot follow this model"):
        pf.export(model, tmp_path / "model.pt2", nfe=2)
    with pytest.raises(pf.InputError, match="flow map has the guidance"):
        pf.export(flow_map(), tmp_path / "model.pt2", guidance=2.0)
    with pytest.raises(pf.InputError, match="draws noise"):
        pf.export(flow_map(), tmp_path / "model.pt2", solver=FlowMapSampler(0.5), nfe=2)


def test_a_model_in_training_is_exported_without_dropout_and_goes_on_in_training(tmp_path):
    torch.manual_seed(0)
    model = digits().train()
    pf.export(model, tmp_path / "model.pt2", nfe=2)
    assert all(module.training for module in model.modules())
    assert_equal(tmp_path / "model.pt2", model, 4, nfe=2)


def test_a_model_that_starts_from_other_states_takes_them_as_they_are(tmp_path):
    torch.manual_seed(0)
    path = pf.CondOT(gaussian_source=False)
    defaults = pf.SamplingDefaults(source="the other cells")
    net = randomised(pf.nets.MLP(2, 8))
    model = pf.Model(net, path, shape=(2,), sampling=defaults)
    found = pf.export(model, tmp_path / "model.pt2", nfe=3)
    assert list(found.inputs) == ["source"]
    states = 5 * torch.randn(4, 2) + 3
    with torch.no_grad():
        ours = pf.generate(model, 4, source=states, nfe=3)
    torch.testing.assert_close(run(tmp_path / "model.pt2", [states]), ours, atol=1e-5, rtol=1e-5)


def test_noise_of_the_file_is_standard_on_a_path_of_any_scale(tmp_path):
    torch.manual_seed(0)
    path = pf.VE()
    assert path.source_std > 2
    model = pf.Model(randomised(pf.nets.MLP(2, 8)), path, "noise", shape=(2,))
    pf.export(model, tmp_path / "model.pt2", nfe=4)
    assert_equal(tmp_path / "model.pt2", model, 4, nfe=4)


def test_prompts_are_guided_as_the_model_is_by_default(tmp_path):
    torch.manual_seed(0)
    model = text()
    model.sampling = pf.SamplingDefaults(nfe=2, prompt_guidance=3.0)
    found = pf.export(model, tmp_path / "model.pt2")
    assert (found.nfe, found.guidance) == (2, 3.0)
    assert_equal(tmp_path / "model.pt2", model, 4)
