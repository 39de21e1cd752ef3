"""What writes captions of pictures, with records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import ModelBase
from pushforward.models.text import PAD, UNKNOWN, Words
from pushforward.nets.coca import CoCa

# Pictures or texts that are embedded together.
ROWS = 256


class CaptionModel(ModelBase):
    """A contrastive captioner and what its captions are read by. It writes captions, and compares them with pictures.

    net:      of both towers. encoders: {"caption": Words with an end}, of which ids are texts again.
    spec, provenance, shape: as in `Model`. Pictures have the values of the data, see `scaled`.

    A caption has at least one word, and no padding or unknown words in it: the law of the next word is that of the
    network among the others.
    """

    def __init__(
        self,
        net: CoCa,
        *,
        encoders: Mapping[str, Words],
        shape: Sequence[int] = (),
        spec: DataSpec | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        words = encoders.get("caption")
        if list(encoders) != ["caption"] or not isinstance(words, Words) or not words.end:
            raise InputError(
                "a CaptionModel has one encoder, that of captions with an end: encoders={'caption': Words(..., "
                "end=True)}"
            )
        if net.words.vocabulary != words.size or net.words.length < words.length:
            raise InputError(
                f"the network knows {net.words.vocabulary} ids of {net.words.length} words, and the encoder has "
                f"{words.size} of {words.length}"
            )
        self.set_records(
            shape, spec=spec, nulls={}, sampling=sampling, provenance=provenance, encoders=encoders
        )
        self.net, self.words = net, words

    def to_config(self) -> dict[str, Any]:
        config = self.records() | {"net": self.net}
        del config["nulls"]
        return config

    def scaled(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the data of the model have them, with values in `spec.value_range`."""
        low, high = self.spec.value_range or (-1.0, 1.0)
        return x if (low, high) == (-1, 1) else low + (x + 1) / 2 * (high - low)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, x: Tensor, text: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors of pictures and of ids of captions, logits of the words, and the scale: see `CoCa`."""
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.net(x, text)
        return found

    def begin(self, x: Tensor) -> tuple[Tensor, Any]:
        """Logits (B, V) of the first words of captions of pictures (B, C, H, W), and what `follow` goes on from."""
        logits, past = self.net.words.begin(self.net.look(x))
        return self._allowed(logits, PAD, UNKNOWN, self.words.size - 1), past

    def follow(self, ids: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Logits (B, V) of the words behind these (B,), and what it goes on from."""
        logits, past = self.net.words.follow(ids, past)
        return self._allowed(logits, PAD, UNKNOWN), past

    @staticmethod
    def _allowed(logits: Tensor, *never: int) -> Tensor:
        out = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        out[list(never)] = True
        return logits.masked_fill(out, -torch.inf)

    @torch.no_grad()
    def images(self, x: Tensor) -> Tensor:
        """(N, dim) of pictures (N, C, H, W), on the CPU, some at a time."""
        parts = [self.net.images(part.to(self.device)).cpu() for part in x.split(ROWS)]
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, lines: Sequence[str]) -> Tensor:
        """(N, dim) of texts, on the CPU, some at a time."""
        parts = []
        for start in range(0, len(lines), ROWS):
            made = conditions.to(self.words(list(lines[start : start + ROWS])), self.device)
            parts.append(self.net.texts(made[self.words.name]).cpu())
        return torch.cat(parts)
