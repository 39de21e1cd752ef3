"""Training of an autoencoder: reconstruction, perceptual distance, relative entropy, and a judge of patches.

    q(z | x) = N(m(x), v(x)),    x' = decode(z),    z ~ q(z | x)

    loss_i          = |x - x'|_1 / n + a perceptual(x, x') + b KL(q(z | x) || N(0, I)) / n - c w mean D(x')
    discriminator_i = 1/2 mean max(0, 1 - D(x)) + 1/2 mean max(0, 1 + D(x'))
    w               = |grad_L mean reconstruction| / (|grad_L mean D(x')| + 1e-4)

n is the number of values of a picture, and L the decoder's last layer: w makes both pull on it alike. The published
code takes sums over the picture, not means: all of it is n times as large there, w included, and its perceptual
distance counts for every pixel as it does here.

Esser, Rombach & Ommer 2021 (arXiv 2012.09841), eq. 6-7; Rombach et al. 2022 (arXiv 2112.10752), app. G.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import LATENT, Noise
from pushforward.data.batch import Batch
from pushforward.models.autoencoder import AutoencoderModel
from pushforward.objectives.matching import refuse_mask
from pushforward.runtime.processes import Processes

# Of w, as in the published code.
EPSILON, MOST = 1e-4, 1e4
# A distance of pictures (B, C, H, W): (B,).
Distance = Callable[[Tensor, Tensor], Tensor]


def absolute(x: Tensor, y: Tensor) -> Tensor:
    """(B,) the mean of |x - y| over the values of each sample."""
    return (x - y).abs().flatten(1).mean(1)


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(B,) the mean of (x - y)^2 over the values of each sample."""
    return (x - y).square().flatten(1).mean(1)


def relative_entropy(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B,) KL(N(mean, exp log_variance) || N(0, I)) in nats, summed over the values of each sample."""
    each = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * each.flatten(1).sum(1)


@dataclass(frozen=True)
class Autoencoding:
    """The losses of an autoencoder ("loss") and of its discriminator ("discriminator").

    model:      both of them.
    error:      of a reconstruction, `absolute` or `squared`.
    perceptual: a distance of pictures by features; None for none. perceptual_weight: a.
    kl_weight:  b. gan_weight: c.
    gan_start:  the step from which the discriminator is trained and asked; None for never.

    Figures: l1, perceptual, kl (nats of a sample), gan (mean of -D(x')) and weight (w), real and fake (means of D).
    """

    model: AutoencoderModel
    error: Distance = absolute
    perceptual: Distance | None = None
    perceptual_weight: float = 1.0
    kl_weight: float = 1e-6
    gan_weight: float = 0.5
    gan_start: int | None = None

    def __post_init__(self) -> None:
        for name in ("perceptual_weight", "kl_weight", "gan_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Any]:
        """{"loss": (B,), "discriminator": (B,), "figures": ...}. noise: keyed by the global ids of the samples."""
        refuse_mask(batch)
        x = batch if isinstance(batch, Tensor) else batch.x1
        if len(noise) != len(x):
            raise InputError(f"{len(noise)} noise ids for a batch of {len(x)}")
        net, n = self.model.net, x[0].numel()
        mean, log_variance = net.posterior(x)
        z = mean
        if log_variance is not None:
            drawn = noise.to(x.device).normal(mean.shape[1:], LATENT, mean.dtype)
            z = mean + (log_variance / 2).exp() * drawn
        y = net.decode(z)
        loss = self.error(x, y)
        figures: dict[str, Tensor] = {"l1": absolute(x, y)}
        if self.perceptual is not None:
            figures["perceptual"] = self.perceptual(x, y)
            loss = loss + self.perceptual_weight * figures["perceptual"]
        out: dict[str, Any] = {"figures": figures}
        regular: Tensor | float = 0.0
        if log_variance is not None:
            figures["kl"] = relative_entropy(mean, log_variance)
            regular = self.kl_weight / n * figures["kl"]
        if self.gan_start is None or noise.step < self.gan_start:
            return out | {"loss": loss + regular}
        judge = self.model.discriminator
        adversarial = -judge(y).flatten(1).mean(1)
        weight = adaptive_weight(loss, adversarial, net.last)
        real, fake = judge(x).flatten(1), judge(y.detach()).flatten(1)
        out["loss"] = loss + regular + self.gan_weight * weight * adversarial
        out["discriminator"] = 0.5 * ((1 - real).relu().mean(1) + (1 + fake).relu().mean(1))
        figures |= {"gan": adversarial, "weight": weight, "real": real.mean(1), "fake": fake.mean(1)}  # fmt: skip
        return out


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """() |grad mean reconstruction| / (|grad mean adversarial| + 1e-4), at most 1e4, gradients with respect to `last`.

    The losses are (B,). Of several processes, the gradients are those of all their samples.
    """
    processes = Processes.current()
    sizes = []
    for loss in (reconstruction, adversarial):
        (gradient,) = torch.autograd.grad(loss.mean(), last, retain_graph=True)
        sizes.append(processes.sum(gradient / processes.count).float().norm())
    return (sizes[0] / (sizes[1] + EPSILON)).clamp(0, MOST)
