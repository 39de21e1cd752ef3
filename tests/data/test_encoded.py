"""Encodings of texts: each once, kept on disk, joined to batches, and refused where they cannot be right."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.core.conditions import Tokens
from pushforward.core.errors import DataError, InputError
from pushforward.core.progress import watched
from pushforward.data import Dataset
from pushforward.data.encoded import encode_texts
from pushforward.data.encoding import Sequences


class Letters:
    """A letter a token, (its code, its place); pooled: the number of letters. It counts what it is asked."""

    def __init__(self, name: str = "letters", digest: str = "1", quick: bool = False) -> None:
        self.name, self.digest, self.quick = (
            name,
            hashlib.sha256(digest.encode()).hexdigest(),
            quick,
        )
        self.asked: list[list[str]] = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        longest = max(map(len, texts)) + 2
        values = torch.zeros(len(texts), longest, 2)
        mask = torch.zeros(len(texts), longest, dtype=torch.bool)
        for i, text in enumerate(texts):
            for k, letter in enumerate(text):
                values[i, k] = torch.tensor([float(ord(letter)), float(k)])
                mask[i, k] = letter != "-"
        pooled = torch.tensor([[float(len(text))] for text in texts])
        return {self.name: {"tokens": Tokens(values, mask), "pooled": pooled}}

    def cut(self, text: str) -> str | None:
        return text[:12].rsplit(None, 1)[0] if len(text) > 12 else None


LINES = ["bb", "a", "a-c", "bb", "a long one", "a"]


def data(lines=LINES) -> Dataset:
    return Dataset.from_arrays(np.zeros((len(lines), 2), np.float32), captions=lines)


def check(found: Dataset, lines=LINES, name: str = "letters") -> None:
    """That every sample has what the encoder gives of its text alone."""
    for rows in ([0, 1], [4], [5, 2, 2, 0], range(len(lines))):
        batch = found[torch.tensor(list(rows))]
        cond = batch.cond[name]
        longest = max(len(lines[row]) for row in rows)
        assert cond["tokens"].values.shape == (len(rows), longest, 2)
        for i, row in enumerate(rows):
            want = Letters()([lines[row]])["letters"]
            n = len(lines[row])
            assert torch.equal(cond["tokens"].values[i, :n], want["tokens"].values[0, :n])
            assert torch.equal(cond["tokens"].mask[i, :n], want["tokens"].mask[0, :n])
            assert not cond["tokens"].mask[i, n:].any()
            assert (cond["tokens"].values[i, n:] == 0).all()
            assert cond["pooled"][i].tolist() == [n]


def test_each_text_is_encoded_once_and_then_read(tmp_path: Path) -> None:
    encoder = Letters()
    check(encode_texts(data(), {"caption": encoder}, tmp_path))
    # Distinct ones only, those of like length together.
    assert encoder.asked == [["a", "bb", "a-c", "a long one"]]
    again = Letters()
    check(encode_texts(data(), {"caption": again}, tmp_path))
    assert again.asked == []
    # New texts alone are asked for; another encoder asks for all.
    more = [*LINES, "new", "x"]
    check(encode_texts(data(more), {"caption": again}, tmp_path), more)
    assert again.asked == [["x", "new"]]
    other = Letters(digest="2")
    encode_texts(data(), {"caption": other}, tmp_path)
    assert len(other.asked) == 1


def test_quick_encoders_keep_nothing(tmp_path: Path) -> None:
    encoder = Letters(quick=True)
    for _ in range(2):
        check(encode_texts(data(), {"caption": encoder}, tmp_path / "none"))
    assert len(encoder.asked) == 2
    assert not (tmp_path / "none").exists()


def test_parts_of_the_data_keep_their_own(tmp_path: Path) -> None:
    whole = encode_texts(data(), {"caption": Letters()}, tmp_path)
    part = whole.subset(torch.tensor([4, 2, 0]))
    check(part.subset(torch.tensor([2, 1, 0, 0, 1, 2])), [LINES[i] for i in (0, 2, 4, 4, 2, 0)])
    # They are no columns of the data: neither its fingerprint nor what a user gives for it changes.
    assert whole.fingerprint() == data().fingerprint()
    assert whole.spec == data().spec


@pytest.mark.parametrize("damage", ["cut", "changed", "other", "noise"])
def test_what_is_damaged_in_the_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    encode_texts(data(), {"caption": Letters()}, tmp_path)
    (file,) = tmp_path.glob("*/*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-10])
    elif damage == "changed":
        content[-3] ^= 1
        file.write_bytes(content)
    elif damage == "noise":
        file.write_bytes(b"noise")
    else:
        folder = tmp_path / Letters(digest="2").digest[:32]
        file.parent.rename(folder)
    encoder = Letters(digest="2" if damage == "other" else "1")
    check(encode_texts(data(), {"caption": encoder}, tmp_path))
    assert len(encoder.asked) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    check(encode_texts(data(), {"caption": Letters()}, tmp_path / "file"))


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import test_encoded as t; from pathlib import Path\n"
        "lines = [f'text {i}' for i in range(300)]\n"
        "found = t.encode_texts(t.data(lines), {'caption': t.Letters()}, Path(sys.argv[1]))\n"
        "t.check(found, lines)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert not list(tmp_path.rglob("*.tmp"))
    encoder = Letters()
    lines = [f"text {i}" for i in range(300)]
    check(encode_texts(data(lines), {"caption": encoder}, tmp_path), lines)
    assert encoder.asked == []


def test_progress_is_told(tmp_path: Path) -> None:
    told = []
    with watched(lambda *now: told.append(now)):
        encode_texts(data([f"t {i:03}" for i in range(150)]), {"caption": Letters()}, tmp_path)
    assert told == [("texts", 0, 150), ("texts", 64, 150), ("texts", 128, 150), ("texts", 150, 150)]


def test_texts_that_are_cut_are_noted(tmp_path: Path) -> None:
    lines = ["short", "one two three four", "one two three four", "five six seven"]
    found = encode_texts(data(lines), {"caption": Letters()}, tmp_path)
    assert found.notes[-1] == (
        "3 of 4 captions are longer than Letters takes, and cut between words: the first behind 'one two'"
    )
    assert not encode_texts(data(), {"caption": Letters()}, tmp_path).notes


def test_texts_that_are_missing_or_empty_are_said(tmp_path: Path) -> None:
    def refused(given: Dataset, words: str, name: str = "caption") -> None:
        with pytest.raises(DataError, match=words):
            encode_texts(given, {name: Letters()}, tmp_path)

    refused(data(["a", "", "b", " \n"]), "2 of 4 captions are empty, rows 1, 3: write them")
    refused(data([""] * 9), r"9 of 9 captions are empty, rows 0, 1, 2, 3, 4, \.\.\.")
    refused(
        Dataset.from_arrays(np.zeros((3, 2), np.float32)), r"have no captions\. Put a text file"
    )
    refused(data(), "have no titles; they have caption", "title")
    assert not list(tmp_path.iterdir())


def test_several_encoders_of_one_text(tmp_path: Path) -> None:
    class Both:
        encoders = (Letters(), Letters("second", "2"))

    found = encode_texts(data(), {"caption": Both()}, tmp_path)
    check(found)
    check(found, name="second")
    with pytest.raises(InputError, match="give the condition 'letters'"):
        encode_texts(found, {"caption": Letters()}, tmp_path)

    class Wrong(Letters):
        def __call__(self, texts):
            return super().__call__(texts[:1])

    with pytest.raises(InputError, match="gave conditions of 1 texts for 4"):
        encode_texts(data(), {"caption": Wrong(digest="3")}, tmp_path)


def test_sequences_without_any_token_are_one_padded_place() -> None:
    empty = Sequences.of(Tokens(torch.zeros(3, 0, 2), torch.zeros(3, 0, dtype=torch.bool)))
    taken = empty.take(torch.tensor([2, 0]))
    assert taken.values.shape == (2, 1, 2)
    assert not taken.mask.any()
