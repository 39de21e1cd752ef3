"""FCS files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flowio
import numpy as np

CHANNELS = ("Time", "FSC-A", "V2-A", "V2-W")


def write(
    path: Path, values: np.ndarray, channels: tuple[str, ...] = CHANNELS, **text: Any
) -> np.ndarray:
    """An FCS 3.1 file of little-endian floats, made by flowio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        flowio.create_fcs(
            file, values.astype(float).flatten().tolist(), list(channels), metadata_dict=text
        ).close()
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def segment(
    columns: list[np.ndarray],
    order: str = "1,2,3,4",
    version: str = "3.0",
    next_at: int = 0,
    shift: int = 0,
    **text: str,
) -> bytes:
    """An FCS data set written from the standard: header, text and data segments (Seamer et al. 1997).

    columns: one array (N,) a channel, or (N, width) of its bytes; their dtypes say what each $PnB and type is. text:
    further keywords, or others, without their dollar. shift: added to the declared end of the data.
    """
    parts = [c if c.ndim == 2 else np.ascontiguousarray(c)[:, None].view(np.uint8) for c in columns]
    data = np.concatenate(parts, axis=1).tobytes()
    n = len(columns[0])
    kinds = {("f", 4): "F", ("f", 8): "D"}
    kind = [kinds.get((c.dtype.kind, c.dtype.itemsize), "I") for c in columns]
    start, end = 2048, 2047 + len(data) + shift
    words = {
        "BYTEORD": order, "DATATYPE": kind[0], "MODE": "L", "NEXTDATA": str(next_at), "PAR": str(len(columns)),
        "TOT": str(n), "BEGINANALYSIS": "0", "ENDANALYSIS": "0", "BEGINSTEXT": "0", "ENDSTEXT": "0",
        "BEGINDATA": str(start), "ENDDATA": str(end),
    }  # fmt: skip
    for i, part in enumerate(parts, 1):
        words |= {
            f"P{i}N": f"C{i}",
            f"P{i}B": str(8 * part.shape[1]),
            f"P{i}E": "0,0",
            f"P{i}R": "1024",
        }
    words |= text
    body = "/" + "".join(f"${key}/{value}/" for key, value in words.items())
    header = f"FCS{version}    " + "".join(
        f"{place:>8}" for place in (58, 57 + len(body), start, end, 0, 0)
    )
    return (header + body).encode().ljust(start) + data


def by_hand(path: Path, values: np.ndarray, order: str, **channel: str) -> None:
    """Values (N, C) of one dtype, with the same keywords for each channel."""
    columns = list(np.ascontiguousarray(values.T))
    text = {f"P{i}{k}": v for i in range(1, len(columns) + 1) for k, v in channel.items()}
    path.write_bytes(segment(columns, order, **text))
