"""Features of data sets, kept in the user's cache so that they are computed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pushforward.core.errors import Error

# Puts bytes at a path, wholly or not at all: train.files.write_file, which this part of the library does not know.
Write = Callable[[Path, bytes], None]
FORMAT = "pushforward features 1"


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/pushforward/features, or that in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "pushforward" / "features"


def cached(
    data: str,
    key: str,
    shape: tuple[int, int],
    compute: Callable[[], Tensor],
    write: Write,
    folder: Path | None = None,
) -> Tensor:
    """(N, D) float32 features: from the cache if they are there, else computed and put there.

    data: SHA-256 of the data set. key: that of what makes features of it. shape: (N, D), of its first N samples.
    write: how a file is written.

    A file is used only if it names the SHA-256 of its numbers together with these data, features and shape, else it is
    made anew. A cache that cannot be written costs time and nothing else.
    """
    folder = cache_folder() if folder is None else folder
    identity = json.dumps({"format": FORMAT, "data": data, "key": key, "shape": list(shape)})
    path = folder / f"{data[:16]}-{key[:16]}-{shape[0]}.safetensors"
    found = _read(path, identity, shape)
    if found is not None:
        return found
    features = compute().float().cpu().contiguous()
    metadata = {"identity": identity, "sha256": _digest(identity, features)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(path, save({"features": features}, metadata))
    except (OSError, Error):
        pass
    return features


def _read(path: Path, identity: str, shape: tuple[int, int]) -> Tensor | None:
    """The features in a file; None if there is none, or it is not what it should be."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            features: Tensor = file.get_tensor("features")
    except (OSError, SafetensorError):
        return None
    fits = features.shape == shape and features.dtype == torch.float32
    return features if fits and metadata.get("sha256") == _digest(identity, features) else None


def _digest(identity: str, features: Tensor) -> str:
    digest = hashlib.sha256(identity.encode())
    digest.update(features.numpy().data)
    return digest.hexdigest()
