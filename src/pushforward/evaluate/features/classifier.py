"""Features of a classifier of images."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.features.base import Range, key_of, unit
from pushforward.evaluate.labels import spec_of
from pushforward.models.classifier import NoisyClassifier
from pushforward.nets import ImageClassifier


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
        low, high = spec_of(model).value_range or (-1.0, 1.0)
        self.value_range: Range = (float(low), float(high))
        self.key = key_of(net, ["classifier 1", net.config, self.value_range])

    @torch.no_grad()
    def __call__(self, images: Tensor, value_range: Range) -> Tensor:
        low, high = self.value_range
        x = low + (high - low) * unit(images, value_range, self.net)
        if x.shape[1] == 1 and self.net.config["channels"] == 3:
            x = x.expand(-1, 3, -1, -1)
        return self.net.features(x, x.new_ones(len(x))).float().cpu()
