"""A model of three parts, one of them frozen: losses that need the whole batch, optimisers by key, shards, kills."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from composed import (
    BATCH,
    BY_KEY,
    CASES,
    Contrast,
    Encoder,
    Narrow,
    Rivals,
    Trio,
    followed,
    trainer,
    trio,
)
from tinyrun import IDENTITY, newest, outcome
from zygote import Zygote

import pushforward as pf
from pushforward.train.frozen import digests
from pushforward.train.state import under

COUNTS = (2, 3)
PARTS = [Trio, Encoder, Narrow]


@pytest.fixture(scope="module")
def groups(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came out in 2 and in 3 processes: a folder for each."""
    folder = tmp_path_factory.mktemp("groups")
    for count in COUNTS:
        (folder / str(count)).mkdir()
        order = "from composed import all_cases; all_cases()"
        codes = zygote.run_group(count, cwd=folder / str(count), before=order)
        assert codes == [0] * count, zygote.said
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def find(name: str) -> dict[str, Any]:
        run = trainer(folder / name, **CASES[name])
        run.start()
        return followed(run, 3)

    return find


def near(a: torch.Tensor, b: torch.Tensor, room: float) -> bool:
    return bool((a - b).abs().max() <= room * (1 + b.abs().max()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", COUNTS)
def test_processes_have_the_losses_gradients_and_weights_of_one(
    groups: Path, alone, count: int, name: str
) -> None:
    want = alone(name)
    for rank in range(count):
        found = torch.load(groups / str(count) / f"{name}-{rank}.pt", weights_only=False)
        for mine, theirs in zip(found["entries"], want["entries"], strict=True):
            assert mine.keys() == theirs.keys()
            # How many rows it gets at once is what differs.
            assert all(
                mine[key] == pytest.approx(value, rel=1e-12, abs=1e-14)
                for key, value in theirs.items()
                if key != "rows"
            )
        for mine, theirs in zip(found["gradients"], want["gradients"], strict=True):
            assert mine.keys() == theirs.keys()
            assert all(near(mine[key], theirs[key], 1e-12) for key in theirs)
        for key, value in want["end"].items():
            assert near(found["end"][key], value, 2e-6 if key.startswith("ema") else 1e-11), key


def test_a_loss_of_the_whole_batch_is_the_same_however_the_batch_was_to_be_cut(alone) -> None:
    plain, cut = alone("ddp"), alone("ddp-accumulate")
    assert [entry["rows"] for entry in cut["entries"]] == [BATCH] * 3
    assert cut["entries"] == plain["entries"]


def test_a_contrastive_loss_of_parts_of_a_batch_would_be_another(tmp_path: Path) -> None:
    """What the two tests above would not notice if there were nothing to notice."""
    model = trio()
    batch, noise = trainer(tmp_path).stream.at(0), pf.Noise.batch(BATCH)
    whole = Contrast(model)(batch, noise)["loss"]
    half = Contrast(model)(batch[:5], noise[:5])["loss"]
    assert (whole[:5] - half).abs().mean() > 0.1


# Optimisers by key.


@pytest.mark.parametrize("name", ["rivals", "rivals-accumulate"])
def test_each_optimiser_has_the_gradient_of_its_own_loss_with_respect_to_its_own_weights(
    alone, name: str, tmp_path: Path
) -> None:
    run = trainer(tmp_path, **CASES[name])
    batch, noise = run.stream.at(0), pf.Noise.batch(BATCH)
    model = trio().train()
    model.encoder.eval()
    losses = Rivals(model)(batch, noise)
    got, entry = alone(name)["gradients"][0], alone(name)["entries"][0]
    weights = dict(model.named_parameters())
    for key, rule in BY_KEY.items():
        own = [n for n, p in weights.items() if rule.takes(n) and p.requires_grad]
        mean = losses[key].mean()
        truth = torch.autograd.grad(mean, [weights[n] for n in own], retain_graph=True)
        norm = torch.cat([g.flatten() for g in truth]).norm()
        assert entry[f"grad_norm/{key}"] == pytest.approx(float(norm), rel=1e-12)
        assert entry[f"loss/{key}"] == pytest.approx(float(mean.detach()), rel=1e-12)
        assert entry[f"lr/{key}"] == rule.lr
        assert norm > rule.clip
        for n, g in zip(own, truth, strict=True):
            assert near(got[n], g * rule.clip / norm, 1e-6), n
    assert entry["loss"] == pytest.approx(
        sum(float(loss.mean().detach()) for loss in losses.values())
    )


def test_an_optimiser_without_a_loss_in_a_step_rests(tmp_path: Path) -> None:
    run = trainer(tmp_path, **CASES["rivals-in-turn"])
    run.start()
    for step in range(4):
        before = {n: p.detach().clone() for n, p in run.parameters.items()}
        entry = run._one_step()
        moved = {
            n.split(".")[0] for n, p in run.parameters.items() if not torch.equal(p, before[n])
        }
        assert moved == ({"left", "right", "scale"} if step % 2 == 0 else {"left", "scale"})
        assert ("loss/right" in entry) == (step % 2 == 0)


def test_a_run_of_two_optimisers_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    options = CASES["rivals-in-turn"] | {"log_every": 4}
    whole, cut = trainer(tmp_path / "whole", **options), trainer(tmp_path / "cut", **options)
    whole.start()
    assert whole.run()
    cut.start()
    for _ in range(3):
        cut._one_step()
        cut.step % 2 == 0 and cut.save()
    again = trainer(tmp_path / "cut", **options)
    again.resume()
    assert again.step == 2
    assert again.run()
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


# Frozen parts.


def test_what_is_frozen_is_in_no_average_no_checkpoint_and_no_gradient_and_stays_as_it_is(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path)
    before = {n: x.clone() for n, x in run.model.encoder.state_dict().items()}
    run.start()
    assert run.run()
    encoder = run.model.encoder
    assert encoder is run.ema.model.encoder
    assert encoder.layer.weight.dtype == torch.bfloat16
    assert run.ema.model.left.conv_in.weight.dtype == torch.float32
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in encoder.parameters())
    state, tensors = newest(tmp_path, IDENTITY)
    assert not [name for name in tensors if "encoder" in name]
    assert {name.split(".")[0] for name in under("ema", tensors)} == {"left", "right", "scale"}
    assert {name.split(".")[0] for name in under("optimizer", tensors)} == {
        "left",
        "right",
        "scale",
    }
    assert state.frozen == digests(run.model) == {"encoder": digests(trio())["encoder"]}


def test_a_frozen_part_is_asked_without_dropout_while_the_rest_trains(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    modes = []
    run.model.encoder.dropout.register_forward_hook(lambda m, *_: modes.append(m.training))
    run.model.left.register_forward_hook(lambda m, *_: modes.append(m.training))
    run._one_step()
    assert modes == [True, False]


def test_a_run_with_another_frozen_part_is_not_taken_up(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.start()
    other = trainer(tmp_path)
    with torch.no_grad():
        other.model.encoder.shift[0] += 1
    other.frozen = digests(other.model)
    with pytest.raises(pf.CheckpointError, match="the frozen part encoder has other weights"):
        other.resume()
    thawed = trainer(tmp_path)
    thawed.frozen = {}
    with pytest.raises(pf.CheckpointError, match="its part encoder was frozen and is not"):
        thawed.resume()
    trainer(tmp_path).resume()


def test_a_model_of_which_all_is_frozen_is_not_trained(tmp_path: Path) -> None:
    model = trio().requires_grad_(False)
    run = trainer(tmp_path)
    with pytest.raises(pf.InputError, match="there is nothing to train"):
        type(run)(Contrast(model), model, run.stream, run.settings, tmp_path)


# Shards, kills, and what is saved.


def go(options: str) -> str:
    return f"from composed import go; go({options})"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_killed_and_resumed_end_in_the_bits_of_those_that_were_not_and_are_loaded(
    zygote: Zygote, tmp_path: Path, parallel: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    assert zygote.run_group(2, cwd=whole, before=go(f"{parallel!r}")) == [0, 0], zygote.said
    for number, (rank, step) in enumerate(((1, 6), (0, 9))):
        order = go(f"{parallel!r}, resume={bool(number)}, kill={(rank, step)}")
        assert zygote.run_group(2, cwd=killed, before=order)[rank] == -signal.SIGKILL
    assert zygote.run_group(2, cwd=killed, before=go(f"{parallel!r}, resume=True")) == [0, 0], (
        zygote.said
    )
    assert outcome(killed / "run") == outcome(whole / "run")
    model = pf.load(killed / "run", parts=PARTS)
    assert isinstance(model, Trio)
    assert model.provenance.step == 12
    assert {p.name for p in (killed / "run").glob("*.safetensors")} == {
        "self.safetensors", "encoder.safetensors", "left.safetensors", "right.safetensors",
    }  # fmt: skip
    frozen = trio(torch.float32).encoder
    for name, value in frozen.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    # One process takes the run of two up, and its average is what was saved.
    again = trainer(killed / "run", dtype=torch.float32, steps=12)
    again.resume()
    for name, value in again.ema.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    x = torch.randn(4, 2)
    with torch.no_grad():
        for mine, theirs in zip(model(x), again.ema.model.eval()(x), strict=True):
            assert torch.equal(mine, theirs)


def test_a_frozen_part_is_written_once_and_not_at_all_if_it_is_held_by_reference(
    tmp_path: Path,
) -> None:
    run = trainer(tmp_path / "a")
    run.start()
    place = tmp_path / "a" / "encoder.safetensors"
    content = place.read_bytes()
    place.write_bytes(b"still here")
    for _ in range(2):
        run._one_step()
    run.save()
    assert place.read_bytes() == b"still here"
    place.write_bytes(content)
    assert pf.load(tmp_path / "a", parts=PARTS).provenance.step == 2

    held = trainer(tmp_path / "b")
    named = type(held)(
        held.objective, held.model, held.stream, held.settings, tmp_path / "b", IDENTITY,
        references={"encoder": "encoder-v1"},
    )  # fmt: skip
    named.start()
    assert not (tmp_path / "b" / "encoder.safetensors").exists()
    encoder = trio().encoder
    model = pf.load(tmp_path / "b", parts=PARTS, references={"encoder-v1": encoder})
    assert model.encoder is encoder


def test_shards_are_for_objectives_that_say_so_and_for_one_optimiser(
    zygote: Zygote, tmp_path: Path
) -> None:
    code = """
from pathlib import Path
from composed import *
from together import fails
with joined("cpu"):
    print(fails(lambda: trainer(Path("a"), objective=Rivals, parallel="fsdp")))
    more = {"objective": Contrast, "optimizers": BY_KEY, "parallel": "fsdp"}
    print(fails(lambda: trainer(Path("b"), **more)))
"""
    assert zygote.run_group(2, cwd=tmp_path, before=code) == [0, 0], zygote.said
    first, second = zygote.said[0].splitlines()
    assert "Rivals cannot be trained with --parallel fsdp" in first
    assert "is for one optimiser, and this run has several" in second
