"""The whole chain of an unCLIP: one seed, one artefact, parts of one CLIP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tinysystem import DIM, LINES, bucket_prior, clip, decoder, diffusion_prior, system, upsampler

import pushforward as pf
from pushforward.core.errors import InputError
from pushforward.models.pictures import CLIPPictures, fitted
from pushforward.models.prior import CLIPTexts
from pushforward.nets import MMDiT, UNet, UViT
from pushforward.solvers import DDIM
from pushforward.systems.unclip import UnCLIP


@pytest.mark.parametrize("buckets", [False, True])
def test_one_seed_draws_the_chain_whatever_the_batch(buckets: bool) -> None:
    whole = system(buckets=buckets)
    lines = [LINES[i % 3] for i in range(7)]
    x = whole.draw(lines, seed=5, nfe=3, guidance=2.0)
    assert x.shape == (7, 3, 8, 8)
    parts = whole.draw(lines, seed=5, nfe=3, guidance=2.0, batch_size=3)
    assert torch.allclose(x, parts, atol=1e-4)
    alone = whole.draw(lines[4:6], seed=5, start=4, nfe=3, guidance=2.0)
    assert torch.allclose(alone, x[4:6], atol=1e-4)
    assert not torch.allclose(whole.draw(lines, seed=6, nfe=3, guidance=2.0), x, atol=1e-2)


def test_the_chain_is_prior_decoder_and_cascade_one_after_the_other() -> None:
    whole = system()
    z = whole.vectors(LINES, seed=2)
    # On the sphere on which the vectors of pictures lie.
    assert torch.allclose(z.norm(dim=1), torch.full((3,), DIM**0.5), atol=1e-5)
    assert torch.allclose(whole.decode(z, LINES, seed=2, nfe=3), whole.draw(LINES, seed=2, nfe=3))
    small = UnCLIP(whole.clip, whole.prior, whole.decoder)
    low = small.draw(LINES, seed=2, nfe=3)
    own = pf.generate(
        whole.decoder, 3, embedding=z, prompt=LINES, nfe=3, seed=pf.Noise.chained(2, 1)
    )
    assert torch.allclose(low, own)
    stage = whole.stages[0]
    seed = pf.Noise.chained(pf.Noise.chained(2, 2), 0)
    want = stage.upsample(low, seed=seed, nfe=3)
    assert torch.allclose(whole.draw(LINES, seed=2, nfe=3), want)
    other = whole.draw(LINES, seed=2, nfe=3, augment_level=0.45)
    assert torch.allclose(other, stage.upsample(low, level=0.45, seed=seed, nfe=3))
    assert not torch.allclose(other, want, atol=1e-3)


@pytest.mark.parametrize(
    "net",
    [
        lambda: UNet(3, 8, (1, 1), attention=(0,), context=8, features={"sentence": 8 + DIM}),
        lambda: UViT(3, (8,), 1, 8, 16, 1, 2, context=8, features={"sentence": 8 + DIM}),
        lambda: MMDiT(3, 2, 16, 1, 2, text=8, pooled=8 + DIM),
    ],
    ids=["unet", "uvit", "mmdit"],
)
def test_a_decoder_sees_the_vector_by_its_tokens_and_with_the_time(net) -> None:
    torch.manual_seed(0)
    model = decoder(clip(), net())
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([0.3, 0.6])
    z, text = torch.randn(2, DIM), model.encoders["prompt"](LINES[:2])
    full = model(x, t, embedding=z, **text)
    none = model(x, t, **text)
    # A vector of zeros is none.
    assert torch.allclose(model(x, t, embedding=torch.zeros(2, DIM), **text), none, atol=1e-6)
    part = model.net.texts["embedding"]
    weight, bias = part.project.weight.clone(), part.project.bias.clone()
    with torch.no_grad():
        part.project.weight.zero_()
        part.project.bias.zero_()
    by_time = model(x, t, embedding=z, **text)
    with torch.no_grad():
        part.project.weight.copy_(weight)
        part.project.bias.copy_(bias)
    pooled = part.pooled
    part.forward = lambda z: (type(part).forward(part, z)[0], torch.zeros(len(z), pooled))
    by_tokens = model(x, t, embedding=z, **text)
    for a, b in (
        (full, none),
        (by_time, none),
        (by_tokens, none),
        (full, by_time),
        (full, by_tokens),
    ):
        assert (a - b).abs().max() > 1e-4


def test_guidance_moves_away_from_neither_vector_nor_text() -> None:
    model = decoder(clip())
    x, t, w = torch.randn(2, 3, 4, 4), torch.tensor([0.3, 0.6]), 2.5
    z, text = torch.randn(2, DIM), model.encoders["prompt"](LINES[:2])
    found = pf.guidance.ClassifierFree(model, w)(x, t, embedding=z, **text)
    free, given = model(x, t), model(x, t, embedding=z, **text)
    assert torch.allclose(found, (1 - w) * free + w * given, atol=1e-5)


def test_vector_and_text_are_dropped_each_on_its_own() -> None:
    from pushforward.objectives.matching import drop_some
    from pushforward.recipes.decoder import DecoderMatching
    from pushforward.recipes.objectives import Parts

    model, n = decoder(clip()), 4000
    parts = Parts(None, None, None, 1, model.nulls, None, None, None)  # type: ignore[arg-type]
    shares = DecoderMatching().dropped(parts)
    assert shares == {"words": 0.5, "embedding": 0.1}
    cond = model.encoders["prompt"](["a square"] * n) | {"embedding": torch.ones(n, DIM)}
    dropped, free = drop_some(cond, model.nulls, shares, pf.Noise.batch(n, 3))
    text = ~dropped["words"].mask.any(1)
    vector = (dropped["embedding"] == 0).all(1)
    assert torch.equal(free, text & vector)
    for found, p in ((text, 0.5), (vector, 0.1), (text & vector, 0.05)):
        assert abs(float(found.double().mean()) - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_one_artefact_holds_the_chain_and_its_clip_once(tmp_path: Path) -> None:
    for name, buckets in (("flow", False), ("buckets", True)):
        whole = system(buckets=buckets)
        whole.sampling = replace(whole.sampling, prompt_guidance=1.7)
        pf.save(whole, tmp_path / name)
        again = pf.load(tmp_path / name)
        assert isinstance(again, UnCLIP)
        x = again.draw(LINES, seed=3, nfe=3)
        assert torch.equal(x, whole.draw(LINES, seed=3, nfe=3))
        assert not torch.allclose(x, whole.draw(LINES, seed=3, nfe=3, guidance=1.0), atol=1e-4)
        parts = json.loads((tmp_path / name / "model.json").read_text())["parts"]
        assert sum(entry["class"] == "CLIPModel" for entry in parts.values()) == 1
        assert again.stages[0].level == 0.2
        assert again.provenance.sha256


def test_parts_of_another_clip_are_refused_and_equal_ones_taken() -> None:
    ours, theirs = clip(0), clip(1)
    for prior, drawer in (
        (diffusion_prior(theirs), decoder(ours)),
        (diffusion_prior(ours), decoder(theirs)),
    ):
        with pytest.raises(
            InputError, match=r"trained with another CLIP, of SHA-256 [0-9a-f]{16}, and"
        ):
            UnCLIP(ours, prior, drawer)
    twin = clip(0)
    whole = UnCLIP(ours, bucket_prior(twin), decoder(clip(0)), [upsampler()])
    assert whole.prior.encoders["prompt"].clip is ours
    assert whole.decoder.encoders["image"].clip is ours
    with torch.no_grad():
        twin.net.image.vision_model.post_layernorm.bias.add_(1e-4)
    with pytest.raises(InputError, match="the prior was trained with another CLIP"):
        UnCLIP(ours, bucket_prior(twin), decoder(ours))


def test_what_is_no_chain_is_refused() -> None:
    of = clip()
    with pytest.raises(InputError, match="sides grow by whole factors"):
        UnCLIP(of, diffusion_prior(of), decoder(of), [upsampler(8), upsampler(8)])
    plain = pf.Model(UNet(3, 8, (1, 1)), pf.CondOT(), shape=(3, 4, 4))
    with pytest.raises(InputError, match="has an encoder of pictures by the CLIP"):
        UnCLIP(of, diffusion_prior(of), plain)
    whole = system()
    for wrong in ([], "a square", [1]):
        with pytest.raises(InputError, match="prompts are a list of texts"):
            whole.draw(wrong)
    with pytest.raises(InputError, match=r"level is 2\.0"):
        whole.draw(LINES, augment_level=2.0)


def test_pictures_become_vectors_of_their_clip_at_any_size() -> None:
    of = clip()
    pictures = CLIPPictures(of)
    torch.manual_seed(0)
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    z = pictures.vectors(x)
    blocks = x.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
    assert torch.allclose(z, DIM**0.5 * of.images(blocks), atol=1e-5)
    assert torch.allclose(pictures([*x])["embedding"], z)
    # The same length as of texts, so that both are compared by their product.
    assert torch.allclose(
        z.norm(dim=1), CLIPTexts(of)(LINES)["text"]["pooled"].norm(dim=1), atol=1e-4
    )
    for size in (8, 12, 24):
        assert fitted(torch.full((1, 3, size, size), 0.3), 8).sub(0.3).abs().max() < 1e-6
    for wrong, said in (
        (torch.zeros(0, 3, 8, 8), r"at least one pixel, got \(0,"),
        (torch.zeros(1, 3, 0, 8), "at least one pixel"),
        (torch.zeros(1, 1, 8, 8), "pictures of 3 channels"),
        (torch.full((1, 3, 8, 8), float("nan")), "not finite"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "not torch.uint8"),
        (torch.zeros(3, 8, 8), r"not torch.float32 \(3, 8, 8\)"),
    ):
        with pytest.raises(InputError, match=said):
            pictures.vectors(wrong)


def test_inversion_of_the_chain_and_its_way_back_are_the_identity() -> None:
    whole = system().double()
    torch.manual_seed(4)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 2 - 1
    z = whole.pictures.vectors(x).double()
    options = {"nfe": 8, "seed": 3, "start": 1}
    for lines in (None, LINES[:2]):
        noises = whole.invert(x, z, lines, **options)
        assert [n.shape[-1] for n in noises] == [4, 8]
        back = whole.decode(z, lines, sources=noises, solver=DDIM(), guidance=1.0, **options)
        assert torch.allclose(back, x, atol=1e-6)
    other = whole.decode(z.flip(0), None, sources=noises, solver=DDIM(), guidance=1.0, **options)
    assert not torch.allclose(other, x, atol=1e-2)
