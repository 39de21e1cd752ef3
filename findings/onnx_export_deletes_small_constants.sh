#!/usr/bin/env bash
# The default ONNX export removes `x + 1e-9` and `x * 1.000009`, so that a guard against log(0) is lost.
#
# With optimize=True (the default) a constant close to 0 in a sum, or close to 1 in a product, counts
# as exactly 0 or 1: the comparison has a relative tolerance of 1e-5 and an absolute one of 1e-8.
# optimize=False keeps the constants. Nothing is logged at export.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0
observe <<'PYTHON'
from report import expected, seen, versions

import contextlib, io
import numpy as np
import onnxruntime
import torch

versions("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


class LogGuarded(torch.nn.Module):
    def forward(self, x):
        return torch.log(x + 1e-9)


class Scaled(torch.nn.Module):
    def forward(self, x):
        return x * 1.000009


def exported(module, x, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(module.eval(), (x,), dynamo=True, **options)
    proto = program.model_proto
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [node.op_type for node in proto.graph.node], y


for module, x in (
    (LogGuarded(), torch.zeros(1)),
    (Scaled(), torch.ones(1, dtype=torch.float64)),
):
    name, truth = type(module).__name__, module(x).numpy()
    expected(f"{name}({x.item():g}) = {truth[0]:.8g}, as eager PyTorch computes")
    nodes, y = exported(module, x)
    removed = "Add" not in nodes and "Mul" not in nodes
    seen(f"default export: nodes {nodes}, result {y[0]:.8g}",
         removed and not np.allclose(y, truth, rtol=5e-6, atol=0))
    nodes, y = exported(module, x, optimize=False)
    kept = "Add" in nodes or "Mul" in nodes
    seen(f"optimize=False: nodes {nodes}, result {y[0]:.8g}",
         kept and np.allclose(y, truth, rtol=1e-6, atol=0))
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, onnx 1.23.2, onnx-ir 1.1.0, onnxscript 0.7.2, onnxruntime 1.32.0
#   expected: LogGuarded(0) = -20.723267, as eager PyTorch computes
#   seen: default export: nodes ['Log'], result -inf
#   seen: optimize=False: nodes ['Constant', 'Add', 'Log'], result -20.723267
#   expected: Scaled(1) = 1.000009, as eager PyTorch computes
#   seen: default export: nodes ['Identity'], result 1
#   seen: optimize=False: nodes ['Constant', 'Cast', 'Mul'], result 1.0000089
