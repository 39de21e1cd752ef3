"""Training of a captioner: pictures and captions find each other, and captions are predicted word by word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.captioner import CaptionModel
from pushforward.objectives.contrastive import contrast, limited
from pushforward.objectives.matching import refuse_mask
from pushforward.runtime.processes import Processes


@dataclass(frozen=True)
class ContrastiveCaptioning:
    """The loss of a contrastive captioner.

        loss_i = a contrast_i + b (B/T) sum_k - ln p(w_ik | w_i1 ... w_i,k-1, picture i)

    The sum runs over the words of caption i, its end included; B is the number of pictures and T that of words in the
    whole batch, of all processes: the mean of the second term is the mean over all words, long captions weighing more.
    contrast is the loss of `Contrastive`. Several processes have the gradient of one.

    model: what is trained. contrastive, captioning: a and b. name: of the batch's condition that holds the ids.

    Figures: those of `Contrastive`; words (the share of words that are the likeliest), nats (a word's).

    Yu et al. 2022 (arXiv 2205.01917), eq. 2-4, whose a is 1 and b is 2.
    """

    model: CaptionModel
    contrastive: float = 1.0
    captioning: float = 2.0
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
                f"a captioner learns from pictures with captions, and this batch has no {self.name!r}"
            )
        limited(self.model.net)
        u, v, logits, scale = self.model(batch.x1, text)
        contrastive, figures = contrast(u, v, scale, processes)
        nats, right = _words(logits, text)
        # Of all processes: pictures and words.
        sizes = torch.stack((text.mask.new_ones(len(text)).sum(), text.mask.sum())).double()
        pictures, words = processes.sum(sizes).tolist()
        weight = pictures / max(words, 1)
        loss = self.contrastive * contrastive + self.captioning * weight * nats
        figures |= {"words": weight * right, "nats": weight * nats.detach()}
        return {"loss": loss, "figures": figures}


def _words(logits: Tensor, text: Tokens) -> tuple[Tensor, Tensor]:
    """(B,) sums over the words of each caption: of - ln p, and of how many are the likeliest."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    want = torch.where(text.mask, text.values, 0)
    nats = cross_entropy(logits.transpose(1, 2), want, reduction="none")
    right = (logits.detach().argmax(2) == want) & text.mask
    return torch.where(text.mask, nats, 0).sum(1), right.sum(1).to(nats.dtype)
