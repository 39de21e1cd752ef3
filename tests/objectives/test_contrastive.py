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

from pushforward.core.conditions import Tokens
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


# Gaussian pairs, of which the best vectors are known.

RHO, COUNT, BATCHES = 0.6, 32, 60


def gaussian_vectors(x: torch.Tensor, y: torch.Tensor, p: torch.Tensor, s: float) -> tuple:
    """Vectors of length 1 whose product is that of the density ratio of a Gaussian pair of correlation RHO.

        s u . v = p_0 a x y - p_1 b (x^2 + y^2)/2 + constant,   a = rho/(1 - rho^2), b = rho^2/(1 - rho^2)

    p: 1 where the product is ln p(x, y)/(p(x) p(y)), up to a constant.
    """
    a, b = RHO / (1 - RHO**2), RHO**2 / (1 - RHO**2)
    w, h = (p[0] * a / s).sqrt(), p[1] * b / (2 * s)
    one = torch.full_like(x, 0.25)
    shorter = [(w * x, one, -h * x**2 / 0.25), (w * y, -h * y**2 / 0.25, one)]
    rest = [(1 - sum(part**2 for part in z)).sqrt() for z in shorter]
    u = torch.stack((*shorter[0], rest[0], 0 * x), 1)
    v = torch.stack((*shorter[1], 0 * y, rest[1]), 1)
    return u, v


def gaussian_losses(p: torch.Tensor) -> torch.Tensor:
    """(BATCHES,) mean losses of batches of Gaussian pairs."""
    clip = model()
    with torch.no_grad():
        clip.net.logit_scale.fill_(math.log(100))
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(BATCHES):
        x, z = torch.randn(2, COUNT, generator=generator, dtype=torch.float64)
        y = RHO * x + math.sqrt(1 - RHO**2) * z
        clip.forward = lambda *given, x=x, y=y: gaussian_vectors(x, y, p, 100.0)  # type: ignore[method-assign]
        ids = {"words": Tokens(torch.zeros(COUNT, 1).long(), torch.ones(COUNT, 1) > 0)}
        batch = Batch(x[:, None, None, None].expand(-1, 3, 8, 8), ids)
        losses.append(Contrastive(clip)(batch, Noise.batch(COUNT))["loss"].mean())
    return torch.stack(losses)


def test_the_optimum_on_gaussian_pairs_is_the_ratio_of_densities() -> None:
    def slopes(at: list[float]) -> torch.Tensor:
        """(BATCHES, 2): derivatives of the loss by both coefficients."""
        p = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        each = gaussian_losses(p)
        return torch.stack([torch.autograd.grad(x, p, retain_graph=True)[0] for x in each])

    def sigmas(g: torch.Tensor) -> torch.Tensor:
        return g.mean(0) / (g.std(0) / BATCHES**0.5)

    # There both derivatives have mean 0, for any size of batch, and around it they lead back.
    assert sigmas(slopes([1.0, 1.0])).abs().max() < 4
    assert sigmas(slopes([1.5, 1.0]))[0] > 4
    assert sigmas(slopes([0.6, 1.0]))[0] < -4
    assert sigmas(slopes([1.0, 2.5]))[1] > 4
    assert sigmas(slopes([1.0, 0.1]))[1] < -4


def test_the_loss_there_is_bounded_by_the_mutual_information() -> None:
    losses = gaussian_losses(torch.ones(2, dtype=torch.float64)).detach()
    information = -0.5 * math.log(1 - RHO**2)
    found, error = math.log(COUNT) - float(losses.mean()), float(losses.std()) / BATCHES**0.5
    # Poole et al. 2019 (arXiv 1905.06922), eq. 12: ln N - loss <= I, and nearly so where N is larger than exp(I).
    assert found < information + 4 * error
    assert found > information - 4 * error - math.exp(2 * information) / COUNT
