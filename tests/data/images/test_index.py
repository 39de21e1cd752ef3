"""The index of an archive: found once, kept, and not believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from imagefiles import encoded, pack, picture

from pushforward.data import load_shards
from pushforward.data.images import index

PNG = [encoded(picture(i)) for i in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def count_indexing(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    make = index.make_index

    def counted(descriptor: int, path: Path, mark: dict[str, object]) -> index.Index:
        made.append(path)
        return make(descriptor, path, mark)

    monkeypatch.setattr(index, "make_index", counted)
    return made


def test_an_archive_is_gone_through_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]), ("b.png", PNG[1]))
    mark = load_shards(path).fingerprint()
    assert (tmp_path / "a.tar.index.npz").is_file()
    assert load_shards(path).fingerprint() == mark
    assert len(made) == 1

    status = path.stat()
    pack(path, ("a.png", PNG[0]), ("b.png", PNG[1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_shards(path).fingerprint() == mark  # Times are no part of what the data are.
    assert len(made) == 2

    pack(path, ("c.png", PNG[0]), ("b.png", PNG[1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_shards(path).fingerprint() != mark
    assert len(made) == 3

    with path.open("ab") as file:
        file.write(bytes(512))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    load_shards(path)
    assert len(made) == 4

    with path.open("r+b") as file:  # The last byte alone, behind the end mark.
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    load_shards(path)
    assert len(made) == 5


def test_where_nothing_can_be_written_the_index_goes_to_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]))
    (tmp_path / "a.tar.index.npz").mkdir()  # Nobody can rename a file over a folder, not even root.
    for _ in range(2):
        load_shards(path)
    assert len(made) == 1
    assert len(list((cache / "pushforward" / "indexes").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    load_shards(path)
    assert len(made) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index.npz"]


def test_an_index_that_somebody_else_has_written_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]), ("b.png", PNG[1]))
    place = tmp_path / "a.tar.index.npz"
    wanted = load_shards(path).fingerprint()
    good = dict(np.load(place))
    changes: list[dict[str, np.ndarray]] = [
        {"offsets": good["offsets"] + 2**40},
        {"offsets": good["offsets"] - 2**40},
        {"offsets": good["offsets"][:1]},
        {"offsets": good["offsets"].astype(float)},
        {"sizes": good["sizes"] + 2**30},
        {"sizes": -good["sizes"]},
        {"names_ends": good["names_ends"][::-1].copy()},
        {"names_ends": good["names_ends"] + 1},
        {"annotations_ends": good["annotations_ends"][:-1]},
        {"annotations": np.frombuffer(b"[1,2,3]" * 4, np.uint8)[: len(good["annotations"])]},
        {"annotations": np.array([{"label": 1}, "x"], dtype=object)},
        {"mark": np.array(json.dumps({**json.loads(str(good["mark"])), "version": 99}))},
        {"names": np.zeros(1 << 20, np.uint8)},
    ]
    for change in changes:
        np.savez_compressed(place, **{**good, **change})
        before = len(made)
        assert load_shards(path).fingerprint() == wanted
        assert len(made) == before + 1
    for content in (b"", b"PK\3\4", place.read_bytes()[:-50]):
        place.write_bytes(content)
        assert load_shards(path).fingerprint() == wanted


def test_a_change_within_the_last_block_alone_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]))
    load_shards(path)
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    load_shards(path)
    assert len(made) == 2
