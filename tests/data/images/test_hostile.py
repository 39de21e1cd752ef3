"""Files made to do harm: nothing in them is executed, memory stays bounded, and each is refused by its name."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from imagefiles import bomb, encoded, pack, picture

from pushforward.core.errors import DataError
from pushforward.data import load_folder, load_images, load_shards, write_shards
from pushforward.data.images.tar import members


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def trap(path: Path) -> bytes:
    """A pickle that makes this file when it is loaded."""

    class Making:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return open, (str(path), "w")

    return pickle.dumps(Making())


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(trap(tmp_path / "sprung")).close()
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_called_arrays_are_not_loaded(tmp_path: Path, name: str) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / name
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    array = head.getvalue() + trap(sprung)
    contents = [trap(sprung), array]
    if name == "a.npz":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("images.npy", array)
        contents.append(file.getvalue())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_images(path)
        assert str(path) in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize("lazy", [True, False])
def test_pickles_called_images_are_not_loaded(tmp_path: Path, lazy: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(trap(tmp_path / "sprung"))
    path = pack(tmp_path / "a.tar", ("a.png", trap(tmp_path / "sprung")))
    for source in (tmp_path / "in", path):
        with pytest.raises(DataError, match=r"a\.png:? is none of PNG"):
            load_images(source, 8, lazy=lazy)[torch.tensor([0])]
    with pytest.raises(DataError, match=r"a\.png is none of PNG"):
        write_shards(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_called_index_is_not_loaded(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ("a.png", encoded(picture(0))))
    place = tmp_path / "a.tar.index.npz"
    load_shards(path)
    good = dict(np.load(place))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    with zipfile.ZipFile(place, "w") as archive:
        for name, values in good.items():
            file = io.BytesIO()
            np.save(file, values)
            content = file.getvalue()
            archive.writestr(
                f"{name}.npy",
                head.getvalue() + trap(tmp_path / "sprung") if name == "said" else content,
            )
    assert len(load_shards(path)) == 1
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "in/../../a.png", "..\\a.png", "C:\\a.png"]
)
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_names_of_members_that_lead_out_are_refused(tmp_path: Path, name: str, on_bad: str) -> None:
    path = pack(tmp_path / "a.tar", ("b.png", encoded(picture(0))), (name, encoded(picture(1))))
    with pytest.raises(DataError, match=r"a\.tar: the member .* leads out") as caught:
        load_shards(path, on_bad=on_bad)  # type: ignore[arg-type]
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_are_no_images(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
        info = tarfile.TarInfo("b.png")
        info.size = len(encoded(picture(0)))
        archive.addfile(info, io.BytesIO(encoded(picture(0))))
    with pytest.raises(DataError, match=r"a\.tar: a: .*its \.png is a link or no file"):
        load_shards(path)
    assert len(load_shards(path, on_bad="skip")) == 1


def whole(folder: Path) -> bytes:
    return pack(
        folder / "whole.tar", *((f"{i}.png", encoded(picture(i))) for i in range(4))
    ).read_bytes()


def test_an_archive_cut_off_anywhere_is_refused_with_the_place(tmp_path: Path) -> None:
    content = whole(tmp_path)
    path = tmp_path / "a.tar"
    end = max(i for i in range(0, len(content), 512) if any(content[i : i + 512])) + 512
    for length in (*range(1, end, 100), *range(512, end + 1, 512)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.tar .*\b\d+\b"):
            load_shards(path, on_bad="skip")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar is cut off at byte 0"):
        load_shards(path)
    path.write_bytes(content[: end + 512])
    assert len(load_shards(path)) == 4


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    content = bytearray(whole(tmp_path))
    path = tmp_path / "a.tar"
    second = content.index(b"1.png")
    content[second + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.tar is damaged: at byte {second} is no header"):
        load_shards(path, on_bad="skip")
    path.write_bytes(b"this is a text" * 100)
    with pytest.raises(DataError, match=r"a\.tar is no tar archive"):
        load_shards(path)


@pytest.mark.parametrize("size", [2000, 2**33 - 1, 2**62, -1, -(2**40)])
def test_a_size_beyond_the_file_is_refused_before_anything_is_read(
    tmp_path: Path, size: int
) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = size
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    start = time.process_time()
    with pytest.raises(
        DataError, match=rf"a\.tar .*the member a.png at byte 0 declares {size} bytes"
    ):
        load_shards(path, on_bad="skip")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_many_bytes_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, 1 << 21
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 21) + bytes(1024))
    with pytest.raises(
        DataError, match=r"a\.tar: at byte 512 is a name or an attribute of 2097152 bytes"
    ):
        load_shards(path)


@pytest.mark.parametrize("records", [b"9 path=a\n\xff", b"999 path=a\n", b"-5 path=a\n", b"x path=a\n",
                                     b"2 path=a\n", b"12 size=abc\n", b"1_1 path=abc\n"])  # fmt: skip
def test_damaged_attributes_are_refused(tmp_path: Path, records: bytes) -> None:
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    path = tmp_path / "a.tar"
    path.write_bytes(
        info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(512 - len(records)) + bytes(1024)
    )
    with pytest.raises(DataError, match=r"a\.tar is damaged: at byte 512 are no pax attributes"):
        load_shards(path)


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar: the member a\.png at byte 0 is sparse"):
        load_shards(path)
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"GNU.sparse.major": "1"}
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar: the member a\.png .* is sparse"):
        load_shards(path)


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_compressed_archives_are_refused(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=rf"a\.tar is compressed \({name}\).*unpack it"):
        load_shards(path)


def test_a_header_that_points_at_itself_ends(tmp_path: Path) -> None:
    """No member can make the reader go back: places only grow."""
    content = whole(tmp_path)
    path = tmp_path / "whole.tar"
    with path.open("rb") as file:
        places = [m.offset for m in members(file.fileno(), "a")]
    assert places == sorted(places)
    assert len(content) > places[-1]


def test_images_and_texts_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for name, size in (("a.png", (1 << 28) + 1), ("b.txt", (1 << 20) + 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        info = tarfile.TarInfo("c.png")
        info.size = len(encoded(picture(0)))
        file.write(info.tobuf(tarfile.USTAR_FORMAT) + encoded(picture(0)))
        file.write(bytes(-info.size % 512 + 1024))
    with pytest.raises(
        DataError, match=r"(?s)a: its \.png has 268435457 bytes.*b: its \.txt has 1048577 bytes"
    ):
        load_shards(path)
    assert len(load_shards(path, on_bad="skip")) == 1


LIMITED = """
import resource, sys
import numpy, torch, PIL.Image
from pushforward.core.errors import DataError
from pushforward.data import load_images, read_idx
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for name in sys.argv[1:]:
    try:
        if name.endswith(".gz"):
            read_idx(name)
        else:
            load_images(name, 8, lazy="lazy" in name)[torch.tensor([0])]
    except DataError as error:
        assert name in str(error), error
    else:
        sys.exit(f"{name} was taken")
"""


def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    """Each in a process that may take no more than 64 MiB beyond what the libraries take."""
    sources = []
    for name in ("eager", "lazy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(bomb())
        sources.append(str(tmp_path / name))
        sources.append(str(pack(tmp_path / f"{name}.tar", ("a.png", bomb(9000, 8000)))))
    with gzip.open(tmp_path / "idx.gz", "wb") as file:
        file.write(b"\0\0\x08\1\0\0\0\x10")
        for _ in range(200):
            file.write(bytes(1 << 20))
    info = tarfile.TarInfo("a.png")
    info.size = 2**40
    (tmp_path / "size.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    sources += [str(tmp_path / "idx.gz"), str(tmp_path / "size.tar")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *sources],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bomb_called_index_is_not_unpacked(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ("a.png", encoded(picture(0))))
    place = tmp_path / "a.tar.index.npz"
    load_shards(path)
    good = dict(np.load(place))
    np.savez_compressed(place, **{**good, "names": np.zeros(1 << 28, np.uint8)})
    assert place.stat().st_size < 1 << 20
    tracemalloc.start()
    assert len(load_shards(path)) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_folder_of_every_bad_file_is_refused_lazily_by_name(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "empty.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = load_folder(tmp_path, 8, lazy=True)
    for i, name in enumerate(("bomb", "empty", "gone")):
        with pytest.raises(DataError, match=rf"{name}\.png "):
            dataset[torch.tensor([i])]
