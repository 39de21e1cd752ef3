"""Philox 4x32-10: the published vectors, and its two implementations against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.core.philox import blocks, philox4x32

ONES = 0xFFFFFFFF
# Known answers of the Random123 distribution, philox4x32 with 10 rounds: counter, key, result.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]  # fmt: skip


def philox(counter, key):
    """Philox 4x32-10 in Python's integers, from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * c[0], 1 << 32)
        hi1, lo1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(c)


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_philox_gives_its_published_vectors(counter, key, result):
    words = philox4x32([torch.tensor(c) for c in counter], key)
    assert tuple(int(w) for w in words) == result
    assert philox(counter, key) == result
    # As the blocks of a sample: c2 and c3 are its id and stream, 16 bits of c3 each.
    block, step, low, high = counter
    ids = torch.tensor([(high & 0xFFFF) << 32 | low])
    words, _ = blocks(ids, block, block + 1, step, high >> 16, key[1] << 32 | key[0])
    first, third, second, fourth = words.flatten()
    assert (int(first), int(second), int(third), int(fourth)) == result


def test_words_are_philox_of_their_documented_counter():
    rng = np.random.default_rng(0)
    for _ in range(20):
        seed, step = int(rng.integers(0, 2**63)) * 2 + 1, int(rng.integers(0, 2**32))
        ids, stream = rng.integers(0, 2**48, 3), int(rng.integers(0, 2**16))
        words = pf.Noise(seed, torch.from_numpy(ids), step).words(7, stream)
        for row, i in zip(words.tolist(), ids.tolist(), strict=True):
            flat = [
                word
                for block in range(2)
                for word in philox(
                    (block, step, i % 2**32, (i >> 32) | stream << 16), (seed % 2**32, seed >> 32)
                )
            ]
            assert row == flat[:7]


@pytest.mark.parametrize("alike", [True, False])
def test_blocks_of_many_samples_are_those_of_the_general_form(alike):
    # Ids below 2^32 have one high word in common, which saves work; others are not to be mixed up.
    rng = np.random.default_rng(1)
    ids = torch.from_numpy(rng.integers(0, 2**20 if alike else 2**48, 5))
    seed, step, stream, first, last = 2**63 + 12345, 2**32 - 1, 40000, 7, 20
    high = (ids[:, None] >> 32) | stream << 16
    counter = (torch.arange(first, last)[None], torch.tensor(step), ids[:, None] & ONES, high)
    c0, c1, c2, c3 = philox4x32(counter, (seed & ONES, seed >> 32))
    words, spare = blocks(ids, first, last, step, stream, seed)
    assert torch.equal(words, torch.stack((c0, c2, c1, c3)))
    assert spare.shape == (2, 5, 13)
    assert spare.untyped_storage().data_ptr() == words.untyped_storage().data_ptr()
    bits = 0x413 << 52
    assert torch.equal(blocks(ids, first, last, step, stream, seed, bits)[0], words | bits)
    assert blocks(ids[:0], first, last, step, stream, seed)[0].shape == (4, 0, 13)
    # Ids in any order in memory.
    twice = ids.repeat_interleave(2)[::2]
    assert torch.equal(
        blocks(twice, 0, 3, step, stream, seed)[0], blocks(ids, 0, 3, step, stream, seed)[0]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_words_on_a_gpu_are_those_of_the_cpu():
    ids = torch.tensor([0, 1, 2**33 + 5, 2**47])
    for stream in (0, 7, 2**16 - 1):
        here = blocks(ids, 3, 9, 11, stream, 2**40 + 13)[0]
        there = blocks(ids.cuda(), 3, 9, 11, stream, 2**40 + 13)[0]
        assert torch.equal(there.cpu(), here)
