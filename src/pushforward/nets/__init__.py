"""Networks: (x (B, ...), t (B,), **cond) -> (B, ...). None of them knows of paths or predictions.

Each is a `Network`, which keeps the arguments of its constructor in `config` and is rebuilt from them. `DiT` with
dims=1 and patch=1 takes sequences with a mask of padding; the others refuse a mask.
"""

from pushforward.nets import flops, sizes
from pushforward.nets.classifier import ImageClassifier, MLPClassifier
from pushforward.nets.dit import DiT
from pushforward.nets.layers import FourierTime, LabelEmbedding, SinusoidalTime
from pushforward.nets.mlp import MLP
from pushforward.nets.network import Network
from pushforward.nets.unet import UNet

__all__ = [
    "MLP",
    "DiT",
    "FourierTime",
    "ImageClassifier",
    "LabelEmbedding",
    "MLPClassifier",
    "Network",
    "SinusoidalTime",
    "UNet",
    "flops",
    "sizes",
]
