"""Captions by a small captioner: as by enumeration, the same in a batch as alone, and made of words."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.core.conditions import Tokens
from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.noise import Noise
from pushforward.core.spec import DataSpec
from pushforward.models.captioner import CaptionModel
from pushforward.models.text import Words
from pushforward.nets import CoCa
from pushforward.sampling.captions import captions, decode
from pushforward.sampling.decoding import Beam, Greedy, Sampled
from pushforward.saving.folder import load_captioner, load_clip

WORDS = Words(("red", "circle", ","), length=4, end=True)
END = WORDS.size - 1


def model(seed: int = 0) -> CaptionModel:
    torch.manual_seed(seed)
    image = {"size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2}
    net = CoCa(image, {"vocabulary": WORDS.size, "width": 16, "heads": 2, "length": 4}, 3, 8).double()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return CaptionModel(net, encoders={"caption": WORDS}, shape=(3, 8, 8))


def pictures(count: int = 5) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64)


def ln_p(captioner: CaptionModel, x: Tensor, line: tuple[int, ...]) -> float:
    """By one pass over the whole text, without anything kept: among the ids that may come at each place."""
    text = Tokens(torch.tensor([line]), torch.ones(1, len(line), dtype=torch.bool))
    logits = captioner.net(x, text)[2][0].detach()
    logits[:, :2] = -torch.inf
    logits[0, END] = -torch.inf
    return float(logits.log_softmax(1)[range(len(line)), list(line)].sum())


def test_a_wide_beam_finds_the_best_of_all_captions() -> None:
    captioner, x = model(), pictures()
    found = decode(captioner, x, Beam(200, 1.0))
    lines = [(*words, END) for n in (1, 2, 3) for words in product((2, 3, 4), repeat=n)]
    for row in range(len(x)):
        every = {line: ln_p(captioner, x[row : row + 1], line) for line in lines}
        best = max(every, key=lambda s: every[s] / len(s))
        ids = found.tokens.values[row][found.tokens.mask[row]]
        assert tuple(ids.tolist()) == best
        assert found.log_prob[row].item() == pytest.approx(every[best], abs=1e-10)
    assert sum(map(float, map(torch.exp, map(torch.tensor, every.values())))) < 1


@pytest.mark.parametrize("decoder", [Greedy(), Beam(3), Sampled(1.3, 0.9)])
def test_a_picture_has_alone_the_caption_that_it_has_in_a_batch(decoder: object) -> None:
    captioner, x = model(), pictures(7)
    together = captions(captioner, x, decoder, seed=3, start=10)
    parts = captions(captioner, x, decoder, seed=3, start=10, batch_size=2)
    alone = [captions(captioner, x[i : i + 1], decoder, seed=3, start=10 + i)[0] for i in range(7)]
    assert together == parts == alone


def test_random_captions_follow_their_ids_and_their_seed() -> None:
    captioner, x = model(), pictures(1).expand(40, -1, -1, -1)
    found = captions(captioner, x, Sampled(), seed=1)
    assert len(set(found)) > 5
    assert captions(captioner, x, Sampled(), seed=2) != found
    assert captions(captioner, x[:10], Sampled(), seed=1, start=30) == found[30:]


def test_captions_are_words_at_least_one_and_their_ids_are_those_that_were_drawn() -> None:
    captioner, x = model(), pictures(1).expand(60, -1, -1, -1)
    tokens = decode(captioner, x, Sampled(3.0), Noise.batch(60)).tokens
    assert int(tokens.values[tokens.mask].min()) > 1
    for row in range(60):
        ids = tokens.values[row][tokens.mask[row]].tolist()
        line = WORDS.text(tokens.values[row].tolist())
        assert line
        assert WORDS([line])["words"].values[0].tolist() == ids


def test_texts_of_ids_are_written_as_people_do() -> None:
    words = Words(("a", "red", "circle", ",", "(", ")", "it's"), end=True)
    for line in ("a red circle, a circle", "it's a (red) circle", ", ,", "a"):
        ids = words([line])["words"].values[0].tolist()
        written = words.text([*ids, 0, 0])
        assert words([written])["words"].values[0].tolist() == ids
        assert line == ", ," or written == line
    assert words.text([1, 2, 0, 3]) == "a red"


def test_pictures_of_another_shape_and_encoders_without_an_end_are_refused() -> None:
    captioner = model()
    with pytest.raises(InputError, match=r"sees pictures \(B, 3, 8, 8\), got \(1, 3, 9, 9\)"):
        captions(captioner, torch.zeros(1, 3, 9, 9))
    with pytest.raises(InputError, match="with an end"):
        CaptionModel(captioner.net, encoders={"caption": Words(("a",))})
    with pytest.raises(InputError, match="knows 6 ids"):
        CaptionModel(captioner.net, encoders={"caption": Words(("a",), end=True, length=4)})


def test_pictures_are_brought_to_the_range_of_the_data() -> None:
    captioner, x = model(), torch.tensor([-1.0, 0.0, 1.0])
    assert captioner.scaled(x) is x
    captioner.spec = DataSpec((3, 8, 8), value_range=(0.0, 4.0))
    assert captioner.scaled(x).tolist() == [0, 2, 4]


def test_a_saved_captioner_writes_the_same_and_is_no_other_model(tmp_path: Path) -> None:
    captioner, x = model(), pictures()
    pf.save(captioner, tmp_path)
    again = load_captioner(tmp_path)
    assert torch.equal(decode(again, x).tokens.values, decode(captioner, x).tokens.values)
    lines = ["red circle", "circle, red"]
    assert torch.allclose(again.texts(lines), captioner.texts(lines), atol=1e-14)
    assert torch.allclose(again.images(x), captioner.images(x), atol=1e-14)
    with pytest.raises(CheckpointError, match="holds a captioner, which draws nothing"):
        pf.load(tmp_path)
    with pytest.raises(CheckpointError, match="holds a CaptionModel, and no CLIP"):
        load_clip(tmp_path)
