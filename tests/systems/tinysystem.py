"""Small systems with weights far from their start, and Gaussian laws whose models are exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.core.augmentation import NoiseAugmentation
from pushforward.models.clip import CLIPModel
from pushforward.models.pictures import CLIPPictures
from pushforward.models.prior import AutoregressivePrior, Buckets, CLIPTexts
from pushforward.models.text import Words
from pushforward.nets import (
    CLIP,
    BucketTransformer,
    EmbeddingTokens,
    PriorTransformer,
    Prompted,
    TextFeatures,
    UNet,
    WordTransformer,
)
from pushforward.systems.cascade import Upsampler
from pushforward.systems.priors import DiffusionPrior
from pushforward.systems.unclip import UnCLIP

LINES = ["a red circle", "two blue squares", "a square"]
DIM = 6


def shaken(net: Any, size: float = 0.1) -> Any:
    """With weights off the zeros at which some start."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn_like(p))
    return net


def clip(seed: int = 0) -> CLIPModel:
    torch.manual_seed(seed)
    words = Words.of(LINES, length=8, end=True)
    net = CLIP(
        {"vocabulary": words.size, "width": 16, "depth": 1, "heads": 2, "length": 8, "end": words.size - 1},
        {"size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        dim=DIM,
    )  # fmt: skip
    net = shaken(net, 0.3).requires_grad_(False)
    return CLIPModel(net, encoders={"caption": words}, shape=(3, 8, 8))


def diffusion_prior(of: CLIPModel) -> DiffusionPrior:
    texts = CLIPTexts(of)
    torch.manual_seed(1)
    net = PriorTransformer(DIM, 16, 1, 2, context=16, sentence=DIM, length=8)
    asked = Prompted(shaken(net), {"text": TextFeatures(16, **texts.features)})
    model = pf.Model(asked, pf.CondOT(), "data", shape=(DIM,), encoders={"prompt": texts})
    return DiffusionPrior(model, nfe=4)


def bucket_prior(of: CLIPModel) -> AutoregressivePrior:
    texts = CLIPTexts(of)
    torch.manual_seed(1)
    net = BucketTransformer(3, 4, (4,), 16, 1, 2, context=16, sentence=DIM, length=8)
    asked = shaken(Prompted(net, {"text": TextFeatures(16, **texts.features)}), 0.3)
    z = torch.randn(200, DIM)
    found = Buckets(DIM, 3, 4, 4).fit(z, z + torch.randn(200, DIM))
    return AutoregressivePrior(asked, found, encoders={"prompt": texts}, shape=(DIM,))


def decoder(of: CLIPModel, net: Any = None, size: int = 4) -> pf.Model:
    """Pictures (3, size, size) of a vector and a text."""
    words = Words.of(LINES)
    torch.manual_seed(2)
    texts: dict[str, nn.Module] = {
        "words": WordTransformer(words.size, 8, 1, 2),
        "embedding": EmbeddingTokens(DIM, 8, 4),
    }
    if net is None:
        net = UNet(3, 8, (1, 1), attention=(0,), context=8, features={"sentence": 8 + DIM})
    asked = shaken(Prompted(net, texts))
    encoders = {"prompt": words, "image": CLIPPictures(of)}
    return pf.Model(asked, pf.CondOT(), shape=(3, size, size), encoders=encoders)


def upsampler(size: int = 8, level: float = 0.2) -> Upsampler:
    """Pictures (3, size, size) of coarse ones."""
    torch.manual_seed(3)
    net = UNet(3, 8, (1, 1), in_channels=6, features={"augment_level": 1})
    model = pf.Model(shaken(net), pf.CondOT(), shape=(3, size, size))
    return Upsampler(model, NoiseAugmentation(0.5), level)


def system(stages: int = 1, buckets: bool = False) -> UnCLIP:
    of = clip()
    prior = bucket_prior(of) if buckets else diffusion_prior(of)
    return UnCLIP(of, prior, decoder(of), [upsampler(8)][:stages])


class Conditional(nn.Module):
    """The denoiser of x ~ N(m + G c, C) given c, exact: E[x | x_t, c] on the path CondOT.

    E[x | x_t] = mu + t C (t^2 C + (1 - t)^2 I)^{-1} (x_t - t mu),   mu = m + G c
    """

    def __init__(self, mean: Tensor, gain: Tensor, cov: Tensor) -> None:
        super().__init__()
        self.mean, self.gain, self.cov = mean, gain, cov

    def denoise(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        mu = self.mean + c @ self.gain.T
        t = t[:, None, None].to(x.dtype)
        one = torch.eye(len(self.mean), dtype=x.dtype)
        inner = t**2 * self.cov + (1 - t) ** 2 * one
        change = torch.linalg.solve(inner, (x - t[:, 0] * mu)[..., None])
        return mu + (t * self.cov @ change)[..., 0]


def deviations(samples: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """Of mean and second moments of samples (N, D) whitened by a law, in standard errors: all about N(0, 1)."""
    n, d = samples.shape
    root = torch.linalg.cholesky(cov)
    w = torch.linalg.solve_triangular(root, (samples.double() - mean).T, upper=False).T
    first = w.mean(0) * n**0.5
    second = (w.T @ w / n - torch.eye(d, dtype=w.dtype)) * n**0.5
    second = second / (1 + torch.eye(d, dtype=w.dtype)).sqrt()
    return torch.cat((first, second[torch.ones(d, d).tril() > 0]))
