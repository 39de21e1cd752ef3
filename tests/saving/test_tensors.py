"""Tensors in files: what is written is what is read, and their digest says whether two are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.runtime.hashes import digest
from pushforward.saving.tensors import DTYPES, header, pieces, read, serialise

KINDS = sorted({str(kind).removeprefix("torch.") for kind in DTYPES.values()})


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    x = {
        "a": torch.arange(6).reshape(2, 3).to(getattr(torch, kind)),
        "b": torch.zeros((), dtype=getattr(torch, kind)),
    }
    (tmp_path / "x").write_bytes(serialise(x))
    found, names = read(tmp_path / "x"), header(tmp_path / "x")
    for name, value in x.items():
        assert found[name].dtype == names[name].dtype == value.dtype
        assert found[name].shape == names[name].shape == value.shape
        assert torch.equal(found[name].view(torch.uint8) if value.ndim else found[name].reshape(1).view(torch.uint8),
                           value.view(torch.uint8) if value.ndim else value.reshape(1).view(torch.uint8))  # fmt: skip
        assert names[name].is_meta


def test_lazy_conjugates_and_negatives_are_written_as_values(tmp_path: Path) -> None:
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    lazy = {
        "conj": z.conj(),
        "neg": z.conj().imag,
        "strided": torch.arange(6.0)[::2],
        "part": torch.arange(6.0)[2:4],
    }
    (tmp_path / "x").write_bytes(serialise(lazy))
    found = read(tmp_path / "x")
    assert found["conj"].tolist() == [1 - 2j, 3 + 1j]
    assert found["neg"].tolist() == [-2, 1]
    assert found["strided"].tolist() == [0, 2, 4]
    assert found["part"].tolist() == [2, 3]


def test_a_file_written_piece_by_piece_is_that_of_safetensors() -> None:
    x: dict[str, torch.Tensor] = {
        f"{kind} {k}": torch.arange(k).to(dtype) for kind, dtype in DTYPES.items() for k in (0, 3)
    }
    z = torch.tensor([1 + 2j, 3 - 1j])
    x |= {
        "conj": z.conj(),
        "neg": z.conj().imag,
        "strided": torch.arange(6)[::2],
        "one": torch.tensor(2.5),
    }
    x |= {'quoted "name"': torch.ones(2, 3).T, "größer\n": torch.zeros(4, 0, dtype=torch.bfloat16)}
    for some in (
        x,
        {},
        {"a": torch.ones(2)},
        {"part": torch.arange(9.0)[3:5], "rest": torch.arange(9.0)[5:]},
    ):
        assert b"".join(pieces(some)) == serialise(some)


def test_a_digest_depends_on_names_types_shapes_and_values_and_not_on_order_or_layout() -> None:
    x = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    same = {"b": x["b"].clone(), "a": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    assert digest(x) == digest(same)
    others = [
        {"a": x["a"]}, {"c": x["a"], "b": x["b"]}, {**x, "a": x["a"].reshape(3, 2)}, {**x, "a": x["a"].double()},
        {**x, "a": -x["a"]}, {**x, "b": x["b"].half()}, {},
    ]  # fmt: skip
    found = {digest(x), *map(digest, others)}
    assert len(found) == 1 + len(others)


def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    for content in (
        b"",
        b"\xff" * 7,
        b"\x08" + bytes(7) + b"notjson!",
        (2**40).to_bytes(8, "little"),
    ):
        (tmp_path / "x").write_bytes(content)
        for call in (header, read):
            with pytest.raises(pf.CheckpointError, match=r"cannot read .*x: "):
                call(tmp_path / "x")
