"""The book of the lectures: each page says what it has of them, and all boxes and slips of the slides are there.

That cells parse, that names and links exist and that the site builds from them is in test_site.py.
"""

from __future__ import annotations

import re

import pytest
from docpages import ROOT, blocks, text_of

PAGES = sorted(
    f"docs/book/{file.name}"
    for file in (ROOT / "docs" / "book").glob("*.md")
    if "```{code-cell}" in file.read_text()
)
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SLIP = re.compile(
    r"^:::\{admonition\} Slips?\n:class: warning\n(.*?)^:::$", re.MULTILINE | re.DOTALL
)
LECTURES = ("IAP", "ACV", "Blog", "COMP6258", "Tsinghua")
ONE = "|".join(LECTURES)
# The numbered boxes of each lecture.
ALGORITHMS = {
    "IAP": {1, 3, 4, 5, 6},
    "ACV": {1, 3, 5, 6, 7, 8},
    "COMP6258": {1, 2},
    "Tsinghua": {1, 2},
}


def covered(page: str) -> dict[str, str]:
    """What the page says that it has, by lecture."""
    found = re.search(r"^\*\*In the lectures\.\*\* (.*?)\n\n", text_of(page), re.M | re.S)
    assert found, f"{page} does not say where the lectures have it"
    parts: dict[str, str] = {}
    for names, part in re.findall(
        rf"\b((?:{ONE})(?: and (?:{ONE}))?)\b(.*?)(?=\b(?:{ONE})\b|$)", found[1], re.S
    ):
        for name in names.split(" and "):
            parts[name] = parts.get(name, "") + part
    return parts


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_which_parts_of_the_lectures_it_has(page):
    parts = covered(page)
    assert parts
    assert all(re.search(r'"[^"]+"|algorithm|figure|path|table', part) for part in parts.values())


def test_every_numbered_algorithm_is_on_a_page():
    seen: dict[str, set[int]] = {name: set() for name in ALGORITHMS}
    for page in PAGES:
        for name, part in covered(page).items():
            for numbers in re.findall(r"algorithms? (\d(?:(?:, | and )\d)*)", part):
                seen[name] |= {int(n) for n in re.findall(r"\d", numbers)}
    assert {
        name: boxes - seen[name] for name, boxes in ALGORITHMS.items() if boxes - seen[name]
    } == {}


def slips() -> list[str]:
    """The rows of the table of slips in docs/equations.md: lecture and place."""
    table = text_of("docs/equations.md").split("## 8.")[1].split("## 9.")[0]
    rows = [
        line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")
    ]
    return [row for row in rows if row.startswith(LECTURES)]


@pytest.mark.parametrize("place", slips())
def test_every_slip_is_named_with_the_right_form_and_checked_by_the_next_cell(place):
    lecture = re.match(ONE, place)
    assert lecture
    words = re.findall(r'"([^"]+)"', place) or re.findall(r"\w+ \d+|DDPM|path", place)
    assert words
    for page in PAGES:
        text = text_of(page)
        for found in SLIP.finditer(text):
            named = " ".join(found[1].split()).lower()
            if all(word.lower() in named for word in (lecture[0], *words)):
                assert "right" in named
                following = CELL.search(text, found.end())
                assert following
                assert re.search(r"^assert |^    assert ", following[1], re.MULTILINE)
                return
    pytest.fail(f"no page names the slip of {place}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_those_of_the_guide_which_are_run(page):
    guide = "".join(block.text for block in blocks("docs/guide.md", "bash"))
    known = {line.split("  #")[0].strip() for line in guide.splitlines()}
    for block in blocks(page, "bash"):
        assert {line.strip() for line in block.text.splitlines()} <= known
