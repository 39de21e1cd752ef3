"""The loss of a captioner: its equation, its mean over words, and the same gradient from several processes."""

from __future__ import annotations

import json
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
from pushforward.models.captioner import CaptionModel
from pushforward.models.text import Words
from pushforward.nets import CoCa
from pushforward.objectives import ContrastiveCaptioning
from pushforward.objectives.contrastive import contrast
from pushforward.runtime.processes import Processes

LINES = [
    "a red circle",
    "a blue square",
    "two circles",
    "a red square and a circle",
    "a square",
    "blue",
]


def model() -> CaptionModel:
    torch.manual_seed(0)
    words = Words.of(LINES, length=8, end=True)
    image = {"size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    text = {"vocabulary": words.size, "width": 16, "depth": 1, "looking": 1, "heads": 2, "length": 8}  # fmt: skip
    net = CoCa(image, text, 3, 8).double()
    return CaptionModel(net, encoders={"caption": words}, shape=(3, 8, 8))


def batch(captioner: CaptionModel, rows: slice = slice(None)) -> Batch:
    torch.manual_seed(1)
    x = torch.randn(len(LINES), 3, 8, 8, dtype=torch.float64)
    return Batch(x[rows], captioner.words(LINES[rows]))


def test_the_loss_is_its_equation_summed_by_hand() -> None:
    captioner = model()
    given = batch(captioner)
    text = given.cond["words"]
    found = ContrastiveCaptioning(captioner, 0.7, 1.3)(given, Noise.batch(6))
    with torch.no_grad():
        u, v, logits, scale = captioner(given.x1, text)
    among = contrast(u, v, scale, Processes())[0]
    counts = [len(line.split()) + 1 for line in LINES]
    nats, right = [], []
    for i, n in enumerate(counts):
        ln_p = logits[i].log_softmax(1)
        ids = text.values[i, :n].tolist()
        assert ids[-1] == captioner.words.size - 1
        nats.append(-sum(float(ln_p[k, w]) for k, w in enumerate(ids)))
        right.append(sum(int(ln_p[k].argmax()) == w for k, w in enumerate(ids)))
    for i in range(6):
        want = 0.7 * float(among[i]) + 1.3 * 6 / sum(counts) * nats[i]
        assert found["loss"][i].item() == pytest.approx(want, rel=1e-9)
    # Means over words, not over captions.
    figures = found["figures"]
    assert figures["nats"].mean().item() == pytest.approx(sum(nats) / sum(counts), rel=1e-9)
    assert figures["words"].mean().item() == pytest.approx(sum(right) / sum(counts))
    assert {"scale", "right"} <= figures.keys()


def test_published_weights_are_one_and_two_and_padding_changes_nothing() -> None:
    captioner = model()
    given = batch(captioner)
    loss = ContrastiveCaptioning(captioner)(given, Noise.batch(6))["loss"]
    parts = [
        ContrastiveCaptioning(captioner, a, b)(given, Noise.batch(6))["loss"]
        for a, b in ((1.0, 0.0), (0.0, 1.0))
    ]
    assert torch.allclose(loss, parts[0] + 2 * parts[1], rtol=1e-12)
    padded = Batch(given.x1, {"words": given.cond["words"].padded(8)})
    again = ContrastiveCaptioning(captioner)(padded, Noise.batch(6))["loss"]
    assert torch.allclose(again, loss, rtol=1e-12)


def test_a_batch_without_captions_is_refused() -> None:
    with pytest.raises(InputError, match="this batch has no 'words'"):
        ContrastiveCaptioning(model())(Batch(torch.zeros(2, 3, 8, 8).double(), {}), Noise.batch(2))


def gradient(rows: slice) -> dict:
    """Losses of these rows, and the gradient of their sum, of all processes together."""
    captioner, processes = model(), Processes.current()
    found = ContrastiveCaptioning(captioner)(batch(captioner, rows), Noise.batch(len(LINES[rows])))
    grads = torch.autograd.grad(found["loss"].sum(), list(captioner.parameters()))
    return {
        "losses": processes.gather(found["loss"].detach()).tolist(),
        "nats": processes.gather(found["figures"]["nats"]).tolist(),
        "gradient": [processes.sum(g.clone()).tolist() for g in grads],
    }


@pytest.mark.parametrize("count", [2, 3])
def test_processes_have_the_gradient_of_one(count: int, tmp_path: Path) -> None:
    # Captions of other lengths in each process: a mean of their means would be another.
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
        assert found["nats"] == pytest.approx(alone["nats"], rel=1e-12)
        for a, b in zip(found["gradient"], alone["gradient"], strict=True):
            a, b = torch.tensor(a).double(), torch.tensor(b).double()
            assert (a - b).abs().max() <= 1e-12 * max(1.0, float(b.abs().max()))
