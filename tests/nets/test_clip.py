"""The towers of CLIP: those of transformers, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets import CLIP, CLIPImage, CLIPText
from pushforward.nets.clip_layout import (
    clip_config,
    clip_state,
    from_clip_config,
    from_clip_state,
    text_config,
)

transformers = pytest.importorskip("transformers")

END = 96


def tower(width: int, depth: int, heads: int, hidden: int, **more: object) -> dict:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    return sizes | {"intermediate_size": hidden} | more


LAYOUTS = {
    "square": {
        "text": tower(32, 2, 4, 64),
        "image": tower(48, 3, 3, 100, image_size=32, patch_size=8),
        "dim": 24,
    },
    "gelu": {
        "text": tower(24, 1, 2, 96, hidden_act="gelu"),
        "image": tower(
            32, 1, 8, 32, image_size=20, patch_size=5, hidden_act="gelu", layer_norm_eps=1e-3
        ),
        "dim": 40,
    },
    "grey": {
        "text": tower(16, 4, 1, 20, layer_norm_eps=1e-4),
        "image": tower(16, 2, 2, 64, image_size=16, patch_size=16, num_channels=1),
        "dim": 16,
    },
}


def theirs(layout: str, end: int = END):
    given = LAYOUTS[layout]
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": 99, "max_position_embeddings": 12, "eos_token_id": end, "bos_token_id": 1,
            "projection_dim": given["dim"], **given["text"],
        },
        vision_config={"projection_dim": given["dim"], **given["image"]},
        projection_dim=given["dim"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))  # so that nothing is nearly linear
    return model


def texts(end: int = END) -> Tokens:
    torch.manual_seed(1)
    ids = torch.randint(3, end, (5, 11))
    mask = torch.arange(11) < torch.tensor([11, 4, 1, 7, 9])[:, None]
    ids[torch.arange(5), mask.sum(1) - 1] = end
    ids[3, 2] = end  # read at the first of two ends
    return Tokens(torch.where(mask, ids, 0), mask)


def close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).norm() / b.norm()) < 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", [END, 2])
@torch.no_grad()
def test_outputs_are_those_of_transformers_both_ways(layout: str, end: int) -> None:
    peer = theirs(layout, end)
    net = CLIP(**from_clip_config(peer.config.to_dict())).eval()
    net.load_state_dict(from_clip_state(peer.state_dict()))
    text = texts()
    if end == 2:  # read at the largest id
        text = Tokens(text.values.clone(), text.mask)
        text.values[3, 2] = 5
    channels, size = net.image.channels, net.image.size
    x = torch.randn(5, channels, size, size)
    want = peer(input_ids=text.values, attention_mask=text.mask.long(), pixel_values=x)
    u, v = net(x, text)
    assert close(u, want.image_embeds)
    assert close(v, want.text_embeds)
    assert close(net.scale * u @ v.T, want.logits_per_image)
    states, _ = net.text(text)
    assert close(states.values[text.mask], want.text_model_output.last_hidden_state[text.mask])
    assert close(net.image(x)[0], want.vision_model_output.last_hidden_state)

    again = transformers.CLIPModel(transformers.CLIPConfig(**clip_config(net))).eval()
    again.load_state_dict(clip_state(net.state_dict()))
    back = again(input_ids=text.values, attention_mask=text.mask.long(), pixel_values=x)
    assert close(back.image_embeds, want.image_embeds)
    assert close(back.text_embeds, want.text_embeds)
    assert close(back.logits_per_image, want.logits_per_image)


@torch.no_grad()
def test_padding_and_what_is_behind_the_end_change_nothing() -> None:
    torch.manual_seed(0)
    net = CLIPText(20, 16, 2, 2, length=9, projection=8, end=19).double()
    ids = torch.tensor([[4, 5, 19]])
    alone = net(ids)
    wide = Tokens(
        torch.tensor([[4, 5, 19, 0, 0], [7, 3, 2, 6, 19]]),
        torch.tensor([[1, 1, 1, 0, 0], [1] * 5]) > 0,
    )
    states, pooled = net(wide)
    assert torch.allclose(pooled[:1], alone[1], atol=1e-12)
    assert torch.allclose(states.values[:1, :3], alone[0].values, atol=1e-12)
    assert (states.values[0, 3:] == 0).all()
    other = net(torch.tensor([[4, 5, 19, 8, 11]]))[1]
    assert torch.allclose(other, alone[1], atol=1e-12)
    assert not torch.allclose(net(torch.tensor([[4, 6, 19]]))[1], alone[1], atol=1e-3)


def test_a_text_without_an_end_is_refused() -> None:
    net = CLIPText(20, 16, 1, 2, length=9, end=19)
    with pytest.raises(InputError, match="text 1 has no end, id 19"):
        net(torch.tensor([[4, 19], [4, 5]]))
    # An end in the padding is none.
    hidden = Tokens(torch.tensor([[4, 19]]), torch.tensor([[True, False]]))
    with pytest.raises(InputError, match="text 0 has no end"):
        net(hidden)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLIPText(20, 15, 1, 2), "heads share the width"),
        (lambda: CLIPText(20, 16, 0, 2), "must be positive"),
        (lambda: CLIPText(20, 16, 1, 2, end=20), "end is 20, and the ids are below 20"),
        (lambda: CLIPText(20, 16, 1, 2, activation="relu"), "activation is one of quick_gelu, gelu"),
        (lambda: CLIPImage(3, 30, 8, 16, 1, 2), "cannot be cut into patches of 8"),
        (lambda: CLIPText(20, 16, 1, 2, length=4)(torch.zeros(1, 5).long()), "L <= 4"),
        (lambda: CLIPText(20, 16, 1, 2, length=4)(torch.full((1, 2), 20)), "ids of texts are from 0 to 19"),
        (lambda: CLIPImage(3, 16, 8, 16, 1, 2)(torch.zeros(1, 3, 16, 8)), r"takes pictures \(B, 3, 16, 16\)"),
        (lambda: text_config(CLIPText(20, 16, 1, 2, end=2)), "give the end another id"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_recomputing_activations_changes_no_gradient() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = CLIP(
            {"vocabulary": 20, "width": 16, "depth": 2, "heads": 2, "length": 5, "end": 19},
            {"size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2},
            dim=8,
        ).double()
        net.text.checkpointing = net.image.checkpointing = checkpointing
        u, v = net(torch.randn(3, 3, 8, 8).double(), torch.tensor([[3, 19], [4, 19], [5, 19]]))
        (net.scale * (u * v).sum()).backward()
        return [p.grad for p in net.parameters()]

    for a, b in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
        assert a.abs().sum() > 0


def test_the_scale_is_at_most_a_hundred() -> None:
    net = CLIP(
        {"vocabulary": 9, "width": 8, "depth": 1, "heads": 1, "length": 3, "end": 8},
        {"size": 4, "patch": 4, "width": 8, "depth": 1, "heads": 1},
        dim=4,
    )
    assert net.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        net.logit_scale.fill_(math.log(200))
    assert net.scale.item() == pytest.approx(100)
