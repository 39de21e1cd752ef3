"""The handwritten digits that come with scikit-learn: a real data set that needs no download."""

from __future__ import annotations

import hashlib

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset

# Of the 1797 x 8 x 8 grey values 0..16, then the 1797 labels, one byte each.
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def load_digits() -> Dataset:
    """1797 digits of 8 x 8 pixels in ten classes: shape (1, 8, 8), grey values 0..16 mapped to [-1, 1].

    Raises DataError without scikit-learn, and if its copy of the data is not the one known here.
    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed; pip install -e '.[demo]'"
        ) from error
    bunch = datasets.load_digits()
    grey, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    found = hashlib.sha256(grey.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise DataError(
            f"scikit-learn's digits are not the data set known here: SHA-256 {found} instead of {SHA256}; "
            f"install an unmodified scikit-learn"
        )
    return Dataset.from_arrays(
        grey[:, None].astype(np.float32) / 8 - 1,
        labels,
        class_names=[str(digit) for digit in range(10)],
        where="the digits",
    )
