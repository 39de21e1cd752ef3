"""Weights of networks, read from files without running anything."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from pushforward.core.errors import InputError


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a state_dict in a .pth file. Nothing in it is executed.

    Raises InputError for what is missing, damaged or holds anything else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {file}") from error
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file} cannot be read as weights: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{file} is no state_dict: it holds more than tensors by name")
    return {str(name): value for name, value in found.items()}
