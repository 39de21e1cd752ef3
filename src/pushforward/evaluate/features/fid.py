"""Features of the Inception network by which the Frechet Inception Distance is measured."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pushforward.evaluate.features.base import Range, coloured, key_of, unit
from pushforward.evaluate.features.inception import inception, resize
from pushforward.evaluate.features.weights import read_weights


class Inception:
    """The last pool of the Inception-v3 of the FID, D = 2048. weights: its file, .pth or .safetensors.

    As in the first implementation of the FID: images are rounded to 256 levels, grey ones made three equal channels,
    scaled to 299 x 299 pixels by `evaluate.inception.resize`, and (level - 128)/128 is what the network sees.

    Heusel et al. 2017 (arXiv 1706.08500).
    """

    name, dim = "inception", 2048

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self.net = inception(read_weights(Path(weights)), str(weights)).to(device)
        self.key = key_of(self.net, ["inception 1"])

    @torch.no_grad()
    def __call__(self, images: Tensor, value_range: Range) -> Tensor:
        level = (255 * unit(images, value_range, self.net)).round()
        return self.net((resize(coloured(level)) - 128) / 128).float().cpu()
