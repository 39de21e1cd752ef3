"""The members of an archive, put together into samples, as WebDataset does.

A sample is the members, one after the other, whose names agree up to the first dot of the last part: `a.png`, `a.cls`.
One of them is the image, by its suffix; `.cls` has a class as a number, `.txt` a caption, `.json` an object (see
`metadata`). Names with further dots are no convention of anybody, and are read where it is clear what they mean:

    a.input.png, a.cls             one image with a label
    v1.2_dog.png, v1.2_cat.png     two images, each with the texts of its own name up to the last dot
    a.png, a.seg.png               one image; the other is mentioned
    a.input.png, a.goal.png, a.cls refused by name: several images share a label

Aizman, Maltby & Breuel 2019, "High performance I/O for large scale deep learning" (arXiv 2001.01858).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pushforward.core.errors import DataError
from pushforward.data.images.decode import EXTENSIONS, OTHER_EXTENSIONS
from pushforward.data.images.metadata import Described, described
from pushforward.data.images.names import leads_out
from pushforward.data.images.tar import members

# The largest image file that is read: 64 million pixels of four bytes, uncompressed.
MAX_FILE = 1 << 28
# The largest caption or label.
MAX_TEXT = 1 << 20
TEXTS = ("cls", "json", "txt")


@dataclass(frozen=True)
class _Part:
    """A member that is an image or a text. key: up to the first dot; stem: up to the last; kind: what follows it."""

    name: str
    key: str
    stem: str
    kind: str
    offset: int
    size: int | None

    @property
    def is_text(self) -> bool:
        return self.kind in TEXTS


@dataclass
class Sample:
    """The members found for one image, and what is wrong with them."""

    key: str
    images: list[tuple[str, int, int]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def described(self) -> Described:
        """Label and caption. Raises ValueError with the reason."""
        item = json.loads(self.texts["json"]) if "json" in self.texts else {}
        if not isinstance(item, dict):
            raise ValueError("its .json is no object")
        about = described(item)
        label, text, label_field = about.label, about.text, about.field
        if "cls" in self.texts:
            number = int(self.texts["cls"])
            if number < 0:
                raise ValueError(f"its label is {number}; it must not be negative")
            if isinstance(label, int) and label != number:
                raise ValueError(f"its .cls says {number}, its .json {label}")
            label, label_field = (number, None) if label is None else (label, label_field)
        if "txt" in self.texts and text is None:
            text = self.texts["txt"].decode("utf-8").strip("\n")
        return Described(label, text, label_field, about.others)


@dataclass
class Unread:
    """What an archive has besides: further images of a sample, and files that are images of other formats."""

    further: list[str] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        notes = []
        if self.further:
            more = f" and {len(self.further) - 1} more" if len(self.further) > 1 else ""
            notes.append(f"not read: {self.further[0]}{more}, beside the image of the same sample")
        if self.formats:
            found = ", ".join(f"{n} x {suffix}" for suffix, n in self.formats.most_common(5))
            notes.append(f"not read: {found}, which are formats that are not decoded")
        return notes


def samples(descriptor: int, path: str, unread: Unread) -> Iterator[Sample]:
    """All samples of an archive, in order; what is not read is noted in `unread`.

    Raises DataError for members whose names lead out of a folder, and what `members` raises.
    """
    group: list[_Part] = []
    last: str | None = None
    for member in members(descriptor, path):
        if leads_out(member.name):
            raise DataError(f"{path}: the member {member.name!r} leads out of the folder")
        folder, slash, base = member.name.rpartition("/")
        first, _, _ = base.partition(".")
        if not first:
            continue
        key, (stem, dot, kind) = folder + slash + first, base.rpartition(".")
        if key != last:
            yield from _split(group, descriptor, unread)
            group, last = [], key
        kind = kind.lower()
        if dot and f".{kind}" in OTHER_EXTENSIONS:
            unread.formats[f".{kind}"] += 1
        elif dot and (kind in TEXTS or f".{kind}" in EXTENSIONS):
            part = _Part(member.name, key, folder + slash + stem, kind, member.offset, member.size)
            group.append(part)
    yield from _split(group, descriptor, unread)


def _split(group: list[_Part], descriptor: int, unread: Unread) -> Iterator[Sample]:
    """The samples in members of one key."""
    plain = [part for part in group if part.stem == part.key]
    dotted = [part for part in group if part.stem != part.key]
    images = [part for part in dotted if not part.is_text]
    stems = dict.fromkeys(part.stem for part in images)
    if not images or any(not part.is_text for part in plain):
        unread.further.extend(part.name for part in images)
        if plain:
            yield _sample(plain[0].key, plain, descriptor)
    elif len(stems) == 1:
        (stem,) = stems
        own = [part for part in dotted if part.stem == stem]
        yield _sample(plain[0].key if plain else stem, [*plain, *own], descriptor)
    elif plain:
        sample = _sample(plain[0].key, [*plain, *images], descriptor)
        sample.wrong = ["has several images: " + ", ".join(part.name for part in images)]
        yield sample
    else:
        for stem in stems:
            yield _sample(stem, [part for part in dotted if part.stem == stem], descriptor)


def _sample(key: str, parts: list[_Part], descriptor: int) -> Sample:
    sample = Sample(key)
    for part in parts:
        limit = MAX_TEXT if part.is_text else MAX_FILE
        if part.size is None:
            sample.wrong.append(f"its .{part.kind} is a link or no file")
        elif part.size > limit:
            sample.wrong.append(f"its .{part.kind} has {part.size} bytes, more than {limit}")
        elif part.is_text:
            sample.texts[part.kind] = os.pread(descriptor, part.size, part.offset)
        else:
            sample.images.append((part.name, part.offset, part.size))
    if len(sample.images) != 1 and not sample.wrong:
        sample.wrong.append("has several images" if sample.images else "has no image")
    return sample
