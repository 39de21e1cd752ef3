"""DALL-E 3's claim on scenes: does text to image learn more from the captions of a captioner than from alt texts?

    python -m benchmarks.recaption [--captioner RUN] [--steps 20000] [--num 500]

Three models are trained alike but for their captions: noisy alt texts, and these replaced by those of our captioner in
50% and in 95% of the drawings. Each is asked by descriptive and by short prompts, and its pictures are read back.

Every stage is kept in --runs: the command can be stopped and taken up.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.run import RESULTS
from pushforward.cli import main as command_line
from pushforward.data.recaptions import read_recaptions
from pushforward.data.scenes import draw, load_scenes, prompts, read_all
from pushforward.evaluate.captions import judge_scene_captions
from pushforward.evaluate.prompts import judge_descriptions, pictures
from pushforward.recipes.captioner import Captioner
from pushforward.recipes.run import train
from pushforward.recipes.text_to_image import TextToImage

SHARES = (0.0, 0.5, 0.95)
GUIDANCE = (1.0, 2.0, 4.0)
# Guidance is chosen by these prompts, and judged by those of seed 0.
CHOOSING = {"num": 60, "seed": 100}
KINDS = ("seen", "held_out")


def done(folder: Path, steps: int) -> bool:
    """Whether a run in a folder has come to its end."""
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return bool(lines) and json.loads(lines[-1])["step"] >= steps


def trained(kind: Any, folder: Path, steps: int, **options: Any) -> Path:
    """Train a run, or what is left of it."""
    if not done(folder, steps):
        resume = (folder / "config.toml").is_file()
        recipe = kind.of(out=folder, resume=resume, steps=steps, **options)
        _, signal = train(recipe)
        if signal:
            raise SystemExit(128 + signal)
    return folder


def captioned(options: Any) -> tuple[Path, dict[str, float]]:
    """Captions of all scenes that are trained on, and how many of them are right."""
    captioner = options.captioner
    if captioner is None:
        captioner = trained(
            Captioner, options.runs / "captioner", options.captioner_steps, number=options.number
        )
    out = options.runs / "captions.jsonl"
    words = ["caption", str(captioner), "--data", "scenes", "--num", str(options.number)]
    if command_line([*words, "--decoding", options.decoding, "--out", str(out)]):
        raise SystemExit(1)
    some = min(options.number, 2000)
    names = load_scenes(options.number, 32).names
    lines = read_recaptions(out, 1.0, options.number, names).lines[:some]
    return out, judge_scene_captions(lines, [draw(0, i)[0] for i in range(some)])


def asked_short(model: Any, num: int, **sampling: Any) -> dict[str, Tensor]:
    """(num,) bool: which pictures satisfy short prompts, of combinations that were trained on and of those held out."""
    found = {}
    for kind in KINDS:
        given = prompts(num, sampling["seed"], held_out=kind == "held_out")
        samples = pf.generate(model, prompt=[p.text for p in given], **sampling)
        seen = read_all(pictures(samples.cpu()))
        right = [p.satisfied(objects) for p, objects in zip(given, seen, strict=True)]
        found[f"{kind}_short"] = torch.tensor(right)
    return found


def asked(model: Any, num: int, **sampling: Any) -> dict[str, Tensor]:
    """(num,) bool of each kind of prompt: which pictures show what was asked for."""
    _, described = judge_descriptions(model, num, **sampling)
    return described | asked_short(model, num, **sampling)


def best_guidance(model: Any, nfe: int, num: int) -> float:
    """The guidance by which most prompts of another seed are satisfied, descriptive and short ones."""
    found = {}
    for guidance in GUIDANCE:
        right = asked(
            model, min(num, int(CHOOSING["num"])), nfe=nfe, guidance=guidance, seed=CHOOSING["seed"]
        )
        found[guidance] = sum(float(r.double().mean()) for r in right.values())
    return max(found, key=lambda g: found[g])


def error(right: Tensor) -> float:
    """The standard error of a mean."""
    return float(right.double().std()) / math.sqrt(len(right))


def recaption(options: Any) -> tuple[str, list[Row]]:
    """Text to image on scenes of 32 px by noisy alt texts, and by captions of our captioner in 50% and 95% of drawings.

    The recipe text-to-image as it ships, with one seed, the same scenes, vocabulary and number of weights, and
    as many steps: only the share of drawings differs that take the captioner's caption instead of the alt text, in
    which attributes are wrong or missing. Guidance (1, 2, 4) of each by prompts of another seed. Shares of pictures,
    read back, that show what was asked for, of combinations seen in training and of those held out, with standard
    errors over prompts: described, all objects with size, colour, shape and place and no others; but for places; short,
    the six tasks of GenEval. The last row is the difference of 95% and none, over the same prompts and noise.
    """
    captions, quality = captioned(options)
    rows: list[Row] = []
    rights: dict[float, dict[str, Tensor]] = {}
    for share in SHARES:
        folder = options.runs / f"share-{round(100 * share)}"
        cache = options.runs / f"share-{round(100 * share)}-{options.num}.json"
        if not cache.is_file():
            trained(
                TextToImage, folder, options.steps, number=options.number, captions="noisy", recaptions=captions,
                recaption_share=share, sample_every=0, validate_every=0,
            )  # fmt: skip
            model = pf.load(folder)
            guidance = best_guidance(model, options.nfe, options.num)
            found = asked(model, options.num, nfe=options.nfe, guidance=guidance, seed=0)
            kept = {name: right.int().tolist() for name, right in found.items()}
            cache.write_text(json.dumps({"guidance": guidance, "right": kept}))
        whole = json.loads(cache.read_text())
        rights[share] = {name: torch.tensor(r).bool() for name, r in whole["right"].items()}
        row: Row = {"captions of ours": f"{share:.0%}", "guidance": whole["guidance"]}
        for name, right in rights[share].items():
            row |= {name: float(right.double().mean()), f"{name}, error": error(right)}
        rows.append(row)
        print(row, flush=True)
    difference: Row = {"captions of ours": "95% - 0%", "guidance": None}
    for name, right in rights[SHARES[-1]].items():
        by = right.double() - rights[SHARES[0]][name].double()
        difference |= {name: float(by.mean()), f"{name}, error": error(by)}
    rows.append(difference)
    right = f"{quality['right']:.3f} +- {quality['right_error']:.3f}"
    print(f"captions of the captioner that are right: {right}")
    rows = [
        row | {"captions right": quality["right"] if k < 3 else None} for k, row in enumerate(rows)
    ]
    return f"--steps {options.steps} --num {options.num} --number {options.number}", rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recaption", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--captioner", type=Path, help="a trained one; by default one is trained")
    parser.add_argument("--captioner-steps", type=int, default=6000)
    parser.add_argument("--decoding", choices=("greedy", "beam", "sampled"), default="greedy")
    parser.add_argument("--runs", type=Path, default=Path("runs/recaption"))
    parser.add_argument("--steps", type=int, default=10_000, help="of each text-to-image model")
    parser.add_argument("--number", type=int, default=40_000, help="scenes to train on")
    parser.add_argument("--num", type=int, default=500, help="prompts of each kind")
    parser.add_argument("--nfe", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    began = time.perf_counter()
    options.runs.mkdir(parents=True, exist_ok=True)
    command, rows = recaption(options)
    text = "\n".join(line.strip() for line in (recaption.__doc__ or "").splitlines())
    facts = circumstances(f"python -m benchmarks.recaption {command}", options.note)
    write(options.out, "recaption", text, Report(rows), facts, time.perf_counter() - began)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
