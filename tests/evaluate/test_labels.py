"""Which labels samples are drawn with."""

from __future__ import annotations

from pushforward.evaluate.report import balanced_labels


def test_labels_come_in_equal_shares() -> None:
    assert balanced_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
