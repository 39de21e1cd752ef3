"""The tool that changes formulas and defaults finds them where they are, and leaves alone what says nothing."""

from __future__ import annotations

import ast
import random

from mutation.mutants import Source, defaults, formulas

CODE = '''"""Text with 1 + 1."""
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Kind = Literal["a", "b"]
GUARD = 1e-12

@dataclass(frozen=True)
class Law:
    kind: Kind = "a"
    share: float = 0.9
    steps: int = 10
    order: ClassVar[int] = 1
    relative: bool = field(default=False, kw_only=True)
    none: int | None = None

    def __call__(self, x, t, scale: float = 1.0):
        if scale < 0:
            raise ValueError(f"scale is {scale - 1}")
        y = -x.exp().sum(1) ** 2 / (t + 1)
        return torch.where(t > 0, y.clamp(min=0), x[0])

def _private(a=3):
    return a
'''


def source(tmp_path) -> Source:
    (tmp_path / "law.py").write_text(CODE)
    return Source(tmp_path, "law.py")


def test_formulas_are_found_and_each_change_is_another_program(tmp_path):
    found = source(tmp_path)
    changes = {(m.line, m.old, m.new) for m in formulas(found)}
    line = 1 + CODE[: CODE.index("y = -x")].count("\n")
    assert changes == {
        (line, "**", "*"), (line, "/", "*"), (line, "+", "-"), (line, "2", "3"), (line, "1", "2"),
        (line, "-x.exp().sum(1) ** 2", "x.exp().sum(1) ** 2"), (line, "exp", "expm1"), (line, "sum", "mean"),
        (line + 1, "t > 0", "~(t > 0)"), (line + 1, ">", "<"), (line + 1, "0", "1"), (line + 1, "min", "max"),
        (1 + CODE[: CODE.index("order:")].count("\n"), "1", "2"), (line + 3, "3", "4"),
    }  # fmt: skip
    plain = ast.dump(ast.parse(CODE))
    for mutant in formulas(found):
        assert ast.dump(ast.parse(mutant.apply(found.bytes))) != plain


def test_public_defaults_are_found_and_get_another_value_of_their_kind(tmp_path):
    found = source(tmp_path)
    literals = {"Kind": ["a", "b"]}
    changes = {(m.old, m.new) for m in defaults(found, literals, random.Random(0))}
    assert changes == {
        ('"a"', "'b'"),
        ("0.9", "0.63"),
        ("10", "14"),
        ("False", "True"),
        ("1.0", "1.4"),
    }


def test_the_key_of_a_change_does_not_depend_on_what_is_above_it(tmp_path):
    before = {m.key for m in formulas(source(tmp_path))}
    (tmp_path / "law.py").write_text("# A line more.\n" + CODE)
    assert {m.key for m in formulas(Source(tmp_path, "law.py"))} == before
