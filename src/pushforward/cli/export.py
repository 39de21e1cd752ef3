"""`pushforward export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pushforward.cli.base import Command, run_folder, say
from pushforward.cli.sampling import Drawing, Guided, named_sampler, require_sampled
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Sampled


class Export(Drawing, Guided, Command):
    """Write a trained model in a format that other programs open.

    A file of `torch` or `onnx` draws finished samples from noise: network, solver, guidance and decoder are in it, in
    float32, unrolled over the steps. It takes any batch size, labels by number, and texts as tokens.
    """

    folder: Path = run_folder()
    format: Literal["diffusers", "torch", "onnx"] = option(
        ...,
        "diffusers: a folder of its pipeline, with network, scheduler and autoencoder. torch: a .pt2 file of "
        "torch.export. onnx: an ONNX file, opset 20.",
    )
    out: Path = option(..., "What to write: a new folder of diffusers, or the name of a file.")
    overwrite: bool = option(False, "Replace a file that is there.")

    def opening(self) -> str:
        return f"exporting {self.folder}"

    def run(self) -> int:
        from pushforward.saving.folder import load

        model = load(self.folder)
        require_sampled(model, self.folder)
        if self.format == "diffusers":
            self.diffusers(model)
        else:
            self.file(model)
        return 0

    def diffusers(self, model: object) -> None:
        """A folder of diffusers."""
        from pushforward.core.errors import InputError
        from pushforward.interop.diffusers import to_diffusers

        chosen: dict[str, Any] = {
            "nfe": self.nfe, "renoise": self.renoise, "guidance": self.guidance,
            "solver": None if self.solver == "auto" else self.solver,
            "grid": None if self.grid == "auto" else self.grid, "overwrite": self.overwrite or None,
        }  # fmt: skip
        given = [name for name, value in chosen.items() if value is not None]
        if given:
            raise InputError(
                f"--{given[0]} is for files that draw by themselves (--format torch or onnx): a folder of diffusers "
                f"is sampled by its scheduler"
            )
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} is there already: give --out a new folder")
        to_diffusers(model, self.out)
        say(f"a folder of diffusers in {self.out}")

    def file(self, model: Sampled) -> None:
        """A file that draws samples."""
        from pushforward.interop.exporting import export

        chosen = named_sampler(model, self.solver, self.grid, self.nfe, self.guidance, self.renoise)
        found = export(
            model, self.out, self.format, solver=chosen.solver, grid=chosen.grid, guidance=self.guidance,
            overwrite=self.overwrite,
        )  # fmt: skip
        inputs = ", ".join(f"{name} {value}" for name, value in found.inputs.items())
        say(f"{self.out}: samples {found.output['samples']} from {inputs}")
        if found.difference is None:
            say("not tried, since onnxruntime is not installed: pip install -e '.[export]'")
        else:
            say(
                f"tried with another batch: within {found.difference:.1e} of the samples of pf.generate"
            )
