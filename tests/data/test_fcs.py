"""FCS files: every type, order and oddity is read right, or refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fcsfiles import by_hand, segment, write
from pushforward.core.errors import DataError
from pushforward.data.cytometry import load_cells
from pushforward.data.fcs import read_fcs

RNG = np.random.default_rng(0)


ORDERS = [
    ("<f4", "1,2,3,4"), (">f4", "4,3,2,1"), ("<f8", "1,2,3,4"), (">f8", "4,3,2,1"), ("<f8", "1,2,3,4,5,6,7,8"),
    (">f8", "8,7,6,5,4,3,2,1"), ("<u1", "1,2,3,4"), (">u2", "2,1"), ("<u2", "1,2,3,4"), (">u4", "4,3,2,1"),
    ("<u8", "1,2"),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "order"), ORDERS)
def test_numbers_are_read_in_every_precision_and_byte_order(
    tmp_path: Path, stored: str, order: str
) -> None:
    values = RNG.integers(0, 256, (6, 3)).astype(stored)
    by_hand(tmp_path / "a.fcs", values, order)
    assert np.array_equal(read_fcs(tmp_path / "a.fcs").values, values.astype(np.float32))


def test_gain_and_logarithm_are_taken_out(tmp_path: Path) -> None:
    """FCS 3.1, $PnE and $PnG: 4 decades above 1 over the range of 1024; and a gain of 2."""
    values = np.array([[0, 256], [512, 1023]], "<u2")
    by_hand(tmp_path / "log.fcs", values, "1,2", E="4,1")
    expected = 10 ** (4 * values.astype(float) / 1024)
    np.testing.assert_allclose(read_fcs(tmp_path / "log.fcs").values, expected, rtol=1e-6)
    by_hand(tmp_path / "gain.fcs", values, "1,2", G="2")
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


def test_without_flowio_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['flowio'] = None\n"
        "from pushforward.data.fcs import read_fcs\n"
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


def permuted(values: np.ndarray, order: str) -> np.ndarray:
    """The bytes (N, width) of numbers in the order of a keyword, from the standard: byte i of the file has rank i."""
    width = values.dtype.itemsize
    little = values.astype(values.dtype.newbyteorder("<"))[:, None].view(np.uint8)
    assert sorted(map(int, order.split(","))) == list(range(1, width + 1))
    return little[:, [int(rank) - 1 for rank in order.split(",")]]


@pytest.mark.parametrize(
    ("dtype", "order"),
    [
        ("f8", "5,6,7,8,1,2,3,4"), ("f8", "4,3,2,1,8,7,6,5"), ("f4", "3,4,1,2"), ("f4", "2,3,4,1"),
        ("u4", "3,4,1,2"),
    ],
)  # fmt: skip
def test_unusual_byte_orders_are_read(tmp_path: Path, dtype: str, order: str) -> None:
    values = RNG.integers(0, 1000, (5, 2)).astype(dtype)
    text = {"DATATYPE": "I" if dtype[0] == "u" else {"f4": "F", "f8": "D"}[dtype]}
    columns = [permuted(column, order) for column in np.ascontiguousarray(values.T)]
    (tmp_path / "a.fcs").write_bytes(segment(columns, order, **text))
    assert np.array_equal(read_fcs(tmp_path / "a.fcs").values, values.astype(np.float32))


@pytest.mark.parametrize("order", ["3,4,1,2", "2,1,4,3"])
def test_a_byte_order_that_does_not_fit_is_refused_by_the_channel(
    tmp_path: Path, order: str
) -> None:
    values = RNG.normal(size=(5, 2))
    (tmp_path / "a.fcs").write_bytes(segment(list(values.T), order, P1N="FSC-A"))
    with pytest.raises(
        DataError, match=r"channel FSC-A has numbers of 8 bytes, and the byte order"
    ):
        read_fcs(tmp_path / "a.fcs")
    (tmp_path / "a.fcs").write_bytes(segment(list(values.T), "1,1,2,2"))
    with pytest.raises(DataError, match="which is no order"):
        read_fcs(tmp_path / "a.fcs")


def test_channels_of_different_types_are_read_each_as_it_is(tmp_path: Path) -> None:
    """FCS 3.2: $PnDATATYPE, beside a $DATATYPE for the others."""
    columns = [
        RNG.normal(size=7).astype("<f4"), RNG.integers(0, 60_000, 7).astype("<u2"), RNG.normal(size=7),
        RNG.integers(0, 200, 7).astype("u1"), RNG.integers(0, 2**31, 7).astype("<u4"),
    ]  # fmt: skip
    big = {f"P{i}R": str(2**32) for i in (2, 4, 5)}
    kinds = {"P2DATATYPE": "I", "P3DATATYPE": "D", "P4DATATYPE": "I", "P5DATATYPE": "I"}
    path = tmp_path / "a.fcs"
    path.write_bytes(segment(columns, version="3.2", **big, **kinds))
    cells = read_fcs(path)
    for found, column in zip(cells.values.T, columns, strict=True):
        assert np.array_equal(found, column.astype(np.float32))
    order = [c.astype(c.dtype.newbyteorder(">")) for c in columns]
    path.write_bytes(segment(order, "4,3,2,1", version="3.2", **big, **kinds))
    assert np.array_equal(read_fcs(path).values, cells.values)


@pytest.mark.parametrize("kind", ["F", "D"])
def test_logarithmic_keywords_on_floating_numbers_are_ignored_and_said(
    tmp_path: Path, kind: str
) -> None:
    values = RNG.normal(200, 50, (6, 2)).astype({"F": "<f4", "D": "<f8"}[kind])
    (tmp_path / "a.fcs").write_bytes(segment(list(np.ascontiguousarray(values.T)), P2E="4,1"))
    cells = read_fcs(tmp_path / "a.fcs")
    assert np.array_equal(cells.values, values.astype(np.float32))
    (note,) = cells.notes
    assert "channel C2" in note
    assert "$P2E is ignored" in note
    assert load_cells("a", tmp_path).notes == cells.notes


def test_bits_above_the_range_are_noise(tmp_path: Path) -> None:
    """FCS 3.1, $PnR: of 16 bits with a range of 1000, ten count."""
    values = RNG.integers(0, 1000, (6, 1)).astype("<u2")
    by_hand(tmp_path / "a.fcs", values | 0b1010_1100_0000_0000, "1,2", R="1000")
    assert np.array_equal(read_fcs(tmp_path / "a.fcs").values, values.astype(np.float32))


def test_whole_numbers_of_three_bytes_are_read(tmp_path: Path) -> None:
    values = RNG.integers(0, 2**24, 6).astype("<u4")
    three = values[:, None].view(np.uint8).reshape(6, 4)[:, :3]
    for columns, order in (([three], "1,2,3,4"), ([three[:, ::-1]], "4,3,2,1")):
        (tmp_path / "a.fcs").write_bytes(segment(columns, order, P1R=str(2**24), DATATYPE="I"))
        assert np.array_equal(read_fcs(tmp_path / "a.fcs").values[:, 0], values.astype(np.float32))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ({"P2B": "10"}, "channel C2 has 10 bits"),
        ({"DATATYPE": "A"}, r"channel C1 is stored as text \(ASCII\): export"),
        ({"P2DATATYPE": "D"}, "channel C2 is of type D, of 64 bits, and declares 32"),
        ({"P1DATATYPE": "Q"}, "channel C1 is stored in a type 'Q'"),
        ({"MODE": "C"}, "histograms"),
        ({"P2N": "C1"}, "2 channels, but the names C1, C1"),
    ],
)
def test_what_is_not_read_is_refused_by_the_channel(
    tmp_path: Path, text: dict[str, str], match: str
) -> None:
    columns = [RNG.normal(size=4).astype("<f4") for _ in range(2)]
    (tmp_path / "a.fcs").write_bytes(segment(columns, **text))
    with pytest.raises(DataError, match=match):
        read_fcs(tmp_path / "a.fcs")


def test_a_well_without_cells_is_skipped_and_said(tmp_path: Path) -> None:
    values = RNG.normal(size=(4, 2)).astype("<f4")
    none = [np.zeros(0, "<f4")] * 2
    (tmp_path / "a.fcs").write_bytes(segment(none, BEGINDATA="0", ENDDATA="0"))
    (tmp_path / "b.fcs").write_bytes(segment(list(np.ascontiguousarray(values.T))))
    assert len(read_fcs(tmp_path / "a.fcs")) == 0
    cells = load_cells("", tmp_path)
    assert np.array_equal(cells.values, values)
    assert cells.wells == {"b": 4}
    assert cells.report == (("a", "has no cells"),)
    with pytest.raises(DataError, match="a: no cells at all"):
        load_cells("a", tmp_path)


def test_an_end_of_the_data_that_is_one_byte_off_is_read_and_said(tmp_path: Path) -> None:
    values = RNG.normal(size=(4, 2)).astype("<f4")
    columns = list(np.ascontiguousarray(values.T))
    path = tmp_path / "a.fcs"
    path.write_bytes(segment(columns, shift=1))
    cells = read_fcs(path)
    assert np.array_equal(cells.values, values)
    assert "one byte too late" in cells.notes[0]
    # The text is right, and the header is not.
    path.write_bytes(segment(columns, shift=1, ENDDATA=str(2047 + 32)))
    assert np.array_equal(read_fcs(path).values, values)
    for shift in (-1, 2, 8):
        path.write_bytes(segment(columns, shift=shift) + bytes(16))
        with pytest.raises(DataError, match="it declares 4 cells of 8 bytes, 32 bytes, and data"):
            read_fcs(path)
    path.write_bytes(segment(columns)[:-3])
    with pytest.raises(DataError, match=r"cut off|greater than file size"):
        read_fcs(path)


def test_several_data_sets_in_a_file_are_named_and_read_one_by_one(tmp_path: Path) -> None:
    sets = [RNG.normal(size=(n, 2)).astype("<f4") for n in (3, 5, 2)]
    columns = [list(np.ascontiguousarray(values.T)) for values in sets]
    step = [len(segment(c)) for c in columns]
    content = b"".join(
        segment(c, next_at=0 if c is columns[-1] else n) for c, n in zip(columns, step, strict=True)
    )
    (tmp_path / "plate.fcs").write_bytes(content)
    with pytest.raises(
        DataError, match=r"3 data sets: name one of them, plate#1 with 3 cells, plate#2 with 5"
    ):
        load_cells("plate", tmp_path)
    for i, values in enumerate(sets, 1):
        cells = load_cells(f"plate#{i}", tmp_path)
        assert np.array_equal(cells.values, values)
        assert cells.wells == {f"plate#{i}": len(values)}
    with pytest.raises(DataError, match="no number 4"):
        load_cells("plate#4", tmp_path)
    # A next one that is not there is left by some cytometers.
    (tmp_path / "one.fcs").write_bytes(segment(columns[0], next_at=step[0]))
    assert np.array_equal(load_cells("one", tmp_path).values, sets[0])


def test_channels_are_named_by_their_markers_too(tmp_path: Path) -> None:
    values = RNG.normal(size=(4, 3)).astype("<f4")
    columns = list(np.ascontiguousarray(values.T))
    path = tmp_path / "a.fcs"
    path.write_bytes(segment(columns, P1S="CD3", P2S="CD4"))
    cells = load_cells("a", tmp_path, ("CD4", "C3", "CD3"))
    assert cells.channels == ("CD4", "C3", "CD3")
    assert np.array_equal(cells.values, values[:, [1, 2, 0]])
    # Another cytometer, with the same marker in another detector.
    (tmp_path / "b.fcs").write_bytes(segment(columns, P3S="CD4"))
    both = load_cells("", tmp_path, ("CD4",))
    assert np.array_equal(both.values[:, 0], np.concatenate((values[:, 1], values[:, 2])))
    with pytest.raises(DataError, match=r"no channel CD8; there are C1 \(CD3\), C2 \(CD4\), C3"):
        load_cells("a", tmp_path, ("CD8",))
    path.write_bytes(segment(columns, P1S="CD3", P2S="CD3"))
    with pytest.raises(DataError, match="several channels have the marker CD3: C1, C2"):
        load_cells("a", tmp_path, ("CD3",))


def test_times_are_in_seconds(tmp_path: Path) -> None:
    values = np.arange(4, dtype="<u4")
    (tmp_path / "a.fcs").write_bytes(
        segment([values], P1N="Time", TIMESTEP="0.25", P1G="8", P1R="4294967296")
    )
    assert read_fcs(tmp_path / "a.fcs").values[:, 0].tolist() == [0, 0.25, 0.5, 0.75]
