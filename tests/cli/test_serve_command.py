"""`pushforward serve` from the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pushforward.cli import main

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install -e '.[serve]'")
COMMAND = [sys.executable, "-m", "pushforward", "serve", "--port", "0"]


def test_a_check_draws_once_and_stops():
    done = subprocess.run([*COMMAND, "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "first drawing after" in done.stdout
    assert "token" not in done.stdout


def test_a_file_of_the_folder_it_is_started_in_is_not_what_is_imported(tmp_path):
    for name in ("torch.py", "pushforward.py", "numpy.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('taken')")
    program = "import sys; from pushforward.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-P", "-c", program, "serve", "--port", "0", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_control_c_stops_it_with_its_worker():
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        for _ in range(200):
            there = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if there:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130, -2)
        assert "Traceback" not in process.stderr.read()
        assert not any(Path(f"/proc/{child}").exists() for child in there)
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()


def test_what_is_no_run_is_said_before_anything_starts(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 1
    assert "it has no model.json" in capsys.readouterr().err


def test_a_run_that_cannot_be_loaded_is_said_with_its_name(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_another_address_has_a_token():
    process = subprocess.Popen([*COMMAND, "--host", "0.0.0.0"], stdout=subprocess.PIPE, text=True)
    try:
        assert "?token=" in process.stdout.readline()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
