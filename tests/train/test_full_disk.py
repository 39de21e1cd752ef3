"""Files are wholly there or not at all, whatever fails on the way; a full disk is one message."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from test_kill_and_resume import TOY, checkpoints_are_whole
from tinyrun import outcome, trainer, tree
from zygote import Zygote

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import write_file, write_folder


class Faults:
    """Makes operation number `at` on files fail, of those that bring something to the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: OSError) -> None:
        self.at, self.error, self.count = at, error, 0
        for owner, name in (
            (os, "fsync"), (os, "replace"), (os, "truncate"), (Path, "mkdir"), (Path, "rename"), (Path, "open"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self.wrap(name, getattr(owner, name)))

    def wrap(self, name: str, real):
        def wrapped(*args, **kwargs):
            mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
            if name != "open" or mode[0] in "wax":
                self.count += 1
                if self.count == self.at:
                    raise self.error
            return real(*args, **kwargs)

        return wrapped


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refusal(call: Callable[[], object]) -> str:
    """What the library says of a call that failed; nothing if it did not."""
    try:
        call()
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("write", ["file", "folder"])
def test_a_write_that_fails_anywhere_leaves_what_was_there_and_nothing_else(
    write: str, tmp_path: Path
) -> None:
    for at in itertools.count(1):
        place = tmp_path / str(at)
        place.mkdir()
        path = place / ("old" if write == "file" else "new")
        (place / "old").write_bytes(b"old")
        before = tree(place)
        if write == "file":
            after = {"old": b"new"}
        else:
            after = before | {"new": None, "new/a": b"1", "new/b": b"2"}
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, FULL)
            if write == "file":
                said = refusal(partial(write_file, path, b"new"))
            else:
                said = refusal(partial(write_folder, path, {"a": b"1", "b": b"2"}))
        assert (
            f"no space left to write {path} (No space left on device)" in said or at > faults.count
        )
        assert tree(place) in (before, after)
        if faults.count < at:
            assert tree(place) == after
            break
    assert at == (5 if write == "file" else 9)


def test_a_run_whose_disk_is_full_at_any_operation_says_so_and_is_resumed_to_the_same_bits(
    tmp_path: Path,
) -> None:
    settings = {"steps": 4, "checkpoint_every": 2, "keep": 1, "log_every": 1}
    whole = trainer(tmp_path / "whole", **settings)
    whole.start()
    whole.run()
    want = outcome(tmp_path / "whole")
    for at in itertools.count(1):
        folder = tmp_path / "run"
        run = trainer(folder, **settings)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, FULL)
            said = refusal(run.start) or refusal(run.run)
        assert said.startswith("no space left to write") or at > faults.count
        if faults.count < at:
            break
        assert not list(folder.rglob("*.tmp"))
        if checkpoints_are_whole(folder):
            again = trainer(folder, **settings)
            again.resume()
            assert again.run()
            assert outcome(folder) == want
        shutil.rmtree(folder)
    assert at > 30


def test_a_disk_that_is_full_while_resuming_leaves_a_run_that_can_be_resumed(
    tmp_path: Path,
) -> None:
    settings = {"steps": 4, "checkpoint_every": 2, "log_every": 1}
    run = trainer(tmp_path / "run", **settings)
    run.start()
    run.run()
    want = outcome(tmp_path / "run")
    for at in itertools.count(1):
        again = trainer(tmp_path / "run", **settings)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, FULL)
            said = refusal(again.resume)
        assert said.startswith("no space left to write") or at > faults.count
        if faults.count < at:
            break
        assert outcome(tmp_path / "run") == want
    assert at > 5


NO_LOG = """
import os
from pushforward.recipes import run
os.mkdir("run")
os.symlink("/dev/full", "run/log.jsonl")
os.fsync = lambda file: None
run.require_new = lambda folder: None
"""


def test_a_log_that_cannot_be_written_ends_the_run_with_one_message(
    zygote: Zygote, tmp_path: Path
) -> None:
    """/dev/full takes nothing, as a full disk."""
    code = zygote.run(*TOY, "--steps", 4, "--log-every", 2, cwd=tmp_path, before=NO_LOG)
    assert code == 1
    assert zygote.said.splitlines()[-1] == (
        "pushforward: no space left to write run/log.jsonl (No space left on device); "
        "what was there before is untouched. Free some space; a training run then goes on with --resume"
    )
    assert "Traceback" not in zygote.said


def test_a_file_size_limit_ends_a_run_with_one_message_and_whole_files(
    zygote: Zygote, tmp_path: Path
) -> None:
    options = ("--steps", 12, "--log-every", 1, "--checkpoint-every", 2, "--sample-every", 3)
    whole, full = tmp_path / "whole", tmp_path / "full"
    whole.mkdir()
    assert zygote.run(*TOY, *options, cwd=whole) == 0
    # What the run says, up to its last message, goes to a file as well, to which the limit applies too.
    contents = [content for content in tree(whole / "run").values() if content]
    sizes = sorted({len(content) for content in contents} - set(range(300)))
    limits = {*random.Random(0).sample(sizes[:-1], 3), 2 * sizes[-1] // 3, sizes[-1] - 1}
    for limit in sorted(limits):
        full.mkdir()
        before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))"
        assert zygote.run(*TOY, *options, cwd=full, before=before) == 1
        message = zygote.said.splitlines()[-1]
        assert message.startswith("pushforward: no space left to write run")
        assert "File too large" in message
        assert "Traceback" not in zygote.said
        assert not list((full / "run").rglob("*.tmp"))
        if checkpoints_are_whole(full / "run"):
            assert zygote.run(*TOY, "--resume", cwd=full) == 0
            assert outcome(full / "run") == outcome(whole / "run")
        shutil.rmtree(full)


def small_disk(folder: Path, size: int, command: str) -> str | None:
    """What a shell command says in a folder that is a file system of its own; None where none can be mounted."""
    script = (
        f"mount -t tmpfs -o size={size} tmpfs {folder} && echo mounted && cd {folder} && {command}"
    )
    if shutil.which("unshare") is None:
        return None
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    return done.stdout + done.stderr if done.stdout.startswith("mounted") else None


def test_a_disk_that_is_really_full_stops_a_run_with_one_message(
    zygote: Zygote, tmp_path: Path
) -> None:
    """On a file system of 200 KiB where one can be mounted, and else under a limit on the size of files."""
    tiny = "--device cpu --width 32 --depth 1 --batch-size 32 --sample-every 0 --out run"
    options = f"train toy2d --steps 50 --checkpoint-every 5 --keep 9 {tiny}"
    look = "echo code $?; find run -name '*.tmp' | wc -l; ls run/checkpoints"
    disk = tmp_path / "disk"
    disk.mkdir()
    said = small_disk(disk, 200 << 10, f"{sys.executable} -B -m pushforward {options} ; {look}")
    if said is None:
        before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))"
        code = zygote.run(*options.split(), cwd=tmp_path, before=before)
        said = zygote.said + f"code {code}\n0\n00000000"
    assert "pushforward: no space left to write run" in said
    assert "Traceback" not in said
    assert "code 1\n0\n00000000" in said
