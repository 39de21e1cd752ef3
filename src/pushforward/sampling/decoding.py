"""Sequences of a law that says one token after the other: the likeliest, and random ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.noise import WORD, Noise
from pushforward.models.prior import drawn, nucleus


@dataclass(frozen=True)
class Autoregression:
    """A law of sequences of ids: p(w_1) p(w_2 | w_1) ..., for each of B samples.

    logits: (B, V) of the first id. state: what it goes on from, with a method `take(rows)` that picks samples, in any
    order and number. follow: (ids (M,), state of M) -> logits (M, V) of what comes behind these, and their state.
    end:    the id that ends a sequence. length: of the longest ones, the end included; their last id is the end.
    """

    logits: Tensor
    state: Any
    follow: Callable[[Tensor, Any], tuple[Tensor, Any]]
    end: int
    length: int

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.length < 1 or not 0 <= self.end < self.logits.shape[1]:
            raise InputError(
                f"logits are (B, V) with the end among V ids and a positive length, got {tuple(self.logits.shape)}, "
                f"end {self.end}, length {self.length}"
            )


@dataclass(frozen=True)
class Decoded:
    """Sequences (B, L) with their ends, and ln p of each (B,) float64 under the law that they are of."""

    tokens: Tokens
    log_prob: Tensor


class Decoder(Protocol):
    """A way from a law to a sequence of each sample. noise: of the samples, for those that draw."""

    def __call__(self, law: Autoregression, noise: Noise | None = None) -> Decoded: ...


@dataclass(frozen=True)
class Greedy:
    """The likeliest id, each time."""

    def __call__(self, law: Autoregression, noise: Noise | None = None) -> Decoded:
        return _followed(law, lambda logits, k: logits.argmax(1))


@dataclass(frozen=True)
class Sampled:
    """Random sequences: each id by p^(1/temperature), among the likeliest that have the probability top_p together.

    A sequence is a function of the noise of its sample alone. With temperature 1 and top_p 1 it is of the law.

    Holtzman et al. 2019 (arXiv 1904.09751), eq. 2-3.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"temperature is {self.temperature} and top_p {self.top_p}: the first is positive, the second in "
                f"(0, 1]"
            )

    def __call__(self, law: Autoregression, noise: Noise | None = None) -> Decoded:
        if noise is None or len(noise) != len(law.logits):
            raise InputError("random sequences need noise: one id for each sample")
        u = noise.uniform((law.length,), WORD).to(law.logits.device)

        def choose(logits: Tensor, k: int) -> Tensor:
            return drawn(nucleus(logits / self.temperature, self.top_p), u[:, k])

        return _followed(law, choose)


def _followed(law: Autoregression, choose: Callable[[Tensor, int], Tensor]) -> Decoded:
    """The sequences that a choice (logits (B, V) float64, place) -> ids (B,) leads to."""
    logits, state = law.logits, law.state
    rows = len(logits)
    done = torch.zeros(rows, dtype=torch.bool, device=logits.device)
    total = torch.zeros(rows, dtype=torch.float64, device=logits.device)
    ids, there = [], []
    for k in range(law.length):
        wide = logits.double()
        if k == law.length - 1:
            found = torch.full_like(done, law.end, dtype=torch.int64)
        else:
            found = torch.where(done, law.end, choose(wide, k))
        taken = wide.log_softmax(1).gather(1, found[:, None])[:, 0]
        total = total + torch.where(done, 0.0, taken)
        ids.append(found)
        there.append(~done)
        done = done | (found == law.end)
        if bool(done.all()):
            break
        logits, state = law.follow(found, state)
    mask = torch.stack(there, 1)
    return Decoded(Tokens(torch.where(mask, torch.stack(ids, 1), 0), mask), total)


@dataclass(frozen=True)
class Beam:
    """The sequence of the largest ln p / n^penalty found, n being its length with its end.

    After each id the `width` likeliest beginnings are kept, those that end among them; what has ended is set aside, and
    the search goes on until no beginning can lead to anything better. With a width of 1 it is `Greedy`; where all
    beginnings are kept it is the best of all sequences. penalty: 0 for the likeliest sequence, which is often a short
    one; 1 for the best mean over its ids.

    Sutskever et al. 2014 (arXiv 1409.3215), sec. 3.2; Wu et al. 2016 (arXiv 1609.08144), sec. 7, whose penalty is
    ((5 + n)/6)^penalty.
    """

    width: int = 4
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.penalty < 0:
            raise InputError(
                f"width is {self.width} and penalty {self.penalty}: the first is at least 1, the second not negative"
            )

    def __call__(self, law: Autoregression, noise: Noise | None = None) -> Decoded:
        rows, size = law.logits.shape
        device, width = law.logits.device, self.width
        every = torch.arange(rows, device=device)
        spread = every.repeat_interleave(width)
        logits, state = law.logits[spread], law.state.take(spread)
        scores = torch.full((rows, width), -torch.inf, dtype=torch.float64, device=device)
        scores[:, 0] = 0
        words = torch.zeros(rows, width, 0, dtype=torch.int64, device=device)
        best = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        best_log_prob = best.clone()
        best_ids = torch.zeros(rows, law.length, dtype=torch.int64, device=device)
        lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        for k in range(law.length):
            ln_p = logits.double().log_softmax(1).view(rows, width, size)
            if k == law.length - 1:
                only = torch.full_like(ln_p, -torch.inf)
                only[:, :, law.end] = ln_p[:, :, law.end]
                ln_p = only
            scores, which = (scores[:, :, None] + ln_p).flatten(1).topk(width)
            beam, ids = which // size, which % size
            words = torch.cat(
                (words.gather(1, beam[..., None].expand_as(words)), ids[..., None]), 2
            )
            value = scores / (k + 1) ** self.penalty
            value, at = torch.where(ids == law.end, value, -torch.inf).max(1)
            better = value > best
            best = torch.where(better, value, best)
            best_log_prob = torch.where(better, scores[every, at], best_log_prob)
            best_ids[better, : k + 1] = words[every, at][better]
            lengths = torch.where(better, k + 1, lengths)
            scores = torch.where(ids == law.end, -torch.inf, scores)
            # ln p only falls, and no length divides it by more.
            if bool((scores.amax(1) / law.length**self.penalty <= best).all()):
                break
            logits, state = law.follow(
                ids.flatten(), state.take((every[:, None] * width + beam).flatten())
            )
        longest = int(lengths.max()) if rows else 0
        mask = torch.arange(longest, device=device) < lengths[:, None]
        return Decoded(Tokens(torch.where(mask, best_ids[:, :longest], 0), mask), best_log_prob)
