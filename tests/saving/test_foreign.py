"""What is no folder of this version, each with its own sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pushforward as pf
from saving.folders import refusal


def test_a_folder_of_the_older_format_is_said_to_be_one(tmp_path: Path) -> None:
    old = {"format": 1, "pushforward": "0.1.0", "kind": "model", "net": {}, "check": "0"}
    (tmp_path / "model.json").write_text(json.dumps(old))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "written by an older version of pushforward (format 1)" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin"])
def test_a_pickle_is_not_read_and_the_way_around_is_said(tmp_path: Path, suffix: str) -> None:
    class Trap:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / f"net.{suffix}"
    torch.save(Trap(), path)
    message = refusal_of_file(path)
    assert (
        f"{path} is a checkpoint of PyTorch, a pickle, which can run code when it is read"
        in message
    )
    assert "weights_only=True" in message


def refusal_of_file(path: Path) -> str:
    with pytest.raises(pf.CheckpointError) as caught:
        pf.load(path)
    return str(caught.value)


def test_weights_alone_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert "holds weights alone" in refusal_of_file(tmp_path / "a.safetensors")
    (tmp_path / "a.txt").write_bytes(b"")
    assert refusal_of_file(tmp_path / "a.txt").startswith(
        f"{tmp_path / 'a.txt'} is a file, and a model"
    )


def test_a_pipeline_of_diffusers_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    assert "is a pipeline of diffusers (model_index.json)" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["google/ddpm-cifar10-32", "stabilityai/sd-vae-ft-mse"])
def test_a_name_of_a_hub_is_not_downloaded(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal_of_file(Path(name))
    assert f"there is no folder {name}. If it names a model of this library" in message
    for other in ("runs", "a/b/c", "/tmp/nothing-there"):
        with pytest.raises(
            pf.CheckpointError,
            match=f"there is no folder {other}(; models that come with pushforward: scenes)?$",
        ):
            pf.load(other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(pf.CheckpointError, match=r"holds no model: model\.json is missing"):
        pf.load("empty")
