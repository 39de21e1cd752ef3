"""Folders of diffusers, read and written.

    model = pf.from_diffusers("stable-diffusion-v1-5")
    pf.to_diffusers(model, "folder")

`schedules` reads a scheduler as a path and a prediction, `networks` has the classes of networks, `pipelines` reads
whole folders, and `write` writes them.
"""

from pushforward.interop.diffusers.pipelines import from_diffusers
from pushforward.interop.diffusers.write import to_diffusers

__all__ = ["from_diffusers", "to_diffusers"]
