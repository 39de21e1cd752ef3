"""Docstrings of this library as reStructuredText, for autodoc.

A docstring here is plain text: paragraphs; lines indented by four, which are an equation or an example and stay as
they are; and lists of arguments, `name: text`, continued by indented lines. An indented block in dollars, `$$ ... $$`,
is TeX. What reStructuredText would read as markup, stars, bars and underscores of formulas, is text.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

NAME = r"\*{0,2}\w[\w.]*(?:\([^)]*\))?"
ARGUMENT = re.compile(rf"(?P<names>{NAME}(?:, {NAME})*):\s+(?P<text>\S.*)")
CODE = re.compile(r"``[^`]+``|`[^`]+`")


def converted(lines: list[str]) -> list[str]:
    """The lines of a docstring, as reStructuredText. Its first sentence is one, colon or not."""
    out: list[str] = []
    for place, block in enumerate(paragraphs(lines)):
        if all(line.startswith("    ") for line in block):
            out += displayed([line[4:] for line in block])
        elif (arguments := entries(block)) and (place or len(arguments) > 1):
            for names, text in arguments:
                out += [f"{inline(names)}", f"    {inline(text)}", ""]
        else:
            out += [inline(line.strip()) for line in block]
        out.append("")
    return out


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Runs of lines, parted by empty ones and where an indented part begins or ends; the latter are joined to one."""
    found: list[list[str]] = [[]]
    for line in lines:
        last = found[-1]
        if not line.strip():
            found.append([])
        elif last and indented(line) != indented(last[-1]) and not ARGUMENT.fullmatch(last[0]):
            found.append([line])
        else:
            last.append(line)
    joined: list[list[str]] = []
    for block in filter(None, found):
        if joined and all(map(indented, block)) and all(map(indented, joined[-1])):
            joined[-1] += ["    ", *block]
        else:
            joined.append(block)
    return joined


def indented(line: str) -> bool:
    return line.startswith("    ")


def entries(block: list[str]) -> list[tuple[str, str]]:
    """(names, text) of a block that is nothing but a list of arguments."""
    found: list[tuple[str, str]] = []
    for line in block:
        entry = ARGUMENT.fullmatch(line)
        if entry and not indented(line):
            found.append((entry["names"], entry["text"]))
        elif found and indented(line):
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        else:
            return []
    return found


def displayed(lines: list[str]) -> list[str]:
    text = "\n".join(lines).strip()
    if text.startswith("$$") and text.endswith("$$"):
        return [".. math::", "", *(f"    {line}" for line in text[2:-2].strip().splitlines())]
    return [".. code-block:: text", "    :class: equation", "", *(f"    {line}" for line in lines)]


def inline(text: str) -> str:
    """A line of prose: code between backticks, and nothing else is markup."""
    out, end = [], 0
    for found in CODE.finditer(text):
        out += [escaped(text[end : found.start()]), code(found[0].strip("`"), text[found.end() :])]
        end = found.end()
    return "".join([*out, escaped(text[end:])])


def code(text: str, after: str) -> str:
    follows = "\\ " if after[:1].isalnum() else ""
    return f"\\ ``{text.strip()}``{follows}"


def escaped(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def convert(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = converted(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
