"""The members of a tar archive: where each one's content lies. Nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pushforward.core.errors import DataError

BLOCK = tarfile.BLOCKSIZE
# What a long name or a set of extended attributes may take.
MAX_HEAD = 1 << 20
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
}
FILE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, and where its content lies. size is None for a link or a device."""

    name: str
    offset: int
    size: int | None


def members(descriptor: int, path: str) -> Iterator[Member]:
    """All files of a tar archive, in order, by its headers alone, which are read one after the other.

    The formats: POSIX ustar and pax, with long names and large sizes, and GNU's. tarfile's reader is not used, because
    it takes a damaged header for the end of the archive. Raises DataError, with the place in bytes, for an archive that
    is cut off, damaged, compressed, or has sparse members, and for a content larger than the file.
    """
    total = os.fstat(descriptor).st_size
    start = os.pread(descriptor, 8, 0)
    for magic, method in COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path} is compressed ({method}), so that its members cannot be reached one by one: unpack it to a "
                f"plain .tar"
            )
    offset = 0
    long_name: str | None = None
    attributes: dict[str, Any] = {}
    while True:
        header = os.pread(descriptor, BLOCK, offset)
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        except tarfile.HeaderError as error:
            if len(header) < BLOCK:
                raise DataError(
                    f"{path} is cut off at byte {total}: it has no end mark. Copy or write it again"
                ) from error
            what = "is no tar archive" if offset == 0 else "is damaged"
            raise DataError(f"{path} {what}: at byte {offset} is no header ({error})") from error
        kind = info.type
        content = offset + BLOCK
        is_file = kind in FILE
        size = attributes.get("size", info.size) if is_file else info.size
        if kind == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in attributes
        ):
            raise DataError(
                f"{path}: the member {info.name} at byte {offset} is sparse, which is not read: pack it without "
                f"--sparse"
            )
        has_content = is_file or kind not in tarfile.SUPPORTED_TYPES or kind in (
            tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
        )  # fmt: skip
        if not has_content:
            size = 0
        if size < 0 or content + size > total:
            raise DataError(
                f"{path} is cut off or damaged: the member {info.name} at byte {offset} declares {size} bytes, and the "
                f"file ends at {total}"
            )
        offset = content + -(-size // BLOCK) * BLOCK
        if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            if size > MAX_HEAD:
                raise DataError(
                    f"{path}: at byte {content} is a name or an attribute of {size} bytes"
                )
            head = os.pread(descriptor, size, content)
            if kind == tarfile.GNUTYPE_LONGNAME:
                long_name = head.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            else:
                attributes = _attributes(head, path, content)
            continue
        if kind in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            continue
        name = attributes.get("path", long_name) or info.name
        attributes, long_name = {}, None
        if kind != tarfile.DIRTYPE:
            yield Member(name, content, size if is_file else None)


def _attributes(head: bytes, path: str, offset: int) -> dict[str, Any]:
    """The records "length key=value\\n" of a pax header; the size as a number."""
    found: dict[str, Any] = {}
    rest = head
    try:
        while rest and rest[0]:
            digits, _, _ = rest.partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record, rest = rest[len(digits) + 1 : length], rest[length:]
            if len(record) != length - len(digits) - 1 or record[-1:] != b"\n":
                raise ValueError("a record does not end where it should")
            key, _, value = record[:-1].partition(b"=")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        if "size" in found:
            found["size"] = int(found["size"])
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: at byte {offset} are no pax attributes ({error})"
        ) from error
    return found
