"""Models with random weights, every one of which counts, of each kind that is exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import pushforward as pf
from pushforward.models.latent import Latents
from pushforward.models.text import Words
from pushforward.nets.autoencoder_kl import AutoencoderKL
from pushforward.nets.prompted import Prompted
from pushforward.nets.words import WordTransformer


def randomised(net: nn.Module, seed: int = 0) -> Any:
    """The same network with last layers that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if not bool(parameter.any()):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def plane() -> pf.Model:
    return pf.Model(randomised(pf.nets.MLP(2, 32)), pf.CondOT(), shape=(2,))


def digits() -> pf.Model:
    net = randomised(pf.nets.UNet(1, 8, classes=10, dropout=0.5))
    return pf.Model(net, pf.CondOT(), shape=(1, 8, 8), classes=10)


def transformer() -> pf.Model:
    net = randomised(pf.nets.DiT(3, 2, 16, 2, 2, classes=5))
    return pf.Model(net, pf.VP(), "v", shape=(3, 6, 6), classes=5)


def text() -> pf.Model:
    net = pf.nets.UViT(1, (8,), 1, 8, 16, 1, 2, context=12)
    words = Words(("a", "small", "red", "square", "above", "blue", "circle"), length=16)
    prompted = Prompted(net, {"words": WordTransformer(words.size, 12, 1, 2, length=16)})
    return pf.Model(randomised(prompted), pf.CondOT(), shape=(1, 8, 8), encoders={"prompt": words})


def latent() -> pf.Model:
    codec = Latents(randomised(AutoencoderKL(1, 2, (4, 4), 1, 2)), [0.1, -0.2], [0.5, 1.5])
    net = randomised(pf.nets.DiT(2, 1, 16, 1, 2, classes=3))
    spec = pf.DataSpec((1, 8, 8), "image", classes=3)
    return pf.Model(net, pf.CondOT(), spec=spec, codec=codec)


def flow_map() -> pf.FlowMapModel:
    net = randomised(pf.nets.MLP(2, 32, two_times=True))
    return pf.FlowMapModel(pf.Model(net, pf.CondOT(), shape=(2,)))


def columns() -> pf.Model:
    net = randomised(pf.nets.MLP(2, 32, features=("dose",)))
    spec = pf.DataSpec((2,), columns=("dose",))
    return pf.Model(net, pf.EDM(), "data", pf.EDMPreconditioning(), spec=spec)


MODELS: dict[str, Callable[[], pf.Model | pf.FlowMapModel]] = {
    "plane": plane, "digits": digits, "transformer": transformer, "text": text, "latent": latent,
    "flow map": flow_map, "columns": columns,
}  # fmt: skip
