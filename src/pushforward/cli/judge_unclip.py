"""`pushforward evaluate` of an unCLIP, and of a prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pushforward.cli.base import require_same_data, say, show, write_json
from pushforward.cli.chained import Chained
from pushforward.cli.sampling import OfModel
from pushforward.cli.unclip import drawn as drawn_together
from pushforward.cli.unclip import levels
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from pushforward.systems.unclip import UnCLIP


class JudgeUnCLIP(Chained, OfModel):
    """Judge an unCLIP by prompts whose pictures are read back: which share is satisfied, into evaluation.json."""

    shareable: ClassVar[bool] = True
    systems: ClassVar[bool] = True

    num: int = option(1000, "Prompts, and as many of combinations that are held out.", ge=6)
    nfe: int | None = option(None, "Network calls for each stage. Default: 50.", ge=1)
    guidance: float | None = option(None, "Guidance of the decoder. Default: the run's.")

    def opening(self) -> str:
        return f"judging pictures of {2 * self.num} prompts by {self.folder}"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.evaluate.prompts import score_scenes
        from pushforward.recipes.card import write_card
        from pushforward.recipes.config import recipe_of
        from pushforward.runtime.processes import Processes

        model: UnCLIP = self.load()  # type: ignore[assignment]
        if recipe_of(self.folder).flat()["data"] != "scenes":
            raise InputError(
                f"only pictures of scenes can be read back, and {self.folder} was not trained on them: judge the runs "
                f"in {self.folder / 'stages'}"
            )
        options: dict[str, Any] = {
            "of": self.draws, "prior_guidance": self.prior_guidance, "guidance": self.guidance, "nfe": self.nfe,
            "augment_level": levels(self, model), "batch_size": self.batch_size,
        }  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None}
        figures, _, _ = score_scenes(
            lambda lines: drawn_together(model, lines, seed=self.seed, **given), self.num, self.seed
        )
        if not Processes.current().lead:
            return 0
        settings = given | {"num": self.num, "seed": self.seed, "model": model.provenance.sha256}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_card(self.folder)
        show(figures, f"{self.num} prompts of each kind, seed {self.seed}")
        return 0


class JudgePrior(OfModel):
    """Judge a prior: the rank of the true vector among all held-out ones by what is drawn for its text.

    Beside it by the mean of several draws, which is nearer to the true vector than any draw of the right law, and by
    the text's own vector, taken for that of the picture. Into evaluation.json in the run folder.
    """

    num: int = option(1000, "Held-out pairs at most.", ge=2)
    draws: int = option(2, "Vectors drawn, of which the nearest to the text is taken.", ge=1)
    means: int = option(8, "Vectors drawn whose mean is judged, too.", ge=1)
    guidance: float = option(1.0, "Guidance of the prior.")

    def opening(self) -> str:
        return f"judging the prior {self.folder}"

    def run(self) -> int:
        import torch

        from pushforward.core.errors import InputError
        from pushforward.evaluate.ranks import judge_ranks
        from pushforward.recipes.card import write_card
        from pushforward.recipes.config import experiment_of
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_any
        from pushforward.systems.priors import as_prior, expected, nearest

        prior = as_prior(load_any(self.folder, find_device(self.device)))
        experiment = experiment_of(self.folder, device=self.device, resume=True)
        require_same_data(self.folder, prior.spec, experiment.fingerprint)
        if experiment.held_out is None or len(experiment.held_out) < 2:
            raise InputError("this run kept no data apart, so there is nothing to evaluate against")
        apart = experiment.held_out.sample(self.num)
        batch = apart[torch.arange(len(apart))]
        lines = list(apart.captions or ())
        drawn, means = [], []
        for k in range(0, len(lines), self.batch_size):
            some, place = lines[k : k + self.batch_size], {"seed": self.seed, "start": k}
            drawn.append(nearest(prior, some, of=self.draws, guidance=self.guidance, **place).cpu())
            means.append(
                expected(prior, some, of=self.means, guidance=self.guidance, **place).cpu()
            )
        (text,) = (cond["pooled"] for cond in batch.cond.values())
        figures = judge_ranks(torch.cat(drawn), batch.x1)
        figures |= {f"mean_{n}": v for n, v in judge_ranks(torch.cat(means), batch.x1).items()}
        figures |= {f"text_{name}": v for name, v in judge_ranks(text, batch.x1).items()}
        settings = {
            "num": len(apart), "seed": self.seed, "draws": self.draws, "means": self.means, "guidance": self.guidance,
            "model": prior.provenance.sha256,
        }  # fmt: skip
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_card(self.folder)
        say(f"in {self.folder / 'evaluation.json'}")
        show(figures, f"{len(apart)} held-out pictures and captions")
        return 0
