"""Data sets whose texts have been encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset


def encode_texts(data: Dataset, encoders: Mapping[str, Any]) -> Dataset:
    """With the conditions that each encoder makes of a text column, by the column's name, as further columns."""
    columns: dict[str, Any] = dict(data.columns)
    for name, encoder in encoders.items():
        lines = data.texts.get(name)
        if lines is None:
            raise DataError(f"these data have no {name}s")
        empty = [i for i, line in enumerate(lines) if not line.strip()]
        if len(empty) == len(lines):
            raise DataError(f"all {len(lines)} {name}s are empty")
        columns |= encoder(lines)
    return replace(data, columns=columns)
