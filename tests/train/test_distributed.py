"""Several processes take the steps of one: the same data, noise, losses, gradients and weights, up to summation order.

What they do is in together.py; they are forked by the zygote, find each other by gloo, and end as under torchrun.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from together import BATCH, cases, drawn_together, followed, name, trainer
from zygote import Zygote

import pushforward as pf

COUNTS = (2, 3)


@pytest.fixture(scope="module")
def groups(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came out in 2 and in 3 processes: a folder for each."""
    folder = tmp_path_factory.mktemp("groups")
    for count in COUNTS:
        (folder / str(count)).mkdir()
        codes = zygote.run_group(
            count, cwd=folder / str(count), before="from together import all_cases; all_cases()"
        )
        assert codes == [0] * count, zygote.said
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    """The same in one process, by its settings: it has nobody to share with."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def find(**settings: Any):
        run = trainer(folder / name({"": "", **settings}), **settings)
        run.start()
        return followed(run)

    return find


def results(folder: Path, count: int, case: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        torch.load(folder / str(count) / f"{name(case)}-{rank}.pt", weights_only=False)
        for rank in range(count)
    ]


def truth(alone, case: dict[str, Any]) -> dict[str, Any]:
    return alone(
        **{key: case[key] for key in ("stream", "images", "dtype", "blocks") if key in case}
    )


def near(a: torch.Tensor, b: torch.Tensor, room: float) -> bool:
    return bool((a - b).abs().max() <= room * (1 + b.abs().max()))


def rows_of(result: dict[str, Any], step: int) -> dict[str, torch.Tensor]:
    """What one process was given and drew in a step, the parts of its batch put together."""
    parts = len(result["seen"]) // len(result["entries"])
    seen = result["seen"][step * parts : (step + 1) * parts]
    return {key: torch.cat([part[key] for part in seen]) for key in seen[0]}


@pytest.mark.parametrize(
    ("count", "case"),
    [(count, case) for count in COUNTS for case in cases(count)],
    ids=lambda value: value if isinstance(value, int) else name(value),
)
def test_processes_see_the_rows_and_the_noise_of_one(
    groups: Path, alone, count: int, case: dict[str, Any]
) -> None:
    found, want = results(groups, count, case), truth(alone, case)
    for step in range(3):
        rows = [rows_of(result, step) for result in found]
        # 10 over 3 is 3, 3 and 4.
        assert [len(part["x1"]) for part in rows] == [
            BATCH * (r + 1) // count - BATCH * r // count for r in range(count)
        ]
        for key, value in rows_of(want, step).items():
            assert torch.equal(torch.cat([part[key] for part in rows]), value), key
    assert {"ids", "x0", "x1", "t"} <= rows_of(want, 0).keys()
    assert not torch.equal(rows_of(want, 0)["x1"], rows_of(want, 1)["x1"])


@pytest.mark.parametrize(
    ("count", "case"),
    [(count, case) for count in COUNTS for case in cases(count)],
    ids=lambda value: value if isinstance(value, int) else name(value),
)
def test_processes_have_the_gradients_losses_and_weights_of_one_at_every_step(
    groups: Path, alone, count: int, case: dict[str, Any]
) -> None:
    # Gradients of a transformer's keys are zero but for rounding, which AdamW enlarges.
    room = 1e-6 if case.get("dtype") == torch.float32 else 1e-9 if "blocks" in case else 1e-12
    found, want = results(groups, count, case), truth(alone, case)
    for result in found:
        assert len(result["gradients"]) == len(result["entries"]) == 3
        for mine, theirs in zip(result["entries"], want["entries"], strict=True):
            assert mine.keys() == theirs.keys()
            # Each loss is a number in float64; the average that is validated is kept in float32.
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=room)
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=10 * room)
            assert mine["lr"] == theirs["lr"]
            if "validation_loss" in theirs:
                assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5)
        for mine, theirs in zip(result["gradients"], want["gradients"], strict=True):
            assert all(near(mine[key], theirs[key], room) for key in theirs)
            norm = torch.cat([g.flatten() for g in mine.values()]).norm()
            assert float(norm) == pytest.approx(0.05, rel=1e-4)  # clipped
        for key, value in want["end"].items():
            assert result["end"][key].dtype == value.dtype
            wide = 2e-6 if key.startswith("ema") or room > 1e-12 else 1e-11
            assert near(result["end"][key], value, wide), key
            assert torch.equal(result["end"][key], found[0]["end"][key]), key
        assert result["end"].keys() == want["end"].keys()
    assert want["entries"][0]["grad_norm"] > 0.1
    if case.get("stream", "shuffled") == "shuffled" and "images" not in case:
        assert "validation_loss" in want["entries"][1]
    held = [result["held"] for result in found]
    assert sum(held) == pytest.approx(1 if case["parallel"] == "fsdp" else count)
    assert max(held) < 0.75 or case["parallel"] == "ddp"


def test_a_mistake_in_the_ids_of_noise_would_be_seen(groups: Path, alone) -> None:
    want = alone()
    for count in COUNTS:
        found = results(groups, count, {"parallel": "ddp", "offset": 1})
        x0 = torch.cat([rows_of(result, 0)["x0"] for result in found])
        assert not torch.equal(x0, rows_of(want, 0)["x0"])
        assert torch.equal(x0[:-1], rows_of(want, 0)["x0"][1:])
        assert found[0]["entries"][0]["loss"] != pytest.approx(want["entries"][0]["loss"], rel=1e-3)
        key = "conv_in.weight"
        mine, theirs = found[0]["gradients"][0], want["gradients"][0]
        key = next(name for name in theirs if name.endswith("conv_in.weight"))
        assert not near(mine[key], theirs[key], 1e-4)


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
@pytest.mark.parametrize("images", [False, True], ids=["mlp", "unet"])
def test_a_batch_taken_in_parts_has_the_gradient_of_the_whole(
    alone, images: bool, parts: int
) -> None:
    want = alone(images=images)
    found = alone(images=images, accumulate=parts)
    assert len(found["seen"]) == 3 * min(parts, BATCH)
    for step in range(3):
        for key, value in rows_of(want, step).items():
            assert torch.equal(rows_of(found, step)[key], value)
        for key, value in want["gradients"][step].items():
            assert near(found["gradients"][step][key], value, 1e-12)
        mine, theirs = found["entries"][step], want["entries"][step]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
    for key, value in want["end"].items():
        assert near(found["end"][key], value, 2e-6 if key.startswith("ema") else 1e-11)


def test_the_folder_is_that_of_one_process(groups: Path) -> None:
    """Only the first process writes, and the pictures, models and names are those that one alone would leave."""
    for count in COUNTS:
        runs = groups / str(count) / "runs"
        plain, parts = runs / "ddp-3", runs / "fsdp-1"
        names = [
            sorted(
                str(p.relative_to(run)) for p in run.rglob("*") if not p.name.startswith("shard")
            )
            for run in (plain, parts)
        ]
        names[0].remove("checkpoints/00000003/state.safetensors")
        names[0].remove("checkpoints/00000000/state.safetensors")
        assert names[0] == names[1]
        assert "samples/step-00000002.png" in names[0]
        assert not [p for p in runs.rglob("*") if p.name.startswith(".")]
        for kind in (parts, plain):
            lines = (kind / "log.jsonl").read_text().splitlines()
            assert len(lines) == 3


# The command line, as torchrun starts it.

TOY = (
    "train", "toy2d", "--device", "cpu", "--width", 32, "--depth", 1, "--batch-size", 33, "--steps", 6,
    "--log-every", 2, "--sample-every", 3, "--checkpoint-every", 3,
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes, and one alone, have trained the same: run and alone."""
    folder = tmp_path_factory.mktemp("toy")
    codes = zygote.run_group(2, *TOY, "--out", "run", cwd=folder)
    assert codes == [0, 0], zygote.said
    (folder / "said.json").write_text(json.dumps(zygote.said))
    assert zygote.run(*TOY, "--out", "alone", cwd=folder) == 0, zygote.said
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_two_processes_train_what_one_does_and_the_first_one_speaks(toy: Path) -> None:
    first, second = json.loads((toy / "said.json").read_text())
    assert second == ""
    start, *lines = first.splitlines()
    assert start == "preparing toy2d"
    assert "training toy2d in run" in lines[0]
    assert lines[0].endswith("2 processes (ddp)")
    assert [line.split()[1] for line in lines[1:-1]] == ["2/6", "4/6", "6/6"]
    assert lines[-1].startswith("done: run.")
    one, two = weights(toy / "alone"), weights(toy / "run")
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-5) for key in one)
    files = [sorted(p.relative_to(toy / r) for p in (toy / r).rglob("*")) for r in ("run", "alone")]
    assert files[0] == files[1]
    assert (toy / "run" / "samples" / "step-00000003.png").is_file()


@pytest.mark.parametrize("num", [1, 7])
def test_two_processes_draw_the_samples_of_one(zygote: Zygote, toy: Path, num: int) -> None:
    options = ("--num", num, "--nfe", 4, "--device", "cpu", "--batch-size", 3, "--overwrite")
    assert zygote.run_group(2, "sample", "run", *options, "--out", "two", cwd=toy) == [0, 0]
    assert f"{num} samples" in zygote.said[0]
    assert zygote.said[1] == ""
    assert zygote.run("sample", "run", *options, "--out", "one", cwd=toy) == 0
    one, two = (np.load(toy / name / "samples.npz")["samples"] for name in ("one", "two"))
    assert one.shape == two.shape == (num, 2)
    assert np.abs(one - two).max() < 1e-5
    assert len(np.unique(two[:, 0])) == num


def test_conditions_labels_and_sources_go_with_their_samples(
    zygote: Zygote, tmp_path: Path
) -> None:
    codes = zygote.run_group(3, cwd=tmp_path, before="from together import draws; draws()")
    assert codes == [0] * 3, zygote.said
    want, complaints = drawn_together()
    for rank in range(3):
        found, said = torch.load(tmp_path / f"drawn-{rank}.pt")
        assert found.keys() == want.keys()
        for key, value in want.items():
            assert found[key].shape == value.shape
            assert (found[key] - value).abs().max() < 1e-5, key
        assert said[:4] == complaints[:4]
        assert said[4] == "InputError: source has 5 entries for 7 samples"
    assert all(complaints), complaints


def test_two_processes_evaluate_as_one_and_leave_to_one_what_they_cannot_share(
    zygote: Zygote, toy: Path
) -> None:
    codes = zygote.run_group(2, "tune", "run", "--device", "cpu", cwd=toy)
    assert codes == [1, 0]
    assert zygote.said[0] == (
        "pushforward: tune is done by one process: start it without torchrun, which is for train, sample and evaluate\n"
    )
    assert zygote.said[1] == ""
    evaluate, place = ("evaluate", "run", "--device", "cpu", "--num", 51), toy / "run"
    assert zygote.run(*evaluate, cwd=toy) == 0, zygote.said
    want = json.loads((place / "evaluation.json").read_text())
    (place / "evaluation.json").unlink()
    # A signal to one of them leaves nothing behind.
    before = STOPPED.format(where="sampling.generate", rank=1)
    codes = zygote.run_group(2, *evaluate, cwd=toy, before=before)
    assert codes[0] not in (0, -signal.SIGKILL)
    assert codes[1] == -signal.SIGTERM
    assert not (place / "evaluation.json").exists()
    assert zygote.run_group(2, *evaluate, cwd=toy) == [0, 0], zygote.said
    assert zygote.said[1] == ""
    found = json.loads((place / "evaluation.json").read_text())
    assert found["figures"] == pytest.approx(want["figures"], rel=1e-3)
    assert found["settings"] == want["settings"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--out", "run"), "pushforward: run already holds a run: continue it with --resume"),
        (("--out", "none", "--resume"), "pushforward: none is not a run folder: it has no config.toml"),
        (("--out", "run", "--resume", "--lr", 9), "pushforward: --resume continues with the options of run, and these"),
        (("--out", "small", "--batch-size", 1), "pushforward: a batch of 1 is shared by 2 processes"),
        (("--out", "new", "--parallel", "fsdp", "--objective", "meanflow"), "pushforward: MeanFlow cannot be trained"),
    ],
    ids=["taken", "no run", "other options", "small batch", "not shardable"],
)  # fmt: skip
def test_an_error_of_all_is_said_once(zygote: Zygote, toy: Path, options: tuple, words: str) -> None:  # fmt: skip
    codes = zygote.run_group(2, *TOY[:8], *options, cwd=toy)
    assert codes[0] == 1
    assert codes[1] != 0
    # The line that a command begins with, then the error, from one process.
    said = zygote.said[0].removeprefix("preparing toy2d\n")
    assert said.startswith(words), zygote.said
    assert said.count("\n") == 1
    assert zygote.said[1] == ""


FAILING = """
import os, signal
from pushforward.core.errors import InputError
from pushforward.streams.drawn import Drawn
if rank == {rank}:
    real = Drawn.at
    def at(self, step):
        if step == 2:
            {act}
        return real(self, step)
    Drawn.at = at
"""


@pytest.mark.parametrize(("parallel", "rank"), [("ddp", 1), ("fsdp", 0)])
def test_an_error_of_one_process_ends_all_and_is_shown(
    zygote: Zygote, tmp_path: Path, rank: int, parallel: str
) -> None:
    before = FAILING.format(rank=rank, act="raise InputError('a bad picture')")
    options = (*TOY, "--out", "run", "--parallel", parallel, "--checkpoint-every", 1)
    codes = zygote.run_group(2, *options, cwd=tmp_path, before=before)
    assert codes[rank] == 1
    assert codes[1 - rank] not in (0, -signal.SIGKILL)
    assert zygote.said[rank].splitlines()[-1] == "pushforward: a bad picture"
    others = zygote.said[1 - rank].splitlines()
    assert "Traceback" not in zygote.said[0] + zygote.said[1]
    assert len([line for line in others if line.startswith("pushforward: ")]) <= (rank == 1)
    again = (*TOY[:4], "--out", "run", "--resume")
    assert zygote.run_group(2, *again, cwd=tmp_path) == [0, 0], zygote.said


def test_where_one_process_is_killed_the_others_say_so_and_end(
    zygote: Zygote, tmp_path: Path
) -> None:
    before = FAILING.format(rank=1, act="os.kill(os.getpid(), signal.SIGKILL)")
    codes = zygote.run_group(2, *TOY, "--out", "run", cwd=tmp_path, before=before)
    assert codes == [1, -signal.SIGKILL]
    assert zygote.said[0].splitlines()[-1] == (
        "pushforward: another process of this run has failed, or was stopped"
    )
    assert "Traceback" not in zygote.said[0]


STOPPED = """
import os, signal
from pushforward.runtime import files
from pushforward.sampling import generate as sampling
real = {where}
def stopped(*arguments, **options):
    if rank == {rank}:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*arguments, **options)
{where} = stopped
"""


@pytest.mark.parametrize(
    ("where", "rank"), [("sampling.generate", 0), ("sampling.generate", 1), ("os.fsync", 0)]
)
def test_a_signal_to_one_process_of_sample_leaves_no_half_written_file(
    zygote: Zygote, toy: Path, where: str, rank: int
) -> None:
    out = toy / f"{where}-{rank}"
    options = ("sample", "run", "--num", 7, "--nfe", 3, "--device", "cpu", "--out", out.name)
    codes = zygote.run_group(2, *options, cwd=toy, before=STOPPED.format(where=where, rank=rank))
    assert codes[rank] == -signal.SIGTERM
    assert codes[1 - rank] not in (0, -signal.SIGKILL)
    assert not out.exists() or not list(out.glob("[!.]*"))
    assert "Traceback" not in zygote.said[0] + zygote.said[1]
    assert zygote.run_group(2, *options, cwd=toy) == [0, 0], zygote.said
    assert np.load(out / "samples.npz")["samples"].shape == (7, 2)


def torchrun(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Without "--" torchrun takes --num for options of its own that begin alike, and refuses it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, "-m", "--", "pushforward", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=150,
    )  # fmt: skip


DIGITS = (
    "train", "digits", "--device", "cpu", "--width", 8, "--batch-size", 16, "--steps", 3, "--sample-every", 0,
    "--checkpoint-every", 2, "--parallel", "fsdp", "--out", "run",
)  # fmt: skip


@pytest.mark.slow
def test_torchrun_trains_the_digits(tmp_path: Path) -> None:
    done = torchrun(*DIGITS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: run") == 1
    assert "2 processes (fsdp)" in done.stdout
    shards = sorted(p.name for p in (tmp_path / "run/checkpoints/00000003").glob("shard*"))
    assert len(shards) == 2
    assert pf.generate(pf.load(tmp_path / "run"), 1, nfe=3, label=0).shape == (1, 1, 8, 8)


@pytest.mark.slow
def test_torchrun_trains_samples_and_stops_as_its_processes_do(tmp_path: Path) -> None:
    assert torchrun(*DIGITS, cwd=tmp_path).returncode == 0
    done = torchrun("sample", "run", "--num", 5, "--nfe", 3, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "run/generated/samples.npz")["samples"].shape == (5, 1, 8, 8)
    done = torchrun("evaluate", "run", "--num", 20, "--nfe", 3, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "evaluation.json").is_file()
    done = torchrun(*DIGITS, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("run already holds a run: go on with it by --resume") == 1
