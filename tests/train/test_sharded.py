"""Runs of several processes that are killed, stopped, saved by some and taken up by others, and their checkpoints."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_tensors
from test_kill_and_resume import wait_for_step
from tinyrun import IDENTITY, outcome, steps_logged, tree
from together import BATCH, SLOW, everything, followed, plain, short
from zygote import Zygote

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import sha256
from pushforward.train.checkpoint import Checkpoints
from pushforward.train.sharded import read_whole

GO = "from together import go; go({})"


def whole_checkpoints(run: Path) -> list[int]:
    """The steps of all checkpoints, after each has been compared with its manifest."""
    checkpoints = Checkpoints(run / "checkpoints")
    for step in checkpoints.steps():
        folder = checkpoints.path(step)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest.keys() == {part.name for part in folder.iterdir()} - {"manifest.json"}
        assert all(sha256(folder / name) == digest for name, digest in manifest.items())
    return checkpoints.steps()


@pytest.fixture(scope="module")
def uninterrupted(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory):
    """The outcome of a run of two processes that nobody disturbed."""
    known: dict[str, dict] = {}

    def find(options: str) -> dict:
        if options not in known:
            folder = tmp_path_factory.mktemp("whole")
            assert zygote.run_group(2, cwd=folder, before=GO.format(options)) == [0, 0], zygote.said
            known[options] = outcome(folder / "run")
        return known[options]

    return find


@pytest.mark.parametrize(
    "options",
    [
        "'ddp'",
        "'ddp', workers=2",
        "'fsdp', workers=2",
        pytest.param("'fsdp'", marks=pytest.mark.slow),
    ],
)
def test_processes_killed_at_random_moments_end_in_the_same_bits(
    zygote: Zygote, tmp_path: Path, uninterrupted, options: str
) -> None:
    want = uninterrupted(options)
    moments = random.Random(len(options))
    for number, step in enumerate(sorted(moments.sample(range(1, 14), 3))):
        again = f"{options}, resume=True" if number else options
        pids = zygote.start_group(2, cwd=tmp_path, before=GO.format(again))
        wait_for_step(tmp_path / "run", step, pids[0])
        time.sleep(moments.uniform(0, 0.02))
        for pid in moments.sample(pids, 2):
            os.kill(pid, signal.SIGKILL)
        assert zygote.wait_group() == [-signal.SIGKILL] * 2, zygote.said
        assert whole_checkpoints(tmp_path / "run")
    last = zygote.run_group(2, cwd=tmp_path, before=GO.format(f"{options}, resume=True"))
    assert last == [0, 0], zygote.said
    assert outcome(tmp_path / "run") == want


@pytest.mark.slow
def test_processes_end_however_late_their_networks_go(zygote: Zygote, tmp_path: Path) -> None:
    """Freed after the group of processes, one in seven hung in torch where nobody else held the group."""
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        order = GO.format("'ddp', steps=3, judged=False")
        assert zygote.run_group(2, cwd=tmp_path / str(number), before=order) == [0, 0]


@pytest.fixture(scope="module")
def begun(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which two processes have saved step 3."""
    folders = {}
    for parallel in ("ddp", "fsdp"):
        folders[parallel] = tmp_path_factory.mktemp(parallel)
        order = f"from together import begin; begin({parallel!r})"
        assert zygote.run_group(2, cwd=folders[parallel], before=order) == [0, 0], zygote.said
    return folders


def same(found: dict, want: dict) -> bool:
    return found.keys() == want.keys() and all(
        torch.equal(found[key], want[key]) and found[key].dtype == want[key].dtype for key in want
    )


def test_what_two_processes_saved_is_taken_up_by_one_two_and_three_bit_for_bit(
    zygote: Zygote, tmp_path: Path, begun: dict[str, Path]
) -> None:
    truth = short(tmp_path / "truth", "ddp")
    truth.start()
    way = followed(truth)
    for count, kinds in ((1, ["ddp"]), (2, ["fsdp"]), (3, ["ddp", "fsdp"])):
        for parallel in kinds:
            place = tmp_path / f"{count}-{parallel}"
            for source, folder in begun.items():
                shutil.copytree(folder, place / source)
            if count == 1:
                for source in begun:
                    run = short(place / source / "run", "ddp")
                    run.resume()
                    result = {"found": everything(run), **followed(run)}
                    torch.save(result, place / source / "taken-0.pt")
            else:
                order = f"from together import take_up; take_up({parallel!r}, {list(begun)})"
                codes = zygote.run_group(count, cwd=place, before=order)
                assert codes == [0] * count, zygote.said
            for source in begun:
                saved = torch.load(begun[source] / "begun-0.pt")
                taken = [torch.load(place / source / f"taken-{r}.pt") for r in range(count)]
                for result in taken:
                    assert same(result["found"], saved), (count, parallel, source)
                assert any(key.endswith("exp_avg_sq") for key in saved)
                # The data of the steps after it, and where they lead.
                for key in ("ids", "x0", "x1", "t", "label"):
                    for step in range(3):
                        rows = torch.cat([result["seen"][step][key] for result in taken])
                        assert torch.equal(rows, way["seen"][3 + step][key]), key
                for key, value in way["end"].items():
                    assert (taken[0]["end"][key] - value).abs().max() < 2e-5, key
                steps = [entry["step"] for entry in taken[0]["entries"]]
                assert steps == [4, 5, 6]


def test_a_run_goes_from_shards_to_copies_to_one_process_and_back(
    zygote: Zygote, tmp_path: Path
) -> None:
    """Two with shards, three with copies, one alone, three with shards: a step or two each."""
    options = {"steps": 8, "checkpoint_every": 2, "keep": 9, "judged": False}
    truth = plain(tmp_path / "truth", "ddp", **options)
    truth.start()
    assert truth.run()
    code = """
from pathlib import Path
from together import joined, plain
with joined("cpu"):
    run = plain(Path("run"), {!r}, **{})
    run.resume() if {} else run.start()
    while run.step < {}:
        run._one_step()
    run.save(), run._finish_saving()
"""
    for count, parallel, resume, step in (
        (2, "fsdp", False, 2), (3, "ddp", True, 4), (1, "ddp", True, 6), (3, "fsdp", True, 8),
    ):  # fmt: skip
        order = code.format(parallel, options, resume, step)
        codes = zygote.run_group(count, cwd=tmp_path, before=order)
        assert codes == [0] * count, zygote.said
    assert whole_checkpoints(tmp_path / "run") == [0, 2, 4, 6, 8]
    shards = {
        step: len(list((tmp_path / f"run/checkpoints/{step:08d}").glob("shard*"))) for step in range(0, 9, 2)
    }  # fmt: skip
    assert shards == {0: 2, 2: 2, 4: 0, 6: 0, 8: 3}
    last = plain(tmp_path / "run", "ddp", steps=8)
    last.resume()
    want = everything(truth)
    for key, value in everything(last).items():
        assert (value - want[key]).abs().max() < 2e-5, key


@pytest.mark.parametrize("loss_alone", [False, True], ids=["all of it", "its loss"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_sample_that_only_one_process_sees_stops_all_at_its_step_and_is_named(
    zygote: Zygote, tmp_path: Path, parallel: str, loss_alone: bool
) -> None:
    place = BATCH - 2
    order = f"from together import poison; poison({parallel!r}, {place}, {loss_alone})"
    assert zygote.run_group(2, cwd=tmp_path, before=order) == [0, 0], zygote.said
    found = [torch.load(tmp_path / f"poisoned-{rank}.pt") for rank in range(2)]
    (said, step, untouched, _), (others, *_, ids) = found
    assert said == others == (
        f"NonFiniteError: step 4: the loss of 1 samples is not finite (data ids {ids[place - BATCH // 2]}). Stopped "
        f"before the step; the checkpoint of step 4 is kept. Look at these data, or lower --lr or --clip in a new run"
    )  # fmt: skip
    assert step == found[1][1] == 4
    assert untouched
    assert found[1][2]
    assert whole_checkpoints(tmp_path / "run") == [0, 4]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 4
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".")]


TOY = (
    "train", "toy2d", "--device", "cpu", "--width", 32, "--depth", 1, "--batch-size", 32, "--ema", 0.9, "--out", "run",
    "--log-every", 1, "--sample-every", 0, "--validate-every", 0,
)  # fmt: skip
# One process gets SIGTERM while it draws the batch of a step, or while it writes the shard of a save that takes long.
AT_A_STEP = """
import os, signal
from pushforward.streams.drawn import Drawn
if rank == {rank}:
    real = Drawn.at
    def at(self, step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, step)
    Drawn.at = at
"""
IN_A_SAVE = """
import os, signal, threading, time
if rank == {rank}:
    real, count = os.fsync, 0
    def fsync(file):
        global count
        name = os.readlink(f"/proc/self/fd/{{file}}")
        if "00000008.tmp" in name or ".00000008." in name:
            count += 1
            if count == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
        real(file)
    os.fsync = fsync
"""


@pytest.mark.parametrize(
    ("parallel", "moment", "rank"),
    [
        ("ddp", AT_A_STEP, 1), ("fsdp", IN_A_SAVE, 1), ("ddp", IN_A_SAVE, 0),
        pytest.param("fsdp", AT_A_STEP, 0, marks=pytest.mark.slow),
        pytest.param("fsdp", AT_A_STEP, 1, marks=pytest.mark.slow),
        pytest.param("fsdp", IN_A_SAVE, 0, marks=pytest.mark.slow),
    ],
    ids=["ddp-step-1", "fsdp-save-1", "ddp-save-0", "fsdp-step-0", "fsdp-step-1", "fsdp-save-0"],
)  # fmt: skip
def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(
    zygote: Zygote, tmp_path: Path, parallel: str, moment: str, rank: int
) -> None:
    options = ("--steps", 14, "--checkpoint-every", 4, "--parallel", parallel, "--keep", 9)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()
    assert zygote.run_group(2, *TOY, *options, cwd=whole) == [0, 0], zygote.said
    codes = zygote.run_group(2, *TOY, *options, cwd=stopped, before=moment.format(rank=rank))
    assert codes == [128 + signal.SIGTERM] * 2, zygote.said
    end = "stopped; continue with: pushforward train toy2d --out run --resume\n"
    assert zygote.said[0].endswith(end)
    assert zygote.said[0].count("stopped;") == 1
    assert zygote.said[1] == ""
    last = steps_logged(stopped / "run")
    assert whole_checkpoints(stopped / "run")[-1] == last < 14
    assert (last == 11) == (moment == AT_A_STEP)
    assert not [path for path in (stopped / "run").rglob("*") if path.name.startswith(".")]
    assert zygote.run_group(2, *TOY, "--resume", cwd=stopped) == [0, 0], zygote.said
    assert zygote.said[1] == ""
    if last % 4:
        shutil.rmtree(stopped / "run" / "checkpoints" / f"{last:08d}")
    assert outcome(stopped / "run") == outcome(whole / "run")


# Counts what one process does to files, and kills it before number `at`.
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
    if writes and str(args[0]).startswith("/dev"):
        writes = False
    if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
        tick()
real = os.fsync
def fsync(file):
    tick()
    real(file)
if rank == {rank}:
    os.fsync = fsync
    sys.addaudithook(hook)
from together import go
go("fsdp", steps=2, checkpoint_every=2, keep=1, resume={resume})
if rank == {rank}:
    print("operations", count)
"""


def killed_in_a_save(zygote: Zygote, folder: Path, want: dict, rank: int, at: int) -> bool:
    """Kill one of two processes before one of its operations on files, and go on. Whether there was something left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    order = KILLER.format(rank=rank, at=at, resume=False)
    codes = zygote.run_group(2, cwd=folder, before=order)
    assert codes[rank] == -signal.SIGKILL, (codes, zygote.said)
    # The other one ends, too, and does not say that it is done.
    assert codes[1 - rank] != 0, (rank, at)
    if not whole_checkpoints(folder / "run"):
        return False
    order = KILLER.format(rank=rank, at=0, resume=True)
    assert zygote.run_group(2, cwd=folder, before=order) == [0, 0], zygote.said
    assert outcome(folder / "run") == want, (rank, at)
    return True


def operations(zygote: Zygote, folder: Path, rank: int) -> int:
    folder.mkdir()
    order = KILLER.format(rank=rank, at=0, resume=False)
    assert zygote.run_group(2, cwd=folder, before=order) == [0, 0], zygote.said
    return int(zygote.said[rank].split("operations ")[1])


def every_operation(zygote: Zygote, folder: Path, share: float) -> None:
    for rank in (0, 1):
        total = operations(zygote, folder / f"whole-{rank}", rank)
        assert total >= (60, 4)[rank]
        want = outcome(folder / f"whole-{rank}" / "run")
        some = random.Random(rank).sample(range(1, total + 1), max(2, round(share * total)))
        taken_up = [
            killed_in_a_save(zygote, folder / "killed", want, rank, at) for at in sorted(some)
        ]
        assert sum(taken_up) >= len(some) / 4


def test_one_process_killed_in_a_sharded_save_leaves_the_checkpoint_before(
    zygote: Zygote, tmp_path: Path
) -> None:
    every_operation(zygote, tmp_path, 0.03)


@pytest.mark.slow
def test_one_process_killed_before_any_operation_of_a_sharded_save_leaves_the_checkpoint_before(
    zygote: Zygote, tmp_path: Path
) -> None:
    every_operation(zygote, tmp_path, 1.0)


def test_training_goes_on_while_one_process_is_slow_to_write_and_what_is_saved_is_of_one_step(
    zygote: Zygote, tmp_path: Path
) -> None:
    order = "from together import save_slowly; save_slowly()"
    assert zygote.run_group(2, cwd=tmp_path, before=order) == [0, 0], zygote.said
    found = [torch.load(tmp_path / f"slow-{rank}.pt") for rank in range(2)]
    for kept, times, pending, step in found:
        assert len(times) >= 2
        assert max(times) < 0.7 * SLOW  # No step waits for the disk.
        assert pending == [True] * (len(times) - 1) + [False]
        assert step == found[0][3] == 1 + len(times)
        assert same(read_whole(tmp_path / "run" / "checkpoints" / "00000001"), kept)
    assert whole_checkpoints(tmp_path / "run") == [0, 1]


FULL = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
user, group = os.getuid(), os.getgid()
if libc.unshare(0x10000000 | 0x00020000):
    print("cannot unshare"); raise SystemExit(77)
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {{user}} 1"), ("gid_map", f"0 {{group}} 1")):
    with open(f"/proc/self/{{name}}", "w") as file:
        file.write(text)
os.mkdir("disk")
if libc.mount(b"tmpfs", b"disk", b"tmpfs", 0, b"size=300k"):
    print("cannot mount"); raise SystemExit(77)
import __main__
from tinyrun import tree
def group(resume):
    order = {{"number": 0, "argv": [], "cwd": os.path.abspath("disk"), "output": os.path.abspath("said"), "count": 2,
             "before": f"from together import said; said({{resume}}, {share}, steps=9, keep=9, checkpoint_every=3)"}}
    __main__._group(order)
    return [open(f"said.{{r}}").read() for r in (0, 1)]
from pathlib import Path
sys.stdout = sys.stderr
disk = Path("disk")
def look():
    return sorted(str(p.relative_to(disk)) for p in disk.rglob("*"))
# As full as it must be for the first checkpoint alone.
first = group(False)
found = {{"first": first, "first_files": look()}}
kept = {{name: content for name, content in tree(disk / "run/checkpoints").items() if content}}
(disk / "filler").unlink()
found["second"] = group(True)
found["second_files"] = look()
found["untouched"] = all((disk / "run/checkpoints" / name).read_bytes() == content for name, content in kept.items())
Path("found.json").write_text(json.dumps(found))
"""


@pytest.mark.parametrize("share", [True, False], ids=["model", "shard"])
def test_a_disk_that_is_full_in_the_middle_of_a_sharded_save_is_one_message(
    zygote: Zygote, tmp_path: Path, share: bool
) -> None:
    """Where the model to share is what does not fit, the save that was begun is dropped."""
    code = zygote.run(cwd=tmp_path, before=FULL.format(share=share))
    if code == 77:
        pytest.skip(f"no file system can be mounted here: {zygote.said}")
    assert code == 0, zygote.said
    found = json.loads((tmp_path / "found.json").read_text())
    first, second = found["first"]
    place = "run/model.safetensors" if share else "run/checkpoints/00000003"
    assert first.startswith(f"CheckpointError: no space left to write {place} (No space left"), (
        first
    )
    assert "what was there before is untouched" in first
    assert first.count("\n") == 1
    assert second.startswith(("CheckpointError: no space left", "ElsewhereError: no space left")), (
        second
    )
    assert "Traceback" not in first + second
    assert not [name for name in found["first_files"] if "00000003" in name or "/." in name]
    assert [name for name in found["first_files"] if "checkpoints/00000000" in name]
    assert found["second"] == ["done\n", "done\n"]
    assert found["untouched"]
    steps = [name for name in found["second_files"] if name.startswith("run/checkpoints/")]
    assert len({name.split("/")[2] for name in steps}) == 4


# Damage, and what was made to look whole.


@pytest.fixture
def saved(begun: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun["fsdp"] / "run", tmp_path / "run"))


def refusal(folder: Path) -> str:
    """How a run of one process refuses to go on, with its weights and the folder as they were."""
    run = short(folder, "ddp")
    before, files = everything(run), tree(folder)
    with pytest.raises(CheckpointError) as caught:
        run.resume()
    assert same(everything(run), before)
    assert tree(folder) == files
    return str(caught.value)


def listed_anew(checkpoint: Path) -> None:
    """Make the manifest that of the files as they are."""
    names = [part.name for part in sorted(checkpoint.iterdir()) if part.name != "manifest.json"]
    digests = {name: sha256(checkpoint / name) for name in names}
    (checkpoint / "manifest.json").write_text(json.dumps(digests))


def test_a_flipped_bit_in_any_file_of_a_sharded_checkpoint_is_refused_by_name(saved: Path) -> None:
    checkpoint = saved / "checkpoints" / "00000003"
    files = sorted(checkpoint.iterdir())
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        places = random.Random(0).sample(range(len(content)), 40)
        for place in [0, len(content) - 1, *places]:
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match="00000003") as caught:
                Checkpoints(saved / "checkpoints").open(IDENTITY)
            if path.name != "manifest.json":
                assert f"{path} is damaged: its SHA-256 is not that" in str(caught.value)
        assert str(path) in refusal(saved) or path.name == "manifest.json"
        path.write_bytes(content)
    run = short(saved, "ddp")
    run.resume()
    assert run.step == 3


class Trap:
    """A pickle that leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize(
    "name", [".metadata", "shard-x.distcp", "shard-00001-model-00001-of-00001.safetensors", "state.json"]
)  # fmt: skip
@pytest.mark.parametrize("listed", [False, True], ids=["unlisted", "listed"])
def test_a_hostile_file_in_a_sharded_checkpoint_is_never_executed(
    saved: Path, tmp_path: Path, name: str, listed: bool
) -> None:
    import pickle

    checkpoint, mark = saved / "checkpoints" / "00000003", tmp_path / "mark"
    (checkpoint / name).write_bytes(pickle.dumps(Trap(mark)))
    if listed:
        listed_anew(checkpoint)
    if listed and name in (".metadata", "shard-x.distcp"):
        # Nobody looks into it.
        run = short(saved, "ddp")
        run.resume()
        assert run.step == 3
    else:
        said = refusal(saved)
        if not listed:
            what = "not in the manifest" if name in (".metadata", "shard-x.distcp") else "damaged"
            assert f"{checkpoint / name} is {what}" in said
        assert str(checkpoint) in said
    assert not mark.exists()
    # The trap works.
    with pickle.loads(pickle.dumps(Trap(mark))):
        assert mark.exists()


def test_a_missing_shard_and_one_of_another_checkpoint_are_refused(saved: Path) -> None:
    new, old = saved / "checkpoints" / "00000003", saved / "checkpoints" / "00000000"
    shards = sorted(path.name for path in new.glob("shard*"))
    content = {path.name: path.read_bytes() for path in new.iterdir()}
    for name in shards:
        (new / name).unlink()
        assert f"{new / name} is missing" in refusal(saved)
        # Even where the manifest says that this is all.
        listed_anew(new)
        said = refusal(saved)
        assert f"{new} does not hold all parts of " in said or "does not fit the model" in said
        for file, old_content in content.items():
            (new / file).write_bytes(old_content)
        (new / name).write_bytes((old / name).read_bytes())
        assert f"{new / name} is damaged" in refusal(saved)
        (new / name).write_bytes(content[name])
    (new / "manifest.json").write_bytes((old / "manifest.json").read_bytes())
    assert f"{new}" in refusal(saved)


def renamed(tensors: dict, key: str, other: str) -> None:
    tensors[other] = tensors.pop(key)


EDITS = {
    "extra model": (lambda t: t.update({"model.net.more": torch.ones(2)}), ["unexpected: model.net.more"]),
    "missing model": (lambda t: t.pop("model.net.conv_in.bias"), ["missing: model.net.conv_in.bias"]),
    "renamed ema": (
        lambda t: renamed(t, "ema.net.conv_in.bias", "ema.net.entry.bias"),
        ["missing: ema.net.conv_in.bias", "unexpected: ema.net.entry.bias"],
    ),
    "reshaped model": (
        lambda t: t.update({"model.net.conv_in.bias": torch.ones(3)}),
        ["model.net.conv_in.bias: torch.float32 (3,), expected torch.float32 (16,)"],
    ),
    "other type": (
        lambda t: t.update({"ema.net.conv_in.bias": torch.ones(16, dtype=torch.float64)}),
        ["ema.net.conv_in.bias: torch.float64 (16,), expected torch.float32 (16,)"],
    ),
    "extra objective": (lambda t: t.update({"objective.x": torch.ones(1)}), ["unexpected: objective.x"]),
    "one moment missing": (
        lambda t: t.pop("optimizer.net.conv_in.bias.exp_avg_sq"),
        ["missing: optimizer.net.conv_in.bias.exp_avg_sq"],
    ),
    "all moments of a weight missing": (
        lambda t: [t.pop(f"optimizer.net.conv_in.bias.{key}") for key in ("step", "exp_avg", "exp_avg_sq")],
        ["missing: optimizer.net.conv_in.bias.exp_avg;", "missing: optimizer.net.conv_in.bias.step"],
    ),
    "renamed moment": (
        lambda t: renamed(t, "optimizer.net.conv_in.bias.exp_avg", "optimizer.net.conv_in.bias.exp"),
        ["missing: optimizer.net.conv_in.bias.exp_avg", "unexpected: optimizer.net.conv_in.bias.exp"],
    ),
    "reshaped moment": (
        lambda t: t.update({"optimizer.net.conv_in.bias.exp_avg": torch.ones(16, 1)}),
        ["optimizer.net.conv_in.bias.exp_avg: torch.float32 (16, 1), expected torch.float32 (16,)"],
    ),
    "moment of another type": (
        lambda t: t.update({"optimizer.net.conv_in.bias.exp_avg": torch.ones(16, dtype=torch.float64)}),
        ["optimizer.net.conv_in.bias.exp_avg: torch.float64 (16,), expected torch.float32 (16,)"],
    ),
    "moments of no weight": (
        lambda t: t.update({"optimizer.net.other.exp_avg": torch.ones(16)}),
        ["unexpected: optimizer.net.other.exp_avg"],
    ),
    "many": (
        lambda t: [
            t.pop("model.net.conv_in.bias"), t.update({"model.a": torch.ones(1)}),
            t.pop("ema.net.conv_out.bias"),
        ],
        ["missing: model.net.conv_in.bias", "unexpected: model.a", "missing: ema.net.conv_out.bias", "(3 differences)"],
    ),
}  # fmt: skip


def edited(checkpoint: Path, edit) -> None:
    """A whole checkpoint with a manifest of its own, some of whose tensors were changed: in one file, or in shards."""
    tensors = read_whole(checkpoint)
    edit(tensors)
    if (checkpoint / "state.safetensors").exists():
        (checkpoint / "state.safetensors").write_bytes(save_tensors(tensors))
    else:
        for path in checkpoint.glob("shard*"):
            path.unlink()
        for number, part in enumerate((0, 1), start=1):
            pieces, where = {}, {}
            for key, value in tensors.items():
                half = (len(value) + 1) // 2 if value.ndim else 0
                rows = slice(0, half) if part == 0 else slice(half, None)
                if value.ndim and len(value[rows]):
                    pieces[key] = value[rows].contiguous()
                    where[key] = {"saved_offsets": [rows.start, *[0] * (value.ndim - 1)]}
                elif not value.ndim and part == 0:
                    pieces[key], where[key] = value, {"saved_offsets": []}
            words = {"DCP_SHARDING_INFO": json.dumps(where), "DCP_VERSION": "1.0", "format": "pt"}
            name = f"shard-{number:05d}-model-00001-of-00001.safetensors"
            (checkpoint / name).write_bytes(save_tensors(pieces, words))
    listed_anew(checkpoint)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_every_difference_of_names_shapes_and_types_is_listed_before_anything_is_loaded(
    begun: dict[str, Path], tmp_path: Path, parallel: str
) -> None:
    for number, (edit, words) in enumerate(EDITS.values()):
        folder = Path(shutil.copytree(begun[parallel] / "run", tmp_path / str(number)))
        edited(folder / "checkpoints" / "00000003", edit)
        said = refusal(folder)
        assert "the checkpoint does not fit the model" in said
        for part in words:
            assert part in said, (said, part)
    # What edits it is not what is refused.
    folder = Path(shutil.copytree(begun[parallel] / "run", tmp_path / "none"))
    edited(folder / "checkpoints" / "00000003", lambda tensors: None)
    run = short(folder, "ddp")
    run.resume()
    assert same(everything(run), torch.load(begun[parallel] / "begun-0.pt"))


def test_processes_refuse_what_does_not_fit_as_one_does(
    zygote: Zygote, begun: dict[str, Path], tmp_path: Path
) -> None:
    some = list(EDITS.values())[::4]
    for parallel in ("ddp", "fsdp"):
        for number, (edit, _) in enumerate(some):
            folder = tmp_path / f"{parallel}{number}"
            shutil.copytree(begun[parallel] / "run", folder)
            edited(folder / "checkpoints" / "00000003", edit)
    groups = [[f"{kind}{number}" for number in range(len(some))] for kind in ("ddp", "fsdp")]
    order = f"from together import refuse; refuse(*{groups})"
    assert zygote.run_group(2, cwd=tmp_path, before=order) == [0, 0], zygote.said
    for rank in range(2):
        found = json.loads((tmp_path / f"refused-{rank}.json").read_text())
        assert len(found) == 4 * len(some)
        for (said, untouched), (_, words) in zip(found, some * 4, strict=True):
            assert untouched
            assert all(part in said for part in words), (said, words)
