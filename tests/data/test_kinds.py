"""Kinds of data, in words."""

from __future__ import annotations

import numpy as np
import pytest

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec
from pushforward.data import Dataset, describe, load_digits


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Dataset.from_arrays(np.zeros((1, 8, 8), np.uint8)), "1 image, 8 x 8, 1 channel"),
        (Dataset.from_arrays(np.zeros((3, 2))), "3 points"),
        (Dataset.from_arrays(np.zeros((3, 16))), "3 vectors, 16"),
        (Dataset.from_arrays(np.zeros((3, 2, 128))), "3 signals, 128, 2 channels"),
        (Dataset.from_arrays(np.zeros((3, 1, 4, 5, 6))), "3 volumes, 4 x 5 x 6, 1 channel"),
        (
            Dataset.from_arrays([np.zeros((5, 3)), np.zeros((9, 3))], columns={"age": [1.0, 2.0]}),
            "2 sequences, up to 9 x 3, conditions age",
        ),
        (Dataset.from_arrays(np.zeros((3, 4)), [1, 1, 4]), "3 vectors, 4, 2 classes"),
        (Dataset.from_arrays(np.zeros((3, 4)), ["a"] * 3), "3 vectors, 4, 1 class"),
        (load_digits(), "1797 images, 8 x 8, 1 channel, 10 classes"),
    ],
)
def test_data_say_what_they_are(dataset: Dataset, words: str) -> None:
    assert str(dataset) == words
    assert describe(dataset.spec, len(dataset)) == words


def test_kinds_that_are_not_known_have_words_and_are_not_loaded() -> None:
    assert describe(DataSpec(shape=(7, 5), kind="angles"), 2) == "2 samples, 7 x 5"
    with pytest.raises(InputError, match=r"no kind of data 'imgae'.*did you mean 'image'"):
        Dataset.from_arrays(np.zeros((3, 8, 8)), kind="imgae")


def test_a_record_has_words_without_a_number() -> None:
    assert describe(DataSpec(shape=(3, 32, 32), kind="image")) == "images, 32 x 32, 3 channels"
