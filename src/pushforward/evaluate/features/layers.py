"""Feature maps at several layers of trained networks, for distances of pictures that gradients are taken of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pushforward.core.errors import InputError
from pushforward.evaluate.features.efficientnet import IMAGENET, EfficientNetLite0
from pushforward.models.classifier import NoisyClassifier
from pushforward.nets.unet import ResidualBlock
from pushforward.objectives.perceptual import Watched

# The last blocks at strides 2, 4, 8 and 16.
BLOCKS = (0, 2, 4, 10)
LEAST = 64


def efficientnet_layers(device: torch.device | str = "cpu") -> Callable[[Tensor], Any]:
    """Of EfficientNet-Lite0 at four resolutions, of pictures (B, 1 or 3, H, W) in [-1, 1], enlarged to 64 pixels."""
    net: Any = EfficientNetLite0(device).net
    mean, std = (torch.tensor(row, device=device)[:, None, None] for row in IMAGENET)

    def ask(x: Tensor) -> Tensor:
        x = (x.expand(-1, 3, -1, -1) + 1) / 2
        if min(x.shape[2:]) < LEAST:
            x = interpolate(x, scale_factor=LEAST / min(x.shape[2:]), mode="bilinear")
        found: Tensor = net.extract_features((x - mean) / std)
        return found

    return Watched(ask, [net._blocks[k] for k in BLOCKS])


def classifier_layers(judge: NoisyClassifier) -> Callable[[Tensor], Any]:
    """Of the residual blocks of a classifier of images, at the time of clean data."""
    blocks = [m for m in judge.net.modules() if isinstance(m, ResidualBlock)]
    if not blocks:
        raise InputError("the classifier has no residual blocks, whose features are compared")
    judge.eval().requires_grad_(False)
    return Watched(lambda x: judge(x, 1.0), blocks)
