"""Counter-based randomness: every number is a function of (seed, stream, sample id, step).

Nothing is drawn from a stateful generator, so that a sample does not depend on the batch it is in, on the
number of workers or of processes, and a run that was interrupted goes on bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pushforward.core import philox
from pushforward.core.errors import InputError

# (sqrt 5 - 1)/2 in units of 2^-64, as the int64 of the same bits.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64

# One stream per use, so that no two uses ever share a number. User code is free to take those from 1024 on.
(
    SOURCE, TIME, DROP, START, SOLVER, DATA, COMPONENT, ORDER, AUGMENT, COUPLING, PROBE, CORRECTOR, LATENT,
    SPAN, BUCKET, WORD, CAPTION, LEVEL, CHAIN,
) = range(19)  # fmt: skip

# Blocks of four numbers handled at a time.
CHUNK = 1 << 16
# The float64 2^20, whose last bit is worth 2^-32, as the int64 of the same bits.
UNIT = 0x413 << 52


@dataclass(frozen=True)
class Noise:
    """Random numbers for a batch of samples, keyed by (seed, stream, sample id, step).

    ids: (B,) int64 in [0, 2^48), the global ids of the samples. seed in [0, 2^64), step in [0, 2^32).
    mask: bool, of the data's number of dimensions: which entries are data and which padding, None where all are data.
          Numbers of the data's shape are then those that each sample has alone, and 0 in the padding.

        Noise(seed=0, ids=torch.arange(7)).normal((2,))     # (7, 2), the same rows in any batch
    """

    seed: int
    ids: Tensor
    step: int = 0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}; it must lie in [0, 2^64)")
        if not 0 <= self.step < 2**32:
            raise InputError(f"step is {self.step}; it must lie in [0, 2^32)")
        if self.ids.ndim != 1 or self.ids.dtype != torch.int64:
            raise InputError(
                f"ids must be an int64 tensor (B,), got {self.ids.dtype} {tuple(self.ids.shape)}"
            )

    @classmethod
    def batch(
        cls,
        size: int,
        seed: int = 0,
        step: int = 0,
        start: int = 0,
        device: torch.device | str = "cpu",
    ) -> Noise:
        """The samples with ids start, start + 1, ..., start + size - 1."""
        return cls(seed, torch.arange(start, start + size, device=device), step)

    def at(self, step: int) -> Noise:
        """The same samples at another step."""
        return replace(self, step=step)

    def to(self, device: torch.device | str) -> Noise:
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, ids=self.ids.to(device), mask=mask)

    def masked(self, mask: Tensor | None) -> Noise:
        """The same numbers for padded samples."""
        return replace(self, mask=mask)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> Noise:
        mask = None if self.mask is None else self.mask[rows]
        return replace(self, ids=self.ids[rows], mask=mask)

    def words(self, count: int, stream: int) -> Tensor:
        """(B, count) independent integers, uniform on [0, 2^32), as int64.

        Counter: (block, step, id low, id high 16 bits | stream << 16); key: the two halves of the seed.
        """
        numbers = -(-count // 4)
        out = torch.empty(len(self.ids), numbers, 4, dtype=torch.int64, device=self.ids.device)
        for rows, part, words, _ in self._chunks(numbers, stream):
            for k, word in zip((0, 2, 1, 3), words, strict=True):
                out[rows, part, k] = word
        return out.flatten(1)[:, :count]

    def _chunks(
        self, count: int, stream: int, high_bits: int = 0
    ) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Samples, blocks of `count`, and what `philox.blocks` returns for them, as many at a time as caches hold."""
        if not 0 <= stream < 2**16:
            raise InputError(f"stream is {stream}; it must lie in [0, 2^16)")
        size = max(1, CHUNK // max(count, 1))
        for row in range(0, len(self.ids), size):
            rows = slice(row, row + size)
            for first in range(0, count, CHUNK):
                last = min(first + CHUNK, count)
                words, spare = philox.blocks(
                    self.ids[rows], first, last, self.step, stream, self.seed, high_bits
                )
                yield rows, slice(first, last), words, spare

    def uniform(
        self, shape: Sequence[int] = (), stream: int = TIME, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """(B, *shape) uniform on the open interval: (word + 1/2) / 2^32, never 0 and, in float64, never 1."""
        words = self.words(math.prod(shape), stream)
        return self._placed(((words.double() + 0.5) * 2.0**-32).to(dtype).reshape(-1, *shape))

    def normal(
        self, shape: Sequence[int], stream: int = SOURCE, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(B, *shape) standard normals by Box and Muller: sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v).

        Computed in float64 for float64 and in float32, four times as fast, for all others; the tails reach 6.7
        standard deviations.
        """
        count = math.prod(shape)
        numbers, real = -(-count // 4), torch.promote_types(dtype, torch.float32)
        out = torch.empty(len(self.ids), numbers, 2, 2, dtype=real, device=self.ids.device)
        pairs = torch.view_as_complex(out)
        for rows, part, words, spare in self._chunks(numbers, stream, UNIT):
            # With the bits of UNIT a word is the float64 2^20 + word/2^32, and (word + 1/2)/2^32 is exact.
            uniform = words.view(torch.float64).sub_(2.0**20 - 2.0**-33)
            if real != torch.float64:
                uniform, spare = _memory(spare, real, words.shape).copy_(uniform), words
            radius, angle = uniform[:2].log_().mul_(-2).sqrt_(), uniform[2:].mul_(2 * math.pi)
            cos = torch.cos(angle, out=_memory(spare, real, angle.shape)).mul_(radius)
            sin = angle.sin_().mul_(radius)
            for k in (0, 1):
                torch.complex(cos[k], sin[k], out=pairs[rows, part, k])
        flat = out.flatten(1)[:, :count].to(dtype)
        return self._placed(flat.reshape(len(self.ids), *shape))

    def _placed(self, numbers: Tensor) -> Tensor:
        """Numbers (B, ..., *data) in the order of the entries that are data, 0 elsewhere; others as they are."""
        if self.mask is None or numbers.ndim < self.mask.ndim:
            return numbers
        lead = numbers.ndim - self.mask.ndim
        mask = self.mask.reshape(len(self.mask), *[1] * lead, *self.mask.shape[1:])
        flat = mask.expand_as(numbers).flatten(1)
        rank = flat.cumsum(1).sub_(1).clamp_(min=0)
        return torch.where(flat, numbers.flatten(1).gather(1, rank), 0.0).reshape(numbers.shape)

    def low_discrepancy(self, stream: int = TIME) -> Tensor:
        """(B,) float64 in [0, 1): the golden-ratio sequence `frac(shift + id (sqrt 5 - 1)/2)`.

        Consecutive ids fill the interval evenly (discrepancy O(log B / B)), and, with the shift drawn
        anew for every step, each one alone is uniform. The value depends on the id and not on the batch,
        which the usual `frac(u + i / B)` (Kingma et al. 2021, app. I.1) does not allow.
        """
        origin = replace(
            self, ids=torch.zeros(1, dtype=torch.int64, device=self.ids.device), mask=None
        )
        # The product wraps modulo 2^64, that is, modulo 1, and so is exact for any id; its 53 high bits make a float64.
        turn = (self.ids * GOLDEN >> 11) & (2**53 - 1)
        return (origin.uniform((), stream) + turn.double() * 2.0**-53) % 1.0

    @staticmethod
    def chained(seed: int, stage: int) -> int:
        """The seed of one stage of a chain: numbers of several stages are independent, though of one seed and id."""
        high, low = Noise.batch(1, seed, stage).words(2, CHAIN)[0].tolist()
        return int(high << 32 | low)

    def permutation(self, size: int, stream: int = ORDER) -> Tensor:
        """A uniformly random permutation of `size` indices, keyed by (seed, stream, step); ids play no part."""
        high, low = Noise.batch(size, self.seed, self.step).words(2, stream).unbind(1)
        return torch.argsort(high << 31 | low >> 1, stable=True)


def _memory(x: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The memory of x as a tensor of this kind."""
    return x.flatten().view(dtype)[: math.prod(shape)].view(*shape)
