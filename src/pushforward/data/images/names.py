"""Names of files: many of them in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """Texts in one buffer, about as many bytes as they have letters and 8 more each; a list takes 60 more.

    buffer: UTF-8, one after the other; bytes that are none, as names of files may have, are kept. ends: (N,) int64,
    where each of them ends.

    NumPy's StringDType is not used: it refuses names that are not UTF-8, which file systems allow, cannot be saved
    without pickle, as the index of an archive must be, and shows no buffer of which a fingerprint could be computed.
    """

    def __init__(self, buffer: bytes, ends: np.ndarray) -> None:
        self.buffer, self.ends = buffer, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        buffer, lengths = bytearray(), []
        for text in texts:
            part = text.encode("utf-8", "surrogateescape")
            buffer += part
            lengths.append(len(part))
        return cls(bytes(buffer), np.cumsum(np.array(lengths, np.int64)))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        return self.buffer[start : int(self.ends[index])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        if len(self):
            yield self[0]
        for start, end in pairwise(self.ends.tolist()):
            yield self.buffer[start:end].decode("utf-8", "surrogateescape")

    def select(self, rows: np.ndarray) -> Names:
        """Those at these places, in their order."""
        return Names.of(self[int(row)] for row in rows)


def leads_out(name: str) -> bool:
    """Whether a name is absolute or climbs, in the manner of any system."""
    return any(
        kind(name).anchor != "" or ".." in kind(name).parts
        for kind in (PurePosixPath, PureWindowsPath)
    )
