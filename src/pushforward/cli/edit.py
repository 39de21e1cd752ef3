"""`pushforward edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pushforward.cli.base import say
from pushforward.cli.chained import Varied, require_single
from pushforward.cli.control import Hinted
from pushforward.cli.prompts import Prompted
from pushforward.cli.sampling import Sampling, described, named_sampler
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.cli.control import Steering
    from pushforward.core.fields import Field as ModelField
    from pushforward.recipes.experiment import Sampled
    from pushforward.sampling.sampler import Sampler


class Edit(Hinted, Varied, Prompted, Sampling):
    """Change a picture: by noise and a prompt or class (SDEdit), inside a mask (inpainting), beyond its edges, or by
    inversion from one prompt to another. Strokes painted over a picture are edited as any picture is. The hint of a
    control is by default the picture itself. By an unCLIP: variations, pictures between two, and changes by words.
    """

    systems: ClassVar[bool] = True

    image: Path = option(..., "Picture to change.")
    size: str | None = option(
        None,
        "Scale it to this width and height, as in 64x48, cutting what is over. Default: its own.",
        rare=True,
    )
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
        None,
        "What the picture shows, in words: it is inverted to noise, and drawn by --prompt with DDIM.",
    )
    num: int = option(1, "Versions.", ge=1)
    out: Path | None = option(None, "Folder for the results. Default: RUN/edited.")
    overwrite: bool = option(False, "Replace earlier results in the folder.")

    def opening(self) -> str:
        return f"editing {self.image} by {self.folder}"

    def run(self) -> int:
        from pushforward.cli.unclip import edited
        from pushforward.cli.write import Writer
        from pushforward.core.errors import InputError
        from pushforward.sampling.edit import edit, edit_by_inversion, extended
        from pushforward.systems.unclip import UnCLIP

        self.check()
        model = self.load()
        if isinstance(model, UnCLIP):
            return edited(self, model, picture)
        require_single(self, self.folder)
        size = self.pixels(model)
        image = picture(self.image, model, size)
        prompts, mask = self.lines(model), None
        if len(prompts) > 1:
            raise InputError("edit takes one --prompt")
        if self.mask is not None:
            mask = inpainted(self.mask, image, size)
        if self.extend is not None:
            image, mask = extended(image, *self.extend)
        model, hints, steering = self.hinted(model, image)
        given: dict[str, Any] = {"prompt": prompts[0]} if prompts else {}
        shown = {"control": {n: h.expand(self.num, *h.shape[1:]) for n, h in hints.items()}}
        given |= shown if hints else {}
        if self.label is not None:
            given["label"] = model.spec.label(self.label)
        if self.negative is not None:
            given["negative"] = {"prompt": self.negative}
        writer = Writer(self.out or self.folder / "edited", ("png",), self.overwrite)
        writer.require_room(self.num, model.spec)
        sampler = self.sampler(model)
        images = image.expand(self.num, *image.shape[1:])
        if self.from_prompt is not None:
            found = edit_by_inversion(
                model, images, {"prompt": self.from_prompt} | (shown if hints else {}), given,
                nfe=self.nfe, guidance=self.guidance, seed=self.seed, batch_size=self.batch_size,
            )  # fmt: skip
        else:
            found = edit(
                model, images, strength=self.strength, mask=mask, repeats=self.repeats,
                solver=None if self.named() == "auto" else sampler.solver, sde=False,
                nfe=self.nfe, guidance=self.guidance, seed=self.seed, batch_size=self.batch_size, **given,
            )  # fmt: skip
        settings = self.settings(model, sampler, bool(prompts)) | steering | {
            "image": self.image.name, "prompt": prompts, "negative": self.negative, "label": self.label,
            "mask": None if self.mask is None else self.mask.name, "extend": self.extend,
        }  # fmt: skip
        if self.from_prompt is not None:
            settings |= {"from_prompt": self.from_prompt}
        else:
            settings |= {"strength": self.strength, "repeats": self.repeats}
        written = writer.write(found.cpu(), None, {}, model.spec, settings)
        say(f"{self.num} versions ({described(sampler)}) in " + " and ".join(written))
        return 0

    def hinted(self, model: Any, image: Tensor) -> Steering:
        """The model with its controls, and their hints; those of the picture itself without --control-image."""
        from pushforward.core.errors import InputError
        from pushforward.models.model import Model
        from pushforward.saving.control import controls_of

        factor = getattr(model.codec, "factor", 1)
        height, width = (side // factor for side in image.shape[2:])
        own: Hinted = self
        if isinstance(model, Model) and controls_of(model) and self.control_image is None:
            if self.extend is not None:
                raise InputError(
                    "--extend makes a larger picture, for which a control needs its hint: add --control-image"
                )
            own = self.model_copy(update={"control_image": self.image})
        return own.steered(model, self.folder, (height, width))

    def check(self) -> None:
        """That the options go together."""
        from pushforward.core.errors import InputError

        def chosen(*names: str) -> list[str]:
            fields = type(self).model_fields
            return [
                "--" + name.replace("_", "-")
                for name in names
                if getattr(self, name) != fields[name].default
            ]

        if chosen("grid", "renoise"):
            raise InputError(f"edit takes times of its own: omit {chosen('grid', 'renoise')[0]}")
        if self.mask is not None and self.extend is not None:
            raise InputError("give either --mask or --extend")
        if self.sde and self.solver != "auto":
            raise InputError("give either --sde or --solver")
        if self.from_prompt is None:
            return
        other = chosen("mask", "extend", "sde", "strength", "repeats", "solver", "negative")
        if other or not (self.prompt or self.prompts):
            without = f", and not with {', '.join(other)}" if other else ""
            raise InputError(f"--from-prompt goes with --prompt{without}")

    def named(self) -> str:
        """The solver, by name."""
        if self.from_prompt is not None:
            return "ddim"
        masked = self.mask is not None or self.extend is not None
        return "dpm++2m-sde" if self.sde or (masked and self.solver == "auto") else self.solver

    def sampler(self, model: Sampled, field: ModelField | None = None) -> Sampler:
        """What draws the rest of the way from the guide; nothing is left of it at strength 0."""
        from pushforward.core.fields import FlowMap
        from pushforward.sampling.edit import time_of_strength

        strength = 1.0 if self.from_prompt is not None else self.strength or 1.0
        t0 = 0.0 if isinstance(model, FlowMap) else time_of_strength(strength, model.path)
        return named_sampler(
            field or model, self.named(), "auto", self.nfe, self.guidance, span=(t0, 1.0)
        )


def opened(
    path: Path, channels: int, size: tuple[int, int] | None = None, ground: str = "white"
) -> Tensor:
    """The bytes of a picture (1, C, H, W), upright, cut and scaled to size (H, W), transparent ones over `ground`."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from pushforward.core.errors import InputError
    from pushforward.data.images.decode import open_image, pixels, reason

    try:
        with open_image(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
            values = pixels(image, None, channels)
    except Exception as error:
        raise InputError(f"the picture {path} {reason(error)}") from error
    if size is not None and values.shape[1:] != size:
        each = [Image.fromarray(value) for value in values]
        scaled = [ImageOps.fit(one, size[::-1], Image.Resampling.LANCZOS) for one in each]
        values = np.stack([np.asarray(one) for one in scaled])
    return torch.from_numpy(values.copy())[None]


def picture(path: Path, model: Sampled, size: tuple[int, int] | None = None) -> Tensor:
    """A picture file as data of a model (1, C, H, W), of any size."""
    from pushforward.core.errors import InputError

    spec = model.spec
    channels = getattr(model.codec, "channels", spec.shape[0] if spec.shape else 0)
    if spec.kind != "image" or channels not in (1, 3):
        raise InputError(
            f"edit is for models of images of 1 or 3 channels, and this one draws {spec.shape}"
        )
    low, high = spec.value_range or (-1.0, 1.0)
    return opened(path, channels, size).float() / 255 * (high - low) + low


def inpainted(path: Path, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """A mask file as bool (1, 1, H, W), true where it is white; what is transparent is not."""
    from pushforward.core.errors import InputError

    mask = opened(path, 1, size, "black") >= 128
    if mask.shape[2:] != image.shape[2:]:
        raise InputError(
            f"the mask {path} is {mask.shape[3]} x {mask.shape[2]} pixels, and the picture {image.shape[3]} x "
            f"{image.shape[2]}"
        )
    return mask
