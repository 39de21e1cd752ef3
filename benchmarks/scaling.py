"""Transformers of several sizes on Fashion-MNIST, by training compute: python -m benchmarks.scaling --data FOLDER

Every run that is done is kept in --runs and not done again: the command can be stopped and taken up.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.run import RESULTS
from pushforward.data import load_fashion
from pushforward.evaluate.features import ClassifierFeatures
from pushforward.evaluate.labels import balanced_labels
from pushforward.evaluate.metrics.agreement import everything
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.nets.flops import count
from pushforward.recipes import Fashion
from pushforward.recipes.run import train
from pushforward.saving.folder import load_classifier
from pushforward.train.log import JSONLines

SIZES, PATCHES = ("nano", "tiny", "mini", "XS"), (7, 4)
STEPS, BATCH, NUM, NFE = 400, 64, 2000, 10

ABOUT = """Eight transformers on Fashion-MNIST, by training compute: four sizes, patches of 7 and of 4 pixels.

All are trained alike: 400 steps of 64 images, flow matching, AdamW at 5e-4 after 50 steps of warm-up, seed 0. Compute
is three times the operations of the network's forward pass, for all images seen. The loss is that of the average of
weights (decay 0.99) on 2048 test images at fixed times and noise; the Frechet distance is by the features of a
classifier trained on the set, of 2000 samples of 10 network calls, no guidance, to the 10 000 test images. After
Peebles & Xie 2023 (arXiv 2212.09748), fig. 8 and 9."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument(
        "--classifier", type=Path, required=True, help="run of the recipe classifier"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    found = [one(size, patch, options) for patch in PATCHES for size in SIZES]
    rows: list[Row] = [
        {key: value for key, value in run.items() if key != "curve"} for run in found
    ]
    command = "python -m benchmarks.scaling --data FOLDER --classifier RUN"
    report = Report(rows, "![By compute](scaling.png)", {"scaling.png": plot(found)})
    facts = circumstances(command, options.note)
    write(options.out, "scaling", ABOUT, report, facts, time.perf_counter() - began)
    print("\n".join(table(rows)))


def one(size: str, patch: int, options: Any) -> dict[str, Any]:
    """Train and judge one network, unless that is done."""
    folder = options.runs / f"dit-{size}-{patch}"
    kept = folder / "scaling.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    recipe = Fashion.of(
        out=folder, resume=(folder / "config.toml").is_file(), data=options.data, device="cpu",
        network=f"dit-{size}", patch=patch, steps=STEPS, batch_size=BATCH, lr=5e-4, warmup=50,
        decay="constant", ema=0.99, log_every=25, validate_every=25, sample_every=0,
        checkpoint_every=100,
    )  # fmt: skip
    began = time.process_time()
    train(recipe, quiet=True)
    seconds = time.process_time() - began
    model = pf.load(folder)
    with torch.device("meta"):
        parameters, flops = count(type(model.net)(**model.net.config), model.shape)
    classifier = load_classifier(options.classifier)
    features = ClassifierFeatures(classifier)
    real, _ = everything(load_fashion(options.data)[1], 10_000)
    label = balanced_labels(NUM, 10)
    samples = pf.generate(model, NUM, nfe=NFE, label=label, seed=0)
    distance = frechet_distance(features(samples, (-1, 1)), features(real, (-1, 1)))
    entries = JSONLines(folder / "log.jsonl").read()
    each = 3 * flops * BATCH
    result = {
        "network": f"DiT-{size}/{patch}",
        "parameters": f"{parameters / 1e6:.2f} M",
        "GFLOP per image, forward": flops / 1e9,
        "training PFLOP": STEPS * each / 1e15,
        "validation loss": entries[-1]["validation_loss"],
        "Frechet distance": distance,
        "processor seconds": round(seconds),
        "curve": [(e["step"] * each / 1e15, e["validation_loss"]) for e in entries],
    }
    kept.write_text(json.dumps(result))
    print(result["network"], f"{seconds:.0f} s", result["validation loss"], distance, flush=True)
    return result


def plot(found: list[dict[str, Any]]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    styles = {PATCHES[0]: "--", PATCHES[1]: "-"}
    colours = plt.get_cmap("viridis")
    for run in found:
        size, patch = run["network"].removeprefix("DiT-").split("/")
        colour = colours(SIZES.index(size) / (len(SIZES) - 0.6))
        left.plot(
            *zip(*run["curve"][1:], strict=True),
            styles[int(patch)],
            color=colour,
            label=run["network"],
        )
        right.plot(
            run["training PFLOP"], run["Frechet distance"], "o", color=colour,
            fillstyle="none" if int(patch) == PATCHES[0] else "full", markersize=8,
        )  # fmt: skip
    for patch in PATCHES:
        runs = [r for r in found if r["network"].endswith(f"/{patch}")]
        right.plot(
            [r["training PFLOP"] for r in runs], [r["Frechet distance"] for r in runs], styles[patch],
            color="0.6", zorder=0, label=f"patches of {patch}",
        )  # fmt: skip
        for run in runs:
            right.annotate(
                run["network"].removeprefix("DiT-"), (run["training PFLOP"], run["Frechet distance"]),
                xytext=(6, 5), textcoords="offset points", fontsize=8,
            )  # fmt: skip
    left.set(
        xlabel="training compute (PFLOP)", ylabel="validation loss", xscale="log", yscale="log"
    )
    right.set(
        xlabel="training compute (PFLOP)", ylabel="Frechet distance", xscale="log", yscale="log"
    )
    left.legend(fontsize=8, ncol=2, frameon=False)
    right.legend(fontsize=8, frameon=False)
    for axes, ticks in ((left, (0.3, 0.4, 0.6, 1.0)), (right, (10, 15, 20, 25, 30))):
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="both", alpha=0.2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
