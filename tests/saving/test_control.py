"""Controls in small folders: their base by its SHA-256, and no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.nets import MLP, Branch, Controlled, Prompted, UNet, UViT, WordTransformer
from pushforward.runtime.hashes import digest
from pushforward.saving.control import network_of, strengthened


def shaken(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def base_model(seed: int = 0, **options) -> pf.Model:
    torch.manual_seed(seed)
    net = shaken(UNet(1, 8, classes=3, **options))
    return pf.Model(net, pf.CondOT(), shape=(1, 6, 6), classes=3)


def control_of(model: pf.Model, name: str, seed: int, hint: int = 1) -> pf.Control:
    net = network_of(model)
    torch.manual_seed(seed)
    return pf.Control(name, shaken(Branch.of(net, hint, 4)), digest(net.state_dict()))


def asked(model, control=None):
    x, t = pf.Noise.batch(3, 1).normal((1, 6, 6)), torch.tensor([0.2, 0.5, 0.8])
    with torch.no_grad():
        return model.eval()(x, t, label=torch.tensor([0, 2, -1]), control=control)


def hints(*names):
    return {name: pf.Noise.batch(3, 7 + k).normal((1, 6, 6)) for k, name in enumerate(names)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A base, and two controls of it."""
    root = tmp_path_factory.mktemp("controls")
    pf.save(base_model(), root / "base")
    base = pf.load(root / "base")
    for k, name in enumerate(("edges", "order")):
        model = pf.controlled(base, [control_of(base, name, k + 1)])
        pf.save_control(model, root / name, "../base")
    return root


def test_a_control_is_a_small_folder_that_finds_its_base(folders):
    base, found = pf.load(folders / "base"), pf.load(folders / "edges")
    names = {path.name for path in (folders / "edges").iterdir()}
    assert names == {"model.json", "model.safetensors"}
    there = json.loads((folders / "edges" / "model.json").read_text())["parts"]
    assert there["net.net"] == {"reference": "../base", "digest": digest(base.net.state_dict())}
    want = asked(pf.controlled(base, [control_of(base, "edges", 1)]), hints("edges"))
    assert torch.equal(asked(found, hints("edges")), want)
    assert not torch.equal(want, asked(base))
    assert torch.equal(asked(strengthened(found, {"edges": 0.0})), asked(base))
    assert found.provenance.started_from == base.provenance.sha256
    assert found.provenance.sha256 not in (None, base.provenance.sha256)
    assert strengthened(found, {"edges": 0.5}).provenance == found.provenance
    assert (found.spec, found.nulls, found.path) == (base.spec, base.nulls, base.path)


def test_controls_are_put_on_their_base_together(folders):
    base = pf.load(folders / "base")
    edges, order = (pf.load_control(folders / name) for name in ("edges", "order"))
    both = pf.controlled(base, [edges, (order, 0.5)])
    later = pf.controlled(pf.load(folders / "edges"), [(order, 0.5)])
    want = asked(both, hints("edges", "order"))
    assert torch.equal(asked(later, hints("edges", "order")), want)
    halved = strengthened(both, {"order": 0.0})
    assert torch.equal(
        asked(halved, hints("edges")), asked(pf.load(folders / "edges"), hints("edges"))
    )
    # Both again from a folder of their own.
    pf.save_control(both, folders / "both", "../base")
    assert torch.equal(asked(pf.load(folders / "both"), hints("edges", "order")), want)
    with pytest.raises(pf.CheckpointError, match="holds several controls: edges, order"):
        pf.load_control(folders / "both")


def test_another_base_is_refused(folders, tmp_path):
    edges, other = pf.load_control(folders / "edges"), base_model(seed=5)
    with pytest.raises(
        pf.InputError, match="'edges' was trained on another base: on a network of SHA-256"
    ):
        pf.controlled(other, [edges])
    # As soon as one weight of it has changed.
    base = base_model()
    with torch.no_grad():
        base.net.conv_out.bias[0] += 1e-6
    with pytest.raises(pf.InputError, match="another base"):
        pf.controlled(base, [edges])
    # Of folders, one that has gone, another one in its place, and the right one by name.
    shutil.copytree(folders / "edges", tmp_path / "edges")
    with pytest.raises(
        pf.CheckpointError, match=r"net.net is held by reference to '../base': pass it"
    ):
        pf.load(tmp_path / "edges")
    pf.save(other, tmp_path / "base")
    with pytest.raises(pf.CheckpointError, match=r"not the part net.net .* its SHA-256 differs"):
        pf.load(tmp_path / "edges")
    for base in (folders / "base", pf.load(folders / "base"), pf.load(folders / "base").net):
        found = pf.load(tmp_path / "edges", references={"../base": base})
        assert torch.equal(
            asked(found, hints("edges")), asked(pf.load(folders / "edges"), hints("edges"))
        )
    # Without the base there is still the control.
    shutil.rmtree(tmp_path / "base")
    assert pf.load_control(tmp_path / "edges").base == edges.base


def test_a_folder_cannot_be_its_own_base(folders, tmp_path):
    text = (folders / "edges" / "model.json").read_text().replace("../base", ".")
    shutil.copytree(folders / "edges", tmp_path / "edges")
    from pushforward.saving.folder import check_of

    whole = json.loads(text)
    whole["check"] = check_of(whole)
    (tmp_path / "edges" / "model.json").write_text(json.dumps(whole))
    with pytest.raises(pf.CheckpointError, match=r"held by reference to '\.': pass it"):
        pf.load(tmp_path / "edges")


def test_a_control_saved_with_its_base_still_is_one(folders, tmp_path):
    base = pf.load(folders / "base")
    whole = pf.controlled(base, [pf.load_control(folders / "edges")])
    pf.save(whole, tmp_path / "whole")
    assert torch.equal(
        asked(pf.load(tmp_path / "whole"), hints("edges")), asked(whole, hints("edges"))
    )
    found = pf.load_control(tmp_path / "whole")
    assert found.base == digest(base.net.state_dict())
    with pytest.raises(pf.CheckpointError, match="holds no control, but a Model"):
        pf.load_control(folders / "base")


def test_models_of_texts_have_controls_too(tmp_path):
    torch.manual_seed(0)
    words = WordTransformer(10, 8, 1, 2, 6)
    net = Prompted(UViT(1, (8,), 1, 8, 16, 1, 2, context=8), {"words": words})
    pf.save(pf.Model(shaken(net), pf.CondOT(), shape=(1, 6, 6)), tmp_path / "base")
    base = pf.load(tmp_path / "base")
    model = pf.controlled(base, [control_of(base, "edges", 1)])
    assert isinstance(model.net, Prompted)
    assert isinstance(model.net.net, Controlled)
    pf.save_control(model, tmp_path / "edges", str(tmp_path / "base"))
    there = json.loads((tmp_path / "edges" / "model.json").read_text())["parts"]
    assert {p for p, e in there.items() if "reference" in e} == {"net.net.net", "net.texts.words"}
    ids = pf.Tokens(torch.tensor([[2, 3], [4, 0]]), torch.tensor([[True, True], [True, False]]))
    x, t, hint = torch.randn(2, 1, 6, 6), torch.tensor([0.3, 0.6]), torch.rand(2, 1, 6, 6)
    again = pf.load(tmp_path / "edges")
    with torch.no_grad():
        want = model.eval()(x, t, words=ids, control={"edges": hint})
        assert torch.equal(again(x, t, words=ids, control={"edges": hint}), want)
        off = strengthened(again, {"edges": 0.0})(x, t, words=ids)
        assert torch.equal(off, base(x, t, words=ids))


def test_what_controls_cannot_be_put_on_is_said(folders):
    base, edges = pf.load(folders / "base"), pf.load_control(folders / "edges")
    with pytest.raises(pf.InputError, match="two controls 'edges': rename one"):
        pf.controlled(base, [edges, edges])
    assert pf.controlled(base, [edges, replace(edges, name="more")]).net.branches.keys() == {
        "edges",
        "more",
    }
    with pytest.raises(pf.InputError, match="no control 'edge'; did you mean 'edges'"):
        strengthened(pf.load(folders / "edges"), {"edge": 0.5})
    with pytest.raises(pf.InputError, match="a MLP has no stages"):
        pf.controlled(pf.Model(MLP(2, 8, 1), pf.CondOT(), shape=(2,)), [edges])
    with pytest.raises(pf.InputError, match="for a Model, which has one network"):
        pf.controlled(pf.FlowMapModel(pf.Model(UNet(1, 8, two_times=True), pf.CondOT())), [edges])
