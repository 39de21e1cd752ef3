from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Row
from pushforward.nets import AutoencoderKL
from pushforward.nets.autoencoder_kl import kl_config

SIDE = 128


def decoding() -> list[Row]:
    """Decoding one latent 4 x 128 x 128 to 3 x 1024 x 1024: memory in one pass and in strips, and whether they agree.

    The autoencoder is that of Stable Diffusion (widths 128, 256, 512, 512; 83.7 M parameters) with random weights, in
    float32. Each row is a process of its own. Memory is the peak of the process beyond what it held before decoding,
    weights and all; a strip is so many rows of the latent. The difference is the largest of any pixel from ours in one
    pass, over the largest value; at seams: within 8 pixels of where strips or tiles meet, and elsewhere. Seconds are
    those of one core, processor time. diffusers tiles with its defaults for this autoencoder, 64 x 64 latents that
    overlap by a quarter.
    """
    kinds = ["one pass", "4", "1", "diffusers, one pass", "diffusers, tiled"]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for k, kind in enumerate(kinds):
            out = Path(folder) / f"{k}.pt"
            command = [sys.executable, "-m", "benchmarks.decoding", kind, str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind] = json.loads(done.stdout) | {"image": torch.load(out)}
    whole = found["one pass"]
    rows: list[Row] = []
    for kind, each in found.items():
        tiles = {"diffusers, tiled": 48 * 8}.get(kind) or (8 * int(kind) if kind.isdigit() else 0)
        apart = (each["image"] - whole["image"]).abs().amax((0, 1)) / whole["image"].abs().max()
        seam = torch.zeros(8 * SIDE, dtype=torch.bool)
        for place in range(tiles, 8 * SIDE, tiles) if tiles else ():
            seam[max(place - 8, 0) : place + 8] = True
        near = seam[:, None] | (seam[None] if "tiled" in kind else torch.tensor(False))
        near = near.expand(8 * SIDE, 8 * SIDE)
        rows.append(
            {
                "decoded": f"in strips of {kind}" if kind.isdigit() else kind,
                "memory / MB": round(each["bytes"] / 1e6),
                "over one pass": each["bytes"] / whole["bytes"],
                "seconds": each["seconds"],
                "difference at seams": float(apart[near].max()) if near.any() else None,
                "elsewhere": float(apart[~near].max()) if not near.all() else None,
            }
        )
    return rows


def main(kind: str, out: str) -> None:
    """One decoding, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = AutoencoderKL(scaling_factor=0.18215).eval()
    z = torch.randn(1, 4, SIDE, SIDE)
    net: nn.Module = ours
    if kind.startswith("diffusers"):
        from diffusers import AutoencoderKL as Theirs

        net = Theirs(**kl_config(ours)).eval()
        net.load_state_dict(ours.state_dict())
        del ours
        if kind.endswith("tiled"):
            net.enable_tiling()
    with torch.no_grad():
        net.decode(z[:, :, :8, :8])  # what is set up at the first call
        before, began = _resident(), time.process_time()
        if kind.isdigit():
            image = net.decode_tiled(z, int(kind))
        elif kind.startswith("diffusers"):
            image = net.decode(z).sample
        else:
            image = net.decode(z)
    seconds = time.process_time() - began
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save(image, out)
    sys.stdout.write(json.dumps({"bytes": peak - before, "seconds": round(seconds, 1)}))


def _resident() -> int:
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
