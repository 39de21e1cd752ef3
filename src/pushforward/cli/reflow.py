"""`pushforward reflow`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pushforward.cli.base import Command, RunFolder, say
from pushforward.recipes.reflow import Rectify

if TYPE_CHECKING:
    from torch import Tensor


class Reflow(Rectify, Command):
    """Make the flow of a run straight, by training on the pairs that it joins: the 2-rectified flow, and so on.

    Prints how straight the flows are, and what they cost, and writes it to reflow.json in the new run folder.
    """

    folder: RunFolder = Field(description="Run folder of the teacher.")
    num: int = Field(2000, ge=2, description="Samples to compare the two flows by.")

    def run(self) -> int:
        from pushforward.cli.base import write_json
        from pushforward.core.errors import InputError
        from pushforward.recipes.experiment import find_source, train
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        if self.teacher is not None:
            raise InputError("the teacher is the first argument: leave --teacher out")
        folder = self.out or self.folder.with_name(self.folder.name + "-reflow")
        options = self.model_dump(include=set(Rectify.model_fields), exclude_unset=True)
        recipe = Rectify(**options | {"teacher": self.folder, "out": folder})
        folder, signal = train("reflow", recipe)
        if signal:
            say(f"stopped; go on with: pushforward reflow {self.folder} --out {folder} --resume")
            return 128 + signal
        device = find_device(self.device)
        flows = {"teacher": load(self.folder, device), "student": load(folder, device)}
        source = find_source(flows["teacher"], self.folder)
        rows = {
            name: figures(model, source, self.num, self.seed, recipe.one_step and name == "student")
            for name, model in flows.items()
        }
        tabulate(rows)
        settings = {"num": self.num, "seed": self.seed}
        write_json(folder / "reflow.json", {"figures": rows, "settings": settings})
        say(f"done: {folder}. Draw samples with: pushforward sample {folder} --nfe 1")
        return 0


def figures(model: Any, source: Any, num: int, seed: int, one_step: bool) -> dict[str, Any]:
    """Straightness and transport costs of a model's flow, with their standard errors."""
    import torch

    from pushforward.core.noise import Noise
    from pushforward.evaluate.metrics.transport import follow, transport_costs
    from pushforward.sampling.generate import generate

    device = next(model.parameters()).device
    noise = Noise.batch(num, seed, device=device)
    x0: Tensor = noise.normal(model.shape) if source is None else source.draw(noise)
    cond = {}
    if model.classes is not None:
        cond["label"] = torch.arange(num, device=device) % model.classes
    found: dict[str, Any] = {}
    if one_step:
        start, end = x0.cpu(), generate(model, num, nfe=1, source=x0, **cond).cpu()
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
