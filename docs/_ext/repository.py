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
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

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


def lower(text: str) -> str:
    """Markdown with its headings one level lower."""
    return re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)


class Shown(SphinxDirective):
    """Markdown that is elsewhere, as part of this page."""

    def run(self) -> list[nodes.Node]:
        container = nodes.Element()
        self.state.nested_parse(self.text().splitlines(), 0, container, match_titles=True)
        return container.children

    def text(self) -> str:
        raise NotImplementedError

    def read(self, file: Path) -> str:
        """A file's text, with links that hold here; the page is built anew when the file changes."""
        self.env.note_dependency(str(file))
        return relinked(file.read_text(), file.parent, Path(self.env.doc2path(self.env.docname)))


class RepositoryPage(Shown):
    """A file at the top of the repository, without its title."""

    required_arguments = 1

    def text(self) -> str:
        return re.sub(r"\A# .*\n", "", self.read(ROOT / self.arguments[0]))


class Findings(Shown):
    """findings/README.md, and of each script what its head and the output at its end say."""

    def text(self) -> str:
        scripts = sorted(FINDINGS.glob("*.sh"))
        parts = [re.sub(r"\A# .*\n", "", self.read(FINDINGS / "README.md"))]
        parts += [self.script(file) for file in scripts]
        return "\n\n".join(parts)

    def script(self, file: Path) -> str:
        self.env.note_dependency(str(file))
        title, about, output = parts_of(file.read_text())
        lines = [f"## {title}", "", about, "", "```console", f"$ bash findings/{file.name}"]
        return "\n".join([*lines, output, "```"])


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


class Benchmarks(Shown):
    """benchmarks/results/*.md: what was measured, the figures, and folded the circumstances."""

    def text(self) -> str:
        return "\n\n".join(folded(lower(self.read(file))) for file in sorted(RESULTS.glob("*.md")))


class Result(Shown):
    """One of the results, without its title."""

    required_arguments = 1

    def text(self) -> str:
        found = self.read(RESULTS / f"{self.arguments[0]}.md")
        return folded(re.sub(r"\A# .*\n", "", found))


def folded(text: str) -> str:
    """Results with their last list, command, versions and machine, behind a line to click on."""
    found = re.search(r"\n((?:- .*\n(?:  .*\n)*)+)\s*\Z", text + "\n")
    if found is None:
        return text
    summary = "<details><summary>Command, versions, machine</summary>"
    return f"{text[: found.start()]}\n\n{summary}\n\n{found[1]}\n</details>\n"


def relink(app: Sphinx, docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md":
        source[0] = relinked(source[0], page.parent, page)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("repository-page", RepositoryPage)
    app.add_directive("findings", Findings)
    app.add_directive("benchmarks", Benchmarks)
    app.add_directive("result", Result)
    app.connect("source-read", relink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
