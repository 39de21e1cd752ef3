"""The FCS format of flow cytometers, versions 2.0 to 3.2.

flowio reads the keywords. The data are decoded here: of channels that differ in type, of logarithmic keywords on
floating numbers, and of byte orders other than the two usual ones, flowio makes other numbers without saying so.

Seamer et al. 1997 (3.0), Spidlen et al. 2010 (3.1), Spidlen et al. 2021 (3.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.cells import Cells
from pushforward.data.labels import some

# Bytes of floating numbers.
WIDTHS = {"F": 4, "D": 8}


class FormatError(Exception):
    """What is wrong with a file."""


@dataclass(frozen=True)
class Channel:
    """How one measurement is stored.

    kind: I whole numbers, F and D floating ones of 32 and 64 bits. width: bytes. order: (width,) the place in the file
    of each byte, the least significant first. limit: whole numbers lie below; higher bits are noise. decades, zero: of
    a logarithmic amplifier, 10^(decades x / limit) zero; 0 decades for a linear one. gain: the value is divided by it.
    """

    name: str
    marker: str
    kind: str
    width: int
    order: np.ndarray
    limit: int
    decades: float
    zero: float
    gain: float

    def decode(self, raw: np.ndarray) -> np.ndarray:
        """(N,) float64 of the bytes (N, width)."""
        ordered = np.ascontiguousarray(raw[:, self.order])
        if self.kind != "I":
            stored = ordered.view(f"<f{self.width}")[:, 0].astype(np.float64)
        else:
            wide = np.zeros((len(raw), 8), np.uint8)
            wide[:, : self.width] = ordered
            whole = wide.view("<u8")[:, 0]
            bits = max(self.limit - 1, 0).bit_length()
            if 0 < bits < 8 * self.width:
                whole = whole & np.uint64(2**bits - 1)
            stored = whole.astype(np.float64)
            if self.decades > 0:
                stored = 10 ** (self.decades * stored / self.limit) * self.zero
        return stored if self.gain in (0, 1) else stored / self.gain


def read_fcs(path: Path, name: str | None = None, number: int | None = None) -> Cells:
    """The cells of one FCS file, its values not looked at; there may be none.

    Whole numbers keep the bits that the range of their channel has, and are brought to the linear scale if their
    amplifier was logarithmic; all are divided by their gain, and times are in seconds. Of floating numbers a
    logarithmic keyword is ignored, as the standard asks, and that is in `notes`. number: which of several data sets in
    the file, from 1 on.

    Raises DataError for files that are damaged, and for data that are not read, by the name of the channel.
    """
    try:
        import flowio
    except ImportError as error:
        raise DataError(
            "FCS files are read by flowio, which is not installed; pip install -e '.[cells]'"
        ) from error
    try:
        content = path.read_bytes()
        if content[:3] != b"FCS":
            raise FormatError("it does not begin with FCS")
        texts, offset = [], 0
        while True:
            flow = flowio.FlowData(
                str(path), only_text=True, ignore_offset_discrepancy=True, nextdata_offset=offset
            )
            texts.append(
                (offset, flow.header, {k.lower(): v.strip() for k, v in flow.text.items()})
            )
            step = _whole(texts[-1][2], "nextdata", 0)
            # A next data set that is none is left by some cytometers.
            if step <= 0 or content[offset + step : offset + step + 3] != b"FCS":
                break
            offset += step
        if number is None and len(texts) > 1:
            sizes = ", ".join(
                f"{path.stem}#{i} with {text.get('tot', '?')} cells"
                for i, (_, _, text) in enumerate(texts, 1)
            )
            raise DataError(f"{path} holds {len(texts)} data sets: name one of them, {sizes}")
        if number is not None and not 1 <= number <= len(texts):
            raise DataError(f"{path} holds {len(texts)} data sets, and no number {number}")
        return _cells(content, *texts[(number or 1) - 1], path, name or path.stem)
    except DataError:
        raise
    # The parser believes what is in the file, and then fails in many ways; each one is a reason to report.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be opened: {error.strerror}") from error
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} is damaged, or no FCS file: {reason}") from error


def _cells(
    content: bytes, offset: int, header: dict, text: dict[str, str], path: Path, name: str
) -> Cells:
    mode = text.get("mode", "L").upper()
    if mode != "L":
        raise FormatError(f"it holds histograms ($MODE {mode}), not single cells")
    channels = [_channel(text, n) for n in range(1, int(text["par"]) + 1)]
    names = tuple(channel.name for channel in channels)
    if len(set(names)) != len(names):
        raise DataError(f"{path} has {len(names)} channels, but the names {some(names)}")
    row = sum(channel.width for channel in channels)
    count, start, note = _segment(content, offset, header, text, row)
    raw = np.frombuffer(content, np.uint8, count * row, start).reshape(count, row)
    values = np.empty((count, len(channels)), np.float32)
    place = 0
    notes = [f"{path}: {note}"] if note else []
    for i, channel in enumerate(channels):
        decoded = channel.decode(raw[:, place : place + channel.width])
        if channel.name.lower() == "time" and text.get("timestep"):
            decoded = decoded * float(text["timestep"])
        with np.errstate(over="ignore"):
            values[:, i] = decoded
        place += channel.width
        if channel.kind != "I" and channel.decades > 0:
            notes.append(
                f"{path}, channel {channel.name}: floating numbers are linear; the logarithmic keyword $P{i + 1}E is "
                f"ignored"
            )
    markers = tuple(channel.marker for channel in channels)
    known = markers if any(markers) else ()
    return Cells(values, names, {name: count}, (), known, tuple(notes))


def _channel(text: dict[str, str], n: int) -> Channel:
    """Channel number n, from its keywords. Raises DataError for what is not read, by its name."""
    name = text.get(f"p{n}n") or f"P{n}"
    kind = text.get(f"p{n}datatype", text["datatype"]).upper()
    if kind not in ("I", *WIDTHS):
        what = (
            "as text (ASCII)" if kind == "A" else f"in a type {kind!r} that no version of FCS has"
        )
        raise FormatError(
            f"channel {name} is stored {what}: export the file as FCS 3.1 with floating numbers"
        )
    bits = text[f"p{n}b"]
    if not bits.isdecimal() or int(bits) % 8 or not 8 <= int(bits) <= 64:
        raise FormatError(
            f"channel {name} has {bits} bits, which is no whole number of up to 8 bytes"
        )
    width = int(bits) // 8
    if kind in WIDTHS and width != WIDTHS[kind]:
        raise FormatError(
            f"channel {name} is of type {kind}, of {8 * WIDTHS[kind]} bits, and declares {bits}"
        )
    decades, zero = (float(part) for part in text.get(f"p{n}e", "0,0").split(","))
    limit = int(float(text.get(f"p{n}r") or 0))
    if kind == "I" and decades > 0 and limit <= 0:
        raise FormatError(f"channel {name} is logarithmic and has no range ($P{n}R)")
    gain = 1.0 if name.lower() == "time" else float(text.get(f"p{n}g") or 1)
    return Channel(
        name,
        text.get(f"p{n}s", ""),
        kind,
        width,
        _byte_order(text["byteord"], width, name),
        limit,
        decades,
        zero or 1.0,
        gain,
    )


def _byte_order(keyword: str, width: int, name: str) -> np.ndarray:
    """Which byte of a number comes where in the file, the least significant first.

    The keyword numbers the bytes in the order of the file, 1 being the least significant. Ascending and descending
    ones hold for numbers of any width, others for those of their own.
    """
    ranks = [int(part) for part in re.split(r"[,\s]+", keyword.strip(", "))]
    if sorted(ranks) != list(range(1, len(ranks) + 1)):
        raise FormatError(f"its byte order is {keyword!r}, which is no order")
    if width == 1 or (ranks == sorted(ranks) and len(ranks) > 1):
        return np.arange(width)
    if ranks == sorted(ranks, reverse=True) and len(ranks) > 1:
        return np.arange(width)[::-1]
    if len(ranks) == width:
        return np.argsort(ranks)
    raise FormatError(
        f"channel {name} has numbers of {width} bytes, and the byte order {keyword!r} does not say in which order "
        f"they lie"
    )


def _segment(
    content: bytes, offset: int, header: dict, text: dict[str, str], row: int
) -> tuple[int, int, str]:
    """The number of cells, where their data begin, and a note on what was read otherwise than declared."""
    declared = [(header["data_start"], header["data_stop"])]
    if header["version"] != "2.0" and "begindata" in text and "enddata" in text:
        declared.insert(0, (int(text["begindata"]), int(text["enddata"])))
    if "tot" not in text:
        start, stop = declared[0]
        return (stop - start + 1) // row, offset + start, ""
    count = int(text["tot"])
    if count == 0:
        return 0, 0, ""
    size = count * row
    # The end is the last byte of the data; some write the one after it.
    for excess, note in ((0, ""), (1, "the end of its data is declared one byte too late")):
        for start, stop in declared:
            if stop - start + 1 == size + excess and start > 0:
                if offset + start + size > len(content):
                    raise FormatError(
                        f"it is cut off: {count} cells end at byte {offset + start + size}, and the file at "
                        f"{len(content)}"
                    )
                return count, offset + start, note
    start, stop = declared[0]
    raise FormatError(
        f"it declares {count} cells of {row} bytes, {size} bytes, and data from byte {start} to {stop}, "
        f"{stop - start + 1} bytes"
    )


def _whole(text: dict[str, str], key: str, default: int) -> int:
    value = text.get(key, "")
    return int(value) if value.lstrip("-").isdecimal() else default
