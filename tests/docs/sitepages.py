"""The pages of the documentation's site, and what is written in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docpages import ROOT

DOCS = ROOT / "docs"
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:---\n(.*?)^---\n)?(?::[\w-]+:[^\n]*\n)*(.*?)^```$", re.M | re.S
)
TOCTREE = re.compile(r"^```\{toctree\}[^\n]*\n(.*?)^```$", re.M | re.S)


def pages() -> list[str]:
    """All pages, relative to docs/, without their suffix."""
    files = [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    inside = [file.relative_to(DOCS) for file in files]
    return sorted(p.with_suffix("").as_posix() for p in inside if not p.parts[0].startswith("_"))


def text_of(page: str) -> str:
    """The Markdown of a page; of a notebook that of its cells."""
    file = DOCS / f"{page}.md"
    if file.is_file():
        return file.read_text()
    notebook = json.loads((DOCS / f"{page}.ipynb").read_text())
    return "\n\n".join(
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"
    )


def cells(page: str) -> list[tuple[int, str, str]]:
    """(line, metadata, code) of each cell of a page of Markdown."""
    text = (DOCS / f"{page}.md").read_text() if (DOCS / f"{page}.md").is_file() else ""
    return [
        (text.count("\n", 0, found.start()) + 1, found[1] or "", found[2])
        for found in CELL.finditer(text)
    ]


def prose(page: str) -> str:
    """A page without what is between fences."""
    return re.sub(r"^(```+).*?^\1$", "", text_of(page), flags=re.M | re.S)


def in_toctrees() -> list[str]:
    """The pages that toctrees name, each as often as it is named."""
    named: list[str] = []
    for page in pages():
        folder = Path(page).parent
        for found in TOCTREE.finditer(text_of(page)):
            options, entries = split(found[1])
            for entry in entries:
                place = (folder / entry).as_posix()
                if "glob" in options and "*" in entry:
                    matching = [p for p in pages() if Path(p).match(place) and p != page]
                    named += [p for p in matching if Path(p).parent == Path(place).parent]
                else:
                    named.append(place)
    return named


def split(block: str) -> tuple[set[str], list[str]]:
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    options = {line.split(":")[1] for line in lines if line.startswith(":")}
    return options, [line for line in lines if not line.startswith(":")]
