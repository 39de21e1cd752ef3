"""Models to the Hub and back, by huggingface_hub's own client and a stand-in for the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported import latent, plane
from hubserver import Hub, served

import pushforward as pf
from pushforward.interop.hub import beside, hub_card

huggingface_hub = pytest.importorskip("huggingface_hub")


def client(hub: Hub, home: Path, *words: str, token: bool = True, offline: bool = False, cwd=None):
    """Another process, which has this Hub."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    # Weights by HTTP: the stand-in has no store of chunks.
    env = known | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_TOKEN": hub.token} if token else {}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    env |= {"PYTHONPATH": str(Path(pf.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *words], env=env, capture_output=True, text=True, timeout=120, cwd=cwd
    )


def loading(name: str, out: Path) -> tuple[str, str]:
    code = (
        "import torch, pushforward as pf\n"
        f"model = pf.load({name!r})\n"
        f"torch.save(pf.generate(model, 4, nfe=3), {str(out)!r})"
    )
    return "-c", code


@pytest.fixture
def saved(tmp_path):
    """A folder with a model, and four samples of it."""
    torch.manual_seed(0)
    folder = tmp_path / "run"
    pf.save(latent(), folder)
    (folder / "secret.txt").write_text("mine")
    return folder, pf.generate(pf.load(folder), 4, nfe=3)


def test_a_model_that_was_pushed_is_loaded_by_its_name(saved, tmp_path):
    folder, samples = saved
    with served() as hub:
        home, out = tmp_path / "home", tmp_path / "out.pt"
        done = client(hub, home, "-m", "pushforward", "push", str(folder), "me/blobs")
        assert done.returncode == 0, done.stderr
        assert "pf.load('hub:me/blobs')" in done.stdout
        assert f"{hub.address}/me/blobs/commit/" in done.stdout
        _, files = hub.repositories["me/blobs"][-1]
        weights = {path.name for path in folder.glob("*.safetensors")}
        assert set(files) == {"model.json", "README.md", *weights}
        assert all(files[name] == (folder / name).read_bytes() for name in weights)
        assert not hub.private["me/blobs"]
        done = client(hub, home, *loading("hub:me/blobs", out), token=False)
        assert done.returncode == 0, done.stderr
        torch.testing.assert_close(torch.load(out), samples, rtol=1e-5, atol=1e-6)
        # What is in the cache needs no Hub.
        out.unlink()
        done = client(hub, home, *loading("hub:me/blobs", out), offline=True)
        assert done.returncode == 0, done.stderr
        torch.testing.assert_close(torch.load(out), samples, rtol=1e-5, atol=1e-6)


def test_a_revision_is_loaded_by_its_name_and_main_is_the_newest(saved, tmp_path):
    folder, samples = saved
    with served() as hub:
        push = ("-m", "pushforward", "push", str(folder), "me/blobs", "--private")
        assert client(hub, tmp_path / "a", *push).returncode == 0
        first = hub.repositories["me/blobs"][0][0]
        assert hub.private["me/blobs"]
        pf.save(plane(), folder)
        assert client(hub, tmp_path / "a", *push).returncode == 0
        assert len(hub.repositories["me/blobs"]) == 2
        done = client(hub, tmp_path / "a", *loading(f"hub:me/blobs@{first}", tmp_path / "old.pt"))
        assert done.returncode == 0, done.stderr
        torch.testing.assert_close(torch.load(tmp_path / "old.pt"), samples, rtol=1e-5, atol=1e-6)
        done = client(hub, tmp_path / "a", *loading("hub:me/blobs", tmp_path / "new.pt"))
        assert torch.load(tmp_path / "new.pt").shape == (4, 2)
        done = client(hub, tmp_path / "b", *loading("hub:me/blobs@v7", tmp_path / "none.pt"))
        assert "has no such revision" in done.stderr


def test_commands_take_a_name_on_the_hub_and_use_a_copy_among_the_runs(saved, tmp_path):
    folder, _ = saved
    place, home = tmp_path / "place", tmp_path / "home"
    place.mkdir()
    with served() as hub:
        push = ("-m", "pushforward", "push", str(folder), "me/blobs")
        assert client(hub, home, *push).returncode == 0
        commit = hub.repositories["me/blobs"][-1][0]
        words = (
            "-m",
            "pushforward",
            "sample",
            "hub:me/blobs",
            "--num",
            "4",
            "--nfe",
            "3",
            "--overwrite",
        )
        for _ in range(2):  # a second time the copy is found
            done = client(hub, home, *words, cwd=place)
            assert done.returncode == 0, done.stderr
        copy = place / "runs" / "hub" / "me" / f"blobs-{commit[:8]}"
        assert [path.name for path in copy.parent.iterdir()] == [copy.name]
        assert (copy / "generated").is_dir()
        assert pf.load(copy).provenance.sha256 == pf.load(folder).provenance.sha256
        # A newer model of the name is another run.
        pf.save(plane(), folder)
        assert client(hub, home, *push).returncode == 0
        assert client(hub, home, *words, cwd=place).returncode == 0
        assert len(list(copy.parent.iterdir())) == 2
        done = client(hub, home, "-m", "pushforward", "info", "hub:me/nothing", cwd=place)
        assert done.returncode == 1
        assert "there is no model me/nothing on the Hub that you may see" in done.stderr


def test_faults_of_the_hub_are_said(saved, tmp_path):
    folder, _ = saved
    with served() as hub:
        home = tmp_path / "home"
        push = ("-m", "pushforward", "push", str(folder))
        done = client(hub, home, *push, "me/blobs", token=False)
        assert done.returncode == 1
        assert "log in with a token that may write" in done.stderr
        assert hub.repositories == {}
        done = client(hub, home, *push, "me/no good name")
        assert done.returncode == 1
        assert "is no name on the Hub" in done.stderr
        done = client(hub, home, *push[:-1], str(tmp_path / "nowhere"), "me/blobs")
        assert "there is no folder" in done.stderr
        done = client(hub, home, *loading("hub:me/nothing", tmp_path / "out.pt"))
        assert "there is no model me/nothing on the Hub that you may see" in done.stderr
        assert client(hub, home, *push, "me/blobs").returncode == 0
        _, files = hub.repositories["me/blobs"][-1]
        name = next(path for path in files if path.endswith(".safetensors"))
        files[name] = files[name][:-1] + b"!"
        done = client(hub, home, *loading("hub:me/blobs", tmp_path / "out.pt"))
        assert "its SHA-256 differs" in done.stderr
    done = client(hub, tmp_path / "other", *push, "me/blobs")
    assert "cannot reach the Hub" in done.stderr
    done = client(hub, tmp_path / "other", *loading("hub:me/blobs", tmp_path / "out.pt"))
    assert "the Hub cannot be reached" in done.stderr


def test_the_card_has_metadata_that_the_hub_reads_and_the_figures_of_an_evaluation(saved):
    folder, _ = saved
    (folder / "README.md").write_text(
        "---\ntags:\n- mine\n---\n# Blobs\n\n![all](samples/a.png) ![away](../out.png) ![web](https://a.b/c.png)\n"
    )
    (folder / "samples").mkdir()
    (folder / "samples" / "a.png").write_bytes(b"png")
    (folder.parent / "out.png").write_bytes(b"png")
    figures = {"frechet": 1.5, "samples": 100, "worst": float("inf"), "note": "x"}
    (folder / "evaluation.json").write_text(json.dumps({"figures": figures, "settings": {}}))
    text = hub_card(folder, "me/blobs")
    card = huggingface_hub.ModelCard(text)
    assert card.data.library_name == "pushforward"
    assert card.data.tags == ["mine", "pushforward"]
    assert card.data.model_name == "blobs"
    assert {e.metric_type: e.metric_value for e in card.data.eval_results} == {
        "frechet": 1.5,
        "samples": 100,
    }
    assert "# Blobs" in card.text
    assert beside(folder, text) == ["evaluation.json", "samples/a.png"]
    (folder / "README.md").write_text("---\ntags: [\n---\n")
    with pytest.raises(pf.InputError, match="no card that the Hub could read"):
        hub_card(folder, "me/blobs")


def test_a_model_with_parts_held_by_reference_is_not_pushed(tmp_path):
    model = latent()
    pf.save(model.codec, tmp_path / "codec")
    pf.save(model, tmp_path / "run", references={"codec": str(tmp_path / "codec")})
    with pytest.raises(pf.InputError, match="holds its part codec by reference"):
        pf.push(tmp_path / "run", "me/blobs")
