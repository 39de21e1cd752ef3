"""Conditions made of texts: a row for each distinct text, as long as that text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pushforward.core import conditions
from pushforward.core.conditions import Condition, Tokens
from pushforward.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Sequences:
    """U sequences in one tensor: `values` (sum of lengths, ...) and `mask` alike, `ends` (U,) where each ends."""

    values: Tensor
    mask: Tensor
    ends: Tensor

    @classmethod
    def of(cls, tokens: Tokens) -> Sequences:
        """Without the padding behind the last token of each."""
        places = torch.arange(1, tokens.mask.shape[1] + 1)
        lengths = (
            (tokens.mask * places).amax(1)
            if tokens.mask.shape[1]
            else places.new_zeros(len(tokens))
        )
        inside = places <= lengths[:, None]
        return cls(tokens.values[inside], tokens.mask[inside], lengths.cumsum(0))

    @classmethod
    def cat(cls, parts: Sequence[Sequences]) -> Sequences:
        lengths = torch.cat([part.ends.diff(prepend=part.ends.new_zeros(1)) for part in parts])
        values = torch.cat([part.values for part in parts])
        return cls(values, torch.cat([part.mask for part in parts]), lengths.cumsum(0))

    def take(self, rows: Tensor) -> Tokens:
        """Those at `rows` (B,), padded by zeros to the longest of them, at least to 1."""
        return padded(self.rows(rows))

    def rows(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Values and mask of each of those at `rows` (B,)."""
        ends = self.ends[rows].tolist()
        starts = torch.where(rows > 0, self.ends[(rows - 1).clamp(min=0)], 0).tolist()
        spans = [slice(a, b) for a, b in zip(starts, ends, strict=True)]
        return [(self.values[s], self.mask[s]) for s in spans]


def padded(rows: Sequence[tuple[Tensor, Tensor]]) -> Tokens:
    """Sequences with their masks, padded by zeros to the longest of them, at least to 1."""
    if not any(len(values) for values, _ in rows):
        values, mask = rows[0]
        shape = (len(rows), 1)
        return Tokens(values.new_zeros(*shape, *values.shape[1:]), mask.new_zeros(shape))
    values = pad_sequence([values for values, _ in rows], batch_first=True)
    return Tokens(values, pad_sequence([mask for _, mask in rows], batch_first=True))


@dataclass(frozen=True, eq=False)
class Shelf:
    """U rows of tensors or sequences in several parts, such as files that are read where they are used.

    parts: all tensors, or all sequences. part, row: (U,) int64, where each row lies.
    """

    parts: tuple[Tensor | Sequences, ...]
    part: Tensor
    row: Tensor

    def __len__(self) -> int:
        return len(self.part)

    def take(self, rows: Tensor) -> Tokens | Tensor:
        """Those at `rows` (B,); sequences are padded as in `Sequences`."""
        part, row = self.part[rows], self.row[rows]
        found: dict[int, Any] = {}
        for number in part.unique().tolist():
            here = (part == number).nonzero().flatten()
            leaf = self.parts[number]
            own = leaf.rows(row[here]) if isinstance(leaf, Sequences) else leaf[row[here]]
            found |= dict(zip(here.tolist(), own, strict=True))
        ordered = [found[i] for i in range(len(rows))]
        return padded(ordered) if isinstance(self.parts[0], Sequences) else torch.stack(ordered)


Leaf = Tensor | Sequences | Shelf
Leaves = Mapping[str, Leaf]


@dataclass(frozen=True, eq=False)
class Encoding:
    """A condition of N samples.

    leaves: its tensors (U, ...) and sequences by the names that `conditions.leaves` has for them, a row for each
            distinct text. rows: (N,) int64, which of these each sample has.
    other:  (N,) int64, those that it has where another of its texts is drawn; None where there is one text.
    """

    leaves: Leaves
    rows: Tensor
    other: Tensor | None = None

    def take(self, places: Tensor, drawn: Tensor | None = None) -> Condition:
        """The condition of the samples at `places` (B,). drawn: (B,) bool, which of them have their other text."""
        rows = self.rows[places]
        if drawn is not None and self.other is not None:
            rows = torch.where(drawn, self.other[places], rows)
        out: dict[str, Any] = {}
        for name, leaf in self.leaves.items():
            *groups, last = name.split(".")
            inner = out
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = leaf[rows] if isinstance(leaf, Tensor) else leaf.take(rows)
        (value,) = out.values()
        return value

    def part(self, places: Tensor) -> Encoding:
        """That of some of the samples; what the texts have is shared."""
        other = None if self.other is None else self.other[places]
        return replace(self, rows=self.rows[places], other=other)


def leaves_of(cond: Mapping[str, Condition]) -> dict[str, Tensor | Sequences]:
    """Conditions of distinct texts, without padding, by name."""
    found: dict[str, Tensor | Sequences] = {}
    for name, leaf in conditions.leaves(cond):
        if isinstance(leaf, Tokens):
            found[name] = Sequences.of(leaf)
        else:
            found[name] = leaf.contiguous()
    return found


def join(parts: Sequence[Mapping[str, Tensor | Sequences]]) -> dict[str, Tensor | Sequences]:
    """Rows of several batches one after the other."""
    found: dict[str, Tensor | Sequences] = {}
    for name in parts[0]:
        leaves = [part[name] for part in parts]
        if isinstance(leaves[0], Sequences):
            found[name] = Sequences.cat([x for x in leaves if isinstance(x, Sequences)])
        else:
            found[name] = torch.cat([x for x in leaves if isinstance(x, Tensor)])
    return found


def shelved(
    parts: Sequence[Mapping[str, Tensor | Sequences]], part: Tensor, row: Tensor
) -> dict[str, Shelf]:
    """Row u from row[u] of part[u], whatever else the parts have."""
    return {name: Shelf(tuple(each[name] for each in parts), part, row) for name in parts[0]}


def count(leaves: Leaves) -> int:
    """U, the number of rows. Raises InputError where leaves disagree."""
    found = {len(x.ends) if isinstance(x, Sequences) else len(x) for x in leaves.values()}
    if len(found) != 1:
        raise InputError(f"an encoder gave conditions of {sorted(found)} texts")
    return found.pop()


def size(leaves: Mapping[str, Tensor | Sequences]) -> int:
    """Bytes of all rows."""
    tensors = [
        t for x in leaves.values() for t in ((x.values, x.mask) if isinstance(x, Sequences) else (x,))
    ]  # fmt: skip
    return sum(t.numel() * t.element_size() for t in tensors)
