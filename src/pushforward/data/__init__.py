"""Data: laws in the plane with known density, digits, arrays, images in folders and archives, single cells."""

from pushforward.data.arrays import Dataset, load_array
from pushforward.data.augment import Augment
from pushforward.data.batch import Batch
from pushforward.data.cytometry import Asinh, Cells, load_cells
from pushforward.data.digits import load_digits
from pushforward.data.fashion import load_fashion, read_idx
from pushforward.data.folder import load_folder
from pushforward.data.images import find_size, load_images
from pushforward.data.pictures import Pictures
from pushforward.data.shards import Packed, load_shards, write_shards
from pushforward.data.sizes import Sizes, choose_size, describe_sizes
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
    "Packed",
    "Pictures",
    "Pinwheel",
    "PlaneLaw",
    "SCurve",
    "Sizes",
    "Spirals",
    "choose_size",
    "describe_sizes",
    "find_size",
    "load_array",
    "load_cells",
    "load_digits",
    "load_fashion",
    "load_folder",
    "load_images",
    "load_shards",
    "read_idx",
    "write_shards",
]
