"""How like captions are to those that people gave: BLEU and CIDEr-D.

Both are short, and no package that is kept up has them without a server of Java or compiled parts. Words are those of
`models.text.split_words`, where published figures take the tokeniser of the Penn Treebank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pushforward.core.errors import InputError
from pushforward.models.text import split_words

Grams = Counter[tuple[str, ...]]
# Of n-grams up to here; the width of CIDEr-D's penalty for another length.
ORDER, SIGMA = 4, 6.0


def grams(words: Sequence[str], n: int) -> Grams:
    """How often each run of n words occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _split(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[list[str]]]]:
    if len(candidates) != len(references) or not candidates or not all(references):
        raise InputError(
            f"captions are judged by one or more references for each: {len(candidates)} captions, {len(references)} "
            f"lists of references"
        )
    return [split_words(c) for c in candidates], [[split_words(r) for r in rs] for rs in references]


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]], order: int = ORDER
) -> float:
    """BLEU of a whole corpus, in [0, 1].

        min(1, exp(1 - r/c)) exp(1/N sum_n ln p_n)

    p_n is the share of the candidates' n-grams that their references have, each at most as often as in the one that has
    it most often; c is the candidates' total length, and r that of the references nearest in length, of two the shorter
    one. 0 where there is no common n-gram of some order.

    Papineni et al. 2002 (doi 10.3115/1073083.1073135), sec. 2.
    """
    found, given = _split(candidates, references)
    right, total = [0] * order, [0] * order
    length = best = 0
    for words, refs in zip(found, given, strict=True):
        length += len(words)
        best += min((len(r) for r in refs), key=lambda n: (abs(n - len(words)), n))
        for n in range(1, order + 1):
            most: Grams = Counter()
            for ref in refs:
                most |= grams(ref, n)
            own = grams(words, n)
            right[n - 1] += (own & most).total()
            total[n - 1] += own.total()
    if not all(right):
        return 0.0
    mean = sum(math.log(r / t) for r, t in zip(right, total, strict=True)) / order
    return math.exp(min(0.0, 1 - best / length) + mean)


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], order: int = ORDER
) -> float:
    """CIDEr-D of a corpus, the mean over its captions, in [0, 10].

        10/N sum_n 1/m sum_j exp(-(l - l_j)^2 / (2 6^2)) min(g_n, g_nj) . g_nj / (|g_n| |g_nj|)

    g_n are the counts of the n-grams of a caption, times ln(M / number of the M pictures whose references have them); j
    goes over its m references, l and l_j are lengths. N-grams that all pictures have do not count: those of one picture
    are worth nothing.

    Vedantam et al. 2015 (arXiv 1411.5726), sec. 4 and 6; as in coco-caption, lengths are numbers of bigrams.
    """
    found, given = _split(candidates, references)
    pictures = math.log(len(found))
    having: Grams = Counter()
    for refs in given:
        having.update({gram for ref in refs for n in range(1, order + 1) for gram in grams(ref, n)})

    def weighed(words: Sequence[str], n: int) -> dict[tuple[str, ...], float]:
        own = grams(words, n)
        return {g: count * (pictures - math.log(max(having[g], 1))) for g, count in own.items()}

    total = 0.0
    for words, refs in zip(found, given, strict=True):
        for ref in refs:
            apart = max(len(words) - 1, 0) - max(len(ref) - 1, 0)
            near = math.exp(-(apart**2) / (2 * SIGMA**2))
            for n in range(1, order + 1):
                a, b = weighed(words, n), weighed(ref, n)
                size = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
                if size > 0:
                    shared = sum(min(x, b[g]) * b[g] for g, x in a.items() if g in b)
                    total += near * shared / size / len(refs) / order
    return 10 * total / len(found)
