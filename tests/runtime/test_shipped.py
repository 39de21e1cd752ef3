"""Models that come with the library are used by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.core.errors import CheckpointError, InputError
from pushforward.data.scenes import prompts, read_all
from pushforward.evaluate.prompts import pictures
from pushforward.nets import MLP
from pushforward.runtime import shipped


def small(seed: int = 0) -> pf.Model:
    torch.manual_seed(seed)
    return pf.Model(MLP(2, width=16, depth=1), pf.CondOT(), shape=(2,))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, while the model `tiny` is shipped."""
    pf.save(small(), tmp_path / "package" / "tiny")
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "package")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def same(a: pf.Model, b: pf.Model) -> bool:
    return a.provenance.sha256 == b.provenance.sha256


def test_a_shipped_model_is_loaded_by_its_name_where_it_is(place: Path) -> None:
    assert same(pf.load("tiny"), pf.load(shipped.SHIPPED / "tiny"))
    assert list(place.iterdir()) == []


def test_a_folder_of_that_name_comes_first(place: Path) -> None:
    pf.save(small(1), "tiny")
    assert same(pf.load("tiny"), pf.load(place / "tiny"))
    assert not same(pf.load("tiny"), pf.load(shipped.SHIPPED / "tiny"))
    assert shipped.own_copy(Path("tiny")) == Path("tiny")


def test_commands_use_a_copy_among_the_runs(place: Path) -> None:
    before = {p: p.read_bytes() for p in (shipped.SHIPPED / "tiny").iterdir()}
    assert main(["sample", "tiny", "--num", "4", "--nfe", "2"]) == 0
    assert (place / "runs" / "shipped" / "tiny" / "generated").is_dir()
    assert [p.name for p in (place / "runs" / "shipped").iterdir()] == ["tiny"]
    # A second time the copy is found, with what was added to its records.
    model = pf.load("runs/shipped/tiny")
    model.sampling = replace(model.sampling, nfe=3)
    pf.saving.folder.save_records(model, "runs/shipped/tiny")
    assert shipped.own_copy(Path("tiny")) == Path("runs/shipped/tiny")
    assert pf.load("runs/shipped/tiny").sampling.nfe == 3
    assert {p: p.read_bytes() for p in (shipped.SHIPPED / "tiny").iterdir()} == before


@pytest.mark.parametrize("other", ["nothing", "another model"])
def test_something_else_in_its_place_is_left_alone(place: Path, other: str) -> None:
    there = place / "runs" / "shipped" / "tiny"
    there.mkdir(parents=True)
    if other == "another model":
        pf.save(small(1), there)
    with pytest.raises(InputError, match="where there is something else"):
        shipped.own_copy(Path("tiny"))
    assert main(["info", "tiny"]) == 2


def test_an_unknown_name_names_those_that_there_are(place: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no folder tyni; .*: tiny"):
        pf.load("tyni")
    assert shipped.own_copy(Path("tyni")) == Path("tyni")


def test_the_guidance_towards_prompts_is_that_of_the_model(tmp_path: Path) -> None:
    from pushforward.core.spec import SamplingDefaults
    from pushforward.models.text import Words
    from pushforward.nets import UViT, WordTransformer
    from pushforward.nets.prompted import Prompted

    torch.manual_seed(0)
    words = Words.of(["a red circle"])
    text = WordTransformer(words.size, 16, 1, 1, 8)
    net = UViT(
        3, (8,), core=8, width=64, depth=1, heads=1, context=16, features={"sentence": text.pooled}
    )
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) / 8)
    made = pf.Model(
        Prompted(net, {words.name: text}), pf.CondOT(), shape=(3, 8, 8), encoders={"prompt": words}
    )
    asked = {"prompt": ["a circle", "a red circle"], "nfe": 2}
    plain = pf.generate(made, **asked)
    made.sampling = SamplingDefaults(prompt_guidance=3.0)
    guided = pf.generate(made, **asked)
    assert torch.equal(guided, pf.generate(made, **asked, guidance=3.0))
    assert torch.allclose(plain, pf.generate(made, **asked, guidance=1.0))
    assert not torch.allclose(plain, guided, atol=1e-3)
    # Without a prompt there is nothing to be guided to.
    assert pf.generate(made, 2, nfe=2).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("name", shipped.shipped())
def test_a_shipped_model_is_small_and_says_where_it_comes_from(name: str) -> None:
    folder = shipped.SHIPPED / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6
    card = (folder / "README.md").read_text()
    assert "license:" in card
    assert "## Training" in card
    assert (folder / "evaluation.json").is_file()


def test_the_shipped_model_of_scenes_draws_what_it_is_asked_for() -> None:
    model = pf.load("scenes")
    asked = [p for p in prompts(60, seed=7) if p.task in ("single_object", "colors")]
    drawn = pf.generate(model, prompt=[p.text for p in asked], seed=7)
    seen = read_all(pictures(drawn))
    right = sum(p.satisfied(objects) for p, objects in zip(asked, seen, strict=True))
    # Twenty pictures: less than 12 of them has a probability below 1e-3 where 85 in 100 are right.
    assert right >= 12
