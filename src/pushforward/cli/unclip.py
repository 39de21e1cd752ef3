"""`pushforward sample` and `pushforward edit` of an unCLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pushforward.cli.base import say
from pushforward.cli.chained import require_chained

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.systems.unclip import UnCLIP

# Pictures of each prompt.
PER_PROMPT = 8


def levels(command: Any, model: UnCLIP) -> list[float] | None:
    """The levels of the cascade; None for its own. InputError where they do not fit."""
    from pushforward.systems.cascade import levels_of

    given = list(command.augment_level)
    if not given:
        return None
    return levels_of(model.stages, given[0] if len(given) == 1 else given)


def solver_of(command: Any, model: UnCLIP) -> Any:
    from pushforward.recipes.choices import SOLVERS

    if command.solver == "auto":
        return None
    return SOLVERS[command.solver].make(path=model.decoder.path)


def settings(command: Any, model: UnCLIP, **more: Any) -> dict[str, Any]:
    """What goes into pictures: enough to draw the same ones again."""
    usual = model.sampling.prompt_guidance
    return {
        "model": model.provenance.sha256, "seed": command.seed, "nfe": command.nfe, "solver": command.solver,
        "guidance": usual if command.guidance is None else command.guidance,
        "augment_level": levels(command, model) or [stage.level for stage in model.stages], **more,
    }  # fmt: skip


def sampled(command: Any, model: UnCLIP) -> int:
    """Draw the whole chain."""
    from pushforward.cli.write import Writer
    from pushforward.core.errors import InputError
    from pushforward.runtime.processes import Processes

    require_chained(command, command.folder)
    prompts = command.lines(model)
    if not prompts:
        raise InputError("an unCLIP draws pictures of texts: give --prompt")
    num = command.num or PER_PROMPT * len(prompts)
    asked = [prompts[i % len(prompts)] for i in range(num)]
    writer = Writer(command.out or command.folder / "generated", command.format, command.overwrite)
    lead = Processes.current().lead
    if lead:
        writer.require_room(num, model.spec)
    options = {
        "of": command.draws, "prior_guidance": command.prior_guidance, "guidance": command.guidance,
        "augment_level": levels(command, model), "nfe": command.nfe, "solver": solver_of(command, model),
        "batch_size": command.batch_size,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    samples = drawn(model, asked, seed=command.seed, **options)
    if not lead:
        return 0
    about = settings(
        command, model, prompt=list(dict.fromkeys(asked)), num=num, draws=command.draws or 2,
        prior_guidance=command.prior_guidance,
    )  # fmt: skip
    written = writer.write(samples, None, {}, model.spec, about, asked)
    say(f"{num} samples of the whole chain in " + " and ".join(written))
    return 0


def drawn(model: UnCLIP, prompts: Sequence[str], **options: Any) -> Tensor:
    """Pictures on the CPU, of which each process that takes part draws its share; all get all."""
    import torch

    from pushforward.core.progress import tell
    from pushforward.runtime.processes import Processes

    processes = Processes.current()
    size = -(-len(prompts) // processes.count)
    first = min(processes.rank * size, max(len(prompts) - size, 0))
    own = list(prompts[first : first + size])
    batches = model.batches(
        own, start=first, progress=lambda done, total: tell("samples", done, total), **options
    )
    found = torch.cat([batch.cpu() for batch in batches])
    if processes.count == 1:
        return found
    # Shares of one size, of which the last ones overlap where the number is no multiple.
    parts = processes.gather(found).split(size)
    whole = torch.empty(len(prompts), *found.shape[1:], dtype=found.dtype)
    for rank, part in enumerate(parts):
        place = min(rank * size, max(len(prompts) - size, 0))
        whole[place : place + size] = part
    return whole


def edited(command: Any, model: UnCLIP, picture: Callable[..., Tensor]) -> int:
    """Variations of a picture, pictures between two, or a picture changed by words. picture: reads one from a file."""
    from pushforward.cli.write import Writer
    from pushforward.core.errors import InputError
    from pushforward.evaluate.figures import png
    from pushforward.evaluate.figures.grid import grid
    from pushforward.runtime.files import write_file

    require_chained(command, command.folder)
    words = (command.from_ is not None, command.to is not None)
    asked = [command.variations is not None, command.between is not None, any(words)]
    if sum(asked) != 1 or (any(words) and not all(words)):
        raise InputError(
            "an unCLIP changes a picture by one of --variations 4, --between Y, or --from with --to"
        )
    side = model.spec.shape[-1]
    image = picture(command.image, model, (side, side))
    prompts = command.lines(model)
    if prompts and (len(prompts) > 1 or not asked[0]):
        raise InputError("edit takes one --prompt, with --variations: what the picture shows")
    writer = Writer(command.out or command.folder / "edited", ("png",), command.overwrite)
    options = {
        "seed": command.seed, "nfe": command.nfe, "guidance": command.guidance,
        "augment_level": levels(command, model), "batch_size": command.batch_size,
    }  # fmt: skip
    about: dict[str, Any] = {"image": command.image.name}
    other = None if command.between is None else picture(command.between, model, (side, side))
    writer.require_room(count_of(command), model.spec)
    found, more = changed(command, model, image, other, prompts, options)
    about = settings(command, model, **about, **more)
    rows, columns = found.shape[:2]
    samples = found.flatten(0, 1).cpu()
    written = writer.write(samples, None, {}, model.spec, about)
    page = grid(samples, columns, model.spec.value_range or (-1.0, 1.0))
    write_file(writer.folder / "edited.png", png(page, about))
    written.append(str(writer.folder / "edited.png"))
    say(f"{rows * columns} pictures in " + " and ".join(written))
    return 0


def count_of(command: Any) -> int:
    """How many pictures there will be."""
    if command.variations is not None:
        return command.variations
    if command.between is not None:
        return command.num * (command.columns or 7)
    return command.columns or 4


def changed(
    command: Any, model: UnCLIP, image: Tensor, other: Tensor | None, prompts: Sequence[str], options: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """(rows, columns, C, H, W), and what was asked for."""
    from pushforward.systems.variations import between, text_diff, variations

    solver = solver_of(command, model)
    if command.variations is not None:
        found = variations(
            model, image, command.variations, list(prompts) or None, solver=solver, **options
        )
        return found, {"variations": command.variations, "prompt": list(prompts)}
    if other is not None:
        columns = command.columns or 7
        found = between(model, image, other, columns, command.num, solver=solver, **options)
        return found, {"between": str(command.between), "columns": columns}
    assert command.from_ is not None
    assert command.to is not None
    columns = command.columns or 4
    amounts = [command.amount * (k + 1) / columns for k in range(columns)]
    found = text_diff(model, image, command.from_, command.to, amounts, **options)
    return found, {"from": command.from_, "to": command.to, "amounts": amounts}
