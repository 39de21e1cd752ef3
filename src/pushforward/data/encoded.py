"""Data sets whose texts have been encoded: each distinct text once, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.core.conditions import Condition
from pushforward.core.errors import DataError, InputError
from pushforward.core.progress import tell
from pushforward.data.dataset import Dataset
from pushforward.data.encoding import (
    Encoding,
    Leaf,
    Sequences,
    count,
    join,
    leaves_of,
    shelved,
    size,
)
from pushforward.data.fetch import cache_folder

Leaves = dict[str, Tensor | Sequences]
FORMAT = "pushforward encodings 1"
ROWS = 64  # texts that are encoded together
# A file of the cache holds so many texts, or bytes and somewhat more, so that long work that is cut off is not lost and
# little of it is in memory.
KEPT, BYTES = 2048, 1 << 24
SHOWN = 5


def encode_texts(
    data: Dataset, encoders: Mapping[str, Any], folder: str | Path | None = None
) -> Dataset:
    """With the conditions that encoders make of texts, in `encodings`: every batch has them.

    encoders: for each of the data's texts by name, such as "caption", an encoder or several of them together.
    folder:   where encodings are kept, by the hash of encoder and text; $PUSHFORWARD_CACHE/encodings by default. An
              encoder with an attribute `quick` that is True is asked each time instead.

    Each distinct text is encoded once, texts of like length together, and tokens are stored without padding, in files
    that are read where they are used: memory does not grow with what encoders make of the texts. Any number of
    processes may share the folder; what cannot be written or read there costs time and nothing else. Texts that are
    longer than an encoder takes are cut, and `notes` say so. Raises DataError for texts that are missing or empty.
    """
    root = cache_folder() / "encodings" if folder is None else Path(folder)
    found = dict(data.encodings)
    notes: list[str] = []
    for name, given in encoders.items():
        lines = texts_of(data, name)
        place: dict[str, int] = {}
        rows = torch.tensor([place.setdefault(line, len(place)) for line in lines])
        other = None
        if name in data.recaptions:
            more = data.recaptions[name].lines
            other = torch.tensor([place.setdefault(line, len(place)) for line in more])
        for encoder in getattr(given, "encoders", (given,)):
            own = _encoded(encoder, list(place), root)
            notes += _note_on_cut(encoder, lines, name)
            for condition in dict.fromkeys(leaf.split(".")[0] for leaf in own):
                if condition in found or condition in data.columns:
                    raise InputError(
                        f"two encoders, or an encoder and the data, give the condition {condition!r}: name them apart"
                    )
                part = {k: v for k, v in own.items() if k.split(".")[0] == condition}
                found[condition] = Encoding(part, rows, other)
    return replace(data, encodings=found, notes=(*data.notes, *notes))


def texts_of(data: Dataset, name: str) -> tuple[str, ...]:
    """The texts of this name, one for each sample. Raises DataError for texts that are missing or empty."""
    lines = data.texts.get(name)
    if lines is None:
        have = f"; they have {', '.join(data.texts)}" if data.texts else ""
        raise DataError(
            f"these data have no {name}s{have}. Put a text file beside each picture (x.png, x.txt), or a field "
            f"{name!r} into metadata.jsonl or metadata.csv"
        )
    empty = [i for i, line in enumerate(lines) if not line.strip()]
    if empty:
        rows = ", ".join(map(str, empty[:SHOWN])) + (", ..." if len(empty) > SHOWN else "")
        raise DataError(
            f"{len(empty)} of {len(lines)} {name}s are empty, rows {rows}: write them, or remove these samples"
        )
    return lines


def _note_on_cut(encoder: Any, lines: Sequence[str], name: str) -> list[str]:
    cut: Callable[[str], str | None] | None = getattr(encoder, "cut", None)
    if cut is None:
        return []
    short = {line: left for line in dict.fromkeys(lines) if (left := cut(line)) is not None}
    if not short:
        return []
    number = sum(line in short for line in lines)
    example = next(iter(short.values()))
    last = " ".join(example.split()[-3:])
    return [
        f"{number} of {len(lines)} {name}s are longer than {type(encoder).__name__} takes, and cut between words: the "
        f"first behind {last!r}"
    ]


def _encoded(encoder: Any, texts: Sequence[str], root: Path) -> Mapping[str, Leaf]:
    """Rows for these distinct texts, in their order."""
    if getattr(encoder, "quick", False):
        return _checked(encoder(list(texts)), len(texts))
    folder = root / encoder.digest[:32]
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    number = {key: i for i, key in enumerate(keys)}
    parts: list[Leaves] = []
    part = torch.full((len(texts),), -1)
    row = torch.zeros(len(texts), dtype=torch.int64)

    def found(leaves: Leaves, places: list[tuple[int, int]]) -> None:
        """Rows of a file, and of which texts they are."""
        if places:
            where = torch.tensor(places)
            row[where[:, 1]], part[where[:, 1]] = where[:, 0], len(parts)
            parts.append(leaves)

    for file in sorted(folder.glob("*.safetensors")):
        opened = _open(file, encoder.digest)
        if opened is not None:
            held, leaves = opened
            there = ((k, number[key]) for k, key in enumerate(held) if key in number)
            found(leaves, [(k, i) for k, i in there if part[i] < 0])
    missing = (part < 0).nonzero().flatten().tolist()
    left = sorted(missing, key=lambda i: (len(texts[i]), texts[i]))
    start = 0
    while start < len(left):
        fresh: list[Leaves] = []
        end, taken = start, 0
        while end < len(left) and end - start < KEPT and taken < BYTES:
            tell("texts", end, len(left))
            batch = left[end : min(end + ROWS, start + KEPT)]
            fresh.append(_checked(encoder([texts[i] for i in batch]), len(batch)))
            end, taken = end + len(batch), taken + size(fresh[-1])
        leaves = join(fresh)
        file = _keep(folder, encoder.digest, [keys[i] for i in left[start:end]], leaves)
        # From its file, where it is read as it is used, if there is one.
        opened = None if file is None else _open(file, encoder.digest)
        found(leaves if opened is None else opened[1], list(enumerate(left[start:end])))
        del leaves, fresh  # before there are the next ones
        start = end
    if left:
        tell("texts", len(left), len(left))
    return shelved(parts, part, row)


def _checked(cond: Mapping[str, Condition], number: int) -> Leaves:
    leaves = leaves_of(cond)
    if count(leaves) != number:
        raise InputError(f"an encoder gave conditions of {count(leaves)} texts for {number}")
    return leaves


def _keep(folder: Path, digest: str, keys: Sequence[bytes], leaves: Leaves) -> Path | None:
    """Write rows as a file of their own, whole or not at all; None for what cannot be written, and is not kept."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kinds = dict.fromkeys(leaves, "tensor")
    tensors: dict[str, Tensor] = {
        "keys": torch.tensor([list(key) for key in keys], dtype=torch.uint8)
    }
    for name, leaf in leaves.items():
        if isinstance(leaf, Sequences):
            kinds[name] = "sequences"
            for part in ("values", "mask", "ends"):
                tensors[f"{part} {name}"] = getattr(leaf, part).contiguous()
        else:
            tensors[f"tensor {name}"] = leaf.contiguous()
    about = json.dumps({"format": FORMAT, "encoder": digest, "kinds": kinds}, sort_keys=True)
    metadata = {"about": about, "sha256": _sha256(about, tensors)}
    file = folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.safetensors"
    temporary = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(".tmp", ".", folder)
        os.close(handle)
        save_file(tensors, temporary, metadata)
        with open(temporary, "rb") as out:
            os.fsync(out.fileno())
        os.replace(temporary, file)
        return file
    except (OSError, SafetensorError):
        with suppress(OSError):
            os.unlink(temporary)
        return None


def _open(file: Path, digest: str) -> tuple[list[bytes], Leaves] | None:
    """Keys and rows of a file that is whole and of this encoder; else None. Tensors are read where they are used."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            # Maps of the file, which outlive its being closed.
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        about = json.loads(metadata.get("about", "null"))
        if metadata.get("sha256") != _sha256(metadata.get("about", ""), tensors):
            return None
        if about["format"] != FORMAT or about["encoder"] != digest:
            return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    leaves: Leaves = {}
    for name, kind in about["kinds"].items():
        if kind == "sequences":
            leaves[name] = Sequences(*(tensors[f"{p} {name}"] for p in ("values", "mask", "ends")))
        else:
            leaves[name] = tensors[f"tensor {name}"]
    return [bytes(key.tolist()) for key in tensors["keys"]], leaves


def _sha256(about: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        x = tensors[name].contiguous()
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        if x.numel():
            digest.update(memoryview(x.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()
