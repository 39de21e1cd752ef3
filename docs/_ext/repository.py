"""Pages that are elsewhere in the repository: findings, results of benchmarks, CONTRIBUTING, CHANGELOG.

    ```{repository-page} CONTRIBUTING.md
    ```{findings}
    ```{benchmarks}
    ```{result} imported        one of the results

Links between files of the repository, which GitHub follows, lead to the pages of the site.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
RESULTS, FINDINGS = ROOT / "benchmarks" / "results", ROOT / "findings"
# Files of the repository, and the pages of the site that show them.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results": "benchmarks.md",
    "findings": "findings.md",
    "findings/README.md": "findings.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def relinked(text: str, folder: Path, page: Path) -> str:
    """Markdown of a file in `folder`, to be shown on `page`: its relative links lead where they led."""

    def new(found: re.Match[str]) -> str:
        file = Path(os.path.normpath(folder / found[1]))
        anchor = found[2] or ""
        name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else ""
        if name in PAGES:
            file = DOCS / PAGES[name]
        elif file.parent == RESULTS and file.suffix == ".md":
            file, anchor = DOCS / "benchmarks.md", f"#{file.stem}"
        return os.path.relpath(file, page.parent).replace(os.sep, "/") + anchor

    return LINK.sub(new, text)


def untitled(text: str) -> str:
    """Markdown without the title that it begins with."""
    return re.sub(r"\A# .*\n", "", text)


def lower(text: str) -> str:
    """Markdown with its headings one level lower."""
    return re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)


class Reader:
    """Texts of the repository for one page, which is built anew when one of them changes."""

    def __init__(self, app: Sphinx, docname: str) -> None:
        self.env, self.docname = app.env, docname
        self.page = Path(app.env.doc2path(docname))

    def read(self, file: Path) -> str:
        """A file's text, with links that hold on the page."""
        self.env.note_dependency(str(file), docname=self.docname)
        return relinked(file.read_text(), file.parent, self.page)


def repository_page(reader: Reader, name: str) -> str:
    """A file at the top of the repository."""
    return untitled(reader.read(ROOT / name))


def findings(reader: Reader, _: str) -> str:
    """findings/README.md, and of each script what its head and the output at its end say."""
    parts = [untitled(reader.read(FINDINGS / "README.md"))]
    for file in sorted(FINDINGS.glob("*.sh")):
        title, about, output = parts_of(reader.read(file))
        command = f"```console\n$ bash findings/{file.name}\n{output}\n```"
        parts += [f"## {title}", about, command]
    return "\n\n".join(parts)


def benchmarks(reader: Reader, _: str) -> str:
    """benchmarks/results/*.md: what was measured, the figures, and folded the circumstances."""
    return "\n\n".join(folded(lower(reader.read(file))) for file in sorted(RESULTS.glob("*.md")))


def result(reader: Reader, name: str) -> str:
    """One of these."""
    return folded(untitled(reader.read(RESULTS / f"{name}.md")))


SHOWN: dict[str, Callable[[Reader, str], str]] = {
    "repository-page": repository_page,
    "findings": findings,
    "benchmarks": benchmarks,
    "result": result,
}
BLOCK = re.compile(rf"^```\{{({'|'.join(SHOWN)})\}} ?(.*)\n```$", re.MULTILINE)


def parts_of(script: str) -> tuple[str, str, str]:
    """(title, description, output) of a script of a finding: the comments at its head and at its end."""
    lines = script.splitlines()[1:]
    head = list(comments(lines))
    tail = list(comments(reversed(lines)))[::-1]
    output = textwrap.dedent("\n".join(tail[1:]))  # the first line: "Output seen:"
    return head[0].rstrip("."), "\n".join(head[1:]).strip(), output


def comments(lines: Iterator[str] | list[str]) -> Iterator[str]:
    """The text of the comments that these lines begin with."""
    for line in lines:
        if not line.startswith("#"):
            return
        yield line[1:].removeprefix(" ")


def folded(text: str) -> str:
    """Results with their last list, command, versions and machine, behind a line to click on."""
    found = re.search(r"\n((?:- .*\n(?:  .*\n)*)+)\s*\Z", text + "\n")
    if found is None:
        return text
    summary = "<details><summary>Command, versions, machine</summary>"
    return f"{text[: found.start()]}\n\n{summary}\n\n{found[1]}\n</details>\n"


def show(app: Sphinx, docname: str, source: list[str]) -> None:
    """The page's Markdown, with what is elsewhere in its place."""
    reader = Reader(app, docname)
    if reader.page.suffix == ".md":
        text = relinked(source[0], reader.page.parent, reader.page)
        source[0] = BLOCK.sub(lambda block: SHOWN[block[1]](reader, block[2]), text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
