"""A transformer of Stable Diffusion 3 by diffusers, trained and sampled as its users do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SD3Transformer2DModel,
    UniPCMultistepScheduler,
)
from diffusers.training_utils import (
    EMAModel,
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)
from torch import Tensor, nn

# The shift of the published model's scheduler.
SHIFT = 3.0
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# name: (scheduler, its options, network calls in a step)
SCHEDULERS: dict[str, tuple[Any, dict[str, Any], int]] = {
    f"{name}, shift {shift:g}": (kind, options | {key: shift}, calls)
    for shift in (1.0, SHIFT)
    for name, kind, options, key, calls in (
        ("Euler", FlowMatchEulerDiscreteScheduler, {}, "shift", 1),
        ("Heun", FlowMatchHeunDiscreteScheduler, {}, "shift", 2),
        ("DPM++2M", DPMSolverMultistepScheduler, FLOW, "flow_shift", 1),
        ("UniPC", UniPCMultistepScheduler, FLOW, "flow_shift", 1),
    )
}


class Peer(nn.Module):
    """The transformer, and what makes its conditions of texts: ids -> tokens (B, L, width) and pooled (B, width)."""

    def __init__(
        self, texts: nn.Module, width: int, size: int, patch: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.texts = texts
        self.transformer = SD3Transformer2DModel(
            sample_size=size,
            patch_size=patch,
            in_channels=3,
            out_channels=3,
            num_layers=depth,
            num_attention_heads=heads,
            attention_head_dim=64,
            joint_attention_dim=width,
            caption_projection_dim=64 * heads,
            pooled_projection_dim=width,
            pos_embed_max_size=size // patch,
            qk_norm="rms_norm",
        )

    def forward(self, x: Tensor, time: Tensor, text: Any, drop: Tensor | None = None) -> Tensor:
        tokens, pooled = self.texts(text)
        values = tokens.values
        if drop is not None:
            values, pooled = values * ~drop[:, None, None], pooled * ~drop[:, None]
        out: Tensor = self.transformer(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=values,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return out


def train(
    peer: Peer,
    batches: Iterator[tuple[Tensor, Any]],
    seconds: float,
    lr: float = 1e-3,
    warmup: int = 100,
    decay: float = 0.999,
    dropped: float = 0.1,
) -> dict[str, float]:
    """The loss of diffusers' example train_dreambooth_sd3 by its defaults, in bf16, for so many seconds.

    Of processor time. Logit-normal times of mean 0 and deviation 1 on the 1000 levels of the published shift, outputs
    preconditioned to the data (x - sigma v) and compared with them. AdamW, warm-up, a constant rate that
    comes down over the last fifth, clipping at 1 and an average of weights, which replaces the weights at the end.
    """
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=lr, weight_decay=1e-4)
    ema = EMAModel(peer.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    began, step, total = time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / seconds) < 1:
        rate = lr * min(1.0, (step + 1) / warmup, (1 - done) / 0.2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, text = next(batches)
        u = compute_density_for_timestep_sampling("logit_normal", len(x), 0.0, 1.0)
        index = (u * scheduler.config.num_train_timesteps).long()
        sigma = scheduler.sigmas[index][:, None, None, None]
        noisy = (1 - sigma) * x + sigma * torch.randn_like(x)
        with torch.autocast("cpu", torch.bfloat16):
            out = peer(noisy, scheduler.timesteps[index], text, torch.rand(len(x)) < dropped)
        weight = compute_loss_weighting_for_sd3("logit_normal", sigma)
        loss = (weight * (noisy - sigma * out.float() - x) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(peer.parameters())
        step, total = step + 1, 0.99 * total + 0.01 * float(loss.detach())
        if step % 100 == 0:
            print(
                f"peer: step {step}, {100 * done:.0f} %, loss {total / (1 - 0.99**step):.4f}",
                flush=True,
            )
    ema.copy_to(peer.parameters())
    return {"steps": step, "seconds": time.process_time() - began}


@torch.no_grad()
def sample(
    peer: Peer, name: str, nfe: int, encode: Callable[[Sequence[str]], Any], lines: Sequence[str],
    guidance: float, seed: int, size: int, batch_size: int = 256,
) -> Tensor:  # fmt: skip
    """Pictures (N, 3, size, size) of prompts by a scheduler, under guidance, as the pipeline of diffusers does it."""
    kind, options, calls = SCHEDULERS[name]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for first in range(0, len(lines), batch_size):
        some = list(lines[first : first + batch_size])
        scheduler = kind(num_train_timesteps=1000, **options)
        scheduler.set_timesteps(nfe // calls)
        x = torch.randn(len(some), 3, size, size, generator=generator)
        text = encode([*some, *some])
        drop = torch.arange(2 * len(some)) >= len(some)
        for t in scheduler.timesteps:
            both = peer(torch.cat((x, x)), t.expand(2 * len(x)), text, drop)
            asked, free = both.chunk(2)
            x = scheduler.step(free + guidance * (asked - free), t, x).prev_sample
        found.append(x)
    return torch.cat(found)
