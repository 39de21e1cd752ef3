"""Data: laws in the plane with known density, digits, arrays, images in folders and archives, single cells."""

from pushforward.data.arrays import load_array
from pushforward.data.asinh import Asinh
from pushforward.data.batch import Batch
from pushforward.data.cells import Cells
from pushforward.data.cytometry import load_cells
from pushforward.data.dataset import Dataset
from pushforward.data.digits import load_digits
from pushforward.data.emoji import load_emoji, split_by_name
from pushforward.data.fashion import load_fashion
from pushforward.data.idx import load_idx, read_idx
from pushforward.data.images.augment import Augment
from pushforward.data.images.folder import load_folder
from pushforward.data.images.lazy import Pictures
from pushforward.data.images.load import find_size, load_images, load_mixed
from pushforward.data.images.pack import Packed, write_shards
from pushforward.data.images.shards import load_shards
from pushforward.data.images.sizes import Sizes, choose_size, describe_sizes
from pushforward.data.kinds import describe
from pushforward.data.match import match_labels
from pushforward.data.mixed import Mixed, divide
from pushforward.data.shares import labels_in_shares

__all__ = [
    "Asinh",
    "Augment",
    "Batch",
    "Cells",
    "Dataset",
    "Mixed",
    "Packed",
    "Pictures",
    "Sizes",
    "choose_size",
    "describe",
    "describe_sizes",
    "divide",
    "find_size",
    "labels_in_shares",
    "load_array",
    "load_cells",
    "load_digits",
    "load_emoji",
    "load_fashion",
    "load_folder",
    "load_idx",
    "load_images",
    "load_mixed",
    "load_shards",
    "match_labels",
    "read_idx",
    "split_by_name",
    "write_shards",
]
