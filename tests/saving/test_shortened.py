"""Weights stored in half of their precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import pushforward as pf
from pushforward.core.errors import CheckpointError
from pushforward.nets import MLP
from pushforward.saving.folder import check_of


def model(dtype: torch.dtype = torch.float32) -> pf.Model:
    torch.manual_seed(0)
    net = MLP(2, width=64, depth=2)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / 8)
    return pf.Model(net.to(dtype), pf.CondOT(), shape=(2,))


@pytest.mark.parametrize(("storage", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_are_rounded_and_all_else_is_as_it_was(
    storage: torch.dtype, digits: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = model(dtype)
    pf.save(whole, tmp_path / "whole")
    pf.save(whole, tmp_path / "half", storage=storage)
    again = pf.load(tmp_path / "half")
    state = again.net.state_dict()
    for name, x in whole.net.state_dict().items():
        assert state[name].dtype == dtype
        if x.ndim < 2:
            assert torch.equal(state[name], x)
        else:
            assert torch.equal(state[name], x.to(storage).to(dtype))
            assert (state[name] - x).abs().max() <= 2.0**-digits * x.abs().max()
            assert not torch.equal(state[name], x)
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("whole", "half")]
    assert sizes[1] < sizes[0] * (0.6 if dtype == torch.float32 else 0.35)
    x = torch.randn(5, 2, dtype=dtype)
    assert again.net(x, torch.full((5,), 0.5)).dtype == dtype


def test_a_model_from_half_precision_is_saved_and_loaded_as_any_other(tmp_path: Path) -> None:
    pf.save(model(), tmp_path / "half", storage=torch.float16)
    loaded = pf.load(tmp_path / "half")
    pf.save(loaded, tmp_path / "again")
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(n).dtype for n in file.keys()} == {torch.float32}  # noqa: SIM118
    once = pf.generate(loaded, 4, seed=1)
    assert torch.equal(once, pf.generate(pf.load(tmp_path / "again"), 4, seed=1))


def test_what_half_precision_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    large = model()
    with torch.no_grad():
        next(p for p in large.net.parameters() if p.ndim == 2)[0, 0] = 1e5
    with pytest.raises(CheckpointError, match=r"beyond the range of torch.float16: take bfloat16"):
        pf.save(large, tmp_path / "x", storage=torch.float16)
    with pytest.raises(CheckpointError, match="only weights of float32"):
        pf.save(model(torch.bfloat16), tmp_path / "x", storage=torch.float16)
    with pytest.raises(CheckpointError, match="storage is float16 or bfloat16"):
        pf.save(model(), tmp_path / "x", storage=torch.int8)
    assert not (tmp_path / "x").exists()
    pf.save(large, tmp_path / "x", storage=torch.bfloat16)


def test_another_precision_in_a_description_is_refused(tmp_path: Path) -> None:
    pf.save(model(), tmp_path, storage=torch.float16)
    path = tmp_path / "model.json"
    whole = json.loads(path.read_text())
    part = next(p for p in whole["parts"].values() if "weights" in p)
    part["weights"]["dtype"] = "int8"
    del whole["check"]
    whole["check"] = check_of(whole)
    path.write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="cannot be brought to 'int8'"):
        pf.load(tmp_path)
