"""A file of JSON lines that is written over several runs: what is there is kept, and nothing is written twice."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pushforward.core.errors import CheckpointError, InputError
from pushforward.runtime.files import explain, write_file


class Lines:
    """Objects with ids 0, 1, 2, ..., one a line, appended to what a file has.

        with Lines(path, about) as lines:
            lines.append({"id": i, ...} for i in range(lines.next, total))

    about:  what the lines are a function of: recorded beside the file, in NAME.about.json, and it must be the same for
            a file that is continued.
    next:   the id of the next line. A last line that was cut off, as by a kill, is removed when the file is opened.

    Lines of one `append` are written and brought to the disk together. One process writes at a time. Raises InputError
    for a file that was written otherwise, or is written by another process.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path, self.overwrite = path, overwrite
        self.about = json.loads(json.dumps(about))
        self.record = path.with_name(f"{path.name}.about.json")
        self.next = 0

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Neither cut nor appended to before it is known whose it is.
            self.file: BinaryIO = os.fdopen(
                os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b"
            )
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        try:
            self._open()
        except BaseException:
            self.file.close()
            raise
        return self

    def _open(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another process is writing {self.path}") from error
        if self.overwrite:
            self.file.truncate(0)
        if self.file.seek(0, os.SEEK_END) == 0:
            write_file(self.record, (json.dumps(self.about, indent=1) + "\n").encode())
            return
        self._require_same()
        self._repair()

    def _require_same(self) -> None:
        advice = "replace it with --overwrite, or choose another --out"
        if not self.record.is_file():
            raise InputError(
                f"{self.path} is there already, and was not begun here, for {self.record.name} is missing: {advice}"
            )
        try:
            before = json.loads(self.record.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self.record}: {error}") from error
        differ = [name for name, value in self.about.items() if before.get(name) != value]
        if differ:
            raise InputError(
                f"{self.path} was begun otherwise ({', '.join(differ)}), and is not continued: {advice}"
            )

    def _repair(self) -> None:
        """Count whole lines, and cut off what is behind them."""
        self.file.seek(0)
        end = count = 0
        last = b""
        for line in self.file:
            if not line.endswith(b"\n"):
                break
            end, count, last = end + len(line), count + 1, line
        try:
            found = json.loads(last)["id"] if last else -1
        except (ValueError, KeyError, TypeError):
            found = None
        if found != count - 1:
            raise CheckpointError(
                f"{self.path} is damaged: its line {count} is not that of number {count - 1}. Mend it, or begin anew "
                f"with --overwrite"
            )
        self.file.truncate(end)
        self.next = count

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = [line_of(entry) for entry in entries]
        try:
            self.file.seek(0, os.SEEK_END)
            self.file.write(b"".join(lines))
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise explain(self.path, error) from error
        self.next += len(lines)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()


def line_of(entry: Mapping[str, Any]) -> bytes:
    """An object as a line of UTF-8; names of files that are none are escaped."""
    try:
        return (json.dumps(dict(entry), ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(dict(entry)) + "\n").encode()
