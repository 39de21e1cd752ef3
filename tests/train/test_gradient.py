"""What an objective may return, and what becomes of it in the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyrun import trainer

import pushforward as pf
from pushforward.train.gradient import figure, needs_whole_batch


@dataclass(frozen=True)
class Returns:
    """A loss, and whatever else a test wants."""

    model: pf.Model
    more: Any = None
    condition_dropout: float = 0.0

    def __call__(self, batch: pf.Batch, noise: pf.Noise) -> Mapping[str, Any]:
        loss = (self.model(batch.x1, 0.5, **batch.cond) ** 2).mean(1)
        return {"loss": loss} if self.more is None else self.more(loss, batch, noise)


def returning(more: Any) -> Any:
    return lambda model, condition_dropout: Returns(model, more)


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_figures_are_means_over_the_batch_and_the_steps_between_two_lines(
    accumulate: int, tmp_path: Path
) -> None:
    def more(loss: torch.Tensor, batch: pf.Batch, noise: pf.Noise) -> Mapping[str, Any]:
        # In step k sample i of 8 has i + 10 k; the other is a number for the batch.
        each = noise.ids.double() + 10 * noise.step
        return {
            "loss": loss,
            "figures": {"each": each, "all": 2.0 * noise.step, "loss squared": loss**2},
        }

    run = trainer(tmp_path, objective=returning(more), steps=6, log_every=3, accumulate=accumulate)
    run.start()
    assert run.run()
    first, second = entries(tmp_path)
    assert (first["each"], second["each"]) == (3.5 + 10, 3.5 + 40)
    assert (first["all"], second["all"]) == (2, 8)
    assert first["loss squared"] >= first["loss"] ** 2
    assert set(first) == {"step", "loss", "lr", "grad_norm", "each", "all", "loss squared"}


def test_figures_between_two_lines_survive_an_interruption(tmp_path: Path) -> None:
    def more(loss: torch.Tensor, batch: pf.Batch, noise: pf.Noise) -> Mapping[str, Any]:
        return {"loss": loss, "figures": {"a third": noise.step / 3}}

    options = {"objective": returning(more), "steps": 10, "log_every": 5, "checkpoint_every": 3}
    whole, cut = trainer(tmp_path / "whole", **options), trainer(tmp_path / "cut", **options)
    whole.start(), cut.start()
    assert whole.run()
    for _ in range(3):
        cut._one_step()
    cut.save()
    again = trainer(tmp_path / "cut", **options)
    again.resume()
    assert again.run()
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")


def test_figures_have_no_gradient(tmp_path: Path) -> None:
    weights = []
    for factor in (0.0, 100.0):

        def more(loss: torch.Tensor, *_: Any, factor: float = factor) -> Mapping[str, Any]:
            return {"loss": loss, "figures": {"x": factor * loss}}

        run = trainer(tmp_path / str(factor), objective=returning(more), steps=2)
        run.start()
        run.run()
        weights.append(run.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


WRONG = {
    "a mean": (lambda loss, *_: {"loss": loss.mean()}, r"'loss' of shape \(\) for 8 samples; it must return one loss"),
    "a column": (lambda loss, *_: {"loss": loss[:, None]}, r"'loss' of shape \(8, 1\) for 8 samples"),
    "too few": (lambda loss, *_: {"loss": loss[:3]}, r"'loss' of shape \(3,\) for 8 samples"),
    "another key": (lambda loss, *_: {"loss": loss, "accuracy": loss},
                    "under 'loss', 'accuracy'; the optimisers are 'loss'. What is only logged goes under 'figures'"),
    "no key": (lambda loss, *_: {}, "losses under no key"),
    "figures alone": (lambda loss, *_: {"figures": {"x": loss}}, "losses under no key"),
    "a figure of another length": (lambda loss, *_: {"loss": loss, "figures": {"x": loss[:3]}},
                                   r"the figure 'x' has shape \(3,\); it must be a number, or one for each of 8"),
    "a figure called loss": (lambda loss, *_: {"loss": loss, "figures": {"loss": loss}}, "'loss' has a name that"),
    "a figure called step": (lambda loss, *_: {"loss": loss, "figures": {"step": loss}}, "'step' has a name that"),
    "a figure called lr": (lambda loss, *_: {"loss": loss, "figures": {"lr": loss}}, "'lr' has a name that"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_an_objective_must_not_return_is_refused_at_the_first_step(
    name: str, tmp_path: Path
) -> None:
    more, words = WRONG[name]
    run = trainer(tmp_path, objective=returning(more))
    run.start()
    with pytest.raises(pf.InputError, match=words):
        run._one_step()


def test_a_figure_is_summed_over_the_samples_that_it_is_of() -> None:
    assert float(figure("x", 2.5, 4)) == 10
    assert float(figure("x", torch.tensor([1, 2, 3, 4]), 4)) == 10
    assert float(figure("x", torch.tensor(2.5, requires_grad=True), 4)) == 10


def test_an_objective_that_needs_the_whole_batch_says_so() -> None:
    assert not needs_whole_batch(pf.objectives.Matching)
    assert needs_whole_batch(type("Contrastive", (), {"whole_batch": True})())
