from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pushforward as pf
from benchmarks.measure import Report, Row
from pushforward.recipes import Cells
from pushforward.recipes.run import train
from pushforward.recipes.set_to_set import CellMapping

PAIRS = (("CFP", "YFP"), ("CFP", "RFP"))


def cells() -> Report:
    """Yeast cells of one strain carried to another by flow matching with optimal transport in the batch.

    The recipe `cells` with its defaults: ten channels (area and height of forward and side scatter and of the violet,
    yellow and blue detector), asinh(x / 150), each with mean 0 and variance 1 over all cells trained on. 80 % of the
    cells of each strain train the network; the rest, held out, is mapped (source) and compared to (target). 20 calls.

    energy: the unbiased energy distance of mapped to target cells, about 0 for one law; before: of source to target.
    to target, halves: the energy distance of sets of n cells as they are (all pairs, 2 E|X - X'|/n on average for one
    law), of mapped to target cells, and of two random halves of the target; ratio: the one over the other, with its
    standard error (jackknife over the cells); root ratio: of the means of their square roots over 100 splits.
    CPU s: processor time of all of the training.
    """
    rows: list[Row] = []
    files: dict[str, bytes] = {}
    for source, target in PAIRS:
        with tempfile.TemporaryDirectory() as temporary:
            recipe = Cells.of(
                source=source, target=target, out=Path(temporary) / "run", device="cpu"
            )
            began = time.process_time()
            folder, _ = train(recipe, quiet=True)
            seconds = time.process_time() - began
            experiment = recipe.build()
            assert isinstance(experiment, CellMapping)
            experiment = replace(experiment, model=pf.load(folder))
        figures, _, _ = experiment.judge(10_000, nfe=20)
        rows.append(
            {
                "from": source,
                "to": target,
                "n": int(figures["size"]),
                "before": figures["energy_before"],
                "energy": figures["energy"],
                "to target": figures["to_target"],
                "halves": figures["halves"],
                "ratio": figures["ratio"],
                "+-": figures["ratio_error"],
                "root ratio": figures["root_ratio"],
                "CPU s": round(seconds),
            }
        )
        name = f"cells.{source}-{target}.png"
        files[name] = experiment.figure(10_000, {"source": source, "target": target}, nfe=20)
    pictures = "\n\n".join(f"![{name}]({name})" for name in files)
    return Report(rows, pictures, files)
