"""Single cells from FCS files: populations, channels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcsfiles import CHANNELS, write
from pushforward.core.errors import DataError, InputError
from pushforward.data.cells import usual_channels
from pushforward.data.cytometry import load_cells

RNG = np.random.default_rng(0)


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
        load_cells("a", tmp_path, on_bad="drop")  # type: ignore[arg-type]


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
