"""A process that has imported everything and forks: real processes of the real command line, in milliseconds.

Run as a script it reads one order a line, {"argv", "cwd", "before", "output", "count"}: a child executes `before`
(Python, `rank` and `count` being set) and then the command line, if there is one. It answers with the child's process
id, and, when that has ended, with its exit status. With a count it does so for a group of processes, which find each
other and end together as those of torchrun do: where one has failed, the others get SIGTERM, and SIGKILL later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Seconds that the others of a group have after one has failed. torchrun gives them 30.
GRACE = 20
# Seconds after which a group is taken to hang, and ended as if one had failed.
LIMIT = 180


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
        self.number = 0
        assert self._answer() == "ready"

    def _answer(self):
        """The next answer to the last order; those to orders that nobody waits for any more are passed over."""
        assert self.process.stdout is not None
        number = -1
        while number != self.number:
            number, value = json.loads(self.process.stdout.readline())
        return value

    def start(self, *argv: object, cwd: Path, before: str = "") -> int:
        """Start a command line; returns its process id."""
        return self._order(argv, cwd, before, 0)

    def _order(self, argv: tuple, cwd: Path, before: str, count: int):
        self.output = cwd / "output.txt"
        self.number += 1
        order = {
            "number": self.number, "argv": list(map(str, argv)), "cwd": str(cwd), "before": before,
            "output": str(self.output), "count": count,
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def start_group(self, count: int, *argv: object, cwd: Path, before: str = "") -> list[int]:
        """Start a command line in several processes; returns their ids, by rank."""
        return self._order(argv, cwd, before, count)

    def wait_group(self) -> list[int]:
        """As `wait`, of each process. What they printed is in `said`, by rank."""
        codes = self._answer()
        self.said = [Path(f"{self.output}.{rank}").read_text() for rank in range(len(codes))]
        return codes

    def run_group(self, count: int, *argv: object, cwd: Path, before: str = "") -> list[int]:
        self.start_group(count, *argv, cwd=cwd, before=before)
        return self.wait_group()

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
        self.process.wait(60)


def _child(order: dict, rank: int = 0, count: int = 1) -> None:
    os.chdir(order["cwd"])
    output = f"{order['output']}.{rank}" if order["count"] else order["output"]
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    code = 99
    try:
        exec(order["before"], {"rank": rank, "count": count})
        code = main(order["argv"]) if order["argv"] else 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _meeting_point() -> tuple[int, int, int]:
    """A process in which others find each other, until the file is closed: its id, the file and the port."""
    from torch.distributed import TCPStore

    (told, tell), (ended, end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(tell, str(store.port).encode())
        os.read(ended, 1)
        os._exit(0)
    os.close(tell), os.close(ended)
    port = int(os.read(told, 16))
    os.close(told)
    return pid, end, port


def _tell(order: dict, value: object) -> None:
    print(json.dumps([order["number"], value]), flush=True)


def _group(order: dict) -> None:
    count = order["count"]
    meeting, file, port = _meeting_point()
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(file)
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
                "GLOO_SOCKET_IFNAME": "lo",
            }  # fmt: skip
            _child(order, rank, count)
        pids.append(pid)
    _tell(order, pids)
    codes: dict[int, int] = {}
    failed, due = 0.0, [(0.1, signal.SIGTERM), (GRACE, signal.SIGKILL)]
    limit = time.monotonic() + LIMIT
    while len(codes) < count:
        for pid in set(pids) - codes.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                failed = failed or (time.monotonic() if status else 0.0)
        failed = failed or (limit if time.monotonic() > limit else 0.0)
        if failed and due and time.monotonic() > failed + due[0][0]:
            _, number = due.pop(0)
            for pid in set(pids) - codes.keys():
                os.kill(pid, number)
        time.sleep(0.005)
    os.close(file)
    os.waitpid(meeting, 0)
    _tell(order, [codes[pid] for pid in pids])


if __name__ == "__main__":
    import tinyrun
    import torch

    from pushforward.cli import main

    torch.set_num_threads(1)
    assert tinyrun
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # Brings in a thousand modules.
    _tell({"number": 0}, "ready")
    for line in sys.stdin:
        order = json.loads(line)
        if order["count"]:
            _group(order)
            continue
        pid = os.fork()
        if pid == 0:
            _child(order)
        _tell(order, pid)
        _tell(order, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
