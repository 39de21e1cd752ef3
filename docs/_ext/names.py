"""The reference: what the package makes public, from its docstrings.

    ```{public} core.paths core.ddpm        the names of `pushforward` that these modules define
    ```{module} pushforward.solvers         a module and all names of its `__all__`

so that a page follows the code: a new name is on it as soon as it is exported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pushforward as pf
from docstrings import converted


class Names(SphinxDirective):
    """Entries of autodoc for the names, in the order of the code."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        container = nodes.Element()
        text = "\n".join(["````{eval-rst}", *self.entries(), "````"])
        self.state.nested_parse(text.splitlines(), 0, container)
        return container.children

    def entries(self) -> Iterator[str]:
        raise NotImplementedError


class Public(Names):
    """Names of the package itself, by the modules that define them."""

    def entries(self) -> Iterator[str]:
        for home in self.arguments[0].split():
            names = pf._NAMES.get(home)
            if names is None:
                raise self.error(f"pushforward has no names from {home}")
            yield from documented("pushforward", names)


class Module(Names):
    """A module: its docstring, and the names of its `__all__`, or those that it defines itself."""

    def entries(self) -> Iterator[str]:
        module = importlib.import_module(self.arguments[0])
        doc = inspect.getdoc(module) or ""
        yield from [f".. py:module:: {module.__name__}", "", *converted(doc.splitlines())]
        yield from documented(module.__name__, public_names(module))


def public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def documented(module: str, names: Iterable[str]) -> Iterator[str]:
    """Directives of autodoc; modules among the names are named only, as they have pages of their own."""
    for name in sorted(names, key=lambda name: (not name[0].isupper(), name.lower())):
        value = getattr(importlib.import_module(module), name)
        if isinstance(value, ModuleType) or name.startswith("_"):
            continue
        yield f".. {directive(value)}:: {module}.{name}"
        if inspect.isclass(value):
            yield "    :members:"
        yield ""


def directive(value: Any) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public", Public)
    app.add_directive("module", Module)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
