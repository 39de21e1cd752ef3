"""Files of samples, never over older ones unless that is asked for."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.core.spec import DataSpec

ARRAYS, GRID = "samples.npz", "samples.png"


@dataclass(frozen=True)
class Writer:
    """Writes samples into a folder. formats: of npz (all as arrays), grid (all in a picture), png (a picture each)."""

    folder: Path
    formats: Sequence[str]
    overwrite: bool

    def require_room(self, num: int, spec: DataSpec) -> None:
        """InputError if such samples have no picture, the folder cannot be written to, or has earlier samples that may
        not be replaced.
        """
        from pushforward.core.errors import InputError
        from pushforward.evaluate import kinds

        if "png" in self.formats and (len(spec.shape) != 3 or spec.shape[0] not in (1, 3, 4)):
            raise InputError(
                f"--format png is for images of 1, 3 or 4 channels, and these samples are {tuple(spec.shape)}"
            )
        if set(self.formats) == {"grid"} and not kinds.of(spec).drawable:
            raise InputError(
                f"there is no picture of samples {tuple(spec.shape)}: add --format npz"
            )
        there = next(part for part in (self.folder, *self.folder.parents) if part.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            reason = "is no folder" if not there.is_dir() else "cannot be written to"
            raise InputError(f"cannot write into {self.folder}: {there} {reason}")
        if self.overwrite:
            return
        names = {"npz": [ARRAYS], "grid": [GRID], "png": [f"{i:06d}.png" for i in range(num)]}
        for name in (name for kind in self.formats for name in names[kind]):
            if (self.folder / name).exists():
                raise InputError(
                    f"{self.folder / name} is there already: replace it with --overwrite, or choose another --out"
                )

    def write(
        self,
        samples: Tensor,
        label: Tensor | None,
        cond: Mapping[str, Any],
        spec: DataSpec,
        settings: Mapping[str, Any],
        prompts: Sequence[str] = (),
    ) -> list[str]:
        """Write them; returns what was written, in words. prompts: of each sample, where there are any."""
        from pushforward.data.images.save import save_images
        from pushforward.evaluate import kinds
        from pushforward.evaluate.figures import png
        from pushforward.runtime.files import write_file

        kind, written = kinds.of(spec), []
        self.folder.mkdir(parents=True, exist_ok=True)
        if "npz" in self.formats:
            arrays = {"samples": samples.numpy()}
            if label is not None:
                arrays["label"] = label.numpy()
            if spec.class_names is not None:
                import numpy as np

                arrays["class_names"] = np.array(spec.class_names)
            if prompts:
                import numpy as np

                arrays["prompt"] = np.array(prompts)
            arrays |= {
                name: value.numpy() for name, value in cond.items() if hasattr(value, "numpy")
            }
            write_file(self.folder / ARRAYS, npz(arrays, settings))
            written.append(str(self.folder / ARRAYS))
        if "grid" in self.formats and kind.drawable:
            page = kind.draw(samples, spec, label)
            if prompts and len(set(prompts)) > 1:
                page = by_prompt(samples, spec, prompts)
            write_file(self.folder / GRID, png(page, settings))
            written.append(str(self.folder / GRID))
        if "png" in self.formats:
            notes = [
                {**settings, "sample": i, **({"prompt": prompts[i]} if prompts else {})}
                for i in range(len(samples))
            ]
            value_range = spec.value_range or (-1.0, 1.0)
            save_images(samples, self.folder, value_range, overwrite=True, settings=notes)
            last = f" to {len(samples) - 1:06d}.png" if len(samples) > 1 else ""
            written.append(f"{self.folder}/000000.png{last}")
        return written


def by_prompt(samples: Tensor, spec: DataSpec, prompts: Sequence[str]) -> Any:
    """Images of one prompt in a row that has its name."""
    import torch

    from pushforward.evaluate.figures.grid import grid

    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(i)
    columns = max(map(len, rows.values()))
    value_range = spec.value_range or (-1.0, 1.0)
    blank = torch.full_like(samples[:1], value_range[1])
    cells = [
        samples[row[k] : row[k] + 1] if k < len(row) else blank
        for row in rows.values()
        for k in range(columns)
    ]
    filled = torch.cat(cells)
    return grid(filled, columns, value_range, row_labels=list(rows))


def npz(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
    """Arrays as an .npz file, with the settings as JSON under "settings"."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, settings=np.array(json.dumps(settings)), **arrays)
    return buffer.getvalue()
