"""The record of data: labels in words and back."""

from __future__ import annotations

import pytest

import pushforward as pf
from pushforward.core.spec import DataSpec

PETS = DataSpec((2,), classes=3, class_names=("cat", "dog", "0"))


def test_labels_have_names_and_names_have_labels():
    assert [PETS.name(k) for k in (-1, 0, 1, 2)] == ["none", "cat", "dog", "0"]
    assert [PETS.label(name) for name in ("none", "cat", "dog", "0", -1, 0, 2, "1")] == [
        -1,
        0,
        1,
        2,
        -1,
        0,
        2,
        1,
    ]
    plain = DataSpec((2,), classes=3)
    assert [plain.name(k) for k in (-1, 0, 2)] == ["none", "0", "2"]
    assert plain.label("2") == 2


def test_a_class_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        pf.InputError, match=r"no class 'dgo'; the classes are cat, dog, 0; did you mean 'dog'\?"
    ):
        PETS.label("dgo")
    for number in (3, -2, "7"):
        with pytest.raises(pf.InputError, match="knows the classes 0 to 2"):
            PETS.label(number)
    many = DataSpec((2,), classes=25, class_names=tuple(f"c{k:02d}" for k in range(25)))
    with pytest.raises(pf.InputError, match=r"c18, c19, \.\.\.$"):
        many.label("zebra")
    few = DataSpec((2,), classes=20, class_names=tuple(f"c{k:02d}" for k in range(20)))
    with pytest.raises(pf.InputError, match=r"c18, c19$"):
        few.label("zebra")
    with pytest.raises(pf.InputError, match="no classes"):
        DataSpec((2,)).label(0)


def test_shapes_and_classes_are_positive_whole_numbers():
    assert DataSpec((3, 1)).shape == (3, 1)
    for wrong in ((0,), (-1, 2), (1.5,)):
        with pytest.raises(pf.InputError, match="positive whole numbers"):
            DataSpec(wrong)
    with pytest.raises(pf.InputError, match="positive whole numbers"):
        DataSpec((2,), classes=0)
    with pytest.raises(pf.InputError, match="2 class_names for 3 classes"):
        DataSpec((2,), classes=3, class_names=("a", "b"))
