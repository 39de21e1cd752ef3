"""Imports run one way only, and importing the package is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pushforward as pf

SOURCE = Path(pf.__file__).parent
# From the bottom up: a part imports from those below it, and from itself. Parts on one level do not know each other.
LEVELS = [
    {"core"}, {"laws", "nets", "couplings", "data", "runtime"}, {"models", "solvers", "guidance", "streams"},
    {"likelihood", "objectives"}, {"saving", "sampling"}, {"train"}, {"evaluate"}, {"systems"}, {"recipes", "interop"},
    {"demo", "serve"}, {"cli"},
]  # fmt: skip
LEVEL = {part: i for i, parts in enumerate(LEVELS) for part in parts}
# The command line is a module that starts nothing else: python -m pushforward.
FREE = {"__main__"}


def part_of(file: Path) -> str:
    return file.relative_to(SOURCE).with_suffix("").parts[0]


def targets(file: Path) -> list[tuple[int, str]]:
    """(line, part) of every import of pushforward in this file, those inside functions included."""
    package = ["pushforward", *file.relative_to(SOURCE).parent.parts]
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "pushforward":
                found.append((node.lineno, parts[1] if len(parts) > 1 else ""))
    return found


FILES = [f for f in sorted(SOURCE.rglob("*.py")) if part_of(f) not in FREE | {"__init__"}]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_run_only_towards_the_core(file):
    here = part_of(file)
    assert here in LEVEL, f"{here} has no place in the order of imports"
    for line, there in targets(file):
        if there in ("", "__version__"):
            # The package itself gives names of every part: only the outermost ones may go through it.
            assert LEVEL[here] >= LEVEL["systems"] or there == "__version__", (
                f"{file}:{line} imports the package"
            )
            continue
        assert there in LEVEL, f"{file}:{line} imports {there}, which has no place in the order"
        assert there == here or LEVEL[there] < LEVEL[here], f"{file}:{line}: {here} imports {there}"


def test_the_check_of_imports_sees_what_it_must():
    core = next(f for f in FILES if part_of(f) == "core")
    assert {part_of(f) for f in FILES} >= {"core", "solvers", "objectives", "nets"}
    text = ast.parse("def f():\n    from pushforward.solvers import Heun\n")
    assert any(isinstance(node, ast.ImportFrom) for node in ast.walk(text))
    assert any(targets(f) for f in FILES)
    assert core.exists()


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_no_other():
    heavy = [
        "torch",
        "numpy",
        "matplotlib",
        "sklearn",
        "scipy",
        "fastapi",
        "PIL",
        "pydantic",
        "tyro",
        "safetensors",
    ]
    out = run(f"import sys, pushforward; print([m for m in {heavy} if m in sys.modules])")
    assert out == "[]"


def test_sampling_and_training_import_nothing_that_draws_or_evaluates():
    heavy = ["matplotlib", "sklearn", "scipy", "fastapi", "tyro", "pydantic", "rich"]
    out = run(
        "import sys, torch, numpy; before = set(sys.modules); import pushforward as pf; "
        "pf.CondOT, pf.integrate, pf.solvers.Heun, pf.GaussianMixture, pf.objectives.FlowMatching, pf.nets.MLP; "
        f"print([m for m in {heavy} if m in sys.modules and m not in before])"
    )
    assert out == "[]"


@pytest.mark.parametrize("name", pf.__all__)
def test_every_public_name_is_there(name):
    assert getattr(pf, name) is not None
    assert name in dir(pf)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pf.nonsense


def modules() -> dict[str, set[str]]:
    """Every module of the package, with those that it imports, inside functions too."""
    files = {}
    for file in SOURCE.rglob("*.py"):
        parts = ["pushforward", *file.relative_to(SOURCE).with_suffix("").parts]
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pushforward"):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.add(full if full in files else node.module)
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = {other for other in found if other in files and other != name}
    # The package itself names everything, lazily, for the user.
    graph["pushforward"] = set()
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """A module of each circle: what is left when those that import nothing are taken away, again and again."""
    left = {name: set(others) for name, others in graph.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_module_imports_itself_by_way_of_others():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circles(modules()) == []
