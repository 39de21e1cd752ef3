#!/usr/bin/env bash
# In an exported float64 network every Python number is rounded to float32 first.
#
# Eager PyTorch computes `x * 0.1` for a float64 x with the double 0.1. The ONNX graph contains the
# float32 nearest to 0.1, converted back to double, so results are off by 1e-8, with or without the
# optimizer. A float64 tensor (a buffer, say) in the number's place keeps all its digits.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0
observe <<'PYTHON'
from report import expected, seen, versions

import contextlib, io
import onnxruntime
import torch

versions("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


class Number(torch.nn.Module):
    def forward(self, x):
        return x * 0.1


class Buffer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x):
        return x * self.factor


def exported(module, x, optimize):
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(module.eval(), (x,), dynamo=True, optimize=optimize)
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert y.dtype == "float64"
    return y.item()


x = torch.tensor([3.0], dtype=torch.float64)
truth = Number()(x).item()
expected(f"3 * 0.1 = {truth:.17g} in double precision, as eager PyTorch computes")
for optimize in (True, False):
    y = exported(Number(), x, optimize)
    seen(f"Python number, optimize={optimize}: {y:.17g}", 1e-9 < abs(y - truth) < 1e-8)
    y = exported(Buffer(), x, optimize)
    seen(f"float64 buffer, optimize={optimize}: {y:.17g}", abs(y - truth) < 1e-15)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, onnx 1.23.2, onnx-ir 1.1.0, onnxscript 0.7.2, onnxruntime 1.32.0
#   expected: 3 * 0.1 = 0.30000000000000004 in double precision, as eager PyTorch computes
#   seen: Python number, optimize=True: 0.30000000447034836
#   seen: float64 buffer, optimize=True: 0.30000000000000004
#   seen: Python number, optimize=False: 0.30000000447034836
#   seen: float64 buffer, optimize=False: 0.30000000000000004
