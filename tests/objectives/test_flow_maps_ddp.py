"""Flow maps trained by two processes: DistributedDataParallel around the network, half of the batch in each.

    mean_i grad loss_i = (mean_{i < n/2} grad loss_i + mean_{i >= n/2} grad loss_i)/2

holds exactly where the noise of a sample is keyed by its global id. Run as a script, this file is the two processes: it
takes all steps of all cases and leaves what came out in the folder of its argument.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import pushforward as pf
from pushforward.core.noise import SPAN
from pushforward.core.times import uniform
from pushforward.data.batch import Batch
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.nets import MLP, UNet
from pushforward.objectives import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    Levels,
    MeanFlow,
    ProgressiveDistillation,
    Shortcut,
)
from pushforward.solvers import DDIM
from pushforward.solvers.fewstep import SolverFlowMap

SIZE, STEPS, RATE, CLASSES = 8, 2, 0.2, 3
SHAPES = {"mlp": (2,), "unet": (1, 5, 6)}
COSINE, FINE = pf.Cosine(), uniform(8)


def shaken(net: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return net


def network(kind: str) -> nn.Module:
    if kind == "mlp":
        net = MLP(2, 16, 2, classes=CLASSES, time="smooth", two_times=True)
    else:
        net = UNet(1, 8, attention=(1,), classes=CLASSES, time="smooth", two_times=True)
    return shaken(net, 1)


def flow(net: nn.Module, jumps="any", path=None, prediction="velocity", wrap=None) -> FlowMapModel:
    return FlowMapModel(
        pf.Model(net, path or pf.CondOT(), prediction, wrap, nulls={"label": -1}), jumps
    )


def teacher(path=None) -> pf.Model:
    return pf.Model(shaken(MLP(2, 8, 1, classes=CLASSES), 2), path or pf.CondOT())


# Few levels, so that neighbours are far apart and the slow copy tells.
LEVELS = Levels(first=4, last=4)
GRID = FINE[::2].tolist()
# name: (network, what is trained with it)
CASES = {
    "MeanFlow": ("mlp", lambda net: MeanFlow(flow(net), share=0.25)),
    "MeanFlow-cosine": ("mlp", lambda net: MeanFlow(flow(net, "any", COSINE, "v"), share=0.25)),
    "MeanFlow-teacher": ("mlp", lambda net: MeanFlow(flow(net), teacher(), share=0.25)),
    "MeanFlow-guided": (
        "mlp",
        lambda net: MeanFlow(flow(net), guidance=2.0, condition_dropout=0.3, share=0.25),
    ),
    "Continuous": (
        "mlp",
        lambda net: ContinuousConsistency(flow(net, "data", COSINE, "v"), warmup=3),
    ),
    "Continuous-teacher": ("mlp", lambda net: ContinuousConsistency(flow(net), teacher())),
    "Training": ("mlp", lambda net: ConsistencyTraining(flow(net, "data"), LEVELS)),
    "Training-EDM-slow": (
        "mlp",
        lambda net: ConsistencyTraining(
            flow(net, "data", pf.EDM(), "data", EDMPreconditioning()),
            LEVELS,
            decay=0.5,
            condition_dropout=0.3,
        ),
    ),
    "Distillation": (
        "mlp",
        lambda net: ConsistencyDistillation(flow(net), LEVELS, teacher=SolverFlowMap(teacher())),
    ),
    "Distillation-slow": (
        "mlp",
        lambda net: ConsistencyDistillation(
            flow(net, "data"), LEVELS, decay=0.5, teacher=SolverFlowMap(teacher())
        ),
    ),
    "Progressive-grid": (
        "mlp",
        lambda net: ProgressiveDistillation(
            flow(net, GRID), SolverFlowMap(teacher(), DDIM()), FINE
        ),
    ),
    "Progressive": (
        "mlp",
        lambda net: ProgressiveDistillation(flow(net), SolverFlowMap(teacher(), DDIM()), FINE),
    ),
    "Shortcut": ("mlp", lambda net: Shortcut(flow(net), finest=8, share=0.5)),
    "Shortcut-teacher": (
        "mlp",
        lambda net: Shortcut(flow(net), SolverFlowMap(teacher()), finest=4, share=0.0),
    ),
    "UNet-MeanFlow": ("unet", lambda net: MeanFlow(flow(net), share=0.25)),
    "UNet-MeanFlow-guided": (
        "unet",
        lambda net: MeanFlow(flow(net), guidance=2.0, condition_dropout=0.3, share=0.25),
    ),
    "UNet-Training-slow": (
        "unet",
        lambda net: ConsistencyTraining(flow(net, "data"), LEVELS, decay=0.5),
    ),
    "UNet-Shortcut": ("unet", lambda net: Shortcut(flow(net), finest=8, share=0.5)),
    # Where one process has samples whose target takes the network, and the other none. Last, since gloo ends processes
    # that do not agree on what comes next.
    "Shortcut-one-sided": ("mlp", lambda net: Shortcut(flow(net), finest=8, share=0.9)),
}
SEEDS = {"Shortcut-one-sided": 4}
# Groups are kept until the process ends: where a network is the last to hold one, torch frees it under Python's lock
# and waits for its thread, which may wait for the lock.
GROUPS = []


def batch(kind: str, step: int, rows: slice) -> Batch:
    generator = torch.Generator().manual_seed(100 + step)
    x1 = torch.randn(SIZE, *SHAPES[kind], generator=generator, dtype=torch.float64)
    label = torch.randint(CLASSES, (SIZE,), generator=generator)
    return Batch(x1[rows], {"label": label[rows]})


def noise(case: str, step: int, rows: slice) -> pf.Noise:
    return pf.Noise.batch(SIZE, SEEDS.get(case, 5), step)[rows]


def train(case: str, net: nn.Module, wrapped: nn.Module, rows: slice) -> dict[str, list[Tensor]]:
    """Losses, gradients and weights of some steps of gradient descent, one tensor a step; and of the slow copy."""
    kind, make = CASES[case]
    objective = make(wrapped)
    out: dict[str, list[Tensor]] = {"loss": [], "gradient": [], "weights": [], "slow": []}
    for step in range(STEPS):
        net.zero_grad()
        loss = objective(batch(kind, step, rows), noise(case, step, rows))["loss"]
        loss.mean().backward()
        out["loss"].append(loss.detach())
        out["gradient"].append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        with torch.no_grad():
            for p in net.parameters():
                p -= RATE * p.grad
        out["weights"].append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        if getattr(objective, "state", None) is not None:
            objective.advance()
            slow = objective.state.parameters()
            out["slow"].append(torch.cat([p.detach().flatten() for p in slow]))
    return out


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for synchronised in (False, True):
        for case, (kind, _) in CASES.items():
            # A group of processes for each case, so that one that fails leaves nothing to the next.
            name = f"{case}-{synchronised}"
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/{name}",
                rank=rank,
                world_size=2,
                timeout=timedelta(seconds=20),
            )
            GROUPS.append(dist.group.WORLD)
            result: dict[str, list[Tensor]] | str
            try:
                net = network(kind)
                wrapped = DistributedDataParallel(net)
                rows = slice(rank * SIZE // 2, (rank + 1) * SIZE // 2)
                result = train(case, net, wrapped if synchronised else wrapped.module, rows)
            except Exception:
                result = traceback.format_exc()
            dist.destroy_process_group()
            torch.save(result, folder / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What came out in the two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        [sys.executable, "-B", __file__, folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return folder, done.stderr


def both(ranks, case, synchronised):
    folder, complaint = ranks
    out = []
    for rank in range(2):
        file = folder / f"{case}-{synchronised}-{rank}.pt"
        # Processes whose calls of one another do not match are ended by gloo.
        assert file.exists(), complaint
        out.append(torch.load(file))
        assert not isinstance(out[-1], str), f"process {rank}:\n{out[-1]}"
    return out


def whole(case):
    net = network(CASES[case][0])
    return train(case, net, net, slice(None))


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-12 * b.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_the_whole_batch_at_every_step(ranks, case):
    first, second = both(ranks, case, True)
    truth = whole(case)
    for step in range(STEPS):
        loss = torch.cat((first["loss"][step], second["loss"][step]))
        assert near(loss, truth["loss"][step])
        for name in ("gradient", "weights"):
            assert torch.equal(first[name][step], second[name][step])
            assert near(first[name][step], truth[name][step])
    assert len(first["slow"]) == len(second["slow"]) == (STEPS if "slow" in case else 0)
    for mine, other, slow in zip(first["slow"], second["slow"], truth["slow"], strict=True):
        assert torch.equal(mine, other)
        assert near(mine, slow)
        # It lags behind what it copies.
        assert (mine - truth["weights"][-1]).abs().max() > 1e-4
    # All that is trained has a part in this, and the second step comes after a first that moved the weights.
    moved = (truth["weights"][1] - truth["weights"][0]).abs().max()
    assert moved > 1e-3
    assert not near(truth["gradient"][1], truth["gradient"][0])


@pytest.mark.parametrize("case", CASES)
def test_without_the_forward_of_ddp_each_process_has_the_gradients_of_its_half(ranks, case):
    first, second = both(ranks, case, False)
    truth = whole(case)
    mean = (first["gradient"][0] + second["gradient"][0]) / 2
    assert near(mean, truth["gradient"][0])
    gap = (first["gradient"][0] - second["gradient"][0]).abs().max()
    assert gap > 0.05 * truth["gradient"][0].abs().max()
    # And weights that part for good.
    assert not torch.equal(first["weights"][-1], second["weights"][-1])
    assert not near((first["weights"][-1] + second["weights"][-1]) / 2, truth["weights"][-1])


def test_one_process_may_have_no_sample_that_takes_the_network_for_its_target():
    case = "Shortcut-one-sided"
    share = CASES[case][1](network("mlp")).share
    counts = []
    for step in range(STEPS):
        jumps = noise(case, step, slice(None)).uniform((3,), SPAN)[:, 2] >= share
        counts.append((int(jumps[: SIZE // 2].sum()), int(jumps[SIZE // 2 :].sum())))
    assert any(0 in pair and sum(pair) > 0 for pair in counts), counts


if __name__ == "__main__":
    # The imports are made once, and the processes forked from here.
    torch.multiprocessing.start_processes(
        process, (Path(sys.argv[1]),), nprocs=2, start_method="fork"
    )
