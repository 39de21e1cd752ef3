"""The book of the lectures: its cells parse and run, and it has every box and every slip of the slides."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import types
from functools import reduce

import pytest
from docpages import ROOT, blocks, prose, text_of
from test_names import anchors

import pushforward as pf

FOLDER = ROOT / "docs" / "book"
EVERY = tuple(sorted(f"docs/book/{file.name}" for file in FOLDER.glob("*.md")))
CELL = re.compile(r"^```\{code-cell\} python\n((?::\w+:[^\n]*\n)*)(.*?)^```$", re.MULTILINE | re.DOTALL)
SLIP = re.compile(r"^:::\{admonition\} Slips?\n:class: warning\n(.*?)^:::$", re.MULTILINE | re.DOTALL)
LECTURES = ("IAP", "ACV", "Blog", "COMP6258", "Tsinghua")
# The numbered boxes of each lecture.
ALGORITHMS = {"IAP": {1, 3, 4, 5, 6}, "ACV": {1, 3, 5, 6, 7, 8}, "COMP6258": {1, 2}, "Tsinghua": {1, 2}}


def cells(page: str) -> list[tuple[int, str]]:
    """(line, code) of each cell, in order."""
    text = text_of(page)
    return [(text.count("\n", 0, c.start(2)), c[2]) for c in CELL.finditer(text)]


PAGES = tuple(page for page in EVERY if "```{code-cell}" in text_of(page))


def covered(page: str) -> dict[str, str]:
    """What the page says that it has of each lecture."""
    found = re.search(r"^\*\*In the lectures\.\*\* (.*?)\n\n", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} does not say where the lectures have it"
    parts: dict[str, str] = {}
    name = ""
    for part in re.split(rf"\b({'|'.join(LECTURES)})\b", found[1]):
        if part in LECTURES:
            name = part
            parts.setdefault(name, "")
        elif name:
            parts[name] += part
    # "IAP and ACV ..." is said of both.
    for first, second in re.findall(rf"\b({'|'.join(LECTURES)}) and ({'|'.join(LECTURES)})\b", found[1]):
        parts[first] += parts[second]
    return parts


@pytest.mark.parametrize("page", PAGES)
def test_cells_parse_and_all_fences_of_cells_are_of_one_form(page):
    text = text_of(page)
    assert len(cells(page)) == text.count("```{code-cell}")
    for line, code in cells(page):
        ast.parse("\n" * line + code, page)
    front = text.split("---\n")[1]
    assert "format_name: myst" in front
    assert "name: python3" in front


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_library_exist(page):
    for _, code in cells(page):
        for name in set(re.findall(r"\bpf((?:\.[A-Za-z_]\w*)+)", code)):
            reduce(getattr, name[1:].split("."), pf)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pushforward"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_where_the_lectures_have_it(page):
    assert any(re.search(r'"[^"]+"|algorithm|figure', part) for part in covered(page).values())


def test_every_numbered_algorithm_is_on_a_page():
    seen: dict[str, set[int]] = {name: set() for name in LECTURES}
    for page in PAGES:
        for name, part in covered(page).items():
            for numbers in re.findall(r"algorithms? (\d(?:(?:, | and )\d)*)", part):
                seen[name] |= {int(n) for n in re.findall(r"\d", numbers)}
    assert {name: numbers - seen[name] for name, numbers in ALGORITHMS.items()} == {
        name: set() for name in ALGORITHMS
    }


def slips() -> list[tuple[str, str]]:
    """(lecture, place) of the rows of the table of slips in docs/equations.md."""
    table = text_of("docs/equations.md").split("## 8.")[1].split("## 9.")[0]
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("| ")]
    return [(row.split(" ", 1)[0].strip(","), row) for row in rows if row.startswith(LECTURES)]


@pytest.mark.parametrize(("lecture", "place"), slips())
def test_every_slip_is_named_with_the_right_form_and_checked_by_a_cell(lecture, place):
    quoted = re.findall(r'"([^"]+)"', place) or re.findall(r"(?:algorithm|figure) \d+|DDPM|path", place)
    for page in PAGES:
        text = text_of(page)
        for found in SLIP.finditer(text):
            said = " ".join(found[1].split()).lower()
            if all(part.lower() in said for part in (lecture, *quoted)):
                assert "right" in said
                following = CELL.search(text, found.end())
                assert following is not None
                assert "assert" in following[2]
                return
    pytest.fail(f"no page names the slip of {place}")


def test_the_index_lists_every_page_once():
    listed = re.search(r"^```\{toctree\}\n.*?\n\n(.*?)^```", text_of("docs/book/index.md"), re.M | re.S)
    assert listed
    names = listed[1].split()
    assert len(names) == len(set(names))
    assert {f"docs/book/{name}.md" for name in names} == set(EVERY) - {"docs/book/index.md"}


@pytest.mark.parametrize("page", EVERY)
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        place = (FOLDER / file).resolve() if file else ROOT / page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", EVERY)
def test_every_command_is_one_of_the_guide_where_it_is_run(page):
    guide = "".join(block.text for block in blocks("docs/guide.md", "bash"))
    known = {line.split("  #")[0].strip() for line in guide.splitlines()}
    for block in blocks(page, "bash"):
        assert {line.strip() for line in block.text.splitlines()} <= known


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_cells_run_one_after_the_other(page, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # dataclasses look up the module that they are in
    monkeypatch.setitem(sys.modules, "page", module)
    for line, code in cells(page):
        exec(compile("\n" * line + code, page, "exec"), module.__dict__)
        for number in plt.get_fignums():
            plt.figure(number).savefig("figure.png")
        plt.close("all")
