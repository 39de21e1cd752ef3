"""Quality by training compute, of transformers of several sizes and patches, and of one trained for longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.lectures.chart import Found, logarithmic_across, tiles
from benchmarks.lectures.common import Judge, Work, cell, labels, mean_and_error
from benchmarks.measure import Report, Row
from pushforward.evaluate.figures.curves import logarithmic
from pushforward.evaluate.figures.page import QUIET, bare, blank, colour, style
from pushforward.nets.flops import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sizes by patch; mini/2 alone would take as long as all the others.
NETWORKS = {8: ("nano", "tiny", "mini"), 4: ("nano", "tiny", "mini"), 2: ("nano", "tiny")}
BATCH = 64
# Steps over those of the least compute, and the network that they train.
LONGER, ONE = (1, 4, 32), ("nano", 4)
NFE = 10
ABOUT = """Sample quality by training compute: transformers of three sizes and patches, and one trained for longer.

After figure 2 and 8 of Peebles & Xie 2023 (arXiv 2212.09748) and Sora's pictures at base, 4 and 32 times the compute,
which lecture 004 shows. All by flow matching on straight lines, on images, batches of 64. Left: DiT of 0.3, 2 and 5
million weights (nano, tiny, mini) on patches of 8 and 4 pixels (1 and 4 tokens), and the first two on patches of 2
(16 tokens), all for the same few steps, by compute: three times the operations of a forward pass, for all samples
seen. Middle: DiT-nano/4 at 1, 4 and 32 times the compute, by so many times the steps. Right: the same ten noises at
each of these, of the first seed. Frechet distance of samples by 10 network calls. Means over seeds of training, +-
the standard error over them. Fashion-MNIST at more compute is in scaling.md."""


class Run(NamedTuple):
    compute: float  # TFLOP of training
    parameters: int
    frechet: float
    samples: Tensor


def scaling(work: Work) -> Found:
    judge, steps = Judge(), max(1, work.steps // 15)
    sizes = {
        (size, patch): [one(work, judge, size, patch, steps, seed) for seed in work.seeds]
        for patch, of in NETWORKS.items()
        for size in of
    }
    longer = {
        times: [
            one(work, judge, *ONE, times * max(1, work.steps // 50), seed) for seed in work.seeds
        ]
        for times in LONGER
    }
    rows = [row(f"DiT-{size}/{patch}", runs) for (size, patch), runs in sizes.items()]
    rows += [row(f"DiT-{ONE[0]}/{ONE[1]}, {n} x compute", runs) for n, runs in longer.items()]
    floor = judge.floor()["Frechet distance"]
    logs = torch.tensor(
        [[runs[0].compute, mean_and_error([r.frechet for r in runs])[0]] for runs in sizes.values()]
    ).log()
    related = float(torch.corrcoef(logs.T)[0, 1])
    more = (
        f"Correlation of log Frechet distance and log compute over the {len(sizes)} networks: {related:.2f} (-0.93 "
        f"between FID and Gflops in the paper). Frechet distance of the training half to the held-out one: {floor:.3f}."
    )
    return Found(Report(rows, more), picture(sizes, longer, floor))


def one(work: Work, judge: Judge, size: str, patch: int, steps: int, seed: int) -> Run:
    """Train and judge one network."""
    recipe = work.recipe(
        seed, network=f"dit-{size}", patch=patch, steps=steps, batch_size=BATCH, lr=1e-3, warmup=20
    )
    model = work.model(f"dit-{size}-{patch}-{steps}-{seed}", recipe)
    with torch.device("meta"):
        parameters, flops = count(type(model.net)(**model.net.config), model.shape)
    x = pf.generate(model, work.num, nfe=NFE, label=labels(work.num), seed=seed)
    return Run(3 * flops * steps * BATCH / 1e12, parameters, judge.frechet(x), x[:10])


def row(name: str, runs: Sequence[Run]) -> Row:
    return {
        "network": name, "parameters": f"{runs[0].parameters / 1e6:.2f} M", "training TFLOP": runs[0].compute,
        "Frechet distance": cell([run.frechet for run in runs]),
    }  # fmt: skip


def picture(
    sizes: Mapping[Any, Sequence[Run]], longer: Mapping[int, Sequence[Run]], floor: float
) -> Figure:
    with style():
        drawn = blank(14.5, 4.3)
        axis, middle, right = drawn.subplots(1, 3, width_ratios=(1.15, 0.85, 1.25))
        for k, (patch, of) in enumerate(NETWORKS.items()):
            line(axis, [sizes[size, patch] for size in of], colour(k), f"patches of {patch}", of)
        finish(axis, floor, "Frechet distance by size and patch")
        line(middle, list(longer.values()), colour(3), "", [f"{n} x" for n in longer])
        finish(middle, floor, f"DiT-{ONE[0]}/{ONE[1]}")
        images = torch.stack([runs[0].samples[:, 0] for runs in longer.values()])
        tiles(right, images, [f"{n} x" for n in longer])
        right.set_title("the same noise", loc="left", fontsize=11)
    return drawn


def line(
    axis: Any, runs: Sequence[Sequence[Run]], shade: str, label: str, names: Sequence[str]
) -> None:
    values = [mean_and_error([run.frechet for run in of]) for of in runs]
    x = [of[0].compute for of in runs]
    y = [mean for mean, _ in values]
    bars = [min(error, 0.9 * mean) if error == error else 0.0 for mean, error in values]
    axis.errorbar(x, y, yerr=bars, fmt="o-", ms=5, lw=1.4, capsize=2, color=shade, label=label)
    for name, a, b in zip(names, x, y, strict=True):
        axis.annotate(
            name, (a, b), xytext=(5, 5), textcoords="offset points", fontsize=8, color=shade
        )


def finish(axis: Any, floor: float, title: str) -> None:
    axis.set_xlabel("training compute (TFLOP)")
    logarithmic_across(axis)
    axis.axhline(floor, color=QUIET, lw=1, ls="--", zorder=1)
    axis.annotate("training data", (0.02, floor), xycoords=("axes fraction", "data"), xytext=(0, 3),
                  textcoords="offset points", fontsize=8, color=QUIET)  # fmt: skip
    axis.set_title(title, loc="left", fontsize=11)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(loc="center left")
    axis.grid()
    logarithmic(axis)
    bare(axis)
