"""What CONTRIBUTING describes is done to a copy of the repository: the file, the export, the line in the contract."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docpages import ROOT, Block, blocks

# What each section adds, by the name that its tests carry.
NEWCOMERS = ("Late", "RK3", "Denoising", "ranks", "Affine", "Letters", "Angles")
PLACE = re.compile(r"@ (\S+), in (\w+)")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy with everything that CONTRIBUTING adds."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for block in blocks("CONTRIBUTING.md", "python"):
        create(copy, block)
    for block in blocks("CONTRIBUTING.md", "diff"):
        insert(copy, block)
    return copy


def create(copy: Path, block: Block) -> None:
    name = re.match(r"# (src/pushforward/\S+\.py)\n", block.text)
    assert name, f"{block} does not begin with the name of its file"
    assert not (copy / name[1]).exists()
    (copy / name[1]).write_text(block.text)


def insert(copy: Path, block: Block) -> None:
    """Add the lines of a block, each after the place that is named above it."""
    place: re.Match[str] | None = None
    for line in block.text.splitlines():
        if line.startswith("+"):
            assert place, f"{block} has lines without a place"
            file = copy / place[1]
            lines = file.read_text().splitlines()
            lines.insert(end_of(lines, place[2]), line[1:])
            file.write_text("\n".join(lines) + "\n")
        else:
            place = PLACE.fullmatch(line)
            assert place, f"{block}: {line!r} names no place"


def end_of(lines: list[str], name: str) -> int:
    """Where a line goes that is added to a collection of this name, to the imports or to the block TYPE_CHECKING."""
    tree = ast.parse("\n".join(lines))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in (getattr(target, "id", None) for target in targets):
            return int(node.value.end_lineno or 0) - 1
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == name:
            return int(node.end_lineno or 0)
    if name == "imports":
        return max(int(n.end_lineno or 0) for n in tree.body if isinstance(n, ast.ImportFrom))
    raise AssertionError(f"there is no {name}")


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "PUSHFORWARD_QUICK": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True
    )


@pytest.mark.timeout(600)
def test_newcomers_pass_the_contract_of_their_kind(repository):
    chosen = " or ".join(f"{name}]" if name == "ranks" else name for name in NEWCOMERS)
    done = run(
        repository, "-m", "pytest", "-vv", "-n0", "-p", "no:cacheprovider",
        "tests/contracts", "tests/test_imports.py", "-k", f"({chosen}) or imports",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    for name in NEWCOMERS:
        assert any(re.search(rf"[\[-]{name}[\]-]", line) for line in passed), name


def test_newcomers_have_their_names_on_the_command_line(repository):
    for command in (
        "train toy2d --path late --out runs/late",
        "sample runs/late --solver rk3 --nfe 6",
    ):
        done = run(repository, "-m", "pushforward", *command.split())
        assert done.returncode == 0, done.stderr
