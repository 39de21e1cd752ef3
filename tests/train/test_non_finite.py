"""NaN and infinity stop a run before they reach the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tinyrun import optimizer, trainer, tree

import pushforward as pf
from pushforward.data.batch import Batch
from pushforward.objectives import Matching


class Poisoned:
    """A stream in which one sample of the data is not finite."""

    def __init__(self, stream, sample: int, value: float) -> None:
        self.stream, self.sample, self.value = stream, sample, value
        self.batch_size = stream.batch_size

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        batch.x1[batch.ids == self.sample] = self.value
        return batch


def everything(run) -> list[torch.Tensor]:
    moments = [value for state in optimizer(run).state.values() for value in state.values()]
    tensors = [*run.model.state_dict().values(), *run.ema.model.state_dict().values(), *moments]
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("images", [False, True], ids=["mlp", "unet"])
def test_a_poisoned_sample_is_named_and_neither_weights_nor_checkpoints_see_it(
    value: float, images: bool, tmp_path: Path
) -> None:
    run = trainer(
        tmp_path, images, wrap=lambda s: Poisoned(s, 17, value), checkpoint_every=1, log_every=1
    )
    run.stream.sample = sample = int(run.stream.stream.indices(1)[3])
    bad = 1
    run.start()
    for _ in range(bad):
        run._one_step()
    run.save()
    before, files = everything(run), tree(tmp_path)
    with pytest.raises(pf.NonFiniteError) as caught:
        run.run()
    assert str(caught.value) == (
        f"step {bad}: the loss of 1 samples is not finite (data ids {sample}). Stopped before the step; "
        f"the checkpoint of step {bad} is kept. Look at these data, or lower --lr or --clip in a new run"
    )
    assert all(torch.equal(a, b) for a, b in zip(before, everything(run), strict=True))
    assert run.step == bad
    assert tree(tmp_path) == files


class Infinite(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(context, x, value):
        context.value = value
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.value, None


@dataclass(frozen=True)
class Steep(Matching):
    """Its gradient is not finite at step 2; its loss is."""

    value: float = float("inf")

    def __call__(self, batch, noise):
        loss = super().__call__(batch, noise)["loss"]
        return {"loss": Infinite.apply(loss, self.value) if noise.step == 2 else loss}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_a_run_of_finite_loss(
    value: float, tmp_path: Path
) -> None:
    run = trainer(
        tmp_path,
        objective=lambda model, condition_dropout: Steep(
            model, condition_dropout=condition_dropout, value=value
        ),
        checkpoint_every=100,
    )
    run.start()
    run._one_step(), run._one_step()
    before = everything(run)
    ids = ", ".join(map(str, run.stream.indices(2).tolist()))
    with pytest.raises(pf.NonFiniteError) as caught:
        run.run()
    assert str(caught.value) == (
        f"step 2: the gradient is not finite (batch of data ids {ids}). Stopped before the step; "
        f"the checkpoint of step 0 is kept. Look at these data, or lower --lr or --clip in a new run"
    )
    assert all(torch.equal(a, b) for a, b in zip(before, everything(run), strict=True))
    assert run.checkpoints.steps() == [0]


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    run = trainer(tmp_path, checkpoint_every=1)
    run.start()
    files = tree(tmp_path)
    step = optimizer(run).step
    optimizer(run).step = lambda: (step(), run.model.net.conv_out.bias.data.fill_(float("inf")))  # type: ignore
    with pytest.raises(
        pf.NonFiniteError, match=r"not finite after step 1; the checkpoint of step 0 is kept"
    ):
        run.run()
    assert tree(tmp_path) == files


def test_the_gradient_is_clipped_to_the_norm_that_was_asked_for(tmp_path: Path) -> None:
    run = trainer(tmp_path, clip=1e-3)
    seen = []
    optimizer(run).step = lambda: seen.append(  # type: ignore[method-assign]
        torch.stack([p.grad.norm() for p in run.model.parameters() if p.grad is not None]).norm()
    )
    entry = run._one_step()
    assert entry["grad_norm"] > 1e-2
    assert float(seen[0]) == pytest.approx(1e-3, rel=1e-3)


def test_the_log_holds_the_mean_loss_since_the_last_line(tmp_path: Path) -> None:
    fine, coarse = (
        trainer(tmp_path / "fine", log_every=1, steps=11),
        trainer(tmp_path / "coarse", steps=11),
    )
    for run in (fine, coarse):
        run.start()
        run.run()
    losses = [entry["loss"] for entry in fine.log.read()]
    entries = coarse.log.read()
    assert [entry["step"] for entry in entries] == [4, 8, 11]
    for entry, (start, stop) in zip(entries, ((0, 4), (4, 8), (8, 11)), strict=True):
        assert entry["loss"] == pytest.approx(sum(losses[start:stop]) / (stop - start), rel=1e-12)
        assert entry["lr"] == fine.log.read()[stop - 1]["lr"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0), ("log_every", 0), ("checkpoint_every", 0), ("keep", 0), ("lr", 0.0), ("lr", float("nan")),
        ("lr", float("inf")), ("clip", 0.0), ("warmup", -1), ("sample_every", -1), ("weight_decay", -0.1), ("ema", 1.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(setting: str, value: float, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(pf.InputError, match=setting if setting != "ema" else "EMA"):
        trainer(tmp_path, **{setting: value})


@dataclass(frozen=True)
class Endless(Matching):
    """Its loss is infinite at step 2, for the first sample; its gradient is finite."""

    def __call__(self, batch, noise):
        loss = super().__call__(batch, noise)["loss"]
        jump = torch.zeros_like(loss)
        if noise.step == 2:
            jump[0] = float("inf")
        return {"loss": loss + jump}


def test_an_infinite_loss_of_finite_gradient_stops_a_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=Endless)
    run.start()
    with pytest.raises(pf.NonFiniteError) as caught:
        run.run()
    name = int(run.stream.indices(2)[0])
    assert f"step 2: the loss of 1 samples is not finite (data ids {name})" in str(caught.value)
    assert run.step == 2
