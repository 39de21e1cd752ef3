"""Fashion-MNIST by class, beside a DDPM of diffusers of equal size and training time: python -m benchmarks.fashion

    train-peer   train the peer for so many minutes of one core
    judge        draw from both, and compare

This library's model is that of `pushforward train fashion`; the features are those of `pushforward train classifier
--data fashion`. In the peers' environment (`make bench` makes it).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.run import RESULTS
from pushforward.core.noise import START, Noise
from pushforward.data import Dataset, load_fashion
from pushforward.evaluate.features import ClassifierFeatures, features_of_images
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.grid import class_grid
from pushforward.evaluate.labels import balanced_labels
from pushforward.evaluate.metrics.agreement import everything, trained_classifier
from pushforward.evaluate.metrics.coverage import coverage
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.evaluate.metrics.kid import kernel_distance
from pushforward.saving.folder import load_classifier

NFES = (5, 10, 20, 50)
# Those of diffusers' schedulers that were candidates, and the samples by which the best is chosen for each number of
# calls.
CANDIDATES = ("DDIM", "DDIM trailing", "Euler", "DPM++2M", "DPM++2M Karras", "UniPC")
CHOICE = 300
RANGE = (-1.0, 1.0)

ABOUT = """Fashion-MNIST by class: this library's default beside diffusers' DDPM, trained for as long on one core.

Both are U-Nets with channels (32, 64, 64), one block a level and attention at the lowest, told the class, and trained
by batches of 64 at a peak rate of 1e-3 with a cosine and an average of weights of decay 0.999. Ours is `pushforward
train fashion` as it ships (flow matching, bf16 where the processor has it); the peer is trained on the noise of 1000
linear steps in float32, as diffusers' example has it, for at least the processor time that ours took. Samples: as
many of each class, no guidance, the sampler `generate` takes by itself, and of diffusers' schedulers (DDIM, the same
with trailing steps, Euler, DPM++2M, the same on Karras' grid, UniPC) the one whose Frechet distance is least at that
number of calls on 300 samples. Features, and the classes found, are of a classifier trained on the set; distances are
to the 10 000 test images, precision to coverage to as many of them as there are samples, k = 5."""


def batches(data: Dataset, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch, each in an order of its own."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(data), generator=generator)
        for start in range(0, len(data) - size + 1, size):
            batch = data[order[start : start + size]]
            yield batch.x1, batch.cond["label"]


def train_peer(options: Any) -> None:
    from benchmarks.peers.ddpm import train

    data, _ = load_fashion(options.data)
    found = train(batches(data), 10, 60 * options.minutes, options.peer)
    (options.peer / "training.json").write_text(json.dumps(found))


def judge(options: Any) -> None:
    from diffusers import UNet2DModel

    from benchmarks.peers.ddpm import sample

    began = time.perf_counter()
    model, classifier = pf.load(options.run), load_classifier(options.classifier)
    peer = UNet2DModel.from_pretrained(options.peer).eval()
    train, held_out = load_fashion(options.data)
    features = ClassifierFeatures(classifier)
    real = features_of_images(features, everything(held_out, 10_000)[0], RANGE)
    found = trained_classifier(classifier, held_out)
    label = balanced_labels(options.num, 10)
    noise = Noise.batch(options.num).normal((1, 28, 28), START)

    def figures(x: Tensor) -> dict[str, float]:
        own = features_of_images(features, x, RANGE)
        near = coverage(real[: len(own)], own)
        return {
            "Frechet distance": frechet_distance(own, real),
            "1000 KID": 1000 * kernel_distance(own, real).value,
            "precision": near.precision,
            "recall": near.recall,
            "density": near.density,
            "coverage": near.coverage,
            "agreement": found.agreement(x, label),
        }

    def chosen(nfe: int) -> str:
        scores = {}
        for name in CANDIDATES:
            x = sample(peer, name, nfe, noise[:CHOICE], label[:CHOICE])
            if x is not None:
                own = features_of_images(features, x, RANGE)
                scores[name] = frechet_distance(own, real)
        print(nfe, scores, flush=True)
        return min(scores, key=lambda name: scores[name])

    rows: list[Row] = []
    shown: dict[str, Tensor] = {}
    for nfe in NFES:
        ours = kept(
            options.cache / f"ours-{nfe}.pt",
            lambda nfe=nfe: pf.generate(model, options.num, nfe=nfe, label=label, seed=0),
        )
        row: Row = {"calls": nfe, "model": "pushforward", "sampler": "default"}
        rows.append(row | figures(ours.clamp(-1, 1)))
        print(rows[-1], flush=True)
        name_file = options.cache / f"peer-{nfe}.txt"
        if not name_file.is_file():
            name_file.write_text(chosen(nfe))
        name = name_file.read_text()
        theirs = kept(
            options.cache / f"peer-{nfe}.pt",
            lambda nfe=nfe, name=name: sample(peer, name, nfe, noise, label),
        )
        row = {"calls": nfe, "model": "diffusers DDPM", "sampler": name}
        rows.append(row | figures(theirs))
        print(rows[-1], flush=True)
        shown |= {f"ours, {nfe} calls": ours, f"diffusers, {nfe} calls": theirs}
    test = features_of_images(features, everything(train, options.num)[0], RANGE)
    near = coverage(real[: len(test)], test)
    bound: Row = {
        "calls": None, "model": "training images", "sampler": "", "Frechet distance": frechet_distance(test, real),
        "1000 KID": 1000 * kernel_distance(test, real).value, "precision": near.precision,
        "recall": near.recall, "density": near.density, "coverage": near.coverage,
        "agreement": found.agreement(*everything(train, options.num)),
    }  # fmt: skip
    rows.append(bound)
    trained = json.loads((options.peer / "training.json").read_text())
    note = (
        f"{options.num} samples; ours: {model.provenance.step} steps in {options.seconds:.0f} s of one core; the peer: "
        f"{trained['steps']} steps in {trained['seconds']:.0f} s. {options.note}"
    )
    more = "![Samples, a class a column](fashion.samples.png)"
    report = Report(rows, more, {"fashion.samples.png": grid(shown)})
    facts = circumstances("python -m benchmarks.fashion judge", note)
    write(options.out, "fashion", ABOUT, report, facts, time.perf_counter() - began)
    print("\n".join(table(rows)))


def kept(file: Path, make: Callable[[], Tensor]) -> Tensor:
    """What was made before, or is made and kept."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file)
    return torch.load(file, weights_only=True)


def grid(shown: dict[str, Tensor]) -> bytes:
    """Rows of ten samples, a class a column, two rows for each model and number of calls."""
    rows = torch.cat([x[:20] for x in shown.values()])
    names = [name for name in shown for _ in range(2)]
    return png(class_grid(rows, names, 10, RANGE), {"benchmark": "fashion"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fashion", description=__doc__)
    parser.add_argument("what", choices=("train-peer", "judge"))
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--run", type=Path, default=Path("runs/fashion"))
    parser.add_argument(
        "--seconds", type=float, default=float("nan"), help="of one core, that the run took"
    )
    parser.add_argument("--peer", type=Path, default=Path("runs/fashion-peer"))
    parser.add_argument("--classifier", type=Path, default=Path("runs/classifier"))
    parser.add_argument("--cache", type=Path, default=Path("runs/fashion-samples"))
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train_peer(options) if options.what == "train-peer" else judge(options)


if __name__ == "__main__":
    main()
