"""unCLIP and its cascade on scenes, whose pictures are read back: python -m benchmarks.unclip chain | cascade

    chain      CLIP, both priors and a decoder of 32 px, beside the direct model of the same network and time
    cascade    16 -> 32 -> 64 px beside a single model of 64 px trained for as long, and the curve over the level

    python -m benchmarks.unclip chain --minutes 10 5 45         of CLIP, each prior, decoder (and the direct model)
    python -m benchmarks.unclip cascade --minutes 10 15 10 20   of CLIP, base, and both stages
    python -m benchmarks.unclip chain --steps 4 --num 12        a rehearsal, whose figures mean nothing

Every training is kept in --runs: the command can be stopped and taken up.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.run import RESULTS
from pushforward.core.noise import Noise
from pushforward.data.scenes import draw, read_all, render
from pushforward.data.scenes.graph import COLOURS, SHAPES, Object
from pushforward.evaluate.features.efficientnet import EfficientNetLite0
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.evaluate.prompts import pictures, score_scenes
from pushforward.evaluate.ranks import judge_ranks
from pushforward.recipes.clip import CLIP
from pushforward.recipes.config import recipe_of
from pushforward.recipes.decoder import Decoder
from pushforward.recipes.prior import Prior
from pushforward.recipes.recipe import Recipe
from pushforward.recipes.run import train
from pushforward.recipes.text_to_image import TextToImage
from pushforward.recipes.upsampler import Upsampler
from pushforward.saving.folder import load_any, load_clip
from pushforward.solvers import DDIM
from pushforward.systems.cascade import Upsampler as Stage
from pushforward.systems.cascade import upsample
from pushforward.systems.priors import as_prior, expected, nearest
from pushforward.systems.unclip import UnCLIP
from pushforward.systems.variations import text_diff, variations

GUIDANCE = (1.0, 1.5, 2.0, 3.0)
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
AMOUNTS = (0.25, 0.5, 0.75, 1.0)
PARTS = 5  # of samples, whose Frechet distances have a mean and its standard error
QUIET: dict[str, Any] = {"sample_every": 0, "validate_every": 0}


@dataclass(frozen=True)
class Trainer:
    """Trains recipes for so many minutes of processor time each, or for `steps` optimiser steps, if these are given."""

    runs: Path
    steps: int | None

    def __call__(self, name: str, recipe: type[Recipe], minutes: float, /, **options: Any) -> Path:
        folder = self.runs / name
        note = self.runs / f"{name}.json"
        self.runs.mkdir(parents=True, exist_ok=True)
        options = QUIET | options
        if not note.is_file():
            steps = self.steps or max(1, int(60 * minutes / self.seconds(recipe, options)))
            note.write_text(json.dumps({"steps": steps, "minutes": minutes}))
        steps = json.loads(note.read_text())["steps"]
        if (folder / "config.toml").is_file():
            print(f"{name}: resuming at {recipe_of(folder).optimiser.steps} steps", flush=True)
            train(recipe.of(out=folder, resume=True, steps=steps, **options), quiet=True)
        else:
            print(f"{name}: {steps} steps", flush=True)
            train(recipe.of(out=folder, steps=steps, **options), quiet=True)
        return folder

    def seconds(self, kind: type[Recipe], options: dict[str, Any]) -> float:
        """Processor time of a step: the difference between a short run and a shorter one."""
        import tempfile

        found = []
        for steps in (4, 24):
            with tempfile.TemporaryDirectory() as folder:
                recipe = kind.of(out=Path(folder) / "run", steps=steps, **options)
                began = time.process_time()
                train(recipe, quiet=True)
                found.append(time.process_time() - began)
        return max((found[1] - found[0]) / 20, 1e-4)


def row(name: str, value: float, error: float | None, must: str = "") -> Row:
    print(f"{name}: {value:.4g}" + ("" if error is None else f" +- {error:.2g}"), flush=True)
    return {"figure": name, "value": value, "+-": error, "must hold": must}


def mean(name: str, values: Sequence[float] | Tensor, must: str = "") -> Row:
    """A mean over prompts or pictures with its standard error."""
    x = torch.as_tensor(values, dtype=torch.float64)
    if not len(x):
        return {"figure": name, "value": None, "+-": None, "must hold": must}
    error = float(x.std() / math.sqrt(len(x))) if len(x) > 1 else None
    return row(f"{name} (of {len(x)})", float(x.mean()), error, must)


# The chain.


def chain(options: Any) -> list[Row]:
    """CLIP, priors of both kinds, decoder and text-to-image model, on scenes of 32 px with mixed captions.

    Ranks: of the true vector among those of all held-out pictures, by what a prior draws for the text, the better of
    two and the mean of eight, and by the text's own vector. Scores: of prompts of seen and of held-out combinations,
    the mean of six tasks; the guidance of each model is the best of 1, 1.5, 2, 3 for other prompts. Agreement:
    objects of a shape and colour that are in both of a picture and its variation, twice over all. Text diffs: of
    pictures with one object that are drawn right, changed in colour or in shape; kept is the other one, and the place
    within 0.15 of the width.
    """
    trained = Trainer(options.runs / "chain", options.steps)
    clip_minutes, prior_minutes, decoder_minutes = options.minutes or (10.0, 5.0, 45.0)
    data = {"number": options.number, "size": 32}
    clip_run = trained("clip", CLIP, clip_minutes, captions="mixed", **data)
    priors = {
        kind: trained(
            f"prior-{kind}", Prior, prior_minutes, kind=kind, clip_run=clip_run, captions="mixed", **data
        )
        for kind in ("diffusion", "autoregressive")
    }  # fmt: skip
    decoder = trained(
        "decoder", Decoder, decoder_minutes, clip_run=clip_run, captions="mixed", **data
    )
    direct = trained("direct", TextToImage, decoder_minutes, captions="mixed", **data)
    clip = load_clip(clip_run)
    systems = {k: UnCLIP(clip, load_any(p), pf.load(decoder)) for k, p in priors.items()}
    rows = ranked(priors)
    rows += scored(systems, pf.load(direct), options)
    whole = systems["diffusion"]
    rows += varied(whole, options)
    rows += changed(whole, options)
    return rows


def ranked(priors: dict[str, Path]) -> list[Row]:
    rows = []
    for kind, folder in priors.items():
        recipe = recipe_of(folder, device="cpu")
        assert isinstance(recipe, Prior)
        apart = recipe.build().held_out
        assert apart is not None
        apart = apart.sample(1000)
        batch, lines = apart[torch.arange(len(apart))], list(apart.captions or ())
        prior = as_prior(load_any(folder))
        own = judge_ranks(nearest(prior, lines), batch.x1)
        several = judge_ranks(expected(prior, lines), batch.x1)
        text = judge_ranks(batch.cond["text"]["pooled"], batch.x1)
        of = int(own["of"])
        for title, found in ((f"{kind} prior", own), (f"{kind} prior, mean of 8", several)):
            below, above = "below the text's", "above the text's"
            rows.append(
                row(
                    f"mean rank of {of}, {title}",
                    found["mean_rank"],
                    found["mean_rank_error"],
                    below,
                )
            )
            rows.append(
                row(
                    f"within 10 of {of}, {title}",
                    found["within_10"],
                    found["within_10_error"],
                    above,
                )
            )
    rows.append(
        row(f"mean rank of {of}, the text's vector", text["mean_rank"], text["mean_rank_error"])
    )
    rows.append(
        row(f"within 10 of {of}, the text's vector", text["within_10"], text["within_10_error"])
    )
    return rows


Draw = Callable[[Sequence[str], float, int], Tensor]


def scored(systems: dict[str, UnCLIP], direct: Any, options: Any) -> list[Row]:
    def chained(system: UnCLIP) -> Draw:
        return lambda lines, w, seed: system.draw(
            list(lines), guidance=w, seed=seed, nfe=options.nfe
        )

    def plain(lines: Sequence[str], w: float, seed: int) -> Tensor:
        return pf.generate(direct, prompt=list(lines), guidance=w, seed=seed, nfe=options.nfe)

    found: dict[str, dict[str, float]] = {}
    drawers = {f"unclip, {kind} prior": chained(s) for kind, s in systems.items()}
    for name, drawer in (drawers | {"direct": plain}).items():
        chosen = {
            w: score_scenes(lambda lines, d=drawer, w=w: d(lines, w, 100), options.choosing, 100)[0]
            for w in GUIDANCE
        }
        w = max(chosen, key=lambda w: chosen[w]["seen_mean"] + chosen[w]["held_out_mean"])
        figures, _, _ = score_scenes(lambda lines, d=drawer, w=w: d(lines, w, 0), options.num)
        found[name] = figures | {"guidance": w}
    rows = []
    for name, figures in found.items():
        for part in ("seen", "held_out"):
            title = f"score {part}, {name}, guidance {figures['guidance']:g}"
            rows.append(row(title, figures[f"{part}_mean"], figures[f"{part}_mean_error"]))
    other = found["direct"]
    for name in drawers:
        for part in ("seen", "held_out"):
            gap = found[name][f"{part}_mean"] - other[f"{part}_mean"]
            error = math.hypot(found[name][f"{part}_mean_error"], other[f"{part}_mean_error"])
            rows.append(row(f"score {part}, {name} minus direct", gap, error, ">= -.05"))
    sizes = {"decoder": next(iter(systems.values())).decoder, "direct": direct}
    for name, model in sizes.items():
        rows.append(row(f"parameters, {name}", sum(p.numel() for p in model.parameters()), None))
    return rows


def scene_pictures(num: int, size: int = 32) -> tuple[Tensor, list[Any]]:
    """Pictures of scenes that no training has, and what they show."""
    scenes = [draw(77, i)[0] for i in range(num)]
    x = torch.tensor(render(scenes, size)).movedim(-1, 1).float() / 127.5 - 1
    return x, scenes


def agreement(a: Sequence[Object], b: Sequence[Object]) -> float:
    """Twice the objects of a shape and colour that both have, over all of them."""
    left, right = (Counter((o.shape, o.colour) for o in side) for side in (a, b))
    return 2 * sum((left & right).values()) / max(len(a) + len(b), 1)


def varied(system: UnCLIP, options: Any) -> list[Row]:
    x, scenes = scene_pictures(options.num)
    rows = []
    for w in GUIDANCE[:3]:
        two = variations(system, x, 2, guidance=w, nfe=options.nfe, seed=1)
        seen = read_all(pictures(two[:, 0]))
        values = [agreement(s.objects, o) for s, o in zip(scenes, seen, strict=True)]
        rows.append(mean(f"variations: agreement, guidance {w:g}", values, ">= .9"))
        apart = (two[:, 0] - two[:, 1]).square().mean((1, 2, 3)).sqrt()
        rows.append(mean(f"variations: RMS between two, guidance {w:g}", apart, "> 0"))
    for exact in (True, False):
        some = x[: max(4, options.num // 8)]
        try:
            noises = system.invert(some, nfe=options.nfe, exact=exact)
        except pf.ConvergenceError as error:
            print(f"inversion, exact {exact}: {error}", flush=True)
            continue
        back = system.decode(
            system.pictures.vectors(some), None, sources=noises, solver=DDIM(), guidance=1.0, nfe=options.nfe
        )  # fmt: skip
        decibel = -10 * ((back - some) / 2).square().mean((1, 2, 3)).clamp(min=1e-12).log10()
        name = "exact" if exact else "DDIM run backwards"
        rows.append(mean(f"inversion: PSNR in dB, {name}", decibel, ">= 35"))
    return rows


def changed(system: UnCLIP, options: Any) -> list[Row]:
    colours, rows = list(COLOURS), []
    kinds = [(c, s) for c in colours for s in SHAPES]
    asked = [kinds[i % len(kinds)] for i in range(options.num)]
    x = system.draw([f"a {c} {s}" for c, s in asked], seed=3, nfe=options.nfe)
    seen = read_all(pictures(x))
    right = [
        i
        for i, (kind, objects) in enumerate(zip(asked, seen, strict=True))
        if len(objects) == 1 and (objects[0].colour, objects[0].shape) == kind
    ]
    rows.append(
        mean("text diffs: drawn right to begin with", [float(i in right) for i in range(len(x))])
    )
    right = right[: options.edits]
    for prompted in (False, True):
        done: dict[float, dict[str, list[float]]] = {
            a: {"changed": [], "kept": []} for a in AMOUNTS
        }
        for i in right:
            u = float(Noise.batch(1, 5, i).uniform()[0])
            (colour, shape), before = asked[i], seen[i][0]
            if u < 0.5:
                target = (colours[(colours.index(colour) + 1 + int(10 * u)) % 6], shape)
            else:
                target = (colour, SHAPES[(SHAPES.index(before.shape) + 1 + int(6 * (u - 0.5))) % 4])  # type: ignore[arg-type]
            said = [f"a {c} {s}" for c, s in ((colour, shape), target)]
            try:
                found = text_diff(
                    system,
                    x[i : i + 1],
                    said[0],
                    said[1],
                    AMOUNTS,
                    prompted=prompted,
                    nfe=options.nfe,
                    exact=False,
                )
            except pf.InputError as error:
                print(f"{said}: {error}", flush=True)
                continue
            for amount, objects in zip(AMOUNTS, read_all(pictures(found[0])), strict=True):
                one = objects[0] if len(objects) == 1 else None
                new, old = (0, 1) if u < 0.5 else (1, 0)
                kind = () if one is None else (one.colour, one.shape)
                done[amount]["changed"].append(float(bool(kind) and kind[new] == target[new]))
                near = one is not None and math.hypot(one.x - before.x, one.y - before.y) < 0.15
                done[amount]["kept"].append(float(near and kind[old] == target[old]))
        for amount, each in done.items():
            way = "vector and text" if prompted else "vector"
            rows.append(
                mean(f"text diffs: changed, by {way}, amount {amount:g}", each["changed"], ">= .7")
            )
            rows.append(
                mean(f"text diffs: kept, by {way}, amount {amount:g}", each["kept"], ">= .8")
            )
    return rows


# The cascade.


def cascade(options: Any) -> list[Row]:
    """Pictures of 64 px of held-out vectors and texts: by a decoder of 16 px and two stages, and by one of 64 px.

    The single model has the processor time of base and stages together. Frechet distances between features of
    EfficientNet-Lite0 of as many samples and held-out pictures, a mean over five parts of both with its standard error;
    all are biased upwards alike. The same vectors and texts, and the same seed, for all.
    """
    trained = Trainer(options.runs / "cascade", options.steps)
    clip_minutes, base_minutes, *each = options.minutes or (10.0, 15.0, 10.0, 20.0)
    data = {"number": options.number, "size": 64}
    clip_run = trained("clip", CLIP, clip_minutes, captions="mixed", **data)
    own = data | {"clip_run": clip_run, "captions": "mixed"}
    base = trained("base-16", Decoder, base_minutes, drawn_size=16, **own)
    runs = [
        trained(f"upsampler-{size}", Upsampler, m, drawn_size=size, factor=2, **data)
        for size, m in zip((32, 64), each, strict=True)
    ]
    single = trained("single-64", Decoder, base_minutes + sum(each), **own)
    stages = []
    for run in runs:
        recipe = recipe_of(run)
        assert isinstance(recipe, Upsampler)
        stages.append(Stage(pf.load(run), recipe.augmentation.build(), recipe.augment_level))
    recipe = recipe_of(single, device="cpu")
    assert isinstance(recipe, Decoder)
    apart = recipe.build().held_out
    assert apart is not None
    apart = apart.sample(options.num)
    batch = apart[torch.arange(len(apart))]
    features = EfficientNetLite0("cpu")
    true = features(batch.x1, (-1.0, 1.0))

    def distance(name: str, x: Tensor, must: str = "") -> Row:
        found = features(x, (-1.0, 1.0))
        size = len(found) // PARTS
        # Other pictures than those whose vectors were given, so that no part is beside its own.
        values = [
            frechet_distance(
                found[k * size : (k + 1) * size], true.roll(size, 0)[k * size : (k + 1) * size]
            )
            for k in range(PARTS)
        ]
        return mean(name, values, must)

    cond = {n: v for n, v in batch.cond.items() if n != "label"}
    draws = {"nfe": options.nfe, "seed": 0, "guidance": 1.0}
    rows = [
        distance(
            "Frechet distance, single 64 px",
            pf.generate(pf.load(single), len(apart), **cond, **draws),
        )
    ]
    low = pf.generate(pf.load(base), len(apart), **cond, **draws)
    curve = []
    for level in LEVELS:
        x = upsample(stages, low, levels=level, seed=1, nfe=options.nfe)
        curve.append(
            distance(f"Frechet distance, cascade at level {level:g}", x, "below the single one")
        )
    best = min(curve, key=lambda r: float(r["value"] or 0))
    rows += [
        *curve,
        {
            "figure": "best level",
            "value": str(best["figure"]),
            "+-": None,
            "must hold": "the default",
        },
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unclip", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("what", choices=("chain", "cascade"))
    parser.add_argument("--runs", type=Path, default=Path("runs/unclip-benchmark"))
    parser.add_argument("--minutes", type=float, nargs="+", help="of processor time, see above")
    parser.add_argument("--steps", type=int, help="instead of minutes, for every training")
    parser.add_argument("--number", type=int, default=40_000, help="scenes to train on")
    parser.add_argument("--num", type=int, default=600, help="prompts or pictures judged")
    parser.add_argument(
        "--choosing", type=int, default=120, help="prompts that guidance is chosen by"
    )
    parser.add_argument("--edits", type=int, default=100, help="pictures changed by words")
    parser.add_argument("--nfe", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    wanted = 3 if options.what == "chain" else 4
    if options.minutes is not None and len(options.minutes) != wanted:
        parser.error(f"--minutes takes {wanted} numbers for {options.what}")
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    function = {"chain": chain, "cascade": cascade}[options.what]
    rows = function(options)
    text = "\n".join(line.strip() for line in (function.__doc__ or "").splitlines())
    minutes = "" if options.minutes is None else f" --minutes {' '.join(map(str, options.minutes))}"
    steps = "" if options.steps is None else f" --steps {options.steps}"
    command = f"python -m benchmarks.unclip {options.what}{minutes}{steps} --num {options.num}"
    facts = circumstances(command, options.note)
    write(
        options.out,
        f"unclip_{options.what}",
        text,
        Report(rows),
        facts,
        time.perf_counter() - began,
    )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
