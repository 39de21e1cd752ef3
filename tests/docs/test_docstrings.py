"""Docstrings as reStructuredText: what docutils makes of them is what they say."""

from __future__ import annotations

import importlib.util

import pytest
from docpages import ROOT

core = pytest.importorskip("docutils.core", reason="docutils comes with the extra docs")
pytest.importorskip("sphinx", reason="the site needs sphinx: pip install -e '.[docs]'")

SPEC = importlib.util.spec_from_file_location(
    "docstrings", ROOT / "docs" / "_ext" / "docstrings.py"
)
assert SPEC is not None
docstrings = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docstrings)  # type: ignore[union-attr]


def parsed(docstring: str):
    """The document that docutils makes of it, with no warning."""
    text = "\n".join(docstrings.converted(docstring.splitlines()))
    return core.publish_doctree(text, settings_overrides={"report_level": 1, "halt_level": 1})


def kinds(docstring: str) -> list[str]:
    return [type(node).__name__ for node in parsed(docstring).children]


def test_signs_of_formulas_are_text():
    text = "|a|^2 is |x*_s - x_|, *not* markup, a_ nor b* or back\\slash"
    assert parsed(text).astext() == text


def test_code_between_backticks_stays_and_may_touch_letters():
    assert parsed("`x_t = a x1`s and `|a|*`.").astext() == "x_t = a x1s and |a|*."


def test_an_indented_block_keeps_its_lines():
    document = parsed("A sum.\n\n    a = b\n      + *c*\n\n    d = |e|\n\nAfter it.")
    assert kinds("A sum.\n\n    a = b\n\nAfter it.") == ["paragraph", "literal_block", "paragraph"]
    assert document.children[1].astext() == "a = b\n  + *c*\n\nd = |e|"


def test_a_block_in_dollars_is_an_equation():
    document = parsed("Of the flow:\n\n    $$\\int_0^1 u\\,\\mathrm dt$$")
    assert [type(n).__name__ for n in document.children] == ["paragraph", "math_block"]
    assert document.children[1].astext() == "\\int_0^1 u\\,\\mathrm dt"


def test_arguments_are_a_list_of_definitions():
    document = parsed("x:      (B, ...) points,\n        at t = 1.\nprobes, ids: none of them")
    (terms,) = document.children
    assert type(terms).__name__ == "definition_list"
    assert [item.children[0].astext() for item in terms.children] == ["x", "probes, ids"]
    assert terms.children[0].children[1].astext() == "(B, ...) points, at t = 1."


def test_a_paragraph_with_a_colon_is_no_list():
    assert kinds("One thing: this\nand what follows from it: that.\nNo more.") == ["paragraph"]


def test_the_first_sentence_is_no_list():
    assert kinds("Solvers: one step each.") == ["paragraph"]
    assert kinds("A solver.\n\nsteps: how many.") == ["paragraph", "definition_list"]
