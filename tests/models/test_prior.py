"""Priors of a picture's vector: causal, exact in law, and compositions of what there is."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.clip import CLIPModel
from pushforward.models.prior import AutoregressivePrior, Buckets, CLIPTexts, drawn, nucleus
from pushforward.models.text import Words
from pushforward.nets import CLIP, BucketTransformer, PriorTransformer, Prompted, TextFeatures
from pushforward.objectives import NextBucket

LINES = ["a red circle", "two blue squares", "a square"]


def clip() -> CLIPModel:
    torch.manual_seed(0)
    words = Words.of(LINES, length=8, end=True)
    net = CLIP(
        {"vocabulary": words.size, "width": 16, "depth": 1, "heads": 2, "length": 8, "end": words.size - 1},
        {"size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        dim=8,
    )  # fmt: skip
    return CLIPModel(net.requires_grad_(False), encoders={"caption": words}, shape=(3, 8, 8))


def shaken(net: torch.nn.Module, size: float = 0.3) -> torch.nn.Module:
    """With weights off the zeros at which some start."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn_like(p))
    return net


def prior(dims: int = 2, buckets: int = 3) -> AutoregressivePrior:
    texts = CLIPTexts(clip())
    torch.manual_seed(1)
    net = BucketTransformer(dims, buckets, (4,), 16, 2, 2, context=16, sentence=8, length=8)
    net = shaken(Prompted(net, {"text": TextFeatures(16, **texts.features)}))
    z = torch.randn(500, 8) * torch.linspace(2, 0.5, 8)
    found = Buckets(8, dims, buckets, 4).fit(z, z + torch.randn(500, 8))
    return AutoregressivePrior(net, found, encoders={"prompt": texts}, shape=(8,))


# Networks.


def sequence() -> dict:
    torch.manual_seed(2)
    mask = torch.tensor([[True] * 3, [True, False, False]])
    return {"context": Tokens(torch.randn(2, 3, 16), mask), "sentence": torch.randn(2, 8)}


def test_a_diffusion_prior_sees_its_text_and_no_padding() -> None:
    torch.manual_seed(0)
    net = shaken(PriorTransformer(8, 16, 2, 2, context=16, sentence=8, length=5))
    x, t, given = torch.randn(2, 8), torch.rand(2), sequence()
    out = net(x, t, **given)
    context = given["context"]
    padded = Tokens(
        torch.cat((context.values, torch.full((2, 2, 16), 9.0)), 1),
        torch.cat((context.mask, torch.zeros(2, 2) > 0), 1),
    )
    assert torch.allclose(net(x, t, **(given | {"context": padded})), out, atol=1e-5)
    short = {
        "context": Tokens(context.values[1:, :1], context.mask[1:, :1]),
        "sentence": given["sentence"][1:],
    }
    assert torch.allclose(net(x[1:], t[1:], **short), out[1:], atol=1e-5)
    for name in given:
        assert (net(x, t, **{k: v for k, v in given.items() if k != name}) - out).abs().min() > 1e-6
    nothing = Tokens(context.values, context.mask & False)
    assert torch.allclose(net(x, t, context=nothing), net(x, t), atol=1e-5)
    assert (net(x, t.flip(0), **given) - out).abs().max() > 1e-4


def test_a_dimension_depends_on_those_before_it_alone() -> None:
    torch.manual_seed(0)
    net = shaken(BucketTransformer(5, 4, (3, 2), 16, 2, 2, context=16, sentence=8, length=4))
    ids, prefix, given = torch.randint(0, 4, (2, 4)), torch.tensor([[0, 1], [2, 0]]), sequence()
    out = net(ids, prefix, **given)
    assert out.shape == (2, 5, 4)
    for k in range(4):
        other = ids.clone()
        other[:, k] = (ids[:, k] + 1) % 4
        change = (net(other, prefix, **given) - out).abs().amax((0, 2))
        assert (change[: k + 1] < 1e-5).all()
        assert (change[k + 1 :] > 1e-4).all()
        assert torch.allclose(net(ids[:, :k], prefix, **given), out[:, : k + 1], atol=1e-5)
    assert ((net(ids, prefix.flip(0), **given) - out).abs().amax((0, 2)) > 1e-4).all()


def test_ids_one_by_one_have_the_logits_of_all_at_once() -> None:
    torch.manual_seed(0)
    net = shaken(BucketTransformer(5, 4, (3, 2), 16, 2, 2, context=16, sentence=8, length=4))
    ids, prefix, given = torch.randint(0, 4, (2, 4)), torch.tensor([[0, 1], [2, 0]]), sequence()
    out = net(ids, prefix, **given)
    found, past = net.begin(prefix, **given)
    assert torch.allclose(found, out[:, 0], atol=1e-5)
    for k in range(4):
        found, past = net.follow(ids[:, k], past)
        assert past.known == k + 1
        assert torch.allclose(found, out[:, k + 1], atol=1e-5)
    # Without a text, and without a prefix.
    plain = shaken(BucketTransformer(3, 4, (), 16, 1, 2))
    found, past = plain.begin(torch.zeros(2, 0, dtype=torch.int64))
    assert torch.allclose(found, plain(ids[:, :0])[:, 0], atol=1e-5)
    assert torch.allclose(plain.follow(ids[:, 0], past)[0], plain(ids[:, :1])[:, 1], atol=1e-5)
    with pytest.raises(InputError, match=r"takes a prefix \(B, 2\)"):
        net.begin(prefix[:, :1], **given)


def test_an_autoregressive_prior_is_of_buckets_and_texts() -> None:
    net = prior().net.net
    with pytest.raises(InputError, match="Prompted BucketTransformer, not a BucketTransformer"):
        AutoregressivePrior(net, prior().buckets, encoders={})


# Buckets.


def test_buckets_are_equally_full_along_axes_in_the_order_of_variance() -> None:
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    z = (torch.randn(4000, 6) * torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5, 0.1])) @ turn + 1
    buckets = Buckets(6, 4, 16).fit(z, z)
    ids = buckets.encode(z)
    for k in range(4):
        counts = torch.bincount(ids[:, k], minlength=16)
        assert counts.min() >= 245
        assert counts.max() <= 255
    spread = ((z - buckets.mean) @ buckets.axes.T).std(0)
    assert torch.allclose(spread, torch.tensor([3.0, 2.0, 1.5, 1.0]), rtol=0.05)
    assert torch.allclose(buckets.axes @ buckets.axes.T, torch.eye(4), atol=1e-5)


def test_a_bucket_stands_for_the_mean_of_what_is_in_it() -> None:
    torch.manual_seed(0)
    z = torch.randn(3000, 3)
    buckets = Buckets(3, 3, 8).fit(z, z)
    ids, h = buckets.encode(z), (z - buckets.mean) @ buckets.axes.T
    for k in range(3):
        for b in range(8):
            assert buckets.centres[k, b] == pytest.approx(
                float(h[ids[:, k] == b, k].mean()), abs=1e-4
            )
    # The error is what varies within buckets: half of it with twice as many, in one dimension a quarter of the square.
    errors = []
    for number in (8, 16, 32):
        again = Buckets(3, 3, number).fit(z, z)
        errors.append(float((again.decode(again.encode(z)) - z).square().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_too_few_vectors_and_senseless_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="cannot fill 64 buckets"):
        Buckets(4, 2).fit(torch.randn(20, 4), torch.randn(20, 4))
    with pytest.raises(InputError, match="dims is 5 of 4"):
        Buckets(4, 5)


# Draws.


def test_nucleus_keeps_the_fewest_ids_that_reach_the_probability() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]]).log()
    kept = lambda p: nucleus(logits, p).isfinite().sum(1).tolist()  # noqa: E731
    assert kept(0.45) == [1, 1]
    assert kept(0.65) == [2, 1]
    assert kept(0.75) == [3, 2]
    assert kept(1.0) == [4, 4]
    assert nucleus(logits, 0.65)[0, 0] == logits[0, 0]


def test_ids_are_drawn_by_inversion() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(1000, 4)
    u = (torch.arange(1000) + 0.5) / 1000
    assert torch.bincount(drawn(logits, u.double()), minlength=4).tolist() == [200, 0, 500, 300]


def joint(
    model: AutoregressivePrior, line: str, guidance: float = 1.0
) -> dict[tuple[int, ...], float]:
    """The law of all ids of a text, by their product, a mean over the upper half of prefixes."""
    found = dict.fromkeys(product(range(3), repeat=2), 0.0)
    cond = model.encoders["prompt"]([line])
    none = {
        "text": {
            "tokens": Tokens(torch.zeros(1, 1, 16), torch.zeros(1, 1) > 0),
            "pooled": torch.zeros(1, 8),
        }
    }
    for prefix in (2, 3):
        for ids in found:
            one = 1.0
            for k in range(2):
                before = torch.tensor([ids[:k]], dtype=torch.int64).reshape(1, k)
                with torch.no_grad():
                    asked = model(before, torch.tensor([[prefix]]), **cond)[0, -1]
                    free = model(before, torch.tensor([[prefix]]), **none)[0, -1]
                one *= float((free + guidance * (asked - free)).softmax(0)[ids[k]])
            found[ids] += one / 2
    return found


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_draws_have_the_law_of_the_product_over_dimensions(guidance: float) -> None:
    model, n = prior(), 4000
    law = joint(model, LINES[0], guidance)
    assert sum(law.values()) == pytest.approx(1)
    ids = model.buckets.encode(model.vectors([LINES[0]] * n, seed=3, guidance=guidance))
    square = 0.0
    for key, p in law.items():
        count = int((ids == torch.tensor(key)).all(1).sum())
        square += (count - n * p) ** 2 / (n * p)
    # Of 9 cells, 8 degrees of freedom: beyond 26.1 with a probability of 0.001.
    assert square < 26.1
    other = joint(model, LINES[1], guidance)
    assert sum(n * (law[key] - other[key]) ** 2 / law[key] for key in law) > 100


def test_a_draw_depends_on_its_seed_and_number_alone() -> None:
    model = prior()
    whole = model.vectors(LINES * 3, seed=5)
    assert torch.allclose(model.vectors(LINES, seed=5, start=3), whole[3:6], atol=1e-6)
    assert not torch.allclose(model.vectors(LINES * 3, seed=6), whole)
    cold = model.vectors(["a square"] * 50, temperature=1e-4)
    assert len(torch.unique(cold, dim=0)) <= 2  # one for each prefix
    sharp = model.vectors(["a square"] * 50, top_p=1e-6)
    assert torch.equal(sharp, cold)
    with pytest.raises(InputError, match="temperature is 0"):
        model.vectors(LINES, temperature=0)


# Objectives.


def test_the_loss_is_the_negative_log_likelihood() -> None:
    model = prior()
    torch.manual_seed(4)
    x = model.buckets.decode(torch.tensor([[0, 1], [2, 2], [1, 0]]))
    cond = model.encoders["prompt"](LINES)
    loss = NextBucket(model, condition_dropout=0.0)(Batch(x, cond), Noise.batch(3))["loss"]
    ids, prefix = model.buckets.encode(x), model.buckets.match(x, cond["text"]["pooled"])
    for i in range(3):
        alone = pf.core.conditions.take(cond, slice(i, i + 1))
        want = 0.0
        for k in range(2):
            logits = model(ids[i : i + 1, :k], prefix[i : i + 1], **alone)[0, -1]
            want -= float(logits.detach().log_softmax(0)[ids[i, k]]) / 2
        assert loss[i].item() == pytest.approx(want, rel=1e-4)
    dropped = NextBucket(model, condition_dropout=1.0)(Batch(x, cond), Noise.batch(3))["loss"]
    other = model.encoders["prompt"](LINES[::-1])
    other["text"]["pooled"] = cond["text"]["pooled"]  # of which the prefix is made
    again = NextBucket(model, condition_dropout=1.0)(Batch(x, other), Noise.batch(3))["loss"]
    assert torch.allclose(dropped, again, atol=1e-5)
    assert not torch.allclose(dropped, loss, atol=1e-2)


def test_a_prior_learns_a_law_that_depends_on_the_text() -> None:
    model = prior(2, 3)
    objective = NextBucket(model)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    n = 128
    lines = [LINES[i % 2] for i in range(n)]
    cond = model.encoders["prompt"](lines)
    goal = torch.tensor([[0, 2], [2, 0]])[torch.arange(n) % 2]
    x = model.buckets.decode(goal)
    for step in range(60):
        loss = objective(Batch(x, cond), Noise.batch(n, step=step))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.buckets.encode(model.vectors(lines, seed=1))
    assert (found == goal).all(1).float().mean() > 0.8


# As parts.


def test_priors_are_saved_and_loaded_with_the_clip_that_reads_their_texts(tmp_path: Path) -> None:
    model = prior()
    pf.save(model, tmp_path / "buckets")
    again = pf.load(tmp_path / "buckets")
    assert torch.equal(again.vectors(LINES, seed=1), model.vectors(LINES, seed=1))
    texts = model.encoders["prompt"]
    torch.manual_seed(0)
    net = shaken(PriorTransformer(8, 16, 1, 2, context=16, sentence=8, length=8))
    asked = Prompted(net, {"text": TextFeatures(16, **texts.features)})
    flow = pf.Model(asked, pf.CondOT(), "data", shape=(8,), encoders={"prompt": texts})
    pf.save(flow, tmp_path / "flow")
    loaded = pf.load(tmp_path / "flow")

    def vectors(prior: pf.Model, **more: float) -> Tensor:
        return pf.generate(prior, prompt=LINES, nfe=3, **more)

    assert torch.equal(vectors(loaded, guidance=2.0), vectors(flow, guidance=2.0))
    assert not torch.allclose(vectors(flow, guidance=2.0), vectors(flow), atol=1e-3)


def test_the_digest_of_texts_is_that_of_all_they_depend_on() -> None:
    one, two = clip(), clip()
    assert CLIPTexts(one).digest == CLIPTexts(two).digest
    with torch.no_grad():
        two.net.text.text_model.final_layer_norm.bias.add_(1e-3)
    assert CLIPTexts(one).digest != CLIPTexts(two).digest
    words = Words(one.encoders["caption"].vocabulary[::-1], 8, end=True)
    other = CLIPModel(one.net, encoders={"caption": words}, shape=(3, 8, 8))
    assert CLIPTexts(one).digest != CLIPTexts(other).digest
