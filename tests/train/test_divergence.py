"""A run that has left what it had learned is stopped, and one that has not is left alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tinyrun import newest, outcome, trainer

import pushforward as pf
from pushforward.cli import main
from pushforward.core.errors import DivergenceError
from pushforward.objectives import Matching
from pushforward.streams.stream import Stream
from pushforward.train.divergence import Watch
from pushforward.train.trainer import Trainer

LOSS = st.floats(-1e6, 1e6, allow_nan=False)


def alarm(losses: list[float], **options: float) -> int | None:
    """The number of the entry at which there is an alarm."""
    watch = Watch(**options)
    return next((k for k, loss in enumerate(losses) if watch.take(loss)), None)


# The rule.


@given(st.lists(LOSS, min_size=1, max_size=30), st.integers(1, 4), st.floats(1, 50))
def test_there_is_an_alarm_where_the_last_few_entries_were_all_above_the_bound(
    losses: list[float], patience: int, factor: float
) -> None:
    """The rule, read backwards from each entry over the whole history."""

    def above(k: int) -> bool:
        first, least = losses[0], min(losses[: k + 1])
        return losses[k] > least + factor * (abs(first - least) + abs(least))

    want = next(
        (
            k for k in range(len(losses))
            if k + 1 >= patience and all(above(j) for j in range(k - patience + 1, k + 1))
        ),
        None,
    )  # fmt: skip
    assert alarm(losses, patience=patience, factor=factor) == want


@given(st.lists(LOSS, min_size=1, max_size=30), st.lists(st.floats(0, 1), max_size=30))
def test_a_loss_that_falls_and_comes_back_no_higher_than_it_began_is_no_alarm(
    losses: list[float], back: list[float]
) -> None:
    """Of either sign: log-likelihoods are negative."""
    falling = sorted(losses, reverse=True)
    first, least = falling[0], falling[-1]
    returning = [min(first, least + share * (first - least)) for share in back]
    assert alarm([*falling, *returning, first, first, first, first]) is None


@given(st.floats(1e-3, 1e3), st.floats(1.0, 100.0), st.sampled_from([1.0, -1.0]))
def test_room_is_in_units_of_the_losses_and_the_third_entry_above_it_is_the_alarm(
    size: float, scale: float, sign: float
) -> None:
    """From 8 to 0.05 a run has fallen by 7.95: it may go to 0.05 + 30 (7.95 + 0.05), and no higher."""
    edge = 0.05 + 30 * 8.0
    for first, least, top in ((8.0, 0.05, edge), (-1.0, -3.0, -3.0 + 30 * 5.0)):
        run = [first, least]
        high, low = scale * (top + 1e-6 * abs(top)), scale * (top - 1e-6 * abs(top))
        run = [scale * value for value in run]
        assert alarm(run + [low] * 9) is None
        assert alarm(run + [high] * 9) == 4
        assert alarm([*run, high, high, low, high, high, high]) == 7
        assert alarm([*run, high, high, low, high, high, low]) is None
        assert alarm(run + [high] * 9, patience=1) == 2
    assert alarm([sign * size] * 50) is None


# A run.


class Blowing(Matching):
    """A loss of 1, and from a step on of 1000."""

    since, back, high = 12, 10**9, 1000.0

    def __call__(self, batch: object, noise: pf.Noise) -> dict[str, torch.Tensor]:
        loss = super().__call__(batch, noise)["loss"]
        value = self.high if self.since <= noise.step < self.back else 1.0
        return {"loss": value + 0 * loss}


class Recovering(Blowing):
    """High for two entries of the log only, again and again: never three in a row."""

    def __call__(self, batch: object, noise: pf.Noise) -> dict[str, torch.Tensor]:
        loss = super(Blowing, self).__call__(batch, noise)["loss"]
        return {"loss": (self.high if noise.step % 6 in (3, 4) else 1.0) + 0 * loss}


OPTIONS = {"log_every": 2, "checkpoint_every": 5, "steps": 40}


def diverge(run: Trainer) -> str:
    with pytest.raises(DivergenceError) as caught:
        run.run()
    return str(caught.value)


def test_a_run_that_blows_up_ends_with_its_step_its_losses_and_what_to_do(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=Blowing, **OPTIONS)
    run.start()
    message = diverge(run)
    # Steps 12, 13 are the first entry that is high, and 16, 17 the third.
    assert run.step == 18
    assert message == (
        "step 18: training has diverged. The loss was 1 at first and 1 at best; it is 1e+03, and has been that high "
        "for the last 3 entries of log.jsonl; the checkpoint of step 15 is kept. Lower --lr or --clip in a new run"
    )
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["step"], e["loss"]) for e in entries[-4:]] == [(12, 1), (14, 1e3), (16, 1e3), (18, 1e3)]  # fmt: skip
    assert run.checkpoints.steps()[-1] == 15


def test_the_checkpoint_that_is_kept_and_the_model_are_whole(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=Blowing, **OPTIONS)
    run.start()
    diverge(run)
    again = trainer(tmp_path, objective=Blowing, **OPTIONS)
    state, tensors = newest(tmp_path, again.identity)
    assert state.step == 15
    assert all(bool(value.isfinite().all()) for value in tensors.values())
    model = pf.load(tmp_path)
    assert model.provenance.step == 15
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[f"ema.{name}"])


class Signalled:
    """A stream at one step of which the process is asked to stop."""

    def __init__(self, stream: Stream, step: int) -> None:
        self.stream, self.step, self.batch_size = stream, step, stream.batch_size

    def at(self, step: int) -> pf.Batch:
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)
        return self.stream.at(step)


@pytest.mark.parametrize(("cut", "above"), [(1, 0), (13, 0), (14, 1), (15, 1), (17, 2)])
def test_a_run_that_was_interrupted_diverges_at_the_same_step(
    cut: int, above: int, tmp_path: Path
) -> None:
    """Though losses before the cut, and how many of them were above the bound, are known from the log alone."""
    whole = trainer(tmp_path / "whole", objective=Blowing, **OPTIONS)
    whole.start()
    message = diverge(whole)
    first = trainer(
        tmp_path / "cut", wrap=lambda s: Signalled(s, cut - 1), objective=Blowing, **OPTIONS
    )
    first.start()
    assert not first.run()
    assert first.step == cut
    second = trainer(tmp_path / "cut", objective=Blowing, **OPTIONS)
    second.resume()
    assert second.watches == first.watches
    assert second.watches["loss"].above == above
    kept = max(15, cut)
    assert diverge(second) == message.replace("step 15 is kept", f"step {kept} is kept")
    assert (tmp_path / "cut" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()  # fmt: skip
    # From the checkpoint that is kept it diverges there once more, and leaves everything as it was.
    before = outcome(tmp_path / "whole")
    third = trainer(tmp_path / "whole", objective=Blowing, **OPTIONS)
    third.resume()
    assert diverge(third) == message
    assert outcome(tmp_path / "whole") == before


def test_a_run_whose_loss_is_high_now_and_then_goes_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=Recovering, **OPTIONS | {"log_every": 1})
    run.start()
    assert run.run()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]  # fmt: skip
    assert losses.count(1000.0) > 10


def test_an_absurd_learning_rate_is_found_out_before_the_weights_are_infinite(
    tmp_path: Path,
) -> None:
    run = trainer(
        tmp_path, lr=30.0, warmup=0, log_every=1, checkpoint_every=1000, steps=200, decay="constant"
    )
    run.start()
    message = diverge(run)
    assert f"step {run.step}: training has diverged" in message
    assert "the checkpoint of step 0 is kept. Lower --lr or --clip" in message
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]  # fmt: skip
    assert alarm(losses) == len(losses) - 1 == run.step - 1
    assert pf.load(tmp_path).provenance.step == 0


def test_on_the_command_line_it_is_a_message_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issubclass(DivergenceError, pf.Error)
    line = ("train", "toy2d", "--width", 16, "--depth", 1, "--batch-size", 32, "--steps", 300)
    wild = ("--lr", 1.5, "--warmup", 0, "--log-every", 1, "--checkpoint-every", 500)
    where = ("--sample-every", 0, "--device", "cpu", "--out", tmp_path / "run")
    assert main(list(map(str, (*line, *wild, *where)))) == 1
    said = capsys.readouterr().err
    assert said.startswith("pushforward: step ")
    assert "training has diverged" in said
    assert said.endswith("the checkpoint of step 0 is kept. Lower --lr or --clip in a new run\n")
    # What is left can be looked at.
    assert main(["info", str(tmp_path / "run")]) == 0
