"""Mutation testing: are changed formulas and changed defaults noticed?

    python tests/mutation --area objectives --seed 1

Takes a seeded sample of small changes (mutants.py) of each source file of an area, runs the tests that execute the
changed line, quickest first and up to `--budget` seconds, and prints which changes no test has noticed and the score by
area. Which tests execute which line is measured once a test file and kept in .mutation/. What cannot be noticed, since
it changes nothing, is listed with its reason in equivalent.toml.

A library was considered: mutmut and cosmic-ray change neither defaults nor constants by a factor, and start an
interpreter, hence torch, for each change, which takes longer than most tests here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

from lab import ROOT, Cover, Lab, cover
from mutants import Mutant, Source, defaults, formulas, literal_names

# What is mutated, and the folders of tests of each area besides its own.
AREAS: dict[str, tuple[str, ...]] = {
    "core": (
        "solvers/test_base.py",
        "models",
        "sampling/test_given.py",
        "contracts/test_path_contract.py",
        "laws",
        "likelihood",
        "objectives/test_variational.py",
    ),
    "laws": (),
    "couplings": ("contracts/test_coupling_contract.py",),
    "guidance": ("solvers/test_base.py", "sampling/test_generate.py"),
    "solvers": ("contracts/test_solver_contract.py", "laws/test_mixture.py"),
    "likelihood": (),
    "objectives": ("contracts/test_objective_contract.py", "contracts/test_flow_map_contract.py"),
    "models": (
        "contracts/test_flow_map_contract.py",
        "core/test_fields.py",
        "objectives/test_bridge.py",
        "objectives/test_diffflow.py",
        "objectives/test_defaults.py",
        "solvers/test_bridge_sampling.py",
        "saving/test_folder.py",
    ),
    "sampling": ("likelihood",),
}
# Those that go through the whole library.
EVERYWHERE = ("core/test_defaults.py", "test_seeds.py")
FOLDER = ROOT / ".mutation"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of pushforward.")
    parser.add_argument("--area", nargs="*", choices=AREAS, default=[])
    parser.add_argument(
        "--file", nargs="*", default=[], help="Only source files whose path contains one of these."
    )
    parser.add_argument(
        "--per-file", type=int, default=10, help="Mutants of formulas in each file."
    )
    parser.add_argument(
        "--defaults", type=int, default=8, help="Mutants of default values in each file."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--budget", type=float, default=60, help="Seconds of tests for each mutant."
    )
    parser.add_argument("--tests", nargs="*", help="Only these test files.")
    parser.add_argument("--list", action="store_true", help="Print the mutants, and test nothing.")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    excused = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text())
    literals = literal_names(ROOT / "src" / "pushforward")
    lab = Lab(FOLDER)
    results: list[dict] = []
    for area in options.area or AREAS:
        drawn = _draw(area, options, literals)
        if options.list:
            print(*drawn, sep="\n")
            continue
        covers = [
            cover(lab, file, FOLDER / "cover", 1500) for file in options.tests or _test_files(area)
        ]
        for mutant in drawn:
            results.append(_try(lab, mutant, area, covers, options.budget, excused))
    _report(results)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1))
    return 0


def _draw(area: str, options: argparse.Namespace, literals: dict[str, list[str]]) -> list[Mutant]:
    drawn = []
    for path in sorted((ROOT / "src" / "pushforward" / area).rglob("*.py")):
        file = str(path.relative_to(ROOT / "src"))
        if options.file and not any(part in file for part in options.file):
            continue
        # One file's sample does not depend on what the others hold.
        chance = random.Random(f"{options.seed}:{file}")
        source = Source(ROOT / "src", file)
        for found, count in (
            (formulas(source), options.per_file),
            (defaults(source, literals, chance), options.defaults),
        ):
            drawn.extend(chance.sample(found, min(count, len(found))))
    return drawn


def _test_files(area: str) -> list[str]:
    files: list[Path] = []
    for part in (area, *AREAS[area], *EVERYWHERE):
        path = ROOT / "tests" / part
        files.extend([path] if path.is_file() else sorted(path.glob("test_*.py")))
    return list(dict.fromkeys(str(f.relative_to(ROOT)) for f in files if f.exists()))


def _try(
    lab: Lab, mutant: Mutant, area: str, covers: list[Cover], budget: float, excused: dict
) -> dict:
    result = {"area": area, "kind": mutant.kind, "key": mutant.key, "mutant": str(mutant)}
    place = f"{mutant.file}:{mutant.where.partition('@')[0]}"
    excuse = excused.get(mutant.key) or (excused.get(place) if mutant.kind == "formula" else None)
    reason = (excuse or {}).get("reason")
    if reason:
        return result | {"outcome": "equivalent", "reason": reason}
    tests, seconds = _chosen(mutant, covers, budget)
    target = lab.source / mutant.file
    original = target.read_bytes()
    try:
        target.write_bytes(mutant.apply(original))
        status = lab.run(tests, 3 * seconds + 60, ["-x"]) if tests else 0
    finally:
        target.write_bytes(original)
    outcome = "survived" if status in (0, 5) else "noticed"
    print(f"{outcome:9} {mutant.key} {len(tests):4} tests  {mutant}", flush=True)
    return result | {"outcome": outcome, "status": status, "tests": len(tests)}


def _chosen(mutant: Mutant, covers: list[Cover], budget: float) -> tuple[list[str], float]:
    """Tests that run the mutated lines: one of each function in turn, within the budget; those with the mutated
    class's name in their id first, then quick ones."""
    groups: dict[str, list[tuple[float, str]]] = defaultdict(list)
    whole = (1, 1 << 30)
    # A class without methods of its own runs no line: then any test of the file may tell.
    for first, last in (mutant.scope or whole, whole):
        for each in covers:
            by_line = each.lines.get(mutant.file, {})
            ids = {t for line, tests in by_line.items() if first <= line <= last for t in tests}
            for test in ids - set(each.failed):
                groups[re.sub(r"\[.*", "", test)].append((each.seconds.get(test, 0.0), test))
        if groups:
            break
    name = mutant.where.partition("@")[0].partition(".")[0].lower()
    for group in groups.values():
        group.sort(key=lambda entry: (name not in entry[1].lower(), *entry))
    # What is written about defaults comes first where one was changed.
    order = sorted(
        groups.values(),
        key=lambda group: (
            "test_default" not in group[0][1] or mutant.kind != "default",
            group[0][0],
        ),
    )
    chosen, total = [], 0.0
    for row in itertools.zip_longest(*order):
        for entry in row:
            if entry is None:
                continue
            if total + entry[0] > budget or len(chosen) >= 200:
                return chosen, total
            chosen.append(entry[1])
            total += entry[0]
    return chosen, total


def _report(results: list[dict]) -> None:
    print()
    for result in results:
        if result["outcome"] == "survived":
            print(f"survived   {result['key']}  {result['mutant']}")
    print(f"\n{'area':12} {'formulas':>16} {'defaults':>16}")
    for area in [*AREAS, None]:
        rows = [r for r in results if area is None or r["area"] == area]
        if rows:
            cells = [
                _score([r for r in rows if r["kind"] == kind]) for kind in ("formula", "default")
            ]
            print(f"{area or 'all':12} {cells[0]:>16} {cells[1]:>16}")


def _score(rows: list[dict]) -> str:
    counted = [r for r in rows if r["outcome"] != "equivalent"]
    noticed = sum(r["outcome"] == "noticed" for r in counted)
    return f"{noticed}/{len(counted)} {noticed / len(counted):.0%}" if counted else "-"


if __name__ == "__main__":
    sys.exit(main())
