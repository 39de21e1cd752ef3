"""Rows and labels in the shares that classes have: stratified samples of a data set, and labels to draw samples for.

A figure computed from a data set's first rows judges its first class where the data lie sorted by class, as the files
of class folders always do; labels in equal shares compare samples with data that have others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import DATA, ORDER, Noise

# Splits, samples and labels are keyed by steps that no training run reaches, each by its own.
SPLIT_STEP = 2**32 - 1
SAMPLE_STEP = 2**32 - 2
LABEL_STEP = 2**32 - 3


def systematic(size: int, k: int, noise: Noise) -> Tensor:
    """(size,) bool with k of the places True, evenly spaced from a random start: systematic sampling.

    Place i is taken where floor((i k + shift) / size) increases, so that of any m places in a row m k / size are,
    rounded up or down, and, over all seeds, each place is taken equally often. noise: of one sample.
    """
    shift = noise.words(1, DATA)[0] % size
    count = (torch.arange(size + 1) * k + shift) // size
    return count[1:] > count[:-1]


def stratified(labels: Tensor | None, size: int, k: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """`size` rows in two parts, k and the others, each in order; every class has its own share in both.

    Of a class with n rows the first part has n k / size, rounded up or down. Without labels it is a uniformly random
    subset. labels: (size,) int64 or None. noise: of one sample.
    """
    order = noise.permutation(size)
    if labels is not None:
        order = order[torch.argsort(labels[order], stable=True)]
    taken = systematic(size, k, noise)
    return order[taken].sort().values, order[~taken].sort().values


def balanced(labels: Tensor, n: int, noise: Noise) -> Tensor:
    """n rows, in order, equally many of each class that has any; a class with fewer rows gives all that it has.

    Numbers of rows differ by at most one between the classes that have rows left. labels: (N,) int64.
    """
    order = noise.permutation(len(labels))
    order = order[torch.argsort(labels[order], stable=True)]
    _, counts = labels.unique(return_counts=True)
    # Row r of each class before row r + 1 of any: which classes have one more is drawn by the noise.
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = noise.permutation(len(counts), DATA).repeat_interleave(counts)
    first = torch.argsort(rank * len(counts) + turn)[:n]
    return order[first].sort().values


def labels_in_shares(num: int, counts: Sequence[int], seed: int = 0) -> Tensor:
    """(num,) int64 labels in the shares of classes that have `counts` samples, in random order.

        n_c = num counts_c / sum(counts), rounded up or down, and equal to it on average over seeds

    A class without samples gets none. They are a function of the arguments: compare models on the same ones.
    """
    if num < 0:
        raise InputError(f"{num} labels cannot be drawn")
    weights = torch.tensor(list(counts), dtype=torch.int64)
    if weights.ndim != 1 or bool((weights < 0).any()) or int(weights.sum()) == 0:
        raise InputError(f"counts are {list(counts)}: give how many samples each class has")
    total = int(weights.sum())
    noise = Noise.batch(1, seed, LABEL_STEP)
    # In integers, so that shares are exact: total and num stay far below 2^31.
    shift = int(noise.words(1, DATA)[0]) % total
    ends = [(num * int(end) + shift) // total for end in weights.cumsum(0).tolist()]
    quota = torch.tensor(ends).diff(prepend=torch.zeros(1, dtype=torch.int64))
    labels = torch.arange(len(weights)).repeat_interleave(quota)
    return labels[noise.permutation(num, ORDER)]
