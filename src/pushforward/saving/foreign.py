"""What is not a folder of this version, each with its own sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushforward.core.errors import CheckpointError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def refuse_foreign(folder: Path, given: str, description: str) -> None:
    """Raise CheckpointError for what is known to be something else than a folder with a `description`."""
    if folder.is_file():
        if folder.suffix in PICKLES:
            raise CheckpointError(
                f"{folder} is a checkpoint of PyTorch, a pickle, which can run code when it is read, so it is not "
                f"loaded here: build the model in Python, fill it by load_state_dict(torch.load({str(folder)!r}, "
                f"weights_only=True)), and keep it by pf.save(model, folder)"
            )
        if folder.suffix == ".safetensors":
            raise CheckpointError(
                f"{folder} holds weights alone, without what to build of them: pass the folder that it is in, or build "
                f"the model in Python and fill it by safetensors.torch.load_model"
            )
        raise CheckpointError(
            f"{folder} is a file, and a model is a folder: that of a run, or what pf.save wrote"
        )
    if (folder / description).is_file():
        return
    if (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{folder} is a pipeline of diffusers (model_index.json), and this version reads its own folders alone: "
            f"open it by diffusers.DiffusionPipeline.from_pretrained({str(folder)!r})"
        )
    if not folder.exists() and HUB_NAME.fullmatch(given):
        raise CheckpointError(
            f"there is no folder {given}. If it names a model of this library on the Hugging Face Hub, give it as "
            f"hub:{given}"
        )


def refuse_format(description: Mapping[str, Any], current: int) -> None:
    """Raise CheckpointError unless the description is of the format of this version."""
    found = description.get("format")
    if found == current:
        return
    if type(found) is int and 0 < found < current:
        raise CheckpointError(
            f"it was written by an older version of pushforward (format {found}), and this one reads format {current} "
            f"alone: train the model again, or load it with the version that wrote it"
        )
    if type(found) is int and found > current:
        raise CheckpointError(
            f"it has format {found}, of a newer version of pushforward; this one reads format {current}: update "
            f"pushforward"
        )
    raise CheckpointError(f"it is not a description of a model: its format is {found!r}")
