"""Shares of samples, and what processes tell each other."""

from __future__ import annotations

import json
import os
import traceback
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

import pushforward as pf
from pushforward.runtime.processes import ElsewhereError, Processes, joined


@given(total=st.integers(0, 10_000), count=st.integers(1, 300))
def test_shares_cover_all_rows_once_in_order_and_differ_by_one_at_most(
    total: int, count: int
) -> None:
    shares = [Processes(rank, count).share(total) for rank in range(count)]
    assert shares[0].start == 0
    assert shares[-1].stop == total
    assert all(a.stop == b.start for a, b in pairwise(shares))
    sizes = {share.stop - share.start for share in shares}
    assert min(sizes) >= total // count
    assert max(sizes) <= -(-total // count)


def test_a_process_alone_is_the_lead_and_nothing_is_changed() -> None:
    alone, x = Processes.current(), torch.arange(3.0)
    assert alone == Processes(0, 1)
    assert alone.lead
    assert alone.sum(x) is x
    assert alone.gather(x) is x
    assert alone.gather_rows(x) == (x, slice(0, 3))
    assert alone.everybody("a") == ["a"]
    assert alone.first(lambda: 7) == 7
    with pytest.raises(KeyError, match="mine"):
        alone.first(lambda: {}["mine"])
    alone.wait()
    with joined("cpu") as processes:
        assert processes == alone
    assert not dist.is_initialized()


TOTAL = 7


def loss_of(z: torch.Tensor, all_z: torch.Tensor) -> torch.Tensor:
    """(b,) for rows z among all_z; no two rows enter it alike."""
    weight = torch.linspace(-1, 2, len(all_z), dtype=torch.float64)
    return ((z @ all_z.T).tanh() * weight).sum(1) + (z**2).sum(1).exp()


def whole_batch(processes: Processes, count: int) -> dict:
    """Loss and gradient of rows that depend on those of all processes; one process gathers its own."""
    x = torch.randn(TOTAL, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64).requires_grad_()
    rows = x[processes.share(TOTAL)] if count > 1 else x
    z = (rows @ matrix).sin()
    all_z, mine = processes.gather_rows(z)
    loss = loss_of(z, all_z)
    (gradient,) = torch.autograd.grad(loss.sum(), matrix)
    return {
        "rows": [mine.start, mine.stop],
        "gathered": all_z.tolist(),
        "losses": processes.gather(loss.detach()).tolist(),
        "gradient": processes.sum(gradient).tolist(),
    }


def tell(rank: int, count: int) -> dict:
    processes = Processes.current()
    assert processes == Processes(rank, count)
    assert processes.lead == (rank == 0)
    found: dict = {}
    for kind in (torch.float64, torch.float32, torch.int64):
        x = torch.full((2,), rank + 1).to(kind)
        assert processes.sum(x) is x
        found[f"sum {kind}"] = x.tolist()
    found["everybody"] = processes.everybody({"rank": rank})
    # No row, one, two, ...
    rows = torch.arange(3 * rank).reshape(rank, 3) + 100 * rank
    found["gather"] = processes.gather(rows).tolist()
    assert processes.gather(rows).dtype == rows.dtype
    found |= whole_batch(processes, count)
    total = torch.arange(10)
    found["shares"] = processes.gather(total[processes.share(10)]).tolist()
    calls = []
    found["first"] = processes.first(lambda: calls.append(rank) or f"by {rank}")
    assert calls == ([0] if rank == 0 else [])

    def fails() -> None:
        raise pf.InputError(f"wrong at {rank}")

    try:
        processes.first(fails)
    except pf.Error as error:
        found["failure"] = [type(error).__name__, str(error)]
    # All go on together afterwards.
    processes.wait()
    found["after"] = processes.first(lambda: None)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_processes_add_gather_tell_and_fail_together(tmp_path: Path, count: int) -> None:
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                dist.init_process_group(
                    "gloo",
                    init_method=f"file://{tmp_path}/meet",
                    rank=rank,
                    world_size=count,
                    timeout=timedelta(seconds=30),
                )
                (tmp_path / str(rank)).write_text(json.dumps(tell(rank, count)))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * count
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(count)]
    total = count * (count + 1) // 2
    alone = whole_batch(Processes(), 1)
    want = [[100 * r + 3 * k + j for j in range(3)] for r in range(count) for k in range(r)]
    for rank, result in enumerate(found):
        for kind in ("float64", "float32", "int64"):
            assert result[f"sum torch.{kind}"] == [total, total]
        assert result["everybody"] == [{"rank": r} for r in range(count)]
        assert result["gather"] == want
        assert result["shares"] == list(range(10))
        assert result["rows"] == [TOTAL * rank // count, TOTAL * (rank + 1) // count]
        for key in ("gathered", "losses", "gradient"):
            torch.testing.assert_close(
                torch.tensor(result[key], dtype=torch.float64),
                torch.tensor(alone[key], dtype=torch.float64),
                rtol=1e-12,
                atol=1e-12,
            )
        assert result["first"] == "by 0"
        kind = "InputError" if rank == 0 else ElsewhereError.__name__
        assert result["failure"] == [kind, "wrong at 0"]
        assert result["after"] is None


def test_a_process_without_a_device_of_its_own_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(pf.InputError, match=r"has no CUDA device.*pass --device cpu"), joined("cuda"):  # fmt: skip
        raise AssertionError
    assert not dist.is_initialized()
