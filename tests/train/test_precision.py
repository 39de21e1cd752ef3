"""bfloat16, several averages, accumulation of what they are for, held-out losses, and memory that does not suffice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from test_kill_and_resume import TOY, Failing
from tinyrun import dataset, newest, optimizer, outcome, trainer
from together import everything
from together import trainer as judged_trainer
from zygote import Zygote

import pushforward as pf
from pushforward.core.noise import Noise
from pushforward.objectives import FlowMatching
from pushforward.recipes.run import VALIDATION_STEP
from pushforward.train.checkpoint import Checkpoints
from pushforward.train.schedules import learning_rate

BF16 = {"precision": "bf16"}


def test_in_bfloat16_networks_compute_and_nothing_is_kept(tmp_path: Path) -> None:
    run = trainer(tmp_path, images=True, steps=3, **BF16)
    seen = []
    for layer in run.model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run.start()
    assert run.run()
    assert seen
    assert set(seen) == {torch.bfloat16}
    assert all(p.grad is None for p in run.model.parameters())
    kept = everything(run)
    assert {value.dtype for key, value in kept.items() if value.is_floating_point()} == {
        torch.float32
    }
    assert any("exp_avg_sq" in key for key in kept)
    weights = kept["model.net.conv_in.weight"]
    assert not torch.equal(weights, weights.bfloat16().float())


@pytest.mark.parametrize("images", [False, True], ids=["mlp", "unet with dropout"])
def test_a_run_in_bfloat16_is_resumed_to_the_same_bits(images: bool, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", images, **BF16)
    whole.start()
    assert whole.run()
    cut = trainer(tmp_path / "cut", images, wrap=lambda s: Failing(s, 17), **BF16)
    cut.start()
    with pytest.raises(RuntimeError, match="power cut"):
        cut.run()
    again = trainer(tmp_path / "cut", images, **BF16)
    again.resume()
    assert again.step == 14
    assert again.run()
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    single = trainer(tmp_path / "single", images)
    single.start()
    single.run()
    assert outcome(tmp_path / "single") != outcome(tmp_path / "whole")


def test_bfloat16_learns_as_much_as_float32(tmp_path: Path) -> None:
    ends = []
    for precision in ("fp32", "bf16"):
        run = trainer(
            tmp_path / precision, True, steps=75, log_every=25, checkpoint_every=200, lr=3e-3, precision=precision,
        )  # fmt: skip
        run.start()
        run.run()
        ends.append([entry["loss"] for entry in run.log.read()])
    (first, _, full), (_, _, half) = ends
    assert full < 0.98 * first
    assert half == pytest.approx(full, rel=0.03)
    assert half != full


def test_an_average_of_decay_0_9999_moves_in_a_run_in_bfloat16(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=2, warmup=0, ema=0.9999, **BF16)
    run.start()
    run.run()
    run.step = 10**6  # Past the warm-up of the average.
    for p in run.model.parameters():
        p.requires_grad_(False)
    before = everything(run)
    with torch.no_grad():
        for p in run.model.parameters():
            p.add_(1e-2)
    for step in range(10**6, 10**6 + 3):
        run.ema.update(run.model, step)
    for key, value in everything(run).items():
        if key.startswith("ema."):
            weights = before[key.replace("ema.", "model.")] + 1e-2
            want = weights + (before[key] - weights) * 0.9999**3
            assert torch.allclose(value, want, rtol=0, atol=1e-6)
            # By 3e-4 of the way, which is more than rounding.
            assert bool(((value - before[key]).abs() > 0.5e-6).any())


def test_each_of_several_averages_follows_its_recurrence_is_shared_and_resumed(
    tmp_path: Path,
) -> None:
    options = {"steps": 20, "ema": 0.8, "more_emas": (0.5, 0.9), "warmup": 0}
    run = trainer(tmp_path / "run", **options)
    run.start()
    decays = (0.8, 0.5, 0.9)
    want = {d: [p.detach().double() for p in run.model.parameters()] for d in decays}

    def follow() -> None:
        for d, average in want.items():
            now = min(d, (1 + run.step) / (10 + run.step))
            weights = [p.detach().double() for p in run.model.parameters()]
            want[d] = [now * a + (1 - now) * w for a, w in zip(average, weights, strict=True)]

    optimizer(run).register_step_post_hook(lambda *_: follow())
    assert run.run()
    for decay, folder in ((0.8, "run"), (0.5, "run/emas/0.5"), (0.9, "run/emas/0.9")):
        shared = pf.load(tmp_path / folder)
        assert shared.provenance.step == 20
        for mine, truth in zip(shared.parameters(), want[decay], strict=True):
            assert torch.allclose(mine.double(), truth, rtol=0, atol=1e-6)
        assert pf.generate(shared, 2, nfe=3, label=0).shape == (2, 2)
    cut = trainer(tmp_path / "cut" / "run", wrap=lambda s: Failing(s, 12), **options)
    cut.start()
    with pytest.raises(RuntimeError, match="power cut"):
        cut.run()
    # What a writer that was killed has left.
    (tmp_path / "cut/run/emas/0.9/.model.safetensors.7.tmp").write_bytes(b"half")
    again = trainer(tmp_path / "cut" / "run", **options)
    again.resume()
    assert again.run()
    assert outcome(tmp_path / "cut" / "run") == outcome(tmp_path / "run")
    _, tensors = newest(tmp_path / "run", run.identity)
    for name in ("ema", "ema-0.5", "ema-0.9"):
        assert f"{name}.net.conv_in.weight" in tensors


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("precision", "fp16", "precision is 'fp16'"), ("accumulate", 0, "accumulate is 0"),
        ("validate_every", -1, "validate_every is -1"), ("more_emas", (0.999,), "must differ"),
        ("more_emas", (0.5, 0.5), "must differ"), ("more_emas", (1.5,), "decay of the EMA is 1.5"),
        ("checkpointing", True, "MLP keeps its activations"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(setting: str, value, words: str, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(pf.InputError, match=words):
        trainer(tmp_path, **{setting: value})


def test_activations_worked_out_again_change_nothing(tmp_path: Path) -> None:
    options = {"images": True, "blocks": True, "dtype": torch.float32}
    for name in (False, True):
        run = judged_trainer(tmp_path / str(name), checkpointing=name, **options)
        run.start()
        run.run()
    assert outcome(tmp_path / "True") == outcome(tmp_path / "False")


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_trapezoid_and_the_inverse_root_are_their_closed_forms(warmup: int) -> None:
    steps = warmup + 100
    for step in range(steps + 1):
        flat, root = (learning_rate(step, steps, 3.0, warmup, d) for d in ("trapezoid", "inverse-root"))  # fmt: skip
        if step < warmup:
            assert flat == root == pytest.approx(3 * (step + 1) / warmup)
            continue
        k = step - warmup
        assert flat == pytest.approx(3.0 if k <= 80 else 3 * (100 - k) / 20)
        assert root == pytest.approx(3.0 if k <= 10 else 3 * math.sqrt(10 / k))
    assert learning_rate(warmup + 90, steps, 3.0, warmup, "trapezoid") == pytest.approx(1.5)
    assert learning_rate(warmup + 40, steps, 3.0, warmup, "inverse-root") == pytest.approx(1.5)
    with pytest.raises(pf.InputError, match="no decay 'steep'"):
        learning_rate(9, 10, 1.0, 0, "steep")  # type: ignore[arg-type]


def test_the_held_out_loss_is_that_of_the_average_and_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for every in (0, 2, 3):
        run = judged_trainer(
            tmp_path / str(every), dtype=torch.float32, steps=4, validate_every=every, more_emas=(0.9,)
        )  # fmt: skip
        run.start()
        run.run()
        ends.append((run, run.log.read(), everything(run)))
    for (_, entries, end), due in zip(ends, ([], [2, 4], [3, 4]), strict=True):
        assert [entry["step"] for entry in entries if "validation_loss" in entry] == due
        bare = [{k: v for k, v in entry.items() if k != "validation_loss"} for entry in entries]
        assert bare == ends[0][1]
        assert all(torch.equal(end[key], value) for key, value in ends[0][2].items())
    run, entries, _ = ends[1]
    held_out = dataset(size=13)
    ids = torch.arange(13)
    loss = FlowMatching(run.ema.model)(held_out[ids], Noise(0, ids, VALIDATION_STEP))["loss"]
    assert entries[-1]["validation_loss"] == pytest.approx(float(loss.double().mean()), rel=1e-6)
    weights = FlowMatching(run.model)(held_out[ids], Noise(0, ids, VALIDATION_STEP))["loss"]
    assert abs(float(weights.detach().mean()) / float(loss.mean()) - 1) > 1e-3


@pytest.mark.slow
def test_a_compiled_run_has_the_names_of_one_that_is_not_and_goes_on_as_one(tmp_path: Path) -> None:
    plain = trainer(tmp_path / "plain", steps=6, checkpoint_every=3)
    plain.start()
    plain.run()
    run = trainer(tmp_path / "run", steps=6, checkpoint_every=3, compile=True, keep=9)
    run.start()
    for _ in range(3):
        run._one_step()
    run.save()
    again = trainer(tmp_path / "run", steps=6, checkpoint_every=3)
    again.resume()
    assert again.step == 3
    assert again.run()
    want = everything(plain)
    found = everything(again)
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert torch.allclose(found[key], value, rtol=0, atol=1e-4), key


MEMORY = """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (330 << 20), -1))
"""


def test_memory_that_does_not_suffice_is_one_message_that_says_what_to_change(
    zygote: Zygote, tmp_path: Path
) -> None:
    """A batch whose activations do not fit into what this process may take; a tenth of it does."""
    options = ("--steps", 1, "--batch-size", 400_000, "--sample-every", 0)
    tiny = [a for a in TOY if a not in ("--batch-size",)]
    place = tiny.index("--ema")
    del tiny[place - 1]
    assert zygote.run(*tiny, *options, cwd=tmp_path, before=MEMORY) == 1
    message = zygote.said.splitlines()[-1]
    assert message.startswith("pushforward: step 0: out of memory on cpu with 400000 samples")
    for words in ("--accumulate 2", "--batch-size", "the checkpoint of step 0 is kept", "--resume"):
        assert words in message
    assert zygote.said.count("pushforward: ") == 1
    assert "Traceback" not in zygote.said
    again = ("train", "toy2d", "--device", "cpu", "--out", "run", "--resume", "--accumulate", 16)
    assert zygote.run(*again, cwd=tmp_path, before=MEMORY) == 0, zygote.said
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [0, 1]
