"""Every stream carries all of a batch: conditions of any kind, texts, masks, ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.noise import SOURCE, Noise
from pushforward.data import Batch
from pushforward.runtime.processes import Processes
from pushforward.streams import (
    Blurred,
    Bridged,
    Coupled,
    Lazy,
    Paired,
    Part,
    Prefetch,
    Shuffled,
    Sourced,
    Stream,
    Transformed,
    part,
)

LENGTH = 5


class Everything:
    """A data set in which each field of entry i says i."""

    def __init__(self, masked: bool = True, size: int = 11) -> None:
        self.masked, self.size = masked, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Tensor) -> Batch:
        i = indices
        grid = i[:, None].expand(-1, LENGTH).clone()
        mask = torch.arange(LENGTH) < 1 + i[:, None] % LENGTH
        return Batch(
            i.float()[:, None, None].expand(-1, LENGTH, 2)
            * (mask[..., None] if self.masked else 1),
            {"label": i, "text": Tokens(grid, mask), "control": {"edges": i[:, None].float()}},
            ids=i,
            mask=mask[..., None] if self.masked else None,
            texts={"caption": tuple(f"number {k}" for k in i.tolist())},
        )


def same(batch: Batch, masked: bool) -> Tensor:
    """The ids of a batch, all of whose other fields are found to be those of its ids."""
    assert batch.ids is not None
    want = Everything(masked)[batch.ids]
    assert torch.equal(batch.x1, want.x1)
    assert torch.equal(batch.cond["label"], batch.ids)
    assert torch.equal(batch.cond["text"].values, want.cond["text"].values)
    assert torch.equal(batch.cond["text"].mask, want.cond["text"].mask)
    assert torch.equal(batch.cond["control"]["edges"], want.cond["control"]["edges"])
    assert batch.texts == want.texts
    assert (batch.mask is None) == (not masked)
    if masked:
        assert torch.equal(batch.mask, want.mask)
    return batch.ids


class Rows:
    """A law of source samples."""

    def draw(self, noise: Noise) -> Tensor:
        return noise.normal((LENGTH, 2), SOURCE)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return self.draw(Noise.batch(n, seed))

    def log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def turned(x0: Tensor, x1: Tensor, noise: Noise, cond: object) -> tuple[Tensor, Tensor]:
    """Pairs row k of the source with row k + 1 of the data, all data reversed."""
    order = torch.arange(len(x1)).flip(0)
    return order.roll(1), order


STREAMS = {
    "shuffled": lambda data: Shuffled(data, 4, 0),
    "rows": lambda data: Shuffled(data, 4, 0).part(slice(1, 3)),
    "part": lambda data: Part(Shuffled(data, 4, 0), slice(1, 3)),
    "prefetch": lambda data: Prefetch(Shuffled(data, 4, 0)),
    "lazy": lambda data: Lazy(lambda: Shuffled(data, 4, 0), 4),
    "sourced": lambda data: Sourced(Shuffled(data, 4, 0), Rows(), 0),
    "transformed": lambda data: Shuffled(Transformed(data, lambda x: x), 4, 0),
    "paired": lambda data: Shuffled(Paired(data, lambda x: -x), 4, 0),
    "blurred": lambda data: Blurred(Shuffled(Paired(data, lambda x: -x), 4, 0), 0.1, 0),
}
UNMASKED = {
    "coupled": lambda data: Coupled(Shuffled(data, 4, 0), turned, 0),
    "bridged": lambda data: Bridged(Everything(False, 5), data, 4, 0),
}


# Pairs of samples of different lengths are refused.
CASES = [(name, masked) for name in STREAMS for masked in (True, False)]


@pytest.mark.parametrize(("name", "masked"), [*CASES, *((name, False) for name in UNMASKED)])
def test_a_stream_keeps_every_field_with_its_sample(name: str, masked: bool) -> None:
    stream: Stream = (STREAMS | UNMASKED)[name](Everything(masked))
    ids = torch.cat([same(stream.at(step), masked) for step in range(6)])
    assert len(ids.unique()) > 5
    if isinstance(stream, Prefetch):
        stream.close()


def test_a_part_for_each_process_makes_up_the_batch() -> None:
    whole = Shuffled(Everything(), 7, 0)
    for stream in (whole, Coupled(Shuffled(Everything(False), 7, 0), turned, 0)):
        parts = [part(stream, Processes(rank, 3)).at(2) for rank in range(3)]
        ids = torch.cat([same(batch, stream is whole) for batch in parts])
        assert torch.equal(ids, stream.at(2).ids)  # type: ignore[arg-type]


def test_pairs_move_the_source_one_way_and_all_else_the_other() -> None:
    plain, paired = Shuffled(Everything(False), 4, 0).at(1), STREAMS["sourced"](Everything(False))
    x0 = paired.at(1).x0
    batch = Coupled(paired, turned, 0).at(1)
    assert torch.equal(batch.ids, plain.ids.flip(0))  # type: ignore[union-attr, arg-type]
    assert torch.equal(batch.x0, x0[torch.tensor([0, 3, 2, 1])])  # type: ignore[arg-type, index]


def test_padded_samples_are_paired_where_their_lengths_agree() -> None:
    class Even(Everything):
        def __getitem__(self, indices: Tensor) -> Batch:
            batch = super().__getitem__(indices)
            mask = (torch.arange(LENGTH) < 3)[None, :, None].expand(len(batch), -1, 1)
            return replace(batch, mask=mask)

    seen: list[Tensor] = []

    def keep(x0: Tensor, x1: Tensor, noise: Noise, cond: object) -> tuple[Tensor, Tensor]:
        seen.append(x0)
        return torch.arange(4), torch.arange(4)

    Coupled(Shuffled(Even(), 4, 0), keep, 0).at(0)
    # What the coupling compares holds nothing but data, the numbers that the samples have alone.
    assert torch.equal(seen[0][:, :3], Noise.batch(4, 0, 0).normal((3, 2), SOURCE))
    assert (seen[0][:, 3:] == 0).all()

    Coupled(Shuffled(Paired(Even(), lambda x: x + 1), 4, 0), keep, 0).at(0)
    assert (seen[1][:, 3:] == 0).all()
    assert (seen[1][:, :3] != 0).all()
    with pytest.raises(InputError, match="different lengths"):
        Coupled(Shuffled(Everything(), 4, 0), keep, 0).at(0)
    with pytest.raises(InputError, match="different lengths"):
        Bridged(Everything(), Everything(), 4, 0).at(0)
