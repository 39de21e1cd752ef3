"""An imported flow model, by diffusers' schedulers and by ours: python -m benchmarks.imported [FOLDER]"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, table, write
from benchmarks.run import RESULTS

CALLS = (5, 6, 8, 10, 15, 20, 30, 50)
FITTED = (5, 10, 20)
NUM, SEED = 100, 11
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "imported.png"
NET = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer"}

Draw = Callable[[int], Tensor]


def imported(folder: Path) -> Report:
    """An imported flow model: error by network calls with diffusers' schedulers, and with the samplers of this library.

    The model is a folder of diffusers, `UNet2DModel` with FlowMatchEulerDiscreteScheduler: handwritten digits of 8 x 8
    pixels by class, 0.4 M parameters, trained for two minutes of one core and written by `pf.to_diffusers`. diffusers
    runs its own loop on its own network, loaded from the folder; ours is `pf.from_diffusers(folder)`. Both start from
    the same 100 normal samples and labels. The error is that to the solution by 1000 calls (RK4), for pixels in
    [-1, 1]: the root mean square over all pixels, and the median over samples of the distance between two pictures.

    "Euler" is the folder's own scheduler by its defaults, whose last step is from 1/1000 of noise; "Euler, even" has
    the levels that FLUX's pipeline passes, n/n ... 1/n. Heun takes an odd number of calls, one less where the number is
    even. DPM++ and UniPC are on flow sigmas, in the orders named, else by their defaults. "default" is
    `pf.generate(model, nfe=n)`; "fitted" is by `pf.tune` to this model, by least squares on other noise.
    """
    model = pf.from_diffusers(folder).eval()
    x0 = pf.Noise.batch(NUM, SEED).normal(model.shape, dtype=torch.float32)
    label = torch.arange(NUM) % model.classes
    counted = Counted(network(folder))
    with torch.no_grad():
        precise = reference(model, x0, label, 250)
        few = slice(0, 20)
        unsure = rms(reference(model, x0[few], label[few], 125) - precise[few])
        theirs = diffusers_loops(folder, counted, x0, label)
        ours = samplers(model, x0, label)
        errors = {name: curve(draw, precise, counted) for name, draw in (theirs | ours).items()}
    PICTURE.write_bytes(figure(errors, list(theirs)))
    more = [
        f"![Error by network calls](../../docs/images/{PICTURE.name})",
        "",
        f"Precision of the solution, that of 500 calls to that of 1000: {unsure:.1e}. Root mean square error above,",
        "and the median distance of a picture:",
        "",
        *table(rows(errors, list(theirs), 1)),
    ]
    return Report(rows(errors, list(theirs), 0), "\n".join(more))


class Counted(nn.Module):
    """diffusers' network, counting how often it is called."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.net(x, t.expand(len(x)), class_labels=label, return_dict=False)[0]
        return out


def network(folder: Path) -> nn.Module:
    """The network of a folder, as diffusers loads it."""
    import diffusers

    index = json.loads((folder / "model_index.json").read_text())
    for kind, part in NET.items():
        if index.get(part, [None, None])[1] == kind:
            net: nn.Module = getattr(diffusers, kind).from_pretrained(folder / part)
            return net.eval()
    raise SystemExit(f"{folder} is of neither {' nor '.join(NET)}, which take a class alone")


def diffusers_loops(folder: Path, net: Counted, x0: Tensor, label: Tensor) -> dict[str, Draw]:
    """Samples by a number of calls: the loop of diffusers' pipelines, with each of its schedulers."""
    import diffusers

    own = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    flow = {
        "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": own.config.shift,
    }  # fmt: skip

    def loop(scheduler: Any, **given: Any) -> Tensor:
        scheduler.set_timesteps(**given)
        x = x0
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t, label), t, x, return_dict=False)[0]
        return x

    def multistep(cls: Any, order: int) -> Draw:
        return lambda n: loop(cls(solver_order=order, **flow), num_inference_steps=n)

    heun = diffusers.FlowMatchHeunDiscreteScheduler(shift=own.config.shift)
    levels = {n: [1 - i / n for i in range(n)] for n in CALLS}
    return {
        "Euler": lambda n: loop(own, num_inference_steps=n),
        "Euler, even": lambda n: loop(own, sigmas=levels[n]),
        "Heun": lambda n: loop(heun, num_inference_steps=(n + 1) // 2),
        "DPM++2M": multistep(diffusers.DPMSolverMultistepScheduler, 2),
        "UniPC2": multistep(diffusers.UniPCMultistepScheduler, 2),
        "UniPC3": multistep(diffusers.UniPCMultistepScheduler, 3),
    }


def samplers(model: pf.Model, x0: Tensor, label: Tensor) -> dict[str, Draw]:
    """Samples of this library: the universal sampler, and those fitted to the model."""
    fitted = {
        n: pf.tune(model, n, num=96, held_out=32, method="least-squares").solver for n in FITTED
    }

    def draw(n: int, solver: Any) -> Tensor:
        return pf.generate(model, NUM, source=x0, label=label, nfe=n, solver=solver)

    return {
        "default": lambda n: draw(n, pf.solvers.Learned()),
        "fitted": lambda n: draw(n, fitted[n]) if n in fitted else torch.full_like(x0, math.nan),
    }


def reference(model: pf.Model, x0: Tensor, label: Tensor, steps: int) -> Tensor:
    """By four calls a step."""
    return pf.integrate(pf.solvers.RK4(), model, x0, pf.times.uniform(steps), label=label)


def rms(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


def curve(draw: Draw, precise: Tensor, net: Counted) -> dict[int, tuple[float, float]]:
    """(root mean square, median distance) by number of calls."""
    found = {}
    for n in CALLS:
        net.calls = 0
        error = draw(n) - precise
        if net.calls and net.calls not in (n, n - 1 + n % 2):
            raise RuntimeError(f"{net.calls} calls of the network instead of {n}")
        if not bool(error.isnan().all()):
            found[n] = rms(error), float(error.flatten(1).norm(dim=1).median())
    return found


def rows(
    errors: dict[str, dict[int, tuple[float, float]]], theirs: list[str], which: int
) -> list[Row]:
    """A row for each number of calls: all errors, and by how much the best of diffusers is above ours."""
    found = []
    for n in CALLS:
        row: Row = {"calls": n}
        row |= {name: values[n][which] if n in values else None for name, values in errors.items()}
        best = min(
            errors[name][n][which] for name in theirs if math.isfinite(errors[name][n][which])
        )
        found.append(row | {"best of diffusers / default": best / errors["default"][n][which]})
    return found


def figure(errors: dict[str, dict[int, tuple[float, float]]], theirs: list[str]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    axes = drawn.add_subplot(xlabel="calls of the network", ylabel="root mean square error")
    for name, values in errors.items():
        dashed = name in theirs
        axes.loglog(
            list(values),
            [value for value, _ in values.values()],
            "--" if dashed else "-",
            marker="o",
            markersize=3,
            linewidth=1.2 if dashed else 2.2,
            label=f"diffusers, {name}" if dashed else f"pushforward, {name}",
        )
    axes.set_xticks(CALLS, map(str, CALLS))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer)
    return buffer.getvalue()


def train(folder: Path, steps: int = 1000) -> None:
    """A U-Net of diffusers, trained on digits by flow matching, and written as a folder of diffusers."""
    from pushforward.nets.adapters import DiffusersUNet2D
    from pushforward.nets.clocks import NoiseClock
    from pushforward.streams import Shuffled

    torch.manual_seed(0)
    data = pf.data.load_digits()
    net = DiffusersUNet2D(
        clock=NoiseClock(1000.0), sign=-1, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(24, 48), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=8, num_class_embeds=10, attention_head_dim=16,
    )  # fmt: skip
    model = pf.Model(net, pf.CondOT(), spec=data.spec)
    objective = pf.objectives.FlowMatching(model, condition_dropout=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches = Shuffled(data, 64, seed=0)
    for step in range(steps):
        loss = objective(batches.at(step), pf.Noise.batch(64, seed=0, step=step))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    pf.to_diffusers(model, folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imported", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs/imported-digits"),
        help="a folder of diffusers, of a flow by class; by default it is trained first",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--note", default="", help="a remark to keep with the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    if not (options.folder / "model_index.json").is_file():
        train(options.folder)
    facts = circumstances("python -m benchmarks.imported", options.note)
    report = imported(options.folder)
    seconds = time.perf_counter() - began
    write(options.out, "imported", inspect.getdoc(imported) or "", report, facts, seconds)


if __name__ == "__main__":
    main()
