"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/index.md",
    "docs/guide.md",
    "docs/equations.md",
    "docs/diffusers.md",
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" for none), the line of its fence, and its text."""

    page: str
    language: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages, in order."""
    pattern = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    content = text_of(page)
    return [
        Block(page, found[1], content.count("\n", 0, found.start()) + 1, found[2])
        for found in pattern.finditer(content)
        if found[1] in languages
    ]


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
