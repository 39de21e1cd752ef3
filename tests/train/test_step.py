"""The training loop is the equations of its docstring, written out."""

from __future__ import annotations

from pathlib import Path

import torch
from tinyrun import trainer

import pushforward as pf
from pushforward.train.schedules import learning_rate


def test_training_is_adamw_on_the_mean_loss_clipped_and_averaged_step_by_step(
    tmp_path: Path,
) -> None:
    settings = {
        "steps": 12, "seed": 5, "lr": 0.02, "weight_decay": 0.3, "warmup": 3, "decay": "linear",
        "clip": 0.7, "ema": 0.8,
    }  # fmt: skip
    run, plain = (trainer(tmp_path / name, **settings) for name in ("run", "plain"))
    run.start()
    assert run.run()

    model, average = plain.model, [p.detach().clone() for p in plain.model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.3, fused=True)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = learning_rate(step, 12, 0.02, 3, "linear")
        noise = pf.Noise(5, torch.arange(8), step)
        optimizer.zero_grad()
        plain.objective(plain.stream.at(step), noise)["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        optimizer.step()
        decay = min(0.8, (1 + step) / (10 + step))
        average = [
            a + (1 - decay) * (p.detach() - a)
            for a, p in zip(average, model.parameters(), strict=True)
        ]
    for mine, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(run.ema.model.parameters(), average, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_model_that_comes_in_evaluation_mode_is_trained_with_its_dropout(tmp_path: Path) -> None:
    run = trainer(tmp_path, images=True, steps=2)
    run.model.eval()
    run._one_step()
    assert all(module.training for module in run.model.modules())


def test_the_average_and_not_the_weights_is_shared(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=5)
    run.start()
    run.run()
    shared = pf.load(tmp_path)
    for mine, average, weights in zip(
        shared.parameters(), run.ema.model.parameters(), run.model.parameters(), strict=True
    ):
        assert torch.equal(mine, average)
        assert not torch.equal(mine, weights)
