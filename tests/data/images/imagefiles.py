"""Image files for tests, good and hostile ones."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pushforward.data import Dataset


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def picture(seed: int, width: int = 8, height: int = 6) -> np.ndarray:
    """(H, W, 3) of uniform bytes."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_picture(path: Path, seed: int, width: int = 8, height: int = 6) -> np.ndarray:
    pixels = picture(seed, width, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels))
    return pixels


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG of under a hundred bytes that declares so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def stored(dataset: Dataset, index: int = 0) -> np.ndarray:
    """The bytes (H, W, C) of one picture, back from what the model sees."""
    return in_bytes(dataset[torch.tensor([index])].x1)[0]


def in_bytes(x1: torch.Tensor) -> np.ndarray:
    """(B, C, H, W) on [-1, 1] as bytes (B, H, W, C)."""
    return ((x1 + 1) * 127.5).round().permute(0, 2, 3, 1).byte().numpy()


def pack(path: Path, *members: tuple[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar archive, by Python's own writer."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
