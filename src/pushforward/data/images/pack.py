"""Writing images to tar archives, as `load_shards` reads them."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.data.dataset import Dataset
from pushforward.data.images.decode import OnBad, check_options, is_exhaustion, open_image, reason
from pushforward.data.images.folder import list_folder
from pushforward.data.images.grouping import MAX_FILE
from pushforward.data.images.listing import Listing
from pushforward.data.images.shards import CLASSES
from pushforward.data.images.tar import BLOCK
from pushforward.data.labels import some


@dataclass(frozen=True)
class Packed:
    """What was written: the archives, how many images they hold, (file, reason) of those skipped, and notes."""

    shards: tuple[Path, ...]
    count: int
    report: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def write_shards(
    data: Dataset | str | Path, out: str | Path, per_shard: int = 10_000, on_bad: OnBad = "error"
) -> Packed:
    """Write a folder `out` of archives shard-00000.tar, ..., of `per_shard` images each, that `load_shards` reads.

    data: a folder of images, as `load_folder` takes them: their files are packed as they are, once it was seen that
    they can be decoded. Or pictures stored as uint8 in one or three channels, which become PNG. Each has a .json with
    its label, by name if there is one, its text, and the name of its file.

    The names of all classes are in `classes.json` beside. The same data give the same bytes: names are numbers, and
    times and owners 0. Nobody ever sees `out` with fewer archives than in the end.

    Raises InputError if `out` is there and is not an empty folder, and for data that PNG would change; DataError for
    images that cannot be decoded, unless on_bad is "skip", and what cannot be written.
    """
    check_options(None, 3, on_bad)
    if per_shard < 1:
        raise InputError(f"per_shard is {per_shard}; it must be at least 1")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: name a folder that is new or empty")
    problems: list[tuple[str, str]] = []
    notes: list[str] = []
    if isinstance(data, Dataset):
        samples, where = _dataset_samples(data, problems), "the data set"
        class_names = data.class_names
    else:
        listing = list_folder(Path(data))
        listing.refuse(listing.problems, on_bad, len(listing.source))
        problems.extend(listing.problems)
        notes.extend(listing.notes)
        samples, where = _folder_samples(listing, on_bad, problems), listing.where
        class_names = listing.class_names
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        names: list[str] = []
        count = 0
        while (part := _write_shard(temporary, len(names), samples, per_shard, count)) > 0:
            names.append(_shard_name(len(names)))
            count += part
        if count == 0:
            raise DataError(f"{where} has no image that can be packed")
        if class_names is not None:
            (temporary / CLASSES).write_bytes(json.dumps(class_names).encode())
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shards = tuple(target / name for name in names)
    return Packed(shards, count, tuple(problems), tuple(notes))


def _shard_name(number: int) -> str:
    return f"shard-{number:05}.tar"


def _write_shard(
    folder: Path, number: int, samples: Iterator[tuple[str, bytes, dict]], most: int, first: int
) -> int:
    """Write the next samples, at most so many, to an archive; returns how many there were."""
    sample = next(samples, None)
    if sample is None:
        return 0
    count = 0
    with (folder / _shard_name(number)).open("wb") as file:
        while sample is not None:
            suffix, content, entry = sample
            key = f"{first + count:09}"
            _add(file, f"{key}{suffix}", content)
            if entry:
                _add(
                    file,
                    f"{key}.json",
                    json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogateescape"),
                )
            count += 1
            sample = next(samples, None) if count < most else None
        file.write(bytes(2 * BLOCK))
        file.flush()
        os.fsync(file.fileno())
    return count


def _add(file: IO[bytes], name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    file.write(content)
    file.write(bytes(-len(content) % BLOCK))


def _described(
    i: int, labels: Any, class_names: Sequence[str] | None, captions: Sequence[str] | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if labels is not None:
        entry["label"] = int(labels[i]) if class_names is None else class_names[int(labels[i])]
    if captions is not None:
        entry["text"] = captions[i]
    return entry


def _folder_samples(
    listing: Listing, on_bad: OnBad, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes, dict]]:
    for i, name in enumerate(listing.names):
        path = Path(listing.source.name(i))
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
            if len(content) > MAX_FILE:
                raise DataError(f"{path} has more than {MAX_FILE} bytes")
            with open_image(io.BytesIO(content)) as image:
                image.load()
        except DataError:
            raise
        except Exception as error:
            if is_exhaustion(error):
                raise
            if on_bad == "error":
                raise DataError(
                    f'{path} {reason(error)}. Mend or remove it, or pass --on-bad skip (on_bad="skip")'
                ) from error
            problems.append((name, reason(error)))
            continue
        entry = _described(i, listing.labels, listing.class_names, listing.captions)
        yield path.suffix.lower(), content, {"file_name": name, **entry}


def _dataset_samples(
    data: Dataset, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes, dict]]:
    if data.values.dtype != np.uint8 or not data.images or data.shape[0] not in (1, 3):
        raise InputError(
            "only images stored as uint8 in one or three channels can be packed: PNG would change others"
        )
    lost = [*data.columns, *(name for name in data.texts if name != "caption")]
    if lost or data.mask is not None:
        raise InputError(
            f"archives hold labels and captions, and these data have {some(lost or ['a mask'])}: drop it first"
        )

    def samples() -> Iterator[tuple[str, bytes, dict]]:
        for i in range(len(data)):
            batch = data[torch.tensor([i])]
            if batch.ids is None or int(batch.ids[0]) != i:
                problems.append((f"sample {i}", "cannot be decoded"))
                continue
            grey = ((batch.x1[0] + 1) * 127.5).round().byte().movedim(0, 2).numpy()
            image = Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey)
            file = io.BytesIO()
            image.save(file, "PNG")
            entry = _described(i, data.labels, data.class_names, data.captions)
            yield ".png", file.getvalue(), entry

    return samples()
