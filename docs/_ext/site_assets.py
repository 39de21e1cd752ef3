"""MathJax beside the pages, so that they need no network; what readers of screens need and the theme lacks."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.fileutil import copy_asset

SIGNATURE = re.compile(r"<dl>\s*((?:<dd>(?:(?!<d[ld]>).)*?</dd>\s*)+)</dl>", re.DOTALL)
# What a page of TeX with equations in HTML loads, of the package sphinx-mathjax-offline (MathJax 3).
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts")


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    if failure is not None or app.builder.format != "html":
        return
    found = find_spec("sphinx-mathjax-offline")
    if found is None or found.origin is None:
        raise RuntimeError("MathJax is missing: pip install -e '.[docs]'")
    package = Path(found.origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        target = Path(app.outdir) / "_static" / "mathjax" / name
        copy_asset(package / name, target if (package / name).is_dir() else target.parent)


class Described(SphinxPostTransform):
    """A picture without a text of its own is described by the heading that it is under."""

    default_priority = 700

    def run(self, **_: Any) -> None:
        for image in self.document.findall(nodes.image):
            if not image.get("alt"):
                image["alt"] = f"Picture: {heading(image)}"


def heading(node: nodes.Node) -> str:
    while node is not None:
        if isinstance(node, nodes.section):
            return node.next_node(nodes.title).astext()
        node = node.parent
    return "of this page"


def accessible(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Headings of the navigation have a level, and a signature of several lines is no list of definitions."""
    if navigation := context.get("furo_navigation_tree"):
        context["furo_navigation_tree"] = navigation.replace(
            'role="heading"', 'role="heading" aria-level="2"'
        )
    if "body" in context:
        context["body"] = SIGNATURE.sub(in_lines, context["body"])


def in_lines(found: re.Match[str]) -> str:
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", copy_mathjax)
    app.add_post_transform(Described)
    app.connect("html-page-context", accessible, priority=900)  # after the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
