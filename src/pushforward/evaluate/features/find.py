"""Features by their names, and those of data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.progress import counted
from pushforward.data.dataset import Dataset
from pushforward.evaluate.features.base import Features, Pixels, Range
from pushforward.evaluate.features.cache import Write, cached
from pushforward.evaluate.features.classifier import ClassifierFeatures
from pushforward.evaluate.features.efficientnet import EfficientNetLite0
from pushforward.evaluate.features.fid import Inception
from pushforward.models.classifier import NoisyClassifier

BATCH = 128


def find_features(
    name: str | Path,
    weights: Path | None = None,
    *,
    shape: Sequence[int],
    load: Callable[[Path], NoisyClassifier],
    device: torch.device | str = "cpu",
) -> Features:
    """The features of a name, "pixels", "efficientnet" or "inception", or those of the run folder of a classifier.

    weights: the file that "inception" needs. shape: that of the images, (C, H, W). load: what opens a run folder.
    """
    if weights is not None and str(name) != "inception":
        raise InputError(f"weights are those of inception: leave them out for {name}")
    match str(name):
        case "pixels":
            return Pixels(shape)
        case "efficientnet":
            found: Features = EfficientNetLite0(device)
        case "inception":
            if weights is None:
                raise InputError(
                    "features of inception need the network's weights, which cannot be distributed here: give the file "
                    "known as pt_inception-2015-12-05-6726825d.pth, or the same as .safetensors"
                )
            found = Inception(weights, device)
        case _:
            if not Path(name).is_dir():
                raise InputError(
                    f"{name} is neither pixels, efficientnet or inception, nor the run folder of a classifier"
                )
            found = ClassifierFeatures(load(Path(name)).to(device))
    if len(shape) != 3:
        raise InputError(
            f"features of {found.name} are of images (C, H, W), and these samples are {tuple(shape)}"
        )
    # What does not fit is to be known before samples are drawn.
    found(torch.zeros(1, *shape), (-1.0, 1.0))
    return found


def features_of_images(
    features: Features, images: Tensor, value_range: Range, batch_size: int = BATCH
) -> Tensor:
    """(N, D) float32 of images (N, C, H, W), some at a time."""
    return torch.cat([features(part, value_range) for part in images.split(batch_size)])


def features_of_data(
    features: Features,
    data: Dataset,
    limit: int | None = None,
    write: Write | None = None,
    folder: Path | None = None,
    batch_size: int = BATCH,
) -> Tensor:
    """(N, D) float32 of a data set, or of a stratified sample of at most `limit`.

    write: what writes a file; with it they are taken from the cache, and put there; see `evaluate.cache`.
    folder: the cache, by default the user's own.
    """
    data = data if limit is None else data.sample(limit)
    count = len(data)

    def compute() -> Tensor:
        parts = torch.arange(count).split(batch_size)
        return torch.cat(
            [features(data[part].x1, data.value_range) for part in counted("features", parts)]
        )

    if write is None or isinstance(features, Pixels):
        return compute()
    # The fingerprint is of what is stored; where black and white are is taken from all of a data set, part or whole.
    key = hashlib.sha256(f"{features.key} {data.value_range}".encode()).hexdigest()
    return cached(data.fingerprint(), key, (count, features.dim), compute, write, folder)
