"""Philox 4x32-10, the generator behind `Noise`: 128 random bits are a function of a counter and a key.

Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", sec. 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

MASK = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]


def round_keys(key: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The keys of the ten rounds, `(k0, k1) -> (k0 + w0, k1 + w1) mod 2^32`."""
    k0, k1 = key[0] & MASK, key[1] & MASK
    for _ in range(ROUNDS):
        yield k0, k1
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK


def philox4x32(
    counter: Sequence[Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox on four 32-bit counter words, under a key of two 32-bit words.

        (c0, c1, c2, c3) -> (hi(m1 c2) ^ c1 ^ k0, lo(m1 c2), hi(m0 c0) ^ c3 ^ k1, lo(m0 c0))

    Words are int64 tensors in [0, 2^32) that broadcast with each other. A product of two of them wraps
    modulo 2^64, which leaves both of its halves right, and int64 wraps alike on every device.
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in round_keys(key):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK) ^ c1 ^ k0,
            p1 & MASK,
            ((p0 >> 32) & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
    return c0, c1, c2, c3


def blocks(
    ids: Tensor, first: int, last: int, step: int, stream: int, seed: int, high_bits: int = 0
) -> tuple[Tensor, Tensor]:
    """The words of the blocks first ... last - 1 of each sample, (4, B, last - first) int64 in [0, 2^32).

    Counter: (block, step, id low, id high 16 bits | stream << 16); key: the two halves of the seed. The four words of a
    block are c0, c2, c1, c3 of the result's first dimension: the pairs (c0, c1) and (c2, c3) are then its halves.
    high_bits: what is above the 32 bits of every word.

    Returns the words, and memory that may be written over, (2, B, last - first) int64.
    """
    key, shape = (seed & MASK, seed >> 32), (len(ids), last - first)
    if ids.device.type == "cpu":
        memory = torch.empty(6, *shape, dtype=torch.int64)
        buffer = memory.numpy().view(np.uint64)
        _fill(buffer[:4], buffer[4:], ids.numpy(), first, step, stream, key, high_bits)
        return memory[:4], memory[4:]
    block = torch.arange(first, last, device=ids.device)
    high = (ids[:, None] >> 32) & 0xFFFF | stream << 16
    at = torch.tensor(step, device=ids.device)
    c0, c1, c2, c3 = philox4x32((block[None], at, ids[:, None] & MASK, high), key)
    words = torch.stack((c0, c2, c1, c3)) | high_bits
    return words, torch.empty_like(words[:2])


# Constants of `_fill`: multipliers of c0 and c2, the bits of a low word and their number, what is added to the key.
_M = np.array(MULTIPLIERS, np.uint64)[:, None]
_LOW, _HALF = np.uint64(MASK), np.uint64(32)
_WEYL = np.arange(ROUNDS, dtype=np.uint64)[:, None, None] * np.array(WEYL, np.uint64)[:, None]


def _fill(
    out: Words,
    spare: Words,
    ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    first: int,
    step: int,
    stream: int,
    key: tuple[int, int],
    high_bits: int,
) -> None:
    """`philox4x32` by numpy, whose integers are several times as quick as torch's on a CPU.

    The words of the first two rounds depend on the sample or on the block alone, and only their sums on both. All
    further rounds run in three buffers, five passes each.
    """
    keys = np.array(key, np.uint64)[:, None] + _WEYL & _LOW
    keys[-1] |= np.uint64(high_bits)
    block = np.arange(first, first + out.shape[2], dtype=np.uint64)[None]
    numbers = ids.astype(np.uint64)[:, None]
    high = numbers >> _HALF
    if not high.any():
        high = high[:1]  # one for all samples
    high = high & np.uint64(0xFFFF) | np.uint64(stream << 16)

    p0, p1 = block * _M[0], (numbers & _LOW) * _M[1]
    c0, c1 = p1 >> _HALF ^ (keys[0, 0] ^ np.uint64(step)), p1 & _LOW  # of samples
    c2, c3 = p0 >> _HALF ^ (keys[0, 1] ^ high), p0 & _LOW  # of blocks
    p0, p1 = c0 * _M[0], c2 * _M[1]
    # A round reads `x` (c0, c2) and `rest` (c3, c1), and writes into `new`.
    rest, x, new = (part.reshape(2, -1) for part in (out[:2], out[2:], spare))
    np.bitwise_xor(p1 >> _HALF ^ keys[1, 0], c1, out=x[0].reshape(out.shape[1:]))
    np.bitwise_xor(p0 >> _HALF ^ keys[1, 1], c3, out=x[1].reshape(out.shape[1:]))

    for k in range(2, ROUNDS):
        np.multiply(x, _M, out=x)
        np.right_shift(x[::-1], _HALF, out=new)
        if k > 2:
            np.bitwise_xor(new, rest[::-1], out=new)
            np.bitwise_xor(new, keys[k], out=new)
        else:
            for row, product, extra in zip(
                new.reshape(2, *out.shape[1:]), (p1, p0), keys[k], strict=True
            ):
                np.bitwise_xor(row, product & _LOW ^ extra, out=row)
        if k < ROUNDS - 1:
            np.bitwise_and(x, _LOW, out=x)
            x, rest, new = new, x, rest
        else:
            np.bitwise_and(x[::-1], _LOW, out=rest)
            if high_bits:
                np.bitwise_or(rest, np.uint64(high_bits), out=rest)
