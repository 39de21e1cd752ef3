"""Encodings on disk: cut off and taken up again, by one process at a time, in memory that does not grow with them."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.data import Dataset
from pushforward.data.latents import encode_pictures

KEY = "k" * 64


def pictures(n):
    values = np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)
    return Dataset.from_arrays(values, captions=[f"number {i}" for i in range(n)])


class Pool:
    """Means of 2 x 2 pixels; `asked` counts pictures, and every one of them takes `wait` seconds."""

    def __init__(self, wait=0.0):
        self.asked, self.wait = 0, wait

    def __call__(self, x):
        self.asked += len(x)
        time.sleep(self.wait * len(x))
        return torch.nn.functional.avg_pool2d(x, 2)


def python(code, *arguments, **options):
    head = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_partial as t; from pathlib import Path\n"
        "place = Path(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", head + code, str(Path(__file__).parent), *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


def test_a_killed_encoding_goes_on_where_it_was_safe_and_is_equal(tmp_path):
    child = python("t.encode_pictures(t.pictures(5000), t.Pool(2e-4), t.KEY, place)", tmp_path)
    done, deadline = 0, time.monotonic() + 60
    while done < 2048 and time.monotonic() < deadline:
        time.sleep(0.01)
        for file in tmp_path.glob(".*.json"):
            done = json.loads(file.read_text())["rows"]
        # Nothing has the name of the whole before it is whole.
        assert not list(tmp_path.glob("k*"))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 2048 <= done < 5000
    # What lies behind the rows that are safe may be anything.
    (part,) = tmp_path.glob(".*.part")
    with part.open("ab") as file:
        file.write(b"rubbish")
    encode, data = Pool(), pictures(5000)
    found = encode_pictures(data, encode, KEY, tmp_path)
    assert encode.asked <= 1 + 5000 - done
    truth = Pool()(data[torch.arange(5000)].x1).numpy()
    assert np.array_equal(found.values, truth)
    assert np.array_equal(found.ids, np.arange(5000))
    assert sorted(p.name[-8:] for p in tmp_path.iterdir()) == sorted(
        [p.name[-8:] for p in tmp_path.glob("k*.npy")]
    )


@pytest.mark.parametrize("damage", ["count", "short", "header", "other"])
def test_what_was_left_of_something_else_is_not_taken_up(tmp_path, damage):
    data, encode = pictures(1200), Pool()

    def cut(x):
        if encode.asked >= 1100:
            raise KeyboardInterrupt
        return encode(x)

    with pytest.raises(KeyboardInterrupt):
        encode_pictures(data, cut, KEY, tmp_path)
    (part,), (count,) = tmp_path.glob(".*.part"), tmp_path.glob(".*.json")
    assert json.loads(count.read_text())["rows"] == 1024
    if damage == "count":
        count.write_text("[]")
    elif damage == "short":
        part.write_bytes(part.read_bytes()[:5000])
    elif damage == "header":
        part.write_bytes(b"x" + part.read_bytes()[1:])
    else:
        count.write_text(json.dumps(json.loads(count.read_text()) | {"shape": [1200, 1, 2, 2]}))
    again = Pool()
    found = encode_pictures(data, again, KEY, tmp_path)
    assert again.asked == 1201
    assert np.array_equal(found.values, Pool()(data[torch.arange(1200)].x1).numpy())


def test_of_two_processes_one_encodes_and_the_other_waits(tmp_path):
    code = (
        "p = t.Pool(1e-4); v = t.encode_pictures(t.pictures(2500), p, t.KEY, place).values\n"
        "print(p.asked, float(v.sum()))"
    )
    running = [python(code, tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    asked = sorted(int(words[0]) for words in said)
    # The one that waits may have asked for the shape, from one picture.
    assert asked[0] <= 1
    assert asked[1] == 2501
    assert said[0][1] == said[1][1]
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_said_and_what_is_there_is_kept(tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, resource.RLIM_INFINITY))

    code = "t.encode_pictures(t.pictures(2500), t.Pool(), t.KEY, place)"
    child = python(code, tmp_path, stderr=subprocess.PIPE, preexec_fn=limited)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "the latents of 2500 pictures cannot be kept in" in errors.splitlines()[-1]
    assert "what is there is kept" in errors.splitlines()[-1]
    encode = Pool()
    encode_pictures(pictures(2500), encode, KEY, tmp_path)
    assert encode.asked == 1 + 2500 - 1024


class Long:
    """Each text as 32 tokens of 256 numbers, which are 32 KiB."""

    digest = "d" * 64

    def __call__(self, texts):
        from pushforward.core.conditions import Tokens

        first = torch.tensor([float(text.split()[-1]) for text in texts])
        values = first[:, None, None] + torch.arange(32.0)[:, None] + torch.zeros(256)
        return {"text": Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))}


def large(x):
    """64 KiB for each picture."""
    return x.mean((2, 3))[:, :, None, None].repeat(1, 16, 32, 32)


def epoch(folder, n, cache):
    """An epoch of n pictures with captions, from a folder and with all encodings; the most private memory it took."""
    import threading

    from pushforward.data import load_folder
    from pushforward.data.encoded import encode_texts
    from pushforward.data.latents import latent_data, statistics
    from pushforward.streams import Prefetch, Shuffled

    most, stop = [0, 0], threading.Event()

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10

    def watch():
        while not stop.wait(0.002):
            most[0] = max(most[0], resident())

    data = load_folder(folder, 8, channels=1, lazy=True).subset(torch.arange(n))
    data[torch.arange(8)]  # what is imported at the first call
    before = resident()
    thread = threading.Thread(target=watch)
    thread.start()
    data = encode_texts(data, {"caption": Long()}, cache / "texts")
    found = encode_pictures(data, large, KEY, cache / "latents")
    mean, std = statistics(found.values)
    states = latent_data(data, found, torch.tensor(mean), torch.tensor(std))
    seen = set()
    with Prefetch(Shuffled(states, 50, 0), 2, 2) as stream:
        for step in range(n // 50):
            batch = stream.at(step)
            seen |= set(batch.ids.tolist())
            numbers = torch.tensor([float(text.split()[-1]) for text in batch.texts["caption"]])
            assert torch.equal(batch.cond["text"].values[:, 0, 0], numbers)
            assert batch.x1.shape == (50, 16, 32, 32)
    stop.set()
    thread.join()
    assert seen == set(range(n))
    print(most[0] - before)


def test_memory_does_not_grow_with_the_data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3600):
        Image.new("L", (8, 8), i % 251).save(folder / f"{i:05}.png")
        (folder / f"{i:05}.txt").write_text(f"number {i}")
    taken = {}
    for n in (900, 3600):
        for turn in ("fresh", "kept"):
            child = python(
                f"t.epoch(Path(sys.argv[3]), {n}, place)",
                tmp_path / str(n),
                folder,
                stdout=subprocess.PIPE,
            )
            taken[n, turn] = int(child.communicate(timeout=240)[0])
            assert child.returncode == 0
    # 900 have 84 MiB of encodings, and 3600 have 338, of which 113 are of texts. While they are made, 16 MiB of texts
    # are held up to five times, which the watch may miss: as batches, joined, and on their way to the file.
    assert taken[3600, "fresh"] < 110, taken
    assert taken[3600, "kept"] - taken[900, "kept"] < 12, taken
    assert taken[3600, "kept"] < 60, taken
