from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import pushforward as pf
from benchmarks.measure import Row, medians

CALLS, GUIDANCE = 5, 2.0


def exported() -> list[Row]:
    """Samples by an ONNX file on onnxruntime, and by a .pt2 file, beside `pf.generate` in eager float32.

    The same noise and labels, 5 calls of the default solver, guidance 2 (none in the plane), random weights; the
    networks are those of the recipes toy2d and digits, and a transformer of 1.3 M parameters. All take turns in one
    process, with the same number of threads each. The difference is the largest from ours over the largest value.
    "exporting" is the processor time of `pf.export`, once for all batch sizes, with its trial of the file.
    """
    import onnxruntime

    torch.manual_seed(0)
    rows: list[Row] = []
    for name, model in models().items():
        guidance = None if model.classes is None else GUIDANCE
        with tempfile.TemporaryDirectory() as folder:
            path, program = Path(folder) / "model.onnx", Path(folder) / "model.pt2"
            began = time.process_time()
            pf.export(model, path, "onnx", nfe=CALLS, guidance=guidance)
            seconds = time.process_time() - began
            pf.export(model, program, nfe=CALLS, guidance=guidance)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(path, options)
            loaded = torch.export.load(program).module()
            for count in (1, 16, 64):
                rows.append(
                    {"model": name, "samples": count}
                    | contest(model, guidance, session, loaded, count)
                    | {"exporting / s": seconds, "file / MB": path.stat().st_size / 1e6}
                )
    return rows


def contest(
    model: pf.Model, guidance: float | None, session: object, loaded: nn.Module, count: int
) -> Row:
    """Seconds of each for so many samples."""
    noise = pf.Noise.batch(count).normal(model.shape, dtype=torch.float32)
    given = {} if model.classes is None else {"label": torch.arange(count) % model.classes}
    feed = {"noise": noise.numpy()} | {key: value.numpy() for key, value in given.items()}
    found: dict[str, torch.Tensor] = {}

    def ours() -> None:
        found["ours"] = pf.generate(
            model, count, nfe=CALLS, guidance=guidance, source=noise, **given
        )

    def onnx() -> None:
        (out,) = session.run(None, feed)  # type: ignore[attr-defined]
        found["onnx"] = torch.from_numpy(out)

    def torch_file() -> None:
        with torch.no_grad():
            found["torch"] = loaded(noise, *given.values())

    calls: dict[str, Callable[[], object]] = {"ours": ours, "onnx": onnx, "torch": torch_file}
    seconds = medians(calls, repeats=9)
    size = found["ours"].abs().max()
    return {
        "ours / ms": 1e3 * seconds["ours"],
        "onnxruntime / ms": 1e3 * seconds["onnx"],
        ".pt2 / ms": 1e3 * seconds["torch"],
        "ours over onnxruntime": seconds["ours"] / seconds["onnx"],
        "difference": float((found["onnx"] - found["ours"]).abs().max() / size),
    }


def models() -> dict[str, pf.Model]:
    """Networks of the recipes, and a transformer, whose last layers are not 0."""
    plane = pf.Model(pf.nets.MLP(2, 128), pf.CondOT(), shape=(2,))
    unet = pf.nets.UNet(1, 32, (1, 2), classes=10)
    digits = pf.Model(unet, pf.CondOT(), shape=(1, 8, 8), classes=10)
    blocks = pf.nets.DiT(3, 2, 128, 4, 4, classes=10)
    patches = pf.Model(blocks, pf.CondOT(), shape=(3, 16, 16), classes=10)
    found = {"plane, MLP": plane, "digits, U-Net": digits, "16 x 16, DiT": patches}
    for model in found.values():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.02)
        model.eval()
    return found
