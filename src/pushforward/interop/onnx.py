"""Programs of `torch.export` as ONNX."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError

OPSET = 20
# Results of constant folding above this many bytes stay as they are in the graph, as by default.
LARGEST_INPUT, LARGEST_OUTPUT = 1 << 13, 1 << 19


def check_onnx() -> None:
    """That the packages that write ONNX are installed."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files are written by {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install -e '.[export]'"
        )


def write_onnx(
    program: Any, path: Path, record: Mapping[str, Any], names: Sequence[str]
) -> tuple[int, Callable[[tuple[Tensor, ...]], Tensor] | None]:
    """Write a program as ONNX; returns the opset and what runs the file, if onnxruntime is installed.

    Weights go into the file, or above 2 GB into one beside it (PATH.data).
    """
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
            input_names=list(names), output_names=["samples"],
        )  # fmt: skip
    assert made is not None
    simplify(made.model)
    made.model.producer_name, made.model.producer_version = "pushforward", record["pushforward"]
    made.model.metadata_props["pushforward"] = json.dumps(record)
    made.save(path)
    return OPSET, None if find_spec("onnxruntime") is None else lambda values: run_onnx(
        path, values
    )


def simplify(model: Any) -> None:
    """Fold constants and drop what is not used, exactly.

    torch's own `optimize=True` also drops additions of up to 1e-8 and factors within 1e-5 of 1 (onnxscript 0.7.2
    compares constants with 0 and 1 by `math.isclose`): floors under a square root, and steps of a fine grid.
    """
    from onnx_ir.passes import Sequential
    from onnx_ir.passes import common as passes
    from onnxscript.optimizer import _constant_folding as folding

    Sequential(
        passes.InlinePass(),
        folding.FoldConstantsPass(
            shape_inference=True, input_size_limit=LARGEST_INPUT, output_size_limit=LARGEST_OUTPUT
        ),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def run_onnx(path: str | Path, values: Sequence[Tensor]) -> Tensor:
    """What onnxruntime gives for these inputs, in order, on the CPU with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    named = zip(session.get_inputs(), values, strict=True)
    (out,) = session.run(None, {place.name: value.numpy() for place, value in named})
    return torch.from_numpy(out)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without notes of the exporter about packages that are not needed, and its own deprecations."""
    log = logging.getLogger("torch.onnx._internal.exporter")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
