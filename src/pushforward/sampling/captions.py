"""Captions of pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.models.captioner import CaptionModel
from pushforward.sampling.decoding import Autoregression, Beam, Decoded, Decoder


@torch.no_grad()
def decode(
    model: CaptionModel, x: Tensor, decoder: Decoder | None = None, noise: Noise | None = None
) -> Decoded:
    """Ids of a caption of each picture (B, C, H, W), and their ln p. decoder: `Beam()` by default."""
    shape = (model.net.image.channels, model.net.image.size, model.net.image.size)
    if x.ndim != 4 or tuple(x.shape[1:]) != shape:
        raise InputError(
            f"this captioner sees pictures (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}"
        )
    model.eval()
    weight = model.net.words.head.weight
    logits, state = model.begin(x.to(weight.device, weight.dtype))
    end, length = model.words.size - 1, model.words.length
    law = Autoregression(logits, state, model.follow, end, length)
    return (Beam() if decoder is None else decoder)(law, noise)


def captions(
    model: CaptionModel,
    x: Tensor,
    decoder: Decoder | None = None,
    *,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 64,
) -> list[str]:
    """A caption of each picture (N, C, H, W), which has the values of the model's data.

    A random one is a function of (seed, start + row).
    """
    found = []
    for first in range(0, len(x), batch_size):
        part = x[first : first + batch_size]
        noise = Noise.batch(len(part), seed, start=start + first)
        tokens = decode(model, part, decoder, noise).tokens
        found += [model.words.text(row) for row in tokens.values.tolist()]
    return found
