"""Messages between server and worker: length, kind, job, content.

u32 bytes that follow   u8 kind   u32 job   content
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

# Content: JSON, a frame for the page as it is, a file.
JSON, FRAME, FILE = 0, 1, 2
HEAD = struct.Struct("<IBI")


def packed(kind: int, job: int, content: bytes) -> bytes:
    return HEAD.pack(len(content) + 5, kind, job) + content


def packed_json(job: int, value: Any) -> bytes:
    return packed(JSON, job, text(value))


def read(stream: BinaryIO) -> tuple[int, int, bytes] | None:
    """The next message, or None where the stream has ended."""
    start = stream.read(HEAD.size)
    if len(start) < HEAD.size:
        return None
    size, kind, job = HEAD.unpack(start)
    content = stream.read(size - 5)
    return None if len(content) < size - 5 else (kind, job, content)


def text(value: Any) -> bytes:
    """JSON without NaN, as content."""
    return json.dumps(value, allow_nan=False).encode()
