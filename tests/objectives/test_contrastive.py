"""The contrastive loss: its equation, its limits, and the same gradient from several processes."""

from __future__ import annotations

import json
import math
import os
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.clip import CLIPModel
from pushforward.models.text import Words
from pushforward.nets import CLIP
from pushforward.objectives import Contrastive
from pushforward.runtime.processes import Processes

LINES = [
    "a red circle",
    "a blue square",
    "two circles",
    "a red square and a circle",
    "a square",
    "blue",
]


def model() -> CLIPModel:
    torch.manual_seed(0)
    words = Words.of(LINES, length=8, end=True)
    net = CLIP(
        {"vocabulary": words.size, "width": 16, "depth": 1, "heads": 2, "length": 8, "end": words.size - 1},
        {"size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        dim=8,
    ).double()  # fmt: skip
    return CLIPModel(net, encoders={"caption": words}, shape=(3, 8, 8))


def batch(clip: CLIPModel, rows: slice = slice(None)) -> Batch:
    torch.manual_seed(1)
    x = torch.randn(len(LINES), 3, 8, 8, dtype=torch.float64)
    return Batch(x[rows], clip.encoders["caption"](LINES[rows]))


def test_the_loss_is_its_equation_summed_by_hand() -> None:
    clip = model()
    given = batch(clip)
    loss = Contrastive(clip)(given, Noise.batch(6))["loss"]
    with torch.no_grad():
        u, v = clip(given.x1, given.cond["words"])
    s = clip.net.scale.item()
    for i in range(6):
        picture = [math.exp(s * float(u[i] @ v[j])) for j in range(6)]
        text = [math.exp(s * float(v[i] @ u[j])) for j in range(6)]
        want = -0.5 * math.log(picture[i] / sum(picture)) - 0.5 * math.log(text[i] / sum(text))
        assert loss[i].item() == pytest.approx(want, rel=1e-9)


def test_equal_vectors_have_the_entropy_of_chance_and_distinct_ones_none() -> None:
    clip = model()
    objective = Contrastive(clip)
    u = torch.nn.functional.normalize(torch.eye(6, 8, dtype=torch.float64), dim=1)
    clip.forward = lambda x, text: (u[:1].expand(6, -1), u[:1].expand(6, -1))
    assert torch.allclose(
        objective(batch(clip), Noise.batch(6))["loss"], torch.tensor(6.0).double().log()
    )
    clip.forward = lambda x, text: (u, u)
    found = objective(batch(clip), Noise.batch(6))
    # All others at a right angle: ln(1 + 5 exp(-s)).
    assert torch.allclose(
        found["loss"], torch.tensor(5 * math.exp(-1 / 0.07)).double().log1p(), rtol=1e-5
    )
    assert found["figures"]["right"].tolist() == [1.0] * 6


def test_a_scale_beyond_the_limit_is_brought_back_and_still_learns() -> None:
    clip = model()
    with torch.no_grad():
        clip.net.logit_scale.fill_(math.log(300.0))
    found = Contrastive(clip)(batch(clip), Noise.batch(6))
    assert clip.net.logit_scale.item() == pytest.approx(math.log(100), abs=1e-6)
    found["loss"].mean().backward()
    assert abs(clip.net.logit_scale.grad.item()) > 1e-6
    assert found["figures"]["scale"].unique().tolist() == pytest.approx([100.0])


def test_a_batch_without_texts_is_refused() -> None:
    clip = model()
    with pytest.raises(InputError, match="this batch has no 'words'"):
        Contrastive(clip)(Batch(torch.zeros(2, 3, 8, 8).double(), {}), Noise.batch(2))


def gradient(rows: slice) -> dict:
    """Losses of these rows, and the gradient of their sum, of all processes together."""
    clip, processes = model(), Processes.current()
    loss = Contrastive(clip)(batch(clip, rows), Noise.batch(len(LINES[rows])))["loss"]
    found = torch.autograd.grad(loss.sum(), list(clip.parameters()))
    return {
        "losses": processes.gather(loss.detach()).tolist(),
        "gradient": [processes.sum(g.clone()).tolist() for g in found],
    }


@pytest.mark.parametrize("count", [2, 3])
def test_processes_have_the_gradient_of_one(count: int, tmp_path: Path) -> None:
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                torch.set_num_threads(1)
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                dist.init_process_group(
                    "gloo", init_method=f"file://{tmp_path}/meet", rank=rank, world_size=count,
                    timeout=timedelta(seconds=60),
                )  # fmt: skip
                rows = Processes.current().share(len(LINES))
                (tmp_path / str(rank)).write_text(json.dumps(gradient(rows)))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * count
    alone = gradient(slice(None))
    for rank in range(count):
        found = json.loads((tmp_path / str(rank)).read_text())
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-12)
        for a, b in zip(found["gradient"], alone["gradient"], strict=True):
            a, b = torch.tensor(a).double(), torch.tensor(b).double()
            assert (a - b).abs().max() <= 1e-12 * max(1.0, float(b.abs().max()))
