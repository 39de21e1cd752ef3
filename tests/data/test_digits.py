"""The digits of scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.data import load_digits

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


def test_digits_are_the_digits() -> None:
    digits = load_digits()
    assert (len(digits), digits.shape, digits.classes) == (1797, (1, 8, 8), 10)
    assert digits.class_names == tuple("0123456789")
    assert digits.value_range == (-1, 1)
    assert digits.images
    batch = digits[torch.tensor([0])]
    assert batch.cond["label"].tolist() == [0]
    # The first digit of the set, a nought, in its sixteenths of grey.
    assert ((batch.x1[0, 0, 1] + 1) * 8).tolist() == [0, 0, 13, 15, 10, 15, 5, 0]
    assert torch.bincount(digits.labels).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


def test_digits_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[demo\]'"):
        load_digits()


def test_digits_that_were_changed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import datasets

    bunch = datasets.load_digits()
    bunch.images[3, 2, 1] += 1
    monkeypatch.setattr(datasets, "load_digits", lambda: bunch)
    with pytest.raises(DataError, match="SHA-256"):
        load_digits()
