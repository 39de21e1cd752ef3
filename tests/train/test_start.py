"""A model that begins with the weights of another: what is taken, by name and by class, and what stays fresh."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.models.text import Words
from pushforward.nets import MLP, DiT, ImageClassifier, Prompted, UNet, WordTransformer
from pushforward.train.start import start_from


def filled(net: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net


def spec(*names: str, shape: tuple[int, ...] = (2,)) -> DataSpec:
    return DataSpec(shape, classes=len(names) or None, class_names=names or None)


def model(net: nn.Module, of: DataSpec, seed: int = 0, **more) -> pf.Model:
    return pf.Model(filled(net, seed), pf.CondOT(), spec=of, **more)


def mlp(*names: str, seed: int = 0, width: int = 8) -> pf.Model:
    return model(MLP(2, width, 1, classes=len(names) or None), spec(*names), seed)


ROWS = "net.conditioning.label.table.weight"


def test_all_weights_of_a_model_of_the_same_classes_are_taken() -> None:
    old, new = mlp("a", "b"), mlp("a", "b", seed=1)
    taken = start_from(new, old)
    assert all(torch.equal(new.state_dict()[name], x) for name, x in old.state_dict().items())
    assert (taken.fresh, taken.unused, taken.fresh_classes) == ((), (), ())
    assert taken.classes == ("a", "b")
    assert taken.by_class == (ROWS.removeprefix("net."),)
    assert len(taken.taken) + 1 == len(old.state_dict())


def test_rows_of_classes_are_matched_by_name_and_those_of_new_classes_stay_fresh() -> None:
    old, new = mlp("cat", "dog", "cow"), mlp("owl", "dog", "cat", "ant", seed=1)
    before = new.state_dict()[ROWS].clone()
    taken = start_from(new, old)
    rows, there = new.state_dict()[ROWS], old.state_dict()[ROWS]
    assert torch.equal(rows[1], there[1])
    assert torch.equal(rows[2], there[0])
    assert torch.equal(rows[4], there[3])  # no class
    for label in (0, 3):
        assert torch.equal(rows[label], before[label])
    assert (taken.classes, taken.fresh_classes) == (("dog", "cat"), ("owl", "ant"))
    assert "1 taken by the names of 2 classes, with fresh rows for owl, ant" in str(taken)
    # The same classes in another order are as many rows, and still go by name.
    other = mlp("dog", "cow", "cat", seed=1)
    start_from(other, old)
    assert torch.equal(other.state_dict()[ROWS], there[[1, 2, 0, 3]])


def test_classes_without_names_are_matched_by_number() -> None:
    old, new = mlp("a", "b", "c"), model(MLP(2, 8, 1, classes=2), DataSpec((2,), classes=2), 1)
    start_from(new, old)
    assert torch.equal(new.state_dict()[ROWS], old.state_dict()[ROWS][[0, 1, 3]])


def test_the_head_of_a_classifier_goes_by_class_too() -> None:
    def classifier(*names: str, seed: int) -> pf.NoisyClassifier:
        net = filled(ImageClassifier(1, len(names), 8, (1,)), seed)
        return pf.NoisyClassifier(net, pf.CondOT(), spec=spec(*names, shape=(1, 4, 4)))

    old, new = classifier("a", "b", "c", seed=0), classifier("c", "x", seed=1)
    before = new.net.conv_out.weight.detach().clone()
    taken = start_from(new, old)
    assert set(taken.by_class) == {"conv_out.weight", "conv_out.bias"}
    assert torch.equal(new.net.conv_out.weight[0], old.net.conv_out.weight[2])
    assert torch.equal(new.net.conv_out.bias[0], old.net.conv_out.bias[2])
    assert torch.equal(new.net.conv_out.weight[1], before[1])


def test_an_unconditional_model_starts_a_conditional_one_and_the_other_way_round() -> None:
    plain, new = mlp(), mlp("a", "b", seed=1)
    before = new.state_dict()[ROWS].clone()
    taken = start_from(new, plain)
    assert taken.fresh == (ROWS.removeprefix("net."),)
    assert torch.equal(new.state_dict()[ROWS], before)
    assert (taken.classes, taken.fresh_classes) == ((), ())
    back = start_from(mlp(seed=2), new)
    assert back.unused == (ROWS.removeprefix("net."),)
    assert "1 not used (conditioning.label.table.weight)" in str(back)


def test_tensors_of_another_shape_stay_fresh_and_are_named() -> None:
    old = model(UNet(1, 8, (1, 2)), spec(shape=(1, 8, 8)))
    new = model(UNet(3, 8, (1, 2)), spec(shape=(3, 16, 16)), 1)
    before = {name: x.clone() for name, x in new.state_dict().items()}
    taken = start_from(new, old)
    assert set(taken.fresh) == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}
    for name, x in new.state_dict().items():
        source = before if name.removeprefix("net.") in taken.fresh else old.state_dict()
        assert torch.equal(x, source[name])
    assert "3 fresh (conv_in.weight, conv_out.weight, conv_out.bias)" in str(taken)


def test_another_size_of_images_takes_all_weights_of_a_transformer() -> None:
    old = model(DiT(1, 2, 16, 2, 2), spec(shape=(1, 8, 8)))
    new = model(DiT(1, 2, 16, 2, 2), spec(shape=(1, 12, 12)), 1)
    assert start_from(new, old).fresh == ()


def test_a_flow_map_starts_from_the_model_that_it_is_to_be_distilled_from() -> None:
    old = mlp("a", "b")
    inner = model(MLP(2, 8, 1, classes=2, two_times=True), spec("a", "b"), 1)
    new = pf.FlowMapModel(inner)
    taken = start_from(new, old)
    assert torch.equal(new.net.conv_in.weight, old.net.conv_in.weight)
    assert all("conditioning.way" in name for name in taken.fresh)
    assert taken.fresh


def test_what_the_weights_meant_otherwise_is_said() -> None:
    old = pf.Model(filled(MLP(2, 8, 1), 0), pf.VP(), "noise")
    taken = start_from(mlp(seed=1), old)
    assert len(taken.notes) == 2
    assert str(taken).endswith("its prediction is velocity, and that of the weights noise")


def test_models_of_several_networks_go_by_their_places() -> None:
    def halves(seed: int) -> pf.HalfBridges:
        nets = filled(MLP(2, 8, 1), seed), filled(MLP(2, 8, 1), seed + 1)
        return pf.HalfBridges(*nets, pf.BrownianBridge(), shape=(2,))

    old, new = halves(0), halves(10)
    taken = start_from(new, old)
    assert "backward_drift.conv_in.weight" in taken.taken
    assert all(torch.equal(new.state_dict()[name], x) for name, x in old.state_dict().items())


class Own(nn.Module):
    """A network of somebody's own, with rows for classes and a constructor that looks at values."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.config = {"classes": classes}
        self.rows = nn.Embedding(classes, 2)
        self.rates = torch.linspace(0, 1, classes).tolist()

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return x + self.rows(label)


def test_a_network_that_cannot_be_sketched_is_matched_by_shape_alone() -> None:
    old, new = model(Own(2), spec("a", "b")), model(Own(2), spec("b", "a"), 1)
    assert start_from(new, old).taken == ("rows.weight",)
    with pytest.raises(pf.InputError, match="no tensor of the Model has the name and the shape"):
        start_from(model(Own(3), spec("a", "b", "c")), old)


def test_a_run_folder_is_read_and_the_model_remembers_where_it_started(tmp_path: Path) -> None:
    old, new = mlp("a", "b"), mlp("b", "a", seed=1)
    sha256 = pf.save(old, tmp_path)
    start_from(new, tmp_path)
    assert new.provenance.started_from == sha256
    assert torch.equal(new.state_dict()[ROWS], old.state_dict()[ROWS][[1, 0, 2]])
    assert new.net.conv_in.weight.requires_grad
    pf.save(new, tmp_path / "new")
    assert pf.load(tmp_path / "new").provenance.started_from == sha256


def test_the_precision_of_the_new_model_stays() -> None:
    old, new = mlp("a"), mlp("a", seed=1).double()
    start_from(new, old)
    assert new.net.conv_in.weight.dtype == torch.float64
    assert torch.equal(new.net.conv_in.weight, old.net.conv_in.weight.double())


def of_words(*vocabulary: str, seed: int) -> pf.Model:
    words = Words(vocabulary, 4)
    net = Prompted(
        DiT(1, 1, 8, 1, 2, context=8), {"words": WordTransformer(words.size, 8, 1, 1, 4)}
    )
    return model(net, DataSpec((1, 2, 2)), seed, encoders={"prompt": words})


def test_rows_of_words_are_matched_by_the_words_and_those_of_new_words_stay_fresh() -> None:
    old = of_words("red", "blue", "cat", seed=0)
    # As many words as before, and more.
    for vocabulary in (("cat", "owl", "red"), ("cat", "owl", "red", "ant", "elk")):
        new = of_words(*vocabulary, seed=1)
        before = new.net.texts["words"].words.weight.detach().clone()
        taken = start_from(new, old)
        rows, there = (m.net.texts["words"].words.weight for m in (new, old))
        assert torch.equal(rows[:2], there[:2])  # padding, and unknown words
        assert torch.equal(rows[2], there[4])
        assert torch.equal(rows[4], there[2])
        assert torch.equal(rows[3], before[3])
        assert torch.equal(rows[5:], before[5:])
        assert taken.words == ("cat", "red")
        assert taken.fresh_words == tuple(sorted(set(vocabulary) - {"cat", "red"}))
        assert taken.by_word == ("texts.words.words.weight",)
        assert not taken.fresh
        assert "1 taken by 2 words, with fresh rows for" in str(taken)
