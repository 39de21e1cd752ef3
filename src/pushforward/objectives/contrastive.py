"""Training of pictures and texts in one space: each picture is to find its text among all, and the reverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.clip import CLIPModel
from pushforward.nets.clip import MOST
from pushforward.objectives.matching import refuse_mask
from pushforward.runtime.processes import Processes


@dataclass(frozen=True)
class Contrastive:
    """The symmetric contrastive loss of the whole batch.

        loss_i = - 1/2 ln softmax_j(s u_i . v_j)_i - 1/2 ln softmax_j(s v_i . u_j)_i

    u_i, v_i are the vectors of picture and text i, of length 1; s = exp(logit_scale) is learned and at most 100. The
    softmax runs over the batches of all processes, and so do its gradients: several processes have the gradient of one.

    model: what is trained. name: of the batch's condition that holds the ids of texts.

    Figures: scale (s), right (the share of pictures that find their own text).

    Radford et al. 2021 (arXiv 2103.00020), fig. 3; van den Oord, Li & Vinyals 2018 (arXiv 1807.03748).
    """

    model: CLIPModel
    name: str = "words"

    whole_batch: ClassVar[bool] = True

    def __call__(self, batch: Batch, noise: Noise) -> dict[str, Any]:
        """{"loss": (B,), "figures": ...}. noise is not used: nothing is drawn."""
        return self.among(batch, Processes.current())

    def among(self, batch: Batch, processes: Processes) -> dict[str, Any]:
        """The same, the batch being that of these processes together."""
        refuse_mask(batch)
        text = batch.cond.get(self.name)
        if not isinstance(text, Tokens):
            raise InputError(
                f"pictures are compared with texts, and this batch has no {self.name!r}"
            )
        net = limited(self.model.net)
        u, v = self.model(batch.x1, text)
        loss, figures = contrast(u, v, net.scale, processes)
        return {"loss": loss, "figures": figures}


def contrast(
    u: Tensor, v: Tensor, scale: Tensor, processes: Processes
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (B,) of vectors u, v (B, D) of length 1 among those of all processes, and the figures of `Contrastive`."""
    kind = torch.promote_types(u.dtype, torch.float32)
    u, v = u.to(kind), v.to(kind)
    pictures, mine = processes.gather_rows(u)
    texts, _ = processes.gather_rows(v)
    own = torch.arange(mine.start, mine.stop, device=u.device)
    scale = scale.to(kind)
    by_picture, by_text = scale * u @ texts.T, scale * v @ pictures.T
    loss = (_entropy(by_picture, own) + _entropy(by_text, own)) / 2
    figures = {
        "scale": scale.detach().expand(len(loss)),
        "right": (by_picture.detach().argmax(1) == own).float(),
    }
    return loss, figures


def limited(net: nn.Module) -> Any:
    """The network itself, its scale brought back to the limit: beyond it the gradient would be 0, as published, and the
    scale never come back."""
    inner = unwrapped(net)
    with torch.no_grad():
        inner.logit_scale.clamp_(max=math.log(MOST))
    return inner


def unwrapped(net: nn.Module) -> Any:
    """The network itself, where several processes train it and DistributedDataParallel is around it."""
    return net.module if isinstance(net, DistributedDataParallel) else net


def _entropy(logits: Tensor, own: Tensor) -> Tensor:
    return cross_entropy(logits, own, reduction="none")
