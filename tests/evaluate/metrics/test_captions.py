"""BLEU and CIDEr-D: published examples, what other programs give, and what follows from their definitions."""

from __future__ import annotations

import math

import pytest

from pushforward.core.errors import InputError
from pushforward.evaluate.metrics.captions import bleu, cider

# Papineni et al. 2002, examples 1 and 2.
FIRST = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
SECOND = "It is to insure the troops forever hearing the activity guidebook that party direct"
REFERENCES = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]
THE, CAT = "the the the the the the the", ["The cat is on the mat", "There is a cat on the mat"]
# As NLTK's documentation has them, where "Party" and "party" are two words.
APART = [line.replace("Party", "Faction") for line in REFERENCES]
READ = "he read the book because he was interested in world history"
READ_REFERENCE = ["he was interested in world history because he read the book"]


def test_the_paper_s_examples() -> None:
    assert bleu([FIRST], [REFERENCES], 1) == pytest.approx(17 / 18)
    assert bleu([FIRST], [REFERENCES], 2) == pytest.approx(math.sqrt(17 / 18 * 10 / 17))
    # 14 words, and the nearest reference has 16: the brevity of it counts.
    assert bleu([SECOND], [REFERENCES], 1) == pytest.approx(math.exp(1 - 16 / 14) * 8 / 14)
    assert bleu([SECOND], [REFERENCES], 2) == pytest.approx(
        math.exp(1 - 16 / 14) * math.sqrt(8 / 14 * 1 / 13)
    )
    assert bleu([THE], [CAT], 1) == pytest.approx(2 / 7)
    assert bleu([THE], [CAT], 2) == 0


def test_figures_of_nltk() -> None:
    assert bleu([FIRST], [APART]) == pytest.approx(0.5045666840058485, rel=1e-12)
    assert bleu([FIRST, READ], [APART, READ_REFERENCE]) == pytest.approx(
        0.5920778868801042, rel=1e-12
    )


def test_a_caption_that_is_a_reference_is_perfect_and_order_and_length_count() -> None:
    assert bleu([READ], [[READ, "a dog"]]) == pytest.approx(1)
    assert bleu([" ".join(READ.split()[::-1])], [[READ]], 1) == pytest.approx(1)
    assert bleu([" ".join(READ.split()[::-1])], [[READ]]) == 0
    words = READ.split()
    five = "he read the book because"
    nearest = bleu([five], [["he read the", f"{five} he"]])  # of 6 words, not of 3
    assert nearest == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu([five], [["he read the book", f"{five} he"]]) == pytest.approx(
        1
    )  # the shorter of two
    short = bleu([" ".join(words[:6])], [[READ]])
    assert short == pytest.approx(math.exp(1 - len(words) / 6))


SOME = ["a red circle at the top left", "two two blue blue squares", "a small cross in the centre"]
GIVEN = [
    ["a red circle at the top right", "there is a red circle"], ["two large blue squares", "two squares"],
    ["a large cross in the centre", "a cross"],
]  # fmt: skip
# By pycocoevalcap 1.2, CiderScorer.
COCO, COCO_ONE = 3.4242495786153277, 5.271745485204362


def test_figures_of_coco_caption() -> None:
    assert cider(SOME, GIVEN) == pytest.approx(COCO, rel=1e-9)
    assert cider(SOME, [refs[:1] for refs in GIVEN]) == pytest.approx(COCO_ONE, rel=1e-9)


def test_captions_that_are_the_references_have_ten_and_words_of_all_count_nothing() -> None:
    lines = ["a red circle on top", "two blue squares here below", "some green crosses far away"]
    assert cider(lines, [[line] for line in lines]) == pytest.approx(10)
    assert cider(lines, [[line] for line in lines[1:] + lines[:1]]) == 0
    # n-grams that every picture has are worth nothing.
    assert cider(["a b c d"] * 3, [["a b c d"]] * 3) == 0


def test_captions_and_references_belong_together() -> None:
    for bad in ([], [[]], [["a"], ["b"]]):
        for metric in (bleu, cider):
            with pytest.raises(InputError, match="one or more references"):
                metric(["a"], bad)
    with pytest.raises(InputError, match="one or more references"):
        bleu([], [])
