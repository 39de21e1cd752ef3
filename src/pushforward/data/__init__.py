"""Data: laws in the plane with known density, digits, arrays, folders of images, single cells."""

from pushforward.data.arrays import Dataset, load_array
from pushforward.data.augment import Augment
from pushforward.data.batch import Batch
from pushforward.data.cytometry import Asinh, Cells, load_cells
from pushforward.data.digits import load_digits
from pushforward.data.fashion import load_fashion, read_idx
from pushforward.data.folder import load_folder
from pushforward.data.toy import (
    LAWS,
    Checkerboard,
    EightGaussians,
    Moons,
    Pinwheel,
    PlaneLaw,
    SCurve,
    Spirals,
)

__all__ = [
    "LAWS",
    "Asinh",
    "Augment",
    "Batch",
    "Cells",
    "Checkerboard",
    "Dataset",
    "EightGaussians",
    "Moons",
    "Pinwheel",
    "PlaneLaw",
    "SCurve",
    "Spirals",
    "load_array",
    "load_cells",
    "load_digits",
    "load_fashion",
    "load_folder",
    "read_idx",
]
