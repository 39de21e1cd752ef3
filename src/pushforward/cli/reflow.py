"""`pushforward reflow`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pushforward.cli.base import Command, say, write_json
from pushforward.cli.teacher import taught
from pushforward.recipes.flat import make
from pushforward.recipes.options import Options, option
from pushforward.recipes.reflow import Rectify

if TYPE_CHECKING:
    from torch import Tensor


class Comparing(Options):
    num: int = option(2000, "Samples to compare the two flows by.", ge=2)


class ReflowOptions(Rectify, Comparing):
    """Make the flow of a run straight, by training on the pairs that it joins: the 2-rectified flow, and so on.

    Prints how straight the flows are, and what they cost, and writes it to reflow.json in the new run folder.
    """


class Reflow(Command):
    __doc__ = ReflowOptions.__doc__

    trains: ClassVar[bool] = True

    options: Mapping[str, Any]

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Self:
        return cls(options=taught(ReflowOptions, words, prog, "reflow"))

    def opening(self) -> str:
        return f"preparing reflow of {self.options['teacher']}"

    def cut(self, above: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        if self.options.get("resume"):
            return {}
        return {"options": {**self.options, **above(make(ReflowOptions, self.options))}}

    def run(self) -> int:
        from pathlib import Path

        from pushforward.recipes import run
        from pushforward.recipes.config import find_source
        from pushforward.runtime.device import find_device
        from pushforward.runtime.show import shown
        from pushforward.saving.folder import load

        given = dict(self.options)
        num = given.pop("num", Comparing().num)
        teacher, folder = Path(given["teacher"]), Path(given["out"])
        if given.get("resume"):
            folder, signal = run.resume(folder, given)
        else:
            folder, signal = run.train(make(Rectify, given))
        if signal:
            say(f"stopped; continue with: pushforward reflow {teacher} --out {folder} --resume")
            return 128 + signal
        device = find_device(given.get("device", "auto"))
        flows = {"teacher": load(teacher, device), "student": load(folder, device)}
        source = find_source(flows["teacher"], teacher)
        seed = given.get("seed", 0)
        with shown():
            rows = {
                name: figures(model, source, num, seed, model.sampling.nfe == 1)
                for name, model in flows.items()
            }
        tabulate(rows)
        settings = {"num": num, "seed": seed}
        write_json(folder / "reflow.json", {"figures": rows, "settings": settings})
        say(f"done: {folder}. Draw samples with: pushforward sample {folder} --nfe 1")
        return 0


def figures(model: Any, source: Any, num: int, seed: int, one_step: bool) -> dict[str, Any]:
    """Straightness and transport costs of a model's flow, with their standard errors."""
    from pushforward.core.noise import Noise
    from pushforward.evaluate.labels import judged_labels
    from pushforward.evaluate.metrics.transport import follow, transport_costs
    from pushforward.sampling.generate import generate

    device = next(model.parameters()).device
    noise = Noise.batch(num, seed, device=device)
    x0: Tensor = noise.normal(model.shape) if source is None else source.draw(noise)
    label = judged_labels(num, model.spec, seed=seed)
    cond: dict[str, Any] = {} if label is None else {"label": label.to(device)}
    found: dict[str, Any] = {}
    if one_step:
        start, end = x0.cpu(), generate(model, num, nfe=1, source=x0, decode=False, **cond).cpu()
    else:
        flow = follow(model, x0, **cond)
        start, end = flow.start, flow.end
        found["straightness"] = list(flow.straightness(relative=True))
    return found | {f"E {name}": list(cost) for name, cost in transport_costs(start, end).items()}


def tabulate(rows: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *rows)
    for column in table.columns[1:]:
        column.justify = "right"
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for name in names:
        cells = (row.get(name) for row in rows.values())
        table.add_row(name, *("" if c is None else f"{c[0]:.4g} ± {c[1]:.1g}" for c in cells))
    say("straightness over E |x1 - x0|^2, and transport costs, with standard errors")
    Console(highlight=False).print(table)
