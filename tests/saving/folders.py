"""Folders that somebody changed on purpose, with all hashes right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from tinyrun import tree

import pushforward as pf
from pushforward.saving.folder import check_of, identity


def refusal(folder: Path, **options: Any) -> str:
    """The message with which a folder is not loaded, having been left as it was."""
    before = tree(folder)
    with pytest.raises(pf.CheckpointError) as caught:
        pf.load(folder, **options)
    assert tree(folder) == before
    assert str(folder) in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change model.json."""
    description = json.loads((folder / "model.json").read_text())
    change(description)
    description["check"] = check_of(description)
    (folder / "model.json").write_text(json.dumps(description))


def reweigh(folder: Path, change: Callable[[dict[str, Any]], object], place: str = "net") -> None:
    """Change the weights of the part at a place."""
    description = json.loads((folder / "model.json").read_text())
    weights = description["parts"][place]["weights"]
    tensors = load_tensors((folder / weights["file"]).read_bytes())
    change(tensors)
    content = save_tensors(tensors)
    (folder / weights["file"]).write_bytes(content)

    def hashes(description: dict[str, Any]) -> None:
        description["parts"][place]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
        description["sha256"] = identity(description["parts"])

    rewrite(folder, hashes)
