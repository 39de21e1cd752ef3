"""The reference: what the package makes public, from its docstrings.

    ```{public} core.paths core.ddpm        the names of `pushforward` that these modules define
    ```{members} pushforward.solvers        a module and all names of its `__all__`

so that a page follows the code: a new name is on it as soon as it is exported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from docstrings import converted
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pushforward as pf


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
            yield from documented(pf, "pushforward", names)


class Members(Names):
    """A module: its docstring, and the names of its `__all__`, or those that it defines itself."""

    def entries(self) -> Iterator[str]:
        name = self.arguments[0]
        module = found(name)
        doc = inspect.getdoc(module) or ""
        yield from [f".. py:module:: {name}", "", *converted(doc.splitlines())]
        yield from documented(module, name, public_names(module))


def found(name: str) -> ModuleType:
    """A module by its public name: `pushforward.times` is `pushforward.core.times`."""
    short = name.removeprefix("pushforward.")
    if short in pf._MODULES:
        return getattr(pf, short)
    return importlib.import_module(name)


def public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def documented(module: ModuleType, place: str, names: Iterable[str]) -> Iterator[str]:
    """Directives of autodoc; modules among the names are named only, as they have pages of their own."""
    for name in sorted(names, key=lambda name: (not name[0].isupper(), name.lower())):
        value = getattr(module, name)
        if isinstance(value, ModuleType) or name.startswith("_"):
            continue
        yield f".. {directive(value)}:: {place}.{name}"
        if inspect.isclass(value):
            yield "    :members:"
        yield ""


def directive(value: Any) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public", Public)
    app.add_directive("members", Members)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
