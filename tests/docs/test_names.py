"""What the documentation names exists: files, links, names of the library, extras and targets of make."""

from __future__ import annotations

import re
import tomllib
from functools import reduce

import pytest
from docpages import PAGES, ROOT, blocks, prose, text_of

import pushforward as pf

SOURCE, TESTS = ROOT / "src" / "pushforward", ROOT / "tests"


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_the_library_can_be_imported(page):
    text = prose(page) + "".join(block.text for block in blocks(page, "python"))
    names = set(re.findall(r"\bpf((?:\.[A-Za-z_]\w*)+)", text))
    missing = []
    for name in sorted(names):
        try:
            reduce(getattr, name[1:].split("."), pf)
        except AttributeError:
            missing.append(f"pf{name}")
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_file_exists(page):
    named = set(re.findall(r"`([\w/]+\.py|(?:\w+/)+\w+\.(?:toml|md|txt))`", prose(page)))
    places = (SOURCE, TESTS, ROOT)
    assert not [n for n in sorted(named) if not any((place / n).is_file() for place in places)]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_with_its_file_is_defined_there(page):
    wrong = []
    pattern = r"`(pf|\w+)\.?([\w.]*)(?:\([^`]*\))?`,?\s+in\s+`([\w/]+\.py)`"
    for first, rest, file in re.findall(pattern, prose(page)):
        if first == "pf":
            found = reduce(getattr, rest.split("."), pf)
            module = getattr(found, "__module__", getattr(found, "__name__", ""))
            if module != "pushforward." + file.removesuffix(".py").replace("/", "."):
                wrong.append(f"pf.{rest} is in {module}, not in {file}")
        elif (SOURCE / file).is_file():
            name = rest.split(".")[0] or first
            if not re.search(rf"\b{name}\b", (SOURCE / file).read_text()):
                wrong.append(f"{first}.{rest} is not in {file}")
    assert not wrong


@pytest.mark.parametrize("page", [*PAGES, "docs/log.md", "CHANGELOG.md"])
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        place = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert not broken


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_extra_that_is_named_can_be_installed():
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    sources = [*map(text_of, PAGES), *(f.read_text() for f in SOURCE.rglob("*.py"))]
    named = {
        extra.strip()
        for text in sources
        for group in re.findall(r"pip install[^\n]*\[([\w, -]+)\]", text)
        for extra in group.split(",")
    }
    assert named
    assert named <= extras.keys()


def test_no_command_installs_from_an_index_what_is_not_there():
    sources = {page: text_of(page) for page in PAGES}
    sources |= {str(f.relative_to(ROOT)): f.read_text() for f in SOURCE.rglob("*.py")}
    wrong = [
        name for name, text in sources.items() if re.search(r"pip install ['\"]?pushforward", text)
    ]
    assert not wrong


@pytest.mark.parametrize("page", [*PAGES, "docs/log.md"])
def test_every_target_of_make_exists(page):
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE))
    # In a line of its own or between backticks, so that sentences with the word do not count.
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", text_of(page), re.MULTILINE))
    assert named <= targets
