"""What is drawn, as compact binary messages: a head of 32 bytes, little endian, and then numbers.

u8 kind   u8 channels   u16 0   u32 job   u32 step   u32 steps   f32 t   f32 scale   u32 n   u16 width   u16 height

POINTS    n points (x, y) as int16: a coordinate is scale * value / 32767
FIELD     n x n vectors (u, v) as int8 on a square grid, rows from the top: scale * value / 127
DENSITY   n x n logarithms of a density as uint8, rows from the top: scale - 12 (255 - value)/255 nats
PICTURES  n pictures (height, width, channels) as uint8
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

POINTS, FIELD, DENSITY, PICTURES = 1, 2, 3, 4
HEAD = struct.Struct("<BBHIIIffIHH")
# The range of logarithms of a density that is shown, in nats below the greatest.
NATS = 12.0


def head(
    kind: int, job: int, step: int, steps: int, t: float, *, scale: float = 1.0, n: int = 0, channels: int = 0,
    width: int = 0, height: int = 0,
) -> bytes:  # fmt: skip
    return HEAD.pack(kind, channels, 0, job, step, steps, t, scale, n, width, height)


def points(x: Any, job: int, step: int, steps: int, t: float) -> bytes:
    """x: (n, 2) array."""
    scale = max(float(np.abs(x).max()), 1e-6)
    values = np.rint(x / scale * 32767).astype("<i2")
    return head(POINTS, job, step, steps, t, scale=scale, n=len(x)) + values.tobytes()


def field(u: Any, job: int, step: int, steps: int, t: float) -> bytes:
    """u: (n, n, 2) array."""
    scale = max(float(np.abs(u).max()), 1e-9)
    values = np.rint(u / scale * 127).astype("<i1")
    return head(FIELD, job, step, steps, t, scale=scale, n=len(u)) + values.tobytes()


def density(log_p: Any, job: int, step: int, steps: int, t: float) -> bytes:
    """log_p: (n, n) array in nats."""
    top = float(log_p.max())
    values = np.rint(255 * (1 - (top - log_p).clip(0, NATS) / NATS)).astype("<u1")
    return head(DENSITY, job, step, steps, t, scale=top, n=len(log_p)) + values.tobytes()


def pictures(x: Any, job: int, step: int, steps: int, t: float) -> bytes:
    """x: (n, H, W, C) array of uint8."""
    n, height, width, channels = x.shape
    start = head(PICTURES, job, step, steps, t, n=n, channels=channels, width=width, height=height)
    return start + np.ascontiguousarray(x).tobytes()
