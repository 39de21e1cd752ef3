"""A process that has imported everything and forks: real processes of the real command line, in milliseconds.

Run as a script it reads one order a line, {"argv", "cwd", "before", "output"}: a child executes `before` (Python) and
then the command line, if there is one. It answers with the child's process id, and, when that has ended, with its
exit status.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


class Zygote:
    def __init__(self) -> None:
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        self.process = subprocess.Popen(
            [sys.executable, "-B", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )
        assert self._answer() == "ready"

    def _answer(self):
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def start(self, *argv: object, cwd: Path, before: str = "") -> int:
        """Start a command line; returns its process id."""
        self.output = cwd / "output.txt"
        order = {
            "argv": list(map(str, argv)), "cwd": str(cwd), "before": before, "output": str(self.output),
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """Its exit code, or minus the signal that killed it. What it printed is in `said`."""
        code = self._answer()
        self.said = self.output.read_text()
        return code

    def run(self, *argv: object, cwd: Path, before: str = "") -> int:
        self.start(*argv, cwd=cwd, before=before)
        return self.wait()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def _child(order: dict) -> None:
    os.chdir(order["cwd"])
    file = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    code = 99
    try:
        exec(order["before"], {})
        code = main(order["argv"]) if order["argv"] else 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    import tinyrun
    import torch

    from pushforward.cli import main

    torch.set_num_threads(1)
    assert tinyrun
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # Brings in a thousand modules.
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(json.dumps(pid), flush=True)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)
