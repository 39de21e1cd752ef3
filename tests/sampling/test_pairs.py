"""Pairs on disk: each a function of (seed, i), made once, checked when read, and never half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pushforward as pf
from pushforward.laws import EightGaussians, Moons
from pushforward.runtime import files
from pushforward.sampling.pairs import Pairs, generate_pairs
from pushforward.solvers import Euler, EulerMaruyama, Heun
from pushforward.streams.shuffled import Shuffled

LAW = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]], 0.1, labels=[0, 1, 1])
FIELD = LAW.field(pf.CondOT())


def network(seed: int = 0, classes: int | None = 3) -> pf.Model:
    torch.manual_seed(seed)
    return pf.Model(
        pf.nets.MLP(2, 16, 1, classes=classes), pf.CondOT(), shape=(2,), classes=classes
    )


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def everything(pairs: Pairs) -> pf.Batch:
    return pairs[torch.arange(len(pairs))]


def test_each_pair_is_a_start_and_the_end_of_its_trajectory(tmp_path: Path) -> None:
    pairs = generate_pairs(FIELD, tmp_path, 23, solver=Heun(), nfe=40, seed=5, shard_size=10)
    batch = everything(pairs)
    assert batch.x0 is not None
    assert (batch.x0.dtype, batch.x1.dtype, batch.cond) == (torch.float32, torch.float32, {})
    want = pf.generate(FIELD, 23, solver=Heun(), nfe=40, seed=5)
    torch.testing.assert_close(batch.x1, want.float(), rtol=0, atol=1e-6)
    ends = pf.integrate(Heun(), FIELD, batch.x0.double(), pf.times.straight(20, FIELD.path))
    torch.testing.assert_close(ends.float(), batch.x1, rtol=0, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00000.safetensors", "00001.safetensors", "00002.safetensors", "pairs.json",
    ]  # fmt: skip
    assert len(load_file(tmp_path / "00002.safetensors")["x1"]) == 3


@pytest.mark.parametrize("solver", [Euler(), EulerMaruyama(pf.CondOT().sigma)])
def test_pairs_do_not_depend_on_how_they_are_cut_into_shards(tmp_path: Path, solver) -> None:
    batches = [
        everything(generate_pairs(FIELD, tmp_path / str(n), 20, solver=solver, nfe=5, shard_size=n))
        for n in (3, 7, 100)
    ]
    for batch in batches[1:]:
        torch.testing.assert_close(batch.x1, batches[0].x1, rtol=0, atol=1e-6)
        assert torch.equal(batch.x0, batches[0].x0)


def test_entries_come_in_the_order_asked_for_with_their_labels(tmp_path: Path) -> None:
    pairs = generate_pairs(network(), tmp_path, 50, nfe=4, shard_size=8, guidance=2.0)
    whole = everything(pairs)
    assert whole.cond["label"].tolist() == [i % 3 for i in range(50)]
    index = torch.tensor([49, 0, 17, 17, 8, 7])
    batch = pairs[index]
    assert torch.equal(batch.ids, index)
    for part, all_of_it in (
        (batch.x0, whole.x0), (batch.x1, whole.x1), (batch.cond["label"], whole.cond["label"]),
    ):  # fmt: skip
        assert torch.equal(part, all_of_it[index])
    want = pf.generate(network(), 50, nfe=4, guidance=2.0, label=whole.cond["label"])
    torch.testing.assert_close(whole.x1, want, rtol=0, atol=1e-5)
    assert (pairs.shape, pairs.classes, len(pairs)) == ((2,), 3, 50)


def test_labels_can_be_one_class_or_none(tmp_path: Path) -> None:
    one = generate_pairs(network(), tmp_path / "one", 5, nfe=3, label=2)
    assert everything(one).cond["label"].tolist() == [2] * 5
    none = generate_pairs(network(), tmp_path / "none", 5, nfe=3, label=None)
    assert (everything(none).cond, none.classes) == ({}, None)


def test_the_source_is_a_law_or_states(tmp_path: Path) -> None:
    field = network(classes=None)
    law = Moons()
    drawn = generate_pairs(field, tmp_path / "law", 12, nfe=3, source=law, seed=4, shard_size=5)
    assert torch.equal(everything(drawn).x0, law.sample(12, seed=4))
    states = law.sample(12, seed=4)
    given = generate_pairs(
        field, tmp_path / "states", 12, nfe=3, source=states, seed=4, shard_size=5
    )
    assert torch.equal(everything(given).x0, states)
    torch.testing.assert_close(everything(given).x1, everything(drawn).x1)
    with pytest.raises(pf.InputError, match="12 states for 13 pairs"):
        generate_pairs(field, tmp_path / "more", 13, source=states)
    with pytest.raises(pf.CheckpointError, match="source"):
        generate_pairs(
            field, tmp_path / "law", 12, nfe=3, source=EightGaussians(), seed=4, shard_size=5
        )


def test_training_runs_on_pairs(tmp_path: Path) -> None:
    pairs = generate_pairs(FIELD, tmp_path, 30, nfe=5, shard_size=8)
    stream = Shuffled(pairs, 12, seed=0)
    seen = torch.cat([stream.at(step).ids for step in range(5)])
    assert sorted(seen.tolist()) == sorted([*range(30)] * 2)
    model = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT(gaussian_source=False))
    loss = pf.objectives.FlowMatching(model)(stream.at(0), pf.Noise.batch(12))["loss"]
    assert loss.shape == (12,)


def test_a_run_that_stopped_anywhere_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options = {"nfe": 4, "shard_size": 6, "seed": 3}
    generate_pairs(FIELD, tmp_path / "whole", 20, **options)
    want = content(tmp_path / "whole")

    class Stop(Exception):
        pass

    for last in (0, 6, 12, 18):
        folder = tmp_path / str(last)

        def stop(done: int, num: int, last: int = last) -> None:
            if done == last:
                raise Stop

        with pytest.raises(Stop):
            generate_pairs(FIELD, folder, 20, progress=stop, **options)
        with pytest.raises(pf.CheckpointError, match="of 4 shards"):
            Pairs(folder)
        (folder / ".00001.safetensors.77.tmp").write_bytes(b"half")
        # Written, but not yet in the manifest.
        (folder / "00003.safetensors").write_bytes(b"of a run that was killed")
        done: list[int] = []
        generate_pairs(FIELD, folder, 20, progress=lambda i, n, d=done: d.append(i), **options)
        assert content(folder) == want
        assert done == [0, 6, 12, 18, 20]


def test_a_killed_process_leaves_whole_shards(tmp_path: Path) -> None:
    code = f"""
import torch
from pushforward.sampling.pairs import generate_pairs
import pushforward as pf
field = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]], 0.1, labels=[0, 1, 1]).field(pf.CondOT())
generate_pairs(field, {str(tmp_path / "run")!r}, 1500, nfe=20, shard_size=50,
               progress=lambda done, num: print(done, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        while int(run.stdout.readline()) < 150:
            pass
        os.kill(run.pid, signal.SIGKILL)
    for name, digest in json.loads((tmp_path / "run" / "pairs.json").read_text())["shards"].items():
        assert files.sha256(tmp_path / "run" / name) == digest
    made = generate_pairs(FIELD, tmp_path / "run", 1500, nfe=20, shard_size=50)
    want = pf.generate(FIELD, 50, nfe=20, seed=0, start=1450)
    torch.testing.assert_close(made[torch.arange(1450, 1500)].x1, want.float(), rtol=0, atol=1e-6)


def test_only_missing_shards_are_made(tmp_path: Path) -> None:
    generate_pairs(FIELD, tmp_path, 20, nfe=4, shard_size=6)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    want = content(tmp_path)
    (tmp_path / "00001.safetensors").unlink()
    generate_pairs(FIELD, tmp_path, 20, nfe=4, shard_size=6)
    assert content(tmp_path) == want
    after = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"00001.safetensors", "pairs.json"}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("place", [0, 60, -1])
def test_a_flipped_bit_in_a_shard_is_found_when_it_is_read_or_resumed(
    tmp_path: Path, place: int
) -> None:
    generate_pairs(FIELD, tmp_path, 20, nfe=4, shard_size=6)
    flip(tmp_path / "00002.safetensors", place)
    pairs = Pairs(tmp_path)
    assert len(pairs[torch.arange(12)]) == 12
    with pytest.raises(pf.CheckpointError, match=r"00002\.safetensors is damaged"):
        pairs[torch.tensor([3, 13])]
    with pytest.raises(pf.CheckpointError, match=r"00002\.safetensors is damaged"):
        generate_pairs(FIELD, tmp_path, 20, nfe=4, shard_size=6)
    (tmp_path / "00002.safetensors").unlink()
    with pytest.raises(pf.CheckpointError, match=r"00002\.safetensors"):
        Pairs(tmp_path)[torch.tensor([13])]


def test_a_damaged_or_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(pf.CheckpointError, match="no pairs"):
        Pairs(tmp_path)
    generate_pairs(FIELD, tmp_path, 5, nfe=4)
    text = (tmp_path / "pairs.json").read_text()
    for bad in (text.replace('"nfe": 4', '"nfe": 5'), text[:40], "[]", "{}"):
        (tmp_path / "pairs.json").write_text(bad)
        with pytest.raises(pf.CheckpointError, match=r"pairs\.json"):
            Pairs(tmp_path)
        with pytest.raises(pf.CheckpointError, match=r"pairs\.json"):
            generate_pairs(FIELD, tmp_path, 5, nfe=4)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"nfe": 6}, "nfe"),
        ({"guidance": 2.0}, "guidance"),
        ({"solver": Heun()}, "solver"),
        ({"label": 1}, "label"),
        ({"shard_size": 4}, "shard_size"),
        ({"source": torch.zeros(10, 2)}, "source"),
    ],
)
def test_a_folder_of_other_pairs_is_refused_with_what_differs(tmp_path: Path, change, name) -> None:
    options = {"nfe": 4, "shard_size": 5}
    generate_pairs(network(), tmp_path, 10, **options)
    before = content(tmp_path)
    with pytest.raises(pf.CheckpointError, match=rf"other pairs \(.*{name}: "):
        generate_pairs(network(), tmp_path, 10, **(options | change))
    with pytest.raises(pf.CheckpointError, match="teacher"):
        generate_pairs(network(seed=1), tmp_path, 10, **options)
    assert content(tmp_path) == before


def test_exact_fields_are_told_apart_too(tmp_path: Path) -> None:
    generate_pairs(FIELD, tmp_path, 5, nfe=4)
    other = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.001]], 0.1)
    for field in (other.field(pf.CondOT()), LAW.field(pf.Cosine())):
        with pytest.raises(pf.CheckpointError, match="teacher"):
            generate_pairs(field, tmp_path, 5, nfe=4)
    generate_pairs(LAW.field(pf.CondOT()), tmp_path, 5, nfe=4)


def test_the_fingerprint_is_that_of_the_pairs(tmp_path: Path) -> None:
    first, again, other = (
        generate_pairs(FIELD, tmp_path / name, 10, nfe=4, seed=seed).fingerprint()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other


def test_a_full_disk_leaves_what_was_there_and_the_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    generate_pairs(FIELD, tmp_path / "whole", 20, nfe=4, shard_size=6)
    write, left = files._write_synced, [4]

    def full(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(files, "_write_synced", full)
    with pytest.raises(pf.CheckpointError, match="no space left"):
        generate_pairs(FIELD, tmp_path / "run", 20, nfe=4, shard_size=6)
    monkeypatch.setattr(files, "_write_synced", write)
    there = content(tmp_path / "run")
    assert set(there) == {"pairs.json", "00000.safetensors", "00001.safetensors"}
    generate_pairs(FIELD, tmp_path / "run", 20, nfe=4, shard_size=6)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pf.InputError, match="must be positive"):
        generate_pairs(FIELD, tmp_path, 0)
    with pytest.raises(pf.InputError, match="shape"):
        generate_pairs(pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT()), tmp_path, 4)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(pf.CheckpointError, match="cannot write"):
        generate_pairs(FIELD, tmp_path / "file", 4)
    pairs = generate_pairs(FIELD, tmp_path / "good", 4, nfe=2)
    for bad in (torch.tensor([4]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor(1)):
        with pytest.raises(pf.InputError):
            pairs[bad]


def test_pairs_are_labelled_in_the_shares_of_the_training_data(tmp_path):
    from pushforward.core.spec import DataSpec

    class Net(torch.nn.Module):
        def forward(self, x, t, label=None):
            return 0 * x

    spec = DataSpec((2,), "plane", classes=4, class_counts=(190, 10, 0, 200))
    model = pf.Model(Net(), pf.CondOT(), spec=spec)
    pairs = generate_pairs(model, tmp_path, 80, nfe=3, shard_size=33)
    labels = pairs[torch.arange(80)].cond["label"]
    assert torch.bincount(labels, minlength=4).tolist() == [38, 2, 0, 40]
    # All classes within each shard, not one after the other.
    assert len(labels[:33].unique()) == 3
