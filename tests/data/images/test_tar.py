"""The members of an archive."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefiles import encoded, pack, picture, stored

from pushforward.data import Pictures, load_shards
from pushforward.data.images.tar import members

PNG = [encoded(picture(i)) for i in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_tar_format_with_long_names_is_read(tmp_path: Path, form: int) -> None:
    folder = "d" * 90
    long = f"{folder}/{'n' * 80}" if form == tarfile.USTAR_FORMAT else f"{folder}/{'ü' * 150}"
    path = pack(tmp_path / "a.tar", (f"{long}.png", PNG[0]), ("b.png", PNG[1]), form=form)
    found = {}
    with path.open("rb") as file:
        for member in members(file.fileno(), "a"):
            found[member.name] = os.pread(file.fileno(), member.size or 0, member.offset)
    assert found == {f"{long}.png": PNG[0], "b.png": PNG[1]}
    assert np.array_equal(stored(load_shards(path), 1), picture(1))


@given(
    st.lists(
        st.tuples(st.text("abcü./-", min_size=1, max_size=300), st.binary(max_size=2000)),
        max_size=6,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_python_s_reader_finds(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, bytes]], form: int
) -> None:
    items = [(name, content) for name, content in items if not name.endswith("/")]
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", *items, form=form)
    with tarfile.open(path) as archive, path.open("rb") as file:
        wanted = [(m.name, m.offset_data, m.size) for m in archive]
        assert [(m.name, m.offset, m.size) for m in members(file.fileno(), "a")] == wanted


def test_a_size_in_an_extended_header_counts(tmp_path: Path) -> None:
    """As for members of 8 GiB and more, whose size does not fit in the header."""
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": str(len(PNG[0])), "path": "b.png"}
        file.write(
            info.tobuf(tarfile.PAX_FORMAT) + PNG[0] + bytes(-len(PNG[0]) % 512) + bytes(1024)
        )
    dataset = load_shards(path)
    assert np.array_equal(stored(dataset), picture(0))
    assert isinstance(dataset.values, Pictures)
    assert dataset.values.source.name(0) == f"{path}: b.png"
