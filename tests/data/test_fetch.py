"""Downloads, and where they are kept."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from pushforward.core.errors import DataError
from pushforward.data.fetch import cache_folder, fetch

RNG = np.random.default_rng(0)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("PUSHFORWARD_CACHE", raising=False)
    assert cache_folder() == Path("/x/pushforward")
    monkeypatch.setenv("PUSHFORWARD_CACHE", "/y")
    assert cache_folder() == Path("/y")
    monkeypatch.delenv("PUSHFORWARD_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "pushforward"


def test_a_file_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Server:
        def __init__(self, timeout: float) -> None: ...

        def __call__(self, address: str, file: str, _: Any) -> None:
            asked.append(address)
            Path(file).write_bytes(b"content")

    monkeypatch.setattr(pooch, "HTTPDownloader", Server)
    good = hashlib.sha256(b"content").hexdigest()
    for _ in range(2):
        found = fetch("https://some.where/of/a.bin", tmp_path, good, "Do without.")
        assert (found, found.read_bytes()) == (tmp_path / "a.bin", b"content")
    assert asked == ["https://some.where/of/a.bin"]
    with pytest.raises(DataError, match=r"cannot get https://some\.where/b: .*Do without"):
        fetch("https://some.where/b", tmp_path, "0" * 64, "Do without.")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_without_pooch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[download\]'. Do without"):
        fetch("https://some.where/b", Path("x"), None, "Do without.")
