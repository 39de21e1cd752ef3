"""A model as one file that draws finished samples, without this library.

    samples = file(noise, **conditions)

In it are the network, a fixed solver and its times, guidance on both halves of one batch, and the decoder of latents:
what `pf.generate(model, source=...)` does, unrolled over the steps. Numbers of the schedule are constants of it.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import Error, InputError
from pushforward.core.fields import FlowMap, breaks_of, networks, require_field
from pushforward.core.noise import Noise
from pushforward.core.version import __version__
from pushforward.guidance import ClassifierFree
from pushforward.interop.constants import Folding
from pushforward.interop.inputs import Inputs, example_of
from pushforward.interop.onnx import check_onnx, write_onnx
from pushforward.models.base import ModelBase
from pushforward.sampling.generate import ARGUMENTS, evaluating, generate
from pushforward.sampling.given import negatives_of
from pushforward.sampling.sampler import Grid, find_sampler
from pushforward.solvers import Solver
from pushforward.solvers.base import follow

FORMATS = ("torch", "onnx")
# Samples of the example that is traced, and of the one that the file is tried with: a batch of 1 would be a constant.
TRACED, TRIED = 2, 3
# Largest difference from ours that is rounding, relative to the largest value; a wrong graph is far off.
TOLERANCE = 1e-3
RECORD = "pushforward.json"


@dataclass(frozen=True)
class Exported:
    """What was written.

    inputs, output: name to dtype and shape; letters are sizes that may be any.
    solver, nfe, guidance: how it draws. opset: of ONNX.
    difference: from the samples of `generate`, at most, relative to the largest value of them, in a batch of another
                size than was traced. None where onnxruntime is not installed.
    """

    path: str
    format: str
    inputs: dict[str, str]
    output: dict[str, str]
    solver: str
    times: tuple[float, ...]
    nfe: int
    guidance: float | None
    opset: int | None
    difference: float | None


def export(
    model: ModelBase,
    path: str | Path,
    format: str = "torch",
    *,
    nfe: int | None = None,
    solver: Solver | None = None,
    grid: Tensor | Grid | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    negative: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
    example: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write `model` as a file that draws samples: `torch.export`'s (.pt2) or ONNX of opset 20 (.onnx), in float32.

    Inputs, for any batch size B:

        noise      (B, *shape) standard normals; for a model that starts elsewhere, `source`, its states
        label      (B,) int64, of a model with classes; -1 for none
        NAME       (B, L, D) and NAME_mask (B, L) bool, of conditions that are tokens: what `model.encoders[...](texts)`
                   gives, and not the texts
        NAME       (B, ...) of the others; parts of a group are GROUP_NAME

    They are those of a model's classes, columns and encoders. The output, `samples`, is on the data's own scale, and
    not clipped, as from `generate`.

    solver, grid, nfe, guidance, interval, negative, shape: as for `generate`, and with the same defaults. Negative
        conditions are constants, one for all samples.
    example: values of conditions that are to be inputs, by name, for one sample or more; needed where a network has
        conditions that the model's records do not show, such as controls.
    overwrite: whether a file that is there may be replaced.

    The file is tried before it takes its place, with another batch size. Raises InputError for a solver that draws
    noise inside or chooses its own steps, for an unknown format, a path that is taken, and a package that is missing.
    """
    path = Path(path)
    check_format(format)
    check_path(path, format, overwrite)
    if format == "onnx":
        check_onnx()
    if not isinstance(model, ModelBase):
        raise InputError(
            f"export takes a model, such as pf.load(folder) returns, not a {type(model).__name__}"
        )
    require_field(model)
    whole: Any = in_single_precision(model)
    field: Any = whole
    if guidance is None and "prompt" in whole.encoders:
        guidance = whole.sampling.prompt_guidance
    if guidance is not None and guidance != 1:
        if isinstance(whole, FlowMap):
            raise InputError("a flow map has the guidance that it was trained with: omit guidance")
        away_from = None if negative is None else negatives_of(whole, 1, negative, ARGUMENTS)
        field = ClassifierFree(whole, guidance, interval, away_from)
    sampler = find_sampler(whole, solver, grid, nfe, guidance, breaks=len(breaks_of(field)))
    check_solver(sampler.solver, len(sampler.grid) - 1)
    size = tuple(shape if shape is not None else whole.shape)
    if not size:
        raise InputError("the shape of a sample is not known: pass shape=")
    given = example_of(whole, TRACED, example or {})
    inputs = Inputs.of(given, whole.sampling.source is None)
    options: dict[str, Any] = {
        "nfe": None if isinstance(grid, Tensor) else nfe, "solver": solver, "grid": grid, "guidance": guidance,
        "interval": interval, "negative": negative, "shape": shape,
    }  # fmt: skip
    with torch.no_grad(), evaluating(whole):
        noise = Noise.batch(TRIED).normal(size, dtype=torch.float32)
        more = example_of(whole, TRIED, example or {})
        source = noise if not inputs.noise else whole.path.source_std * noise
        ours = generate(whole, TRIED, source=source, **options, **more)
        drawn = Drawn(field, sampler.solver, sampler.grid, inputs).eval()
        program = trace(drawn, (noise[:TRACED], *inputs.values(given)))
    record = {
        "pushforward": __version__, "spec": model.spec.to_config(), "provenance": model.provenance.to_config(),
    }  # fmt: skip
    write = partial(write_onnx, names=inputs.names) if format == "onnx" else write_torch
    with beside(path) as temporary:
        described = describe(program, inputs)
        summary = Exported(
            str(path), format, *described, sampler.names[0], tuple(sampler.grid.tolist()), sampler.nfe or 0,
            guidance, None, None,
        )  # fmt: skip
        opset, run = write(program, temporary, {**record, "sampler": asdict(summary)})
        with torch.no_grad():
            found = None if run is None else run((noise, *inputs.values(more)))
        difference = None if found is None else float((found - ours).abs().max() / ours.abs().max())
        if difference is not None and not difference < TOLERANCE:
            raise Error(
                f"the exported file draws other samples than the model, by {difference:.2g} of the largest value: it "
                f"was not kept. Please report this, with the network's configuration"
            )
    return Exported(**{**asdict(summary), "opset": opset, "difference": difference})


class Drawn(nn.Module):
    """The sampler as a module: (noise, *conditions) -> samples."""

    def __init__(self, field: Any, solver: Solver, grid: Tensor, inputs: Inputs) -> None:
        super().__init__()
        self.inside = nn.ModuleList(networks(field))
        self.field, self.solver, self.inputs = field, solver, inputs
        self.times = grid.double().cpu()
        self.codec: Any = self.inside[0].codec
        self.scale = field.path.source_std if inputs.noise else 1.0

    def forward(self, noise: Tensor, *given: Tensor) -> Tensor:
        cond = self.inputs.conditions(given)
        with Folding():
            x = noise if self.scale == 1 else self.scale * noise
            silent = NoiseInside(0, torch.zeros(1, dtype=torch.int64))
            x = follow(self.solver, self.field, x, self.times[:, None], silent, **cond)
            return x if self.codec is None else self.codec.decode(x)


class NoiseInside(Noise):
    """For a file whose only noise is its input."""

    def _chunks(self, *_: Any) -> Any:
        raise InputError(NOISY)


NOISY = (
    "the solver draws noise on the way, and an exported file has only the noise that it is given: take one without, "
    "such as Learned(), DDIM() or Heun()"
)


def check_format(format: str) -> None:
    if format not in FORMATS:
        near = get_close_matches(str(format), FORMATS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"format is {' or '.join(FORMATS)}, not {format!r}{hint}")


def check_path(path: Path, format: str, overwrite: bool) -> None:
    """That a file may be written there."""
    if format == "torch" and path.suffix != ".pt2":
        raise InputError(
            f"files of torch.export have names that end in .pt2: not {path}, but {path.with_suffix('.pt2')}"
        )
    if path.is_dir():
        raise InputError(
            f"{path} is a folder: give the name of a file, such as {path / 'model.onnx'}"
        )
    if path.exists() and not overwrite:
        raise InputError(
            f"{path} is there already: replace it with overwrite, or choose another path"
        )
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write {path}: {there} is no folder that can be written to")


def check_solver(solver: Solver, steps: int) -> None:
    """That a solver takes steps that are known beforehand, and draws nothing."""
    name = type(solver).__name__
    if solver.calls == 0:
        raise InputError(
            f"{name} chooses its steps by what it meets, and an exported file takes the same ones for all samples: "
            f"take a solver of a fixed grid, such as Learned(), DDIM() or Heun()"
        )
    if solver.stochastic and not (getattr(solver, "by_map", False) and steps == 1):
        raise InputError(f"{name}: {NOISY}")


def in_single_precision(model: ModelBase) -> ModelBase:
    """The model in float32 on the CPU; a copy unless it is so already."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(v.device.type == "cpu" and v.dtype in (torch.float32, *WHOLE) for v in tensors):
        return model
    return copy.deepcopy(model).float().cpu()


WHOLE = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)


def trace(drawn: Drawn, example: tuple[Tensor, ...]) -> Any:
    """The program, of any batch size and, of tokens, any length where the network lets it."""
    batch = torch.export.Dim("batch")
    sizes = [
        {0: batch, **dict.fromkeys(drawn.inputs.lengths(k), torch.export.Dim.AUTO)}
        for k in range(len(example))
    ]
    dynamic = {"noise": sizes[0]} | ({"given": tuple(sizes[1:])} if len(sizes) > 1 else {})
    try:
        program = torch.export.export(drawn, example, dynamic_shapes=dynamic, strict=False)
        # Views would be saved with all that they are views of.
        for name, value in program.constants.items():
            if isinstance(value, Tensor):
                program.constants[name] = value.detach().clone()
        return program
    except Error:
        raise
    except Exception as error:
        raise InputError(
            f"torch.export cannot follow this model: its network or solver may branch on values, or fix the batch "
            f"size: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def describe(program: Any, inputs: Inputs) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and output: dtype and shape by name."""
    names = set(program.graph_signature.user_inputs)
    values = [
        n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names
    ]
    letters: dict[str, str] = {str(values[0].shape[0]): "B"}

    def shown(value: Tensor) -> str:
        sizes = [
            str(n) if isinstance(n, int) else letters.setdefault(str(n), f"L{len(letters)}")
            for n in value.shape
        ]
        return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(sizes)})"

    last = next(n for n in program.graph.nodes if n.op == "output").args[0][0]
    out = {"samples": shown(last.meta["val"])}
    return {name: shown(v) for name, v in zip(inputs.names, values, strict=True)}, out


def write_torch(
    program: Any, path: Path, record: Mapping[str, Any]
) -> tuple[None, Callable[[tuple[Tensor, ...]], Tensor]]:
    """Write the program; returns what runs the file."""
    torch.export.save(program, path, extra_files={RECORD: json.dumps(record)})

    def run(values: tuple[Tensor, ...]) -> Tensor:
        out: Tensor = torch.export.load(path).module()(*values)
        return out

    return None, run


@contextmanager
def beside(path: Path) -> Any:
    """A file in a folder beside `path` that is moved there when all went well, with whatever belongs to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir(), reverse=True):
            os.replace(file, path.with_name(file.name))
