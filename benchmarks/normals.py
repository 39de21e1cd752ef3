from __future__ import annotations

import torch

import pushforward as pf
from benchmarks.measure import Row, medians

SHAPES = [(512, 2), (128, 1, 8, 8), (64, 3, 32, 32), (16, 3, 128, 128)]


def normals() -> list[Row]:
    """Standard normals keyed by sample id, `pf.Noise.normal`, against the stateful generator of `torch.randn`.

    Both give float32. Nanoseconds for each number, median of 15 rounds in which the two take turns.
    """
    rows: list[Row] = []
    for shape in SHAPES:
        noise = pf.Noise.batch(shape[0])
        count = torch.Size(shape).numel()
        seconds = medians(
            {
                "keyed": lambda noise=noise, shape=shape: noise.normal(shape[1:]),
                "randn": lambda shape=shape: torch.randn(shape),
            }
        )
        rows.append(
            {
                "shape": " x ".join(map(str, shape)),
                "Noise.normal, ns": seconds["keyed"] / count * 1e9,
                "torch.randn, ns": seconds["randn"] / count * 1e9,
                "ratio": seconds["keyed"] / seconds["randn"],
            }
        )
    return rows
