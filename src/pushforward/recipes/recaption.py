"""Pictures to be captioned, read some at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.data import Dataset
    from pushforward.data.images.decode import OnBad

# Scenes that are captioned, if it is not said how many.
SCENES = 1000


@dataclass(frozen=True)
class Pictures:
    """N pictures.

    read:   rows -> (B, C, H, W) with values in [-1, 1], and why a row is none that can be read, by row.
    called: the name of one, as {"file_name": ...}, or {} where it has none.
    digest: of which pictures they are, in order.
    """

    count: int
    read: Callable[[range], tuple[Tensor, dict[int, str]]]
    called: Callable[[int], dict[str, str]]
    digest: str

    def __len__(self) -> int:
        return self.count


def pictures_of(
    data: str,
    shape: tuple[int, ...],
    num: int | None = None,
    package: Path | None = None,
    on_bad: OnBad = "error",
) -> Pictures:
    """The first `num` pictures of scenes (those that are trained on by default), of emoji, or at a path, with this
    shape (C, H, W). Of files only those that are read are in memory. Annotations beside them are not read.

    on_bad: "error" raises a DataError about a file that cannot be decoded, "skip" says why it cannot.
    """
    from pushforward.core.errors import InputError

    channels, size = shape[0], shape[1]
    if data == "scenes":
        if channels != 3:
            raise InputError(f"scenes are in colour, and this captioner sees {channels} channel")
        return Pictures(
            SCENES if num is None else num, lambda rows: _scenes(rows, size), _scene, ""
        )
    if data == "emoji":
        from pushforward.data.emoji import load_emoji

        whole = load_emoji(size, package)
    else:
        whole = _load(Path(data), size, channels, on_bad)
    if whole.shape != shape:
        raise InputError(
            f"the pictures of {data} are {whole.shape}, and this captioner sees {shape}"
        )
    return _of(whole, len(whole) if num is None else min(num, len(whole)))


def _of(whole: Dataset, count: int) -> Pictures:
    import torch

    from pushforward.data.images.lazy import Pictures as Files
    from pushforward.evaluate.clip import in_range

    names, values = whole.names, whole.values

    def called(row: int) -> dict[str, str]:
        return {} if names is None else {"file_name": names[row]}

    def read(rows: range) -> tuple[Tensor, dict[int, str]]:
        batch = whole[torch.arange(rows.start, rows.stop)]
        assert batch.ids is not None
        bad: dict[int, str] = {}
        for row, found in zip(rows, batch.ids.tolist(), strict=True):
            if row != found and isinstance(values, Files):
                bad[row] = values.bad[row]
        return in_range(batch.x1, whole.value_range), bad

    digest = values.source.digest() if isinstance(values, Files) else str(whole)
    return Pictures(count, read, called, digest)


def _load(path: Path, size: int, channels: int, on_bad: OnBad) -> Dataset:
    from pushforward.core.errors import InputError
    from pushforward.data import load_images
    from pushforward.data.images.files import Files, scan
    from pushforward.data.images.listing import Listing
    from pushforward.data.images.load import is_array, is_packed

    if path.is_dir() and not is_packed(path):
        names = scan(path)
        return Listing(str(path), Files(path, names), names).dataset(size, channels, on_bad, True)
    whole = load_images(path, size, channels, on_bad, lazy=None if is_array(path) else True)
    if whole.kind != "image":
        raise InputError(f"{path} holds samples of shape {whole.shape}, and no pictures")
    return whole


def _scenes(rows: range, size: int) -> tuple[Tensor, dict[int, str]]:
    import torch

    from pushforward.data.scenes import draw, render

    pictures = render([draw(0, row)[0] for row in rows], size)
    return torch.tensor(pictures).movedim(-1, 1).float() / 127.5 - 1, {}


def _scene(row: int) -> dict[str, str]:
    from pushforward.data.scenes.load import name_of

    return {"file_name": name_of(row)}
