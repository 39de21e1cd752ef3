"""Batches prepared in the background are those of the stream, in any order and whatever goes wrong."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

import pushforward as pf
from pushforward.streams import Coupled, Drawn, Prefetch


class Numbered:
    """Batches that are their step; steps in `bad` fail."""

    batch_size = 3

    def __init__(self, bad=(), wait=0.0):
        self.bad, self.wait, self.asked = set(bad), wait, []

    def at(self, step):
        self.asked.append(step)
        time.sleep(self.wait)
        if step in self.bad:
            raise KeyError(f"step {step}")
        return pf.Batch(torch.full((3, 2), float(step)))


def law():
    return pf.GaussianMixture([[2.0, 0.0], [-2.0, 1.0]], 0.1)


def coupled(coupling=None, **more):
    stream = Drawn(law(), 16, seed=3)
    return Coupled(stream, coupling or pf.couplings.OptimalTransport(), seed=3, **more)


def equal(a, b):
    assert torch.equal(a.x1, b.x1)
    assert torch.equal(a.x0, b.x0)
    assert torch.equal(a.ids, b.ids)
    assert a.cond.keys() == b.cond.keys()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "coupling",
    [pf.couplings.OptimalTransport(), pf.couplings.Sinkhorn(0.5)],
    ids=lambda c: type(c).__name__,
)
def test_batches_are_those_of_the_stream_in_any_order_of_steps(coupling, workers):
    stream = coupled(coupling)
    with Prefetch(stream, workers=workers) as ahead:
        assert ahead.batch_size == 16
        for step in (0, 1, 2, 3, 10, 11, 4, 4, 5, 0, 2**31 - 1, 6):
            equal(ahead.at(step), stream.at(step))


def test_the_next_batches_are_begun_and_no_more():
    stream = Numbered()
    with Prefetch(stream, depth=3) as ahead:
        ahead.at(5)
        deadline = time.monotonic() + 20
        while len(stream.asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert stream.asked == [5, 6, 7, 8]
        ahead.at(6)
        assert float(ahead.at(7).x1[0, 0]) == 7
        assert len(ahead._begun) == 3
    assert len(stream.asked) == len(set(stream.asked))


def test_what_a_jump_leaves_behind_is_dropped():
    stream = Numbered(wait=0.05)
    with Prefetch(stream, depth=4) as ahead:
        ahead.at(0)
        ahead.at(100)
    assert not {3, 4} & set(stream.asked)


def test_an_error_is_raised_at_its_step_as_it_was_and_the_stream_goes_on():
    with Prefetch(Numbered(bad={2, 3})) as ahead:
        assert float(ahead.at(1).x1[0, 0]) == 1
        for _ in range(2):
            with pytest.raises(KeyError, match="step 2"):
                ahead.at(2)
        assert float(ahead.at(4).x1[0, 0]) == 4
        with pytest.raises(KeyError, match="step 3"):
            ahead.at(3)
    for options in ({"depth": 0}, {"workers": 0}):
        with pytest.raises(pf.InputError, match="at least 1"):
            Prefetch(Numbered(), **options)


def test_threads_end_with_the_stream():
    before = threading.active_count()
    ahead = Prefetch(Numbered())
    ahead.at(0)
    ahead.close()
    assert threading.active_count() == before
    other = Prefetch(Numbered())
    other.at(0)
    del other
    gc.collect()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == before


def test_a_child_process_has_batches_of_its_own():
    ahead = Prefetch(Numbered())
    ahead.at(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if float(ahead.at(7).x1[0, 0]) == 7 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert float(ahead.at(8).x1[0, 0]) == 8
    ahead.close()


@pytest.mark.parametrize("end", ["pass", "raise ValueError('over')", "raise KeyboardInterrupt"])
def test_a_program_ends_without_closing(end):
    code = (
        "import torch, pushforward as pf\n"
        "from pushforward.streams.prefetch import Prefetch\n"
        "class Slow:\n"
        "    batch_size = 1\n"
        "    def at(self, step): return pf.Batch(torch.zeros(1))\n"
        f"ahead = Prefetch(Slow(), 4)\nahead.at(0)\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert (done.returncode == 0) == (end == "pass")
