"""A DDPM U-Net of diffusers, trained and sampled as its users do it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.training_utils import EMAModel
from torch import Tensor

# name: (scheduler, its options, network calls in a step)
SCHEDULERS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "DDPM": (DDPMScheduler, {}, 1),
    "DDIM": (DDIMScheduler, {}, 1),
    "DDIM trailing": (DDIMScheduler, {"timestep_spacing": "trailing"}, 1),
    "PNDM": (PNDMScheduler, {"skip_prk_steps": True}, 1),
    "Euler": (EulerDiscreteScheduler, {}, 1),
    "Euler Karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}, 1),
    "Heun": (HeunDiscreteScheduler, {}, 2),
    "DEIS": (DEISMultistepScheduler, {}, 1),
    "DPM++2M": (DPMSolverMultistepScheduler, {}, 1),
    "DPM++2M Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}, 1),
    "DPM++2M trailing": (DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}, 1),
    "UniPC": (UniPCMultistepScheduler, {}, 1),
    "UniPC Karras": (UniPCMultistepScheduler, {"use_karras_sigmas": True}, 1),
}


def network(classes: int, size: int = 28) -> UNet2DModel:
    """The layout of this library's U-Net of size XS: (32, 64, 64), one block a level, attention at the lowest."""
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        num_class_embeds=classes,
    )


def train(
    batches: Iterator[tuple[Tensor, Tensor]],
    classes: int,
    seconds: float,
    folder: Path,
    lr: float = 1e-3,
    warmup: int = 500,
    decay: float = 0.999,
) -> dict[str, float]:
    """Noise prediction on 1000 steps of the linear schedule, in float32, for so many seconds of processor time.

    AdamW (weight decay 1e-6, betas 0.95 and 0.999), warm-up, a cosine over the time, clipping at 1 and an average of
    the weights, as in diffusers' example of unconditional training; its EMA's decay and its rate are those given.
    """
    torch.manual_seed(0)
    net = network(classes)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.95, 0.999), weight_decay=1e-6)
    ema = EMAModel(net.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    began, step, total = time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / seconds) < 1:
        rate = lr * min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, label = next(batches)
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        noisy = scheduler.add_noise(x, noise, t)
        loss = torch.nn.functional.mse_loss(net(noisy, t, class_labels=label).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        step, total = step + 1, total + float(loss)
        if step % 100 == 0:
            print(f"step {step}  loss {total / 100:.4f}  {done:.0%}", flush=True)
            total = 0.0
    ema.copy_to(net.parameters())
    net.save_pretrained(folder)
    return {"steps": step, "seconds": time.process_time() - began}


@torch.no_grad()
def sample(net: UNet2DModel, name: str, nfe: int, noise: Tensor, label: Tensor) -> Tensor | None:
    """Samples (n, 1, H, W) by `nfe` network calls from `noise` of unit variance; None if that cannot be."""
    kind, options, calls = SCHEDULERS[name]
    scheduler = kind(num_train_timesteps=1000, **options)
    # Heun's scheduler makes one call less than two a step.
    scheduler.set_timesteps((nfe + 1) // 2 if calls == 2 else nfe)
    if len(scheduler.timesteps) > nfe:
        return None
    generator = torch.Generator().manual_seed(0)
    parts = []
    for start in range(0, len(noise), 250):
        if start:
            scheduler.set_timesteps((nfe + 1) // 2 if calls == 2 else nfe)
        x, y = noise[start : start + 250] * scheduler.init_noise_sigma, label[start : start + 250]
        more = {"generator": generator} if name == "DDPM" else {}
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            out = net(seen, t.expand(len(x)), class_labels=y).sample
            x = scheduler.step(out, t, x, **more).prev_sample
        parts.append(x.clamp(-1, 1))
    return torch.cat(parts)
