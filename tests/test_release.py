"""What is released can be installed: the wheel holds all of the package, and draws where nothing else is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
DRAW = """
import torch, pushforward as pf
assert "site-packages" in pf.__file__, pf.__file__
law = pf.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), covariances=torch.tensor([0.3, 0.1]))
drawn = pf.generate(law.field(pf.CondOT()), 2000, nfe=12)
error = (drawn.mean(0) - torch.tensor([0.0, 0.5])).abs()
assert bool((error < 5 * drawn.std(0) / 2000**0.5).all()), error
model = pf.Model(pf.nets.UNet(1, 8, classes=3), pf.CondOT(), shape=(1, 8, 8), classes=3)
pf.save(model, "run")
again = pf.generate(pf.load("run"), 2, nfe=3, guidance=2.0, label=[0, 2])
assert torch.equal(again, pf.generate(model.eval(), 2, nfe=3, guidance=2.0, label=[0, 2]))
"""


def run(*words: str | Path, cwd: Path) -> str:
    """Another process that knows nothing of this checkout."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_passes_twine(wheel):
    there = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("pushforward/")}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert inside == there
    assert "PASSED" in run(
        sys.executable, "-m", "twine", "check", "--strict", wheel, cwd=wheel.parent
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_draws_in_an_environment_with_nothing_else(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    # torch is named beside the package, so that pip takes the pinned build and no other, as in the Makefile.
    pinned = ("-c", ROOT / "constraints.txt", "torch==2.13.0")
    run(python, "-m", "pip", "install", "-q", *pinned, wheel, cwd=tmp_path)
    run(python, "-c", DRAW, cwd=tmp_path)
    command = tmp_path / "env" / "bin" / "pushforward"
    assert "train" in run(command, "--help", cwd=tmp_path)
    run(command, "sample", "run", "--num", "4", "--nfe", "3", "--out", "drawn", cwd=tmp_path)
    assert (tmp_path / "drawn" / "samples.npz").is_file()


def test_the_checks_of_github_are_targets_of_the_makefile_for_the_python_that_is_required():
    known = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [
        step["run"] for job in known["jobs"].values() for step in job["steps"] if "run" in step
    ]
    asked = {command.split()[1] for command in commands if command.startswith("make ")}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"test", "lint", "test-slow"} <= asked <= targets
    ours = set(re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert ours <= asked
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (
        project["requires-python"]
        == f">={known['jobs']['test']['strategy']['matrix']['python'][0]}"
    )
