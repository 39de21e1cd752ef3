"""How well the samples of one set are carried to another, beside halves of that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise

GROUPS = 20  # of the jackknife


def compare_to_halves(
    mapped: Tensor, target: Tensor, splits: int = 100, seed: int = 0
) -> dict[str, float]:
    """The energy distance of mapped to target cells over that of two halves of the target, at one size of sets.

        V(A, B) = 2 mean |a - b| - mean |a - a'| - mean |b - b'|

    over all pairs, those of a cell with itself, too: the energy distance of the two sets as they are, on average
    2 E|X - X'|/n for two sets of n of one law. In each split the target (N, ...) falls into random halves H, H' of
    n = N // 2 cells, and n of the mapped cells are drawn, M (there have to be as many).

    energy:      the unbiased energy distance of all mapped to all target cells: around 0 if the laws are equal.
    size:        n.
    to_target:   mean of V(M, H). halves: mean of V(H, H'). ratio: the first over the second.
    ratio_error: standard error of the ratio, by the jackknife over twentieths of the cells. Of equal laws, where the
                 distance has no first-order term, it is about half as large again as the spread.
    root_ratio:  mean of sqrt V(M, H) over mean of sqrt V(H, H').

    The means of V over ALL splits have closed forms, which are used: the ratio has no chance of its own but that of the
    cells. Szekely & Rizzo 2013.
    """
    n = len(target) // 2
    if target.shape[1:] != mapped.shape[1:] or n < GROUPS or len(mapped) < n or splits < 1:
        raise InputError(
            f"cells of one shape are needed, {2 * GROUPS} of the target or more, and of mapped ones at least half as "
            f"many as of the target; got {tuple(mapped.shape)} and {tuple(target.shape)}"
        )
    # In an order at random, so that groups of neighbours are draws of the whole.
    noise = Noise.batch(0, seed, splits)
    m, t = (
        x.detach().cpu().flatten(1).float()[noise.permutation(len(x))] for x in (mapped, target)
    )
    across, within_m, within_t = (_distances(a, b) for a, b in ((m, t), (m, m), (t, t)))
    blocks = [_blocks(distances) for distances in (across, within_m, within_t)]
    energy, to_target, halves = _figures(blocks, len(m), len(t), n)

    without = []
    for group in range(GROUPS):
        kept = torch.arange(GROUPS) != group
        some_m, some_t = (len(x) - len(x.tensor_split(GROUPS)[group]) for x in (m, t))
        _, upper, lower = _figures([b[kept][:, kept] for b in blocks], some_m, some_t, n)
        without.append(upper / lower)
    spread = torch.tensor(without, dtype=torch.float64).var(correction=0)

    # Who is in which set: (cells, splits), 1/n or 0. Means of distances are then quadratic forms.
    drawn, half, other = (torch.zeros(len(x), splits) for x in (m, t, t))
    for split in range(splits):
        noise = Noise.batch(0, seed, split)
        drawn[noise.permutation(len(m))[:n], split] = 1 / n
        order = noise.permutation(len(t))
        half[order[:n], split] = 1 / n
        other[order[n : 2 * n], split] = 1 / n
    to_half, own = across @ half, within_t @ half
    v = 2 * _form(drawn, to_half) - _form(drawn, within_m @ drawn) - _form(half, own)
    v_halves = 2 * _form(other, own) - _form(half, own) - _form(other, within_t @ other)
    return {
        "energy": energy,
        "size": float(n),
        "to_target": to_target,
        "halves": halves,
        "ratio": to_target / halves,
        "ratio_error": float(((GROUPS - 1) * spread).sqrt()),
        "root_ratio": float(_root(v) / _root(v_halves)),
    }


def _figures(sums: Sequence[Tensor], m: int, t: int, n: int) -> tuple[float, float, float]:
    """U, E V(M, H) and E V(H, H') for sets of n cells, from sums of the distances among m mapped and t target cells."""
    across, within_m, within_t = sums
    c = float(across.sum()) / (m * t)
    w_m, w_t = float(within_m.sum()) / (m * (m - 1)), float(within_t.sum()) / (t * (t - 1))
    return 2 * c - w_m - w_t, 2 * c - (1 - 1 / n) * (w_m + w_t), 2 * w_t / n


def _blocks(distances: Tensor) -> Tensor:
    """Sums of distances from group to group, (GROUPS, GROUPS)."""
    return torch.stack(
        [
            torch.stack([part.sum(dtype=torch.float64) for part in rows.tensor_split(GROUPS, 1)])
            for rows in distances.tensor_split(GROUPS)
        ]
    )


def _form(a: Tensor, b: Tensor) -> Tensor:
    """a_k . b_k for each column k."""
    return (a.double() * b).sum(0)


def _root(v: Tensor) -> Tensor:
    return v.clamp(min=0).sqrt().mean()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
