"""Networks: (x (B, ...), t (B,), **cond) -> (B, ...). None of them knows of paths or predictions.

Each is a `Network`, which keeps the arguments of its constructor in `config` and is rebuilt from them. `DiT` with
dims=1 and patch=1 takes sequences with a mask of padding; the others refuse a mask. Autoencoders take images alone.
"""

from pushforward.nets import flops, sizes
from pushforward.nets.autoencoder_kl import AutoencoderKL
from pushforward.nets.autoencoder_tiny import AutoencoderTiny
from pushforward.nets.classifier import ImageClassifier, MLPClassifier
from pushforward.nets.clip import CLIP, CLIPImage, CLIPText
from pushforward.nets.coca import CoCa, WordDecoder
from pushforward.nets.control import Branch, Controlled
from pushforward.nets.dit import DiT
from pushforward.nets.embedding import EmbeddingTokens
from pushforward.nets.layers import FourierTime, LabelEmbedding, SinusoidalTime
from pushforward.nets.mlp import MLP
from pushforward.nets.mmdit import MMDiT
from pushforward.nets.network import Network
from pushforward.nets.patchgan import PatchDiscriminator
from pushforward.nets.prior import BucketTransformer, PriorTransformer
from pushforward.nets.prompted import Prompted
from pushforward.nets.unet import UNet
from pushforward.nets.uvit import UViT
from pushforward.nets.words import TextFeatures, WordTransformer

__all__ = [
    "CLIP",
    "MLP",
    "AutoencoderKL",
    "AutoencoderTiny",
    "Branch",
    "BucketTransformer",
    "CLIPImage",
    "CLIPText",
    "CoCa",
    "Controlled",
    "DiT",
    "EmbeddingTokens",
    "FourierTime",
    "ImageClassifier",
    "LabelEmbedding",
    "MLPClassifier",
    "MMDiT",
    "Network",
    "PatchDiscriminator",
    "PriorTransformer",
    "Prompted",
    "SinusoidalTime",
    "TextFeatures",
    "UNet",
    "UViT",
    "WordDecoder",
    "WordTransformer",
    "flops",
    "sizes",
]
