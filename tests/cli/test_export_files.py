"""`pushforward export --format torch` and `onnx`: the files draw what `pf.generate` draws."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.cli import main


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    net = pf.nets.MLP(2, 16, classes=3)
    torch.nn.init.normal_(net.conv_out.weight)
    pf.save(pf.Model(net, pf.CondOT(), shape=(2,), classes=3), tmp_path / "run")
    return tmp_path / "run"


def test_the_options_of_sampling_are_in_the_file(folder, tmp_path, capsys):
    out = tmp_path / "model.onnx"
    words = [
        "--solver",
        "heun",
        "--grid",
        "karras",
        "--nfe",
        "6",
        "--guidance",
        "2",
        "--out",
        str(out),
    ]
    assert main(["export", str(folder), "--format", "onnx", *words]) == 0
    said = capsys.readouterr().out
    assert "samples float32 (B, 2) from noise float32 (B, 2), label int64 (B)" in said
    assert "of the samples of pf.generate" in said
    model, noise, label = pf.load(folder), torch.randn(5, 2), torch.tensor([0, 1, 2, -1, 0])
    ours = pf.generate(
        model, 5, solver=pf.solvers.Heun(), grid=pf.times.karras, nfe=6, guidance=2.0, label=label, source=noise
    )  # fmt: skip
    session = pytest.importorskip("onnxruntime").InferenceSession(out)
    (got,) = session.run(None, {"noise": noise.numpy(), "label": label.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), ours, atol=1e-5, rtol=1e-5)
    assert main(["export", str(folder), "--format", "onnx", *words]) == 1
    assert "is there already" in capsys.readouterr().err
    torch_out = tmp_path / "model.pt2"
    assert (
        main(["export", str(folder), "--format", "torch", "--nfe", "4", "--out", str(torch_out)])
        == 0
    )
    ours = pf.generate(model, 5, nfe=4, label=label, source=noise)
    got = torch.export.load(torch_out).module()(noise, label)
    torch.testing.assert_close(got, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "torch", "--solver", "dopri5", "--out", "a.pt2"], "chooses its steps"),
        (["--format", "torch", "--solver", "euler-maruyama", "--out", "a.pt2"], "draws noise on the way"),
        (["--format", "torch", "--out", "a.bin"], "end in .pt2"),
        (["--format", "diffusers", "--nfe", "3", "--out", "a"], "--nfe is for files that draw by themselves"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(folder), *words]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
