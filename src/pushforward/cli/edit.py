"""`pushforward edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward.cli.base import say
from pushforward.cli.prompts import Prompted
from pushforward.cli.sampling import Sampling, described
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.recipes.experiment import Sampled


class Edit(Prompted, Sampling):
    """Change a picture: by noise and a prompt or class (SDEdit), inside a mask (inpainting), beyond its edges, or by
    inversion from one prompt to another. Strokes painted over a picture are edited as any picture is.
    """

    image: Path = option(..., "Picture to change, of the model's size, or any that --size says.")
    label: str | None = option(None, "Class of the result, by name or number.")
    strength: float = option(
        0.6, "Share of noise put on the picture: 0 leaves it, 1 forgets it.", ge=0, le=1
    )
    mask: Path | None = option(
        None, "Picture of the same size: what is white is painted anew, all else is kept."
    )
    extend: tuple[int, int, int, int] | None = option(
        None, "Paint beyond the edges: pixels to the left, top, right and bottom."
    )
    sde: bool = option(
        False, "With noise on the way, which forgets more of the picture; always so with a mask."
    )
    repeats: int = option(
        1, "Times that the picture is edited, each from the last.", ge=1, rare=True
    )
    from_prompt: str | None = option(
        None, "What the picture shows, in words: it is inverted to noise, and drawn by --prompt."
    )
    num: int = option(1, "Versions.", ge=1)
    out: Path | None = option(None, "Folder for the results. Default: RUN/edited.")
    overwrite: bool = option(False, "Replace earlier results in the folder.")

    def opening(self) -> str:
        return f"editing {self.image} by {self.folder}"

    def run(self) -> int:
        import torch

        from pushforward.cli.write import Writer
        from pushforward.core.errors import InputError
        from pushforward.sampling.edit import edit, edit_by_inversion, extended

        model = self.load()
        image = picture(self.image, model)
        prompts, mask = self.lines(model), None
        if len(prompts) > 1:
            raise InputError("edit takes one --prompt")
        if self.mask is not None and self.extend is not None:
            raise InputError("give either --mask or --extend")
        if self.mask is not None:
            mask = inpainted(self.mask, image)
        if self.extend is not None:
            image, mask = extended(image, *self.extend)
        given: dict[str, Any] = {"prompt": prompts[0]} if prompts else {}
        if self.label is not None:
            given["label"] = model.spec.label(self.label)
        if self.negative is not None:
            given["negative"] = {"prompt": self.negative}
        writer = Writer(self.out or self.folder / "edited", ("png",), self.overwrite)
        writer.require_room(self.num, model.spec)
        sampler = self.sampler(model)
        images = image.expand(self.num, *image.shape[1:])
        if self.from_prompt is not None:
            if mask is not None or self.sde or not prompts:
                raise InputError("--from-prompt goes with --prompt, and not with masks or --sde")
            given.pop("negative", None)
            found = edit_by_inversion(
                model, images, {"prompt": self.from_prompt}, given, nfe=self.nfe, guidance=self.guidance,
                seed=self.seed,
            )  # fmt: skip
        else:
            asked: dict[str, Any] = {} if self.solver == "auto" else {"solver": sampler.solver}
            found = edit(
                model, images, strength=self.strength, mask=mask, repeats=self.repeats, sde=self.sde or None,
                nfe=self.nfe, guidance=self.guidance, seed=self.seed, batch_size=self.batch_size, **asked, **given,
            )  # fmt: skip
        settings = self.settings(model, sampler) | {
            "image": self.image.name, "strength": self.strength, "prompt": prompts, "label": self.label,
            "from_prompt": self.from_prompt, "repeats": self.repeats, "sde": self.sde,
        }  # fmt: skip
        assert isinstance(found, torch.Tensor)
        written = writer.write(found.cpu(), None, {}, model.spec, settings)
        say(f"{self.num} versions ({described(sampler)}) in " + " and ".join(written))
        return 0


def opened(path: Path, mode: str) -> Tensor:
    """The bytes of a picture (1, C, H, W), transparent ones over white."""
    import numpy as np
    import torch
    from PIL import Image

    from pushforward.core.errors import InputError

    try:
        with Image.open(path) as file:
            if "A" in file.getbands() or "transparency" in file.info:
                rgba = file.convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                white.alpha_composite(rgba)
                pixels = np.asarray(white.convert(mode))
            else:
                pixels = np.asarray(file.convert(mode))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the picture {path}: {error}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.copy()).movedim(2, 0)[None]


def picture(path: Path, model: Sampled) -> Tensor:
    """A picture file as data of a model (1, C, H, W), of any size."""
    from pushforward.core.errors import InputError

    spec = model.spec
    channels = getattr(model.codec, "channels", spec.shape[0] if spec.shape else 0)
    if spec.kind != "image" or channels not in (1, 3):
        raise InputError(
            f"edit is for models of images of 1 or 3 channels, and this one draws {spec.shape}"
        )
    low, high = spec.value_range or (-1.0, 1.0)
    return opened(path, "L" if channels == 1 else "RGB").float() / 255 * (high - low) + low


def inpainted(path: Path, image: Tensor) -> Tensor:
    """A mask file as bool (1, 1, H, W), true where it is white."""
    from pushforward.core.errors import InputError

    mask = opened(path, "L") >= 128
    if mask.shape[2:] != image.shape[2:]:
        raise InputError(
            f"the mask {path} is {mask.shape[3]} x {mask.shape[2]} pixels, and the picture {image.shape[3]} x "
            f"{image.shape[2]}"
        )
    return mask
