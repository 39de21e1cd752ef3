"""Networks: (x (B, ...), t (B,), **cond) -> (B, ...). None of them knows of paths or predictions.

Each keeps the arguments that build it in `config`, so that a saved model can be rebuilt from JSON.
"""

from torch import nn

from pushforward.nets import flops, sizes
from pushforward.nets.classifier import ImageClassifier, MLPClassifier
from pushforward.nets.dit import DiT
from pushforward.nets.layers import FourierTime, LabelEmbedding, SinusoidalTime
from pushforward.nets.mlp import MLP
from pushforward.nets.unet import UNet

# The networks that a saved model may name.
NETS: dict[str, type[nn.Module]] = {
    "MLP": MLP, "UNet": UNet, "MLPClassifier": MLPClassifier, "ImageClassifier": ImageClassifier,
    "DiT": DiT,
}  # fmt: skip

__all__ = [
    "MLP",
    "NETS",
    "DiT",
    "FourierTime",
    "ImageClassifier",
    "LabelEmbedding",
    "MLPClassifier",
    "SinusoidalTime",
    "UNet",
    "flops",
    "sizes",
]
