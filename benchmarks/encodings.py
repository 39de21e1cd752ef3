from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Row
from pushforward.core.noise import Noise
from pushforward.core.paths import CondOT
from pushforward.data.batch import Batch
from pushforward.data.encoded import encode_texts
from pushforward.data.latents import encode_pictures, latent_data, statistics
from pushforward.data.scenes import load_scenes
from pushforward.models.latent import Latents
from pushforward.models.model import Model
from pushforward.models.pretrained import minilm
from pushforward.nets import AutoencoderKL, Prompted, TextFeatures
from pushforward.nets.mmdit import MMDiT
from pushforward.objectives import FlowMatching
from pushforward.streams import Shuffled

NUMBER, BATCH = 256, 64


def encodings() -> list[Row]:
    """An epoch of text to image with texts and latents from the cache, and with both encoded in each step.

    256 scenes of 64 x 64 pixels in batches of 64: forward, backward and a step of AdamW of an MM-DiT of width 192 and 6
    blocks on latents 4 x 16 x 16, patch 2, whose texts are MiniLM's tokens; the autoencoder is the one that `train
    autoencoder` makes by default, of factor 4. Networks are trained in float32, and in bfloat16 as the recipe does
    where the processor has it; what encodes computes in float32, without gradients. Both epochs have the same batches
    and take turns. Seconds of an epoch are processor time, the least of two; "first" is what filling the cache took.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures = load_scenes(NUMBER, 64)
    net = AutoencoderKL(3, 4, (32, 64, 64), 1, 8, attention=False).eval()
    encoder = minilm()
    codec = Latents(net)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        cached = encode_texts(pictures, {"caption": encoder}, Path(folder) / "texts")
        found = encode_pictures(pictures, codec.encode, codec.digest, Path(folder) / "latents")
        first = time.process_time() - began
        mean, std = statistics(found.values)
        codec = Latents(net, mean, std)
        states = latent_data(cached, found, codec.mean, codec.std)

        def kept(step: int) -> Batch:
            return Shuffled(states, BATCH, 0).at(step)

        def each(step: int) -> Batch:
            batch = Shuffled(pictures, BATCH, 0).at(step)
            with torch.no_grad():
                cond = encoder(batch.texts["caption"])
                return replace(batch, x1=codec.encode(batch.x1), cond=cond)

        a, b = kept(0), each(0)
        worst = float((a.x1 - b.x1).abs().max())
        seconds: dict[tuple[str, bool], float] = {}
        for _ in range(2):
            for half in (False, True):
                for name, batches in (("cached", kept), ("encoded each time", each)):
                    took = epoch(batches, encoder, half)
                    seconds[name, half] = min(took, seconds.get((name, half), took))
    return [
        {
            "texts and latents": name,
            "network": "bfloat16" if half else "float32",
            "seconds an epoch": value,
            "images a second": NUMBER / value,
            "times as fast": seconds["encoded each time", half] / value,
            "first": first if name == "cached" else None,
            "largest difference of a latent": worst if name == "cached" else None,
        }
        for (name, half), value in seconds.items()
    ]


def epoch(batches: Callable[[int], Batch], encoder: Any, half: bool) -> float:
    """Seconds that training on so many batches takes."""
    torch.manual_seed(0)
    texts = {"text": TextFeatures(192, **encoder.features)}
    net = MMDiT(4, 2, 192, 6, 3, text=192, pooled=texts["text"].pooled, qk_norm=True)
    model = Model(Prompted(net, texts), CondOT(), shape=(4, 16, 16))
    objective = FlowMatching(model)
    rule = torch.optim.AdamW(model.parameters(), 1e-4)
    began = time.process_time()
    for step in range(NUMBER // BATCH):
        batch = batches(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = objective(batch, Noise.batch(BATCH, 0, step))["loss"].mean()
        loss.backward()
        rule.step()
        rule.zero_grad()
    return time.process_time() - began
