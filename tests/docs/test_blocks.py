"""The blocks of Python in README, guide and CONTRIBUTING run as printed, in the order of their page."""

from __future__ import annotations

import sys
import types

import pytest
from docpages import PAGES, blocks

# No block takes more than about 15 s of one core, and all together less than 90: keep examples small.


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_blocks_run_as_printed_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # dataclasses look up the module that they are in
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page, "python"):
        code = compile("\n" * block.line + block.text, page, "exec")
        exec(code, module.__dict__)
