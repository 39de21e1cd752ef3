"""Small changes of a source file that tests should notice: of formulas, and of default values.

Each mutant replaces one stretch of text. Formulas: signs, operators, constants, functions, conditions. Defaults: of the
public dataclass fields and keyword arguments, whose users rely on what they do. Error messages, annotations, shapes and
indices are left alone: a change there either says nothing or fails at once.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWAPPED_OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
}  # fmt: skip
SWAPPED_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", ">"), ast.Gt: (">", "<"), ast.LtE: ("<=", ">"), ast.GtE: (">=", "<"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}  # fmt: skip
SWAPPED_FUNCTIONS = {
    "sin": "cos", "cos": "sin", "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "mean": "sum",
    "sum": "mean", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "square": "abs",
    "sqrt": "abs", "floor": "ceil", "sigmoid": "tanh", "logsumexp": "sum", "softmax": "log_softmax",
    "zeros_like": "ones_like", "ones_like": "zeros_like", "sum_data": "mean_data", "mean_data": "sum_data",
}  # fmt: skip
# Arguments of these are shapes, dimensions and places.
SHAPES = {
    "reshape", "view", "expand", "flatten", "unflatten", "sum", "mean", "amax", "amin", "max", "min", "std", "var",
    "stack", "cat", "chunk", "split", "unbind", "squeeze", "unsqueeze", "transpose", "permute", "repeat", "argmax",
    "argmin", "argsort", "sort", "softmax", "log_softmax", "logsumexp", "cumsum", "cumprod", "norm", "vector_norm",
    "range", "new_zeros", "new_ones", "zeros", "ones", "empty", "diff", "gather", "topk", "movedim", "tile", "all",
    "any", "roll", "flip", "size", "randn", "rand", "eye", "isinstance", "getattr", "round", "diagonal", "einsum",
    "repeat_interleave", "index_select", "partition", "join", "warn",
}  # fmt: skip
# Defaults that are objects, and others of their kind.
OTHER_DEFAULTS = {
    "Uniform()": "Uniform(0.0, 0.5)",
    "squared_euclidean": "(lambda a, b: squared_euclidean(a, b).sqrt())",
    "squared": "(lambda error: error.abs())",
    "math.inf": "3.0",
    'float("inf")': "3.0",
}


@dataclass(frozen=True)
class Mutant:
    """The text of `file` between two byte offsets, and what takes its place."""

    file: str  # below src
    kind: str  # "formula" or "default"
    start: int
    end: int
    old: str
    new: str
    line: int  # of the change
    scope: (
        tuple[int, int] | None
    )  # lines whose execution says which tests could notice it; None: the whole file
    code: str  # the line as it is
    where: str  # the function or class, by its full name, and the column

    @property
    def key(self) -> str:
        """The same after edits elsewhere in the file."""
        text = f"{self.file}|{self.where}|{self.code.strip()}|{self.old}|{self.new}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.old!r} -> {self.new!r}   {self.code.strip()}"


class Source:
    """A file, its tree, and where in its text each node is."""

    def __init__(self, root: Path, file: str) -> None:
        self.file, self.bytes = file, (root / file).read_bytes()
        self.lines = self.bytes.splitlines(keepends=True)
        starts = [0]
        for line in self.lines:
            starts.append(starts[-1] + len(line))
        self.starts = starts
        self.tree = ast.parse(self.bytes)
        self.parents = {
            child: parent
            for parent in ast.walk(self.tree)
            for child in ast.iter_child_nodes(parent)
        }

    def span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def mutant(
        self, kind: str, start: int, end: int, new: str, scope: tuple[int, int] | None
    ) -> Mutant:
        line = sum(1 for s in self.starts[1:] if s <= start) + 1
        code = self.lines[line - 1].decode().rstrip()
        where = f"{self._home(line)}@{start - self.starts[line - 1]}"
        old = self.bytes[start:end].decode()
        return Mutant(self.file, kind, start, end, old, new, line, scope, code, where)

    def _home(self, line: int) -> str:
        """The full name of the innermost function or class around a line."""
        around = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
            and node.lineno <= line <= (node.end_lineno or 0)
        ]
        return ".".join(node.name for node in sorted(around, key=lambda node: node.lineno))


def number(value: float, gentle: bool) -> float | None:
    """Another number near this one; None for those that only guard against rounding."""
    if isinstance(value, int):
        if abs(value) > 9:
            return round(value * 1.4)
        return {0: 1, 1: 2}.get(value, value + 1)
    if value == 0:
        return 0.25
    if abs(value) <= 1e-6 or abs(value) >= 1e6:
        return None
    # Stays within [0, 1], where shares and probabilities are.
    return float(f"{value * (0.7 if gentle and 0 < value < 1 else 1.4):.6g}")


def formulas(source: Source) -> list[Mutant]:
    """All mutants of formulas in a file."""
    found: list[Mutant] = []
    defaults = {id(node) for _, node, _ in _defaults(source)}

    def add(start: int, end: int, new: str, node: ast.AST) -> None:
        found.append(source.mutant("formula", start, end, new, _scope(source, node)))

    for node in ast.walk(source.tree):
        if not isinstance(node, ast.expr) or _skipped(source, node, defaults):
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED_OPERATORS:
            if _is_text(node.left) or _is_text(node.right) or isinstance(node.left, ast.List):
                continue
            old, new = SWAPPED_OPERATORS[type(node.op)]
            left, right = source.span(node.left)[1], source.span(node.right)[0]
            place = re.search(re.escape(old), source.bytes[left:right].decode())
            if place is not None:
                add(left + place.start(), left + place.end(), new, node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if not _is_shape(source, node):
                add(*source.span(node), source.text(node.operand), node)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            if type(node.ops[0]) in SWAPPED_COMPARISONS:
                old, new = SWAPPED_COMPARISONS[type(node.ops[0])]
                left, right = source.span(node.left)[1], source.span(node.comparators[0])[0]
                place = re.search(re.escape(old), source.bytes[left:right].decode())
                if place is not None:
                    add(left + place.start(), left + place.end(), new, node)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            other = None if _is_shape(source, node) else number(node.value, gentle=False)
            if other is not None:
                add(*source.span(node), repr(other), node)
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            if isinstance(source.parents.get(node), ast.keyword):
                add(*source.span(node), repr(not node.value), node)
        elif isinstance(node, ast.IfExp):
            add(*source.span(node.test), f"not ({source.text(node.test)})", node)
        elif isinstance(node, ast.Call):
            found.extend(_calls(source, node))
    return found


def _calls(source: Source, node: ast.Call) -> Iterator[Mutant]:
    scope = _scope(source, node)
    name = _name(node)
    if name in SWAPPED_FUNCTIONS and not (
        name in ("min", "max", "sum") and isinstance(node.func, ast.Name)
    ):
        end = source.span(node.func)[1]
        yield source.mutant("formula", end - len(name), end, SWAPPED_FUNCTIONS[name], scope)
    if name == "where" and len(node.args) == 3:
        start, end = source.span(node.args[0])
        yield source.mutant("formula", start, end, f"~({source.text(node.args[0])})", scope)
    if name == "clamp":
        for keyword in node.keywords:
            if keyword.arg in ("min", "max") and len(node.keywords) == 1:
                start = source.starts[keyword.lineno - 1] + keyword.col_offset
                new = "max" if keyword.arg == "min" else "min"
                yield source.mutant("formula", start, start + 3, new, scope)


def defaults(source: Source, literals: dict[str, list[str]], random: random.Random) -> list[Mutant]:
    """One mutant of each public default value in a file."""
    found = []
    for annotation, node, scope in _defaults(source):
        new = _other_default(source, annotation, node, literals, random)
        if new is not None:
            found.append(source.mutant("default", *source.span(node), new, scope))
    return found


def _other_default(
    source: Source, annotation: ast.expr | None, node: ast.expr, literals: dict[str, list[str]],
    random: random.Random,
) -> str | None:  # fmt: skip
    text = source.text(node)
    if text in OTHER_DEFAULTS:
        return OTHER_DEFAULTS[text]
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        other = number(value, gentle=True) if type(value) in (int, float) else None
        return None if other is None else f"-{other!r}"
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        # The width of a bin, 2/255 and not 2/256.
        return f"{source.text(node)} * {node.right.value} / {node.right.value + 1}"
    if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[-1], ast.Constant):
        *rest, last = node.elts
        if type(last.value) not in (int, float):
            return None
        inner = 0.7 * last.value if last.value else 0.25
        return f"({', '.join([*map(source.text, rest), repr(inner)])},)"
    if not isinstance(node, ast.Constant):
        return None
    value = node.value
    if type(value) is bool:
        return repr(not value)
    if type(value) in (int, float):
        other = number(value, gentle=True)
        return None if other is None else repr(other)
    if type(value) is str and annotation is not None:
        options = [o for o in _options(annotation, literals) if o != value]
        return repr(random.choice(options)) if options else None
    return None


def _options(annotation: ast.expr, literals: dict[str, list[str]]) -> list[str]:
    """The strings that an annotation allows."""
    if isinstance(annotation, ast.Name):
        return literals.get(annotation.id, [])
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return [
            n.value
            for n in ast.walk(annotation.slice)
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
    if isinstance(annotation, ast.BinOp):
        return _options(annotation.left, literals) + _options(annotation.right, literals)
    return []


def literal_names(root: Path) -> dict[str, list[str]]:
    """`Name = Literal[...]` anywhere below root."""
    found: dict[str, list[str]] = {}
    for file in root.rglob("*.py"):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                options = _options(node.value, {})
                if options:
                    found[node.targets[0].id] = options
    return found


def _defaults(
    source: Source,
) -> Iterator[tuple[ast.expr | None, ast.expr, tuple[int, int]]]:
    """(annotation, value, scope) of each public default: fields of dataclasses, and of arguments."""
    for node in ast.walk(source.tree):
        names = [
            p.name for p in source.above(node) if isinstance(p, ast.ClassDef | ast.FunctionDef)
        ]
        if isinstance(node, ast.ClassDef) and _is_dataclass(node):
            if any(name.startswith("_") for name in (node.name, *names)):
                continue
            for field in node.body:
                if not isinstance(field, ast.AnnAssign) or field.value is None:
                    continue
                if "ClassVar" in ast.unparse(field.annotation):
                    continue
                value = _field_default(field.value)
                if value is not None:
                    yield field.annotation, value, (node.lineno, node.end_lineno or node.lineno)
        elif isinstance(node, ast.FunctionDef):
            own = [] if node.name == "__init__" else [node.name]
            if any(name.startswith("_") and name != "__call__" for name in (*own, *names)):
                continue
            if any(isinstance(p, ast.FunctionDef) for p in source.above(node)):
                continue
            if any("overload" in ast.unparse(d) for d in node.decorator_list) or _is_stub(node):
                continue
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            pairs = [
                *zip(
                    positional[len(positional) - len(arguments.defaults) :],
                    arguments.defaults,
                    strict=True,
                ),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            for argument, value in pairs:
                if value is not None:
                    yield argument.annotation, value, (node.lineno, node.end_lineno or node.lineno)


def _field_default(value: ast.expr) -> ast.expr | None:
    """The default itself, also of `field(default=...)`."""
    if isinstance(value, ast.Call) and _name(value) == "field":
        return next((k.value for k in value.keywords if k.arg == "default"), None)
    return value


def _is_stub(node: ast.FunctionDef) -> bool:
    """A method of a protocol: a docstring or `...` and nothing else."""
    return all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in node.body)


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def _name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_shape(source: Source, node: ast.expr) -> bool:
    """Whether this number is an index, a dimension or a shape."""
    child: ast.AST = node
    for parent in source.above(node):
        if isinstance(parent, ast.Subscript) and child is parent.slice:
            return True
        if isinstance(parent, ast.Call) and child is not parent.func and _name(parent) in SHAPES:
            return True
        if isinstance(parent, ast.keyword) and parent.arg in ("dim", "dims", "device", "dtype"):
            return True
        if isinstance(parent, ast.stmt):
            return False
        child = parent
    return False


def _skipped(source: Source, node: ast.expr, defaults: set[int]) -> bool:
    """Annotations, messages, decorators, checks that only raise, and defaults, which are mutated by themselves."""
    child: ast.AST = node
    if id(node) in defaults:
        return True
    for parent in source.above(node):
        if id(parent) in defaults:
            return True
        if isinstance(parent, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            return True
        if isinstance(parent, ast.AnnAssign) and child is parent.annotation:
            return True
        if isinstance(parent, ast.arg | ast.Global):
            return True
        if isinstance(parent, ast.keyword) and parent.arg in ("kw_only", "strict"):
            return True
        if isinstance(parent, ast.FunctionDef):
            if child is parent.returns or child in parent.decorator_list:
                return True
            if parent.name in ("__repr__", "__str__") or _is_stub(parent):
                return True
        if isinstance(parent, ast.ClassDef) and child in parent.decorator_list:
            return True
        if (
            isinstance(parent, ast.If)
            and child is parent.test
            and isinstance(parent.body[0], ast.Raise)
        ):
            return True
        if (
            isinstance(parent, ast.Subscript)
            and child is parent.slice
            and isinstance(node, ast.Constant)
        ):
            return True
        child = parent
    return False


def _scope(source: Source, node: ast.AST) -> tuple[int, int] | None:
    """The lines of the statement if it runs in a function; else of the class, or None."""
    end = getattr(node, "end_lineno", None) or node.lineno  # type: ignore[attr-defined]
    lines: tuple[int, int] | None = None
    for parent in source.above(node):
        if isinstance(parent, ast.stmt) and lines is None:
            compound = isinstance(
                parent, ast.If | ast.For | ast.While | ast.With | ast.Match | ast.FunctionDef
            )
            lines = parent.lineno, end if compound else parent.end_lineno or end
        if isinstance(parent, ast.FunctionDef | ast.Lambda):
            return lines or (parent.lineno, end)
        if isinstance(parent, ast.ClassDef):
            return parent.lineno, parent.end_lineno or parent.lineno
    return None
