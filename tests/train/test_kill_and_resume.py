"""A run that was interrupted and resumed ends in the bits of one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tinyrun import optimizer, outcome, steps_logged, trainer, tree
from zygote import Zygote

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import sha256
from pushforward.train.checkpoint import Checkpoints

TOY = (
    "train", "toy2d", "--device", "cpu", "--width", 32, "--depth", 1, "--batch-size", 32, "--ema", 0.9, "--out", "run",
)  # fmt: skip


def checkpoints_are_whole(run: Path) -> list[int]:
    """The steps of all checkpoints, each of which matches its manifest."""
    checkpoints = Checkpoints(run / "checkpoints")
    for step in checkpoints.steps():
        manifest = json.loads((checkpoints.path(step) / "manifest.json").read_text())
        assert set(manifest) == {"state.safetensors", "state.json"}
        for name, digest in manifest.items():
            assert sha256(checkpoints.path(step) / name) == digest
    return checkpoints.steps()


def wait_for_step(run: Path, step: int, pid: int) -> None:
    limit = time.monotonic() + 60
    while steps_logged(run) < step and time.monotonic() < limit:
        time.sleep(0.001)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("times", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    zygote: Zygote, tmp_path: Path, times: int, workers: int
) -> None:
    steps = 25 * times
    options = (
        "--steps", steps, "--log-every", 1, "--checkpoint-every", 7, "--sample-every", steps // 2, "--workers", workers,
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    assert zygote.run(*TOY, *options, cwd=whole) == 0
    moments = random.Random(2024 + workers)
    for number, step in enumerate(sorted(moments.sample(range(5, 18 * times), times))):
        order = (*TOY, "--resume") if number else (*TOY, *options)
        pid = zygote.start(*order, cwd=killed)
        wait_for_step(killed / "run", step, pid)
        time.sleep(moments.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
        assert zygote.wait() == -signal.SIGKILL
        assert checkpoints_are_whole(killed / "run")
    assert zygote.run(*TOY, "--resume", cwd=killed) == 0
    assert "resuming run at step" in zygote.said
    assert outcome(killed / "run") == outcome(whole / "run")


# Counts what changes files, in the order in which it happens, and kills the process before number `at`.
KILLER = """
import os, signal, sys
count = 0
def tick():
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
def hook(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
        tick()
real = os.fsync
def fsync(file):
    tick()
    real(file)
os.fsync = fsync
sys.addaudithook(hook)
"""


TINY = """
from pathlib import Path
from tinyrun import trainer
run = trainer(Path("run"), steps=2, log_every=1, checkpoint_every=2, keep=1)
run.{}()
assert run.run()
"""


def test_a_run_killed_before_any_of_its_file_operations_and_again_while_resuming_ends_in_the_same_bits(
    zygote: Zygote, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    assert zygote.run(cwd=whole, before=TINY.format("start")) == 0, zygote.said
    want, at, resumed = outcome(whole / "run"), 0, 0
    while True:
        at += 1
        killed.mkdir()
        code = zygote.run(cwd=killed, before=KILLER.format(at=at) + TINY.format("start"))
        if code == 0:
            break
        assert code == -signal.SIGKILL, zygote.said
        if checkpoints_are_whole(killed / "run"):
            resumed += 1
            again = KILLER.format(at=resumed) + TINY.format("resume")
            assert zygote.run(cwd=killed, before=again) in (0, -signal.SIGKILL), zygote.said
            assert checkpoints_are_whole(killed / "run")
            assert zygote.run(cwd=killed, before=TINY.format("resume")) == 0, zygote.said
            assert outcome(killed / "run") == want, at
        shutil.rmtree(killed)
    assert resumed > 30


def test_a_run_killed_before_its_first_checkpoint_is_not_resumed_and_not_begun_anew(
    zygote: Zygote, tmp_path: Path
) -> None:
    options = ("--steps", 2, "--checkpoint-every", 1, "--sample-every", 0)
    at = 0
    while True:
        at += 1
        code = zygote.run(*TOY, *options, cwd=tmp_path, before=KILLER.format(at=at))
        assert code == -signal.SIGKILL
        if checkpoints_are_whole(tmp_path / "run"):
            break
        before = tree(tmp_path / "run")
        assert zygote.run(*TOY, "--resume", cwd=tmp_path) == 1
        assert zygote.said.removeprefix("preparing toy2d\n") in (
            "pushforward: run is not a run folder: it has no config.toml\n",
            "pushforward: there is no checkpoint in run/checkpoints, so there is nothing to resume; "
            "to start anew, choose another --out or remove the run's folder\n",
        )
        assert tree(tmp_path / "run") == before
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert at > 15


def test_a_run_killed_in_the_middle_of_writing_a_file_ends_in_the_same_bits(
    zygote: Zygote, tmp_path: Path
) -> None:
    """The kernel ends a process that writes beyond a limit: with the file begun and the process gone."""
    options = ("--steps", 6, "--log-every", 1, "--checkpoint-every", 2, "--sample-every", 3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    assert zygote.run(*TOY, *options, cwd=whole) == 0
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); resource.setrlimit({}, ({}, -1))"
    files = tree(whole / "run")
    sizes = {len(content) for content in files.values() if content}
    first, last = len(files["model.safetensors"] or b"") * 2, max(sizes)
    for size in [*random.Random(0).sample(sorted(sizes - {last}), 4), first + 2000, last - 1]:
        killed.mkdir()
        before = limit.format("resource.RLIMIT_FSIZE", size - 1)
        assert zygote.run(*TOY, *options, cwd=killed, before=before) == -signal.SIGXFSZ
        if checkpoints_are_whole(killed / "run"):
            assert zygote.run(*TOY, "--resume", cwd=killed) == 0
            assert outcome(killed / "run") == outcome(whole / "run")
        else:
            assert size < first
            assert zygote.run(*TOY, "--resume", cwd=killed) == 1
        shutil.rmtree(killed)


class Failing:
    """A stream that fails at one step."""

    def __init__(self, stream, step: int) -> None:
        self.stream, self.step, self.batch_size = stream, step, stream.batch_size

    def at(self, step: int):
        if step == self.step:
            raise RuntimeError("power cut")
        return self.stream.at(step)


@pytest.mark.parametrize("images", [False, True], ids=["mlp", "unet with dropout"])
@pytest.mark.parametrize("seed", range(3))
def test_fresh_objects_resumed_after_failures_at_random_steps_end_in_the_same_bits(
    images: bool, seed: int, tmp_path: Path
) -> None:
    whole = trainer(tmp_path / "whole", images)
    whole.start()
    assert whole.run()
    where = random.Random(seed)
    folder = tmp_path / "cut"
    for number, step in enumerate(sorted(where.sample(range(30), 4))):
        run = trainer(folder, images, wrap=lambda stream, step=step: Failing(stream, step))
        run.resume() if number else run.start()
        with pytest.raises(RuntimeError, match="power cut"):
            run.run()
    last = trainer(folder, images)
    last.resume()
    assert last.run()
    assert outcome(folder) == outcome(tmp_path / "whole")
    for mine, theirs in (
        (last.model, whole.model),
        (last.ema.model, whole.ema.model),
    ):
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_a_resumed_trainer_holds_the_whole_state_of_the_one_that_was_saved(tmp_path: Path) -> None:
    first = trainer(tmp_path / "run", steps=9, checkpoint_every=100)
    first.start()
    first.run()  # The checkpoint of the last step, one step after a line of the log.
    second = trainer(tmp_path / "run", steps=9)
    second.resume()
    assert (second.step, second.tally.sums) == (9, {})
    for a, b in zip(optimizer(first).state.values(), optimizer(second).state.values(), strict=True):
        assert a.keys() == b.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert len(optimizer(second).state) == len(list(second.model.parameters()))


def test_a_run_does_not_depend_on_the_callers_generator_nor_touch_it(tmp_path: Path) -> None:
    for number in range(2):
        run = trainer(tmp_path / str(number), images=True, steps=3)
        torch.manual_seed(number)
        before = torch.get_rng_state()
        run.start()
        run.run()
        assert torch.equal(torch.get_rng_state(), before)
    assert outcome(tmp_path / "0") == outcome(tmp_path / "1")


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed(tmp_path: Path) -> None:
    masks = []
    for seed, steps in ((0, 2), (1, 1)):
        run = trainer(tmp_path / str(seed), images=True, steps=steps, seed=seed)
        dropout = next(m for m in run.model.modules() if isinstance(m, torch.nn.Dropout))
        dropout.register_forward_hook(
            lambda module, inputs, output: masks.append((output == 0) & (inputs[0] != 0))
        )
        run.run()
    assert len(masks) == 3
    assert not any(torch.equal(masks[i], masks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_what_came_after_the_checkpoint_is_dropped_from_the_log(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", steps=7, log_every=1)
    run.start()
    run.run()
    before = tree(tmp_path / "run")
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    trainer(tmp_path / "run", steps=7, log_every=1).resume()
    assert tree(tmp_path / "run") == before


def test_resuming_mends_the_model_of_a_run_killed_between_its_last_checkpoint_and_its_model(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path / "run")
    run.start()
    old = {name: (tmp_path / "run" / name).read_bytes() for name in ("model.safetensors", "model.json")}  # fmt: skip
    run.run()
    want = outcome(tmp_path / "run")
    for name, content in old.items():
        (tmp_path / "run" / name).write_bytes(content)
        (tmp_path / "run" / f".{name}.77.tmp").write_bytes(content[:9])
    again = trainer(tmp_path / "run")
    again.resume()
    assert again.run()
    assert outcome(tmp_path / "run") == want


def test_two_processes_never_train_in_one_folder(zygote: Zygote, tmp_path: Path) -> None:
    from pushforward.runtime.files import locked

    options = ("--steps", 4, "--checkpoint-every", 2, "--sample-every", 0)
    assert zygote.run(*TOY, *options, cwd=tmp_path) == 0
    before = tree(tmp_path / "run")
    with locked(tmp_path / "run"):
        assert zygote.run(*TOY, "--resume", cwd=tmp_path) == 1
        assert zygote.said == ("preparing toy2d\npushforward: another process is training in run\n")
        with pytest.raises(CheckpointError, match="another process"), locked(tmp_path / "run"):
            pass
    assert tree(tmp_path / "run") == before
    assert zygote.run(*TOY, "--resume", cwd=tmp_path) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_step_with_a_checkpoint_and_128_plus_its_number(
    zygote: Zygote, tmp_path: Path, number: signal.Signals
) -> None:
    options = (
        "--steps",
        120,
        "--log-every",
        1,
        "--checkpoint-every",
        40,
        "--sample-every",
        0,
        "--keep",
        9,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()
    assert zygote.run(*TOY, *options, cwd=whole) == 0
    pid = zygote.start(*TOY, *options, cwd=stopped)
    wait_for_step(stopped / "run", 20, pid)
    os.kill(pid, number)
    assert zygote.wait() == 128 + number
    assert zygote.said.endswith(
        "stopped; continue with: pushforward train toy2d --out run --resume\n"
    )
    last = steps_logged(stopped / "run")
    assert checkpoints_are_whole(stopped / "run")[-1] == last < 120
    assert zygote.run(*TOY, "--resume", cwd=stopped) == 0
    shutil.rmtree(stopped / "run" / "checkpoints" / f"{last:08d}")
    assert outcome(stopped / "run") == outcome(whole / "run")


class Signalled:
    """A stream at one step of which the process gets a signal."""

    def __init__(self, stream, step: int, number: int, times: int = 1) -> None:
        self.stream, self.step, self.number, self.times = stream, step, number, times
        self.batch_size = stream.batch_size

    def at(self, step: int):
        if step == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)
        return self.stream.at(step)


def test_a_signal_lets_the_step_at_hand_finish_and_the_handlers_come_back(tmp_path: Path) -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        run = trainer(tmp_path / "run", wrap=lambda s: Signalled(s, 10, signal.SIGTERM))
        run.start()
        assert run.run() is False
        assert (run.step, run.signals.number) == (11, signal.SIGTERM)
        assert checkpoints_are_whole(tmp_path / "run") == [7, 11]
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", wrap=lambda s: Signalled(s, 29, signal.SIGTERM))
    run.start()
    assert run.run() is True


def test_a_second_signal_ends_a_run_at_once(zygote: Zygote, tmp_path: Path) -> None:
    twice = """
import signal
from pushforward.streams.drawn import Drawn
real = Drawn.at
def at(self, step):
    if step == 3:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    return real(self, step)
Drawn.at = at
"""
    options = ("--steps", 10, "--sample-every", 0)
    assert zygote.run(*TOY, *options, cwd=tmp_path, before=twice) == -signal.SIGINT
    assert checkpoints_are_whole(tmp_path / "run") == [0]


@pytest.mark.slow
def test_a_run_of_the_installed_command_killed_ten_times_ends_in_the_same_bits(
    tmp_path: Path,
) -> None:
    """The same law without the fork: `python -m pushforward`, the digits, a kill at any time after the start."""
    command = [sys.executable, "-m", "pushforward", "train", "digits", "--device", "cpu"]
    options = [
        "--width",
        "8",
        "--batch-size",
        "16",
        "--steps",
        "150",
        "--log-every",
        "1",
        "--checkpoint-every",
        "6",
        "--sample-every",
        "50",
        "--dropout",
        "0.1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder: str, *more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, "--out", folder, *more],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
        )

    assert start("whole", *options).wait() == 0
    moments = random.Random(7)
    for number, step in enumerate(sorted(moments.sample(range(5, 130), 10))):
        process = start("killed", *(["--resume"] if number else options))
        wait_for_step(tmp_path / "killed", step, process.pid)
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert checkpoints_are_whole(tmp_path / "killed")
    assert start("killed", "--resume").wait() == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
