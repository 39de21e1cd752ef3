"""Files of folders that others wrote: shards, pickles, variants, damage; each fault in one clear sentence."""

from __future__ import annotations

import json
import pickle
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pushforward as pf
from interop import tiny
from pushforward.cli import main
from pushforward.interop.diffusers import files

STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(
        tiny.unet(num_class_embeds=3), diffusers.DDPMScheduler()
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "pipeline")


def field(folder):
    model = pf.from_diffusers(folder)
    x = torch.ones(1, 3, 8, 8)
    return model(x, 0.5, label=torch.tensor([1]))


def test_shards_are_read_and_a_missing_one_is_named(whole, folder):
    unet = folder / "unet"
    net = diffusers.UNet2DModel.from_pretrained(unet)
    (unet / f"{STEM}.safetensors").unlink()
    net.save_pretrained(unet, max_shard_size="20KB")
    shards = sorted(unet.glob(f"{STEM}-*"))
    assert len(shards) > 2
    assert tiny.close(field(folder), field(whole), 1e-6)
    shards[1].unlink()
    with pytest.raises(pf.CheckpointError, match=f"lacks {shards[1].name}"):
        field(folder)


def test_what_is_too_large_for_a_file_is_written_in_shards_that_diffusers_reads(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "MAX_SHARD", 20_000)
    pf.to_diffusers(pf.from_diffusers(whole), tmp_path)
    assert len(list((tmp_path / "unet").glob("*-of-*"))) > 2
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet")
    usual = diffusers.UNet2DModel.from_pretrained(whole / "unet")
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), usual.state_dict().values(), strict=True)
    )
    assert tiny.close(field(tmp_path), field(whole), 1e-6)


def test_pickles_of_tensors_are_read_and_others_never_run(whole, folder, tmp_path):
    unet = folder / "unet"
    tensors = load_file(unet / f"{STEM}.safetensors")
    (unet / f"{STEM}.safetensors").unlink()
    torch.save(tensors, unet / f"{STEM}.bin")
    assert tiny.close(field(folder), field(whole), 1e-6)

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"conv_in.weight": Harm()}, unet / f"{STEM}.bin")
    with pytest.raises(pf.CheckpointError, match="is not read"):
        field(folder)
    (unet / f"{STEM}.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(pf.CheckpointError, match="is not read"):
        field(folder)
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], unet / f"{STEM}.bin")
    with pytest.raises(pf.CheckpointError, match="something else than tensors"):
        field(folder)


def test_half_precision_and_a_lone_variant_are_read(whole, folder):
    unet = folder / "unet"
    tensors = {name: x.half() for name, x in load_file(unet / f"{STEM}.safetensors").items()}
    (unet / f"{STEM}.safetensors").unlink()
    save_file(tensors, unet / f"{STEM}.fp16.safetensors", {"format": "pt"})
    model = pf.from_diffusers(folder)
    assert {p.dtype for p in model.net.parameters()} == {torch.float16}
    assert tiny.close(field(folder), field(whole), 2e-2)


def test_names_of_old_autoencoders_are_those_of_today(tmp_path):
    net = tiny.kl()
    net.save_pretrained(tmp_path)
    file = tmp_path / f"{STEM}.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, x in load_file(file).items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        tensors[name] = x
    assert any(".query." in name for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert tiny.close(pf.from_diffusers(tmp_path).decode(z), net.decode(z).sample)


def test_what_an_average_wrote_into_the_configuration_changes_nothing(whole, folder):
    tiny.edit_json(
        folder / "unet" / "config.json",
        decay=0.999,
        use_ema_warmup=True,
        optimization_step=7,
        power=0.6,
    )
    assert tiny.close(field(folder), field(whole), 1e-6)


def test_a_dit_of_an_old_version_is_read(tmp_path):
    net = tiny.dit()
    net.save_pretrained(tmp_path)
    tiny.edit_json(
        tmp_path / "config.json",
        _class_name="Transformer2DModel",
        norm_type="ada_norm_zero",
        num_vector_embeds=7,
    )
    ours = pf.from_diffusers(tmp_path)
    x, label = torch.ones(1, 4, 8, 8), torch.tensor([2])
    with torch.no_grad():
        want = net(x, timestep=torch.tensor([499.0]), class_labels=label).sample
    assert tiny.close(ours(x, torch.tensor([0.5]), label=label), want)
    tiny.edit_json(tmp_path / "config.json", norm_type="layer_norm")
    with pytest.raises(pf.InputError, match="only DiT is known"):
        pf.from_diffusers(tmp_path)


def test_a_network_is_built_without_memory_for_its_weights():
    """Of 160 GB, here; buffers that are in no file are computed, and the caller's generator is left as it was."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with files.without_weights():
        layer = torch.nn.Linear(200_000, 200_000)
        norm = torch.nn.BatchNorm1d(3)
        torch.randn(3)
    assert layer.weight.is_meta
    assert layer.bias.is_meta
    assert norm.running_var.tolist() == [1, 1, 1]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.empty(2).is_meta


def test_weights_are_those_in_the_file_and_training_does_not_change_it(whole):
    model = pf.from_diffusers(whole)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    again = pf.from_diffusers(whole)
    for changed, usual in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(changed - 1, usual, atol=1e-6)


def cut(path, count=200):
    path.write_bytes(path.read_bytes()[:-count])


def drop_tensor(path):
    tensors = load_file(path)
    tensors.pop("conv_in.bias")
    save_file(tensors, path)


def reshape_tensor(path):
    tensors = load_file(path)
    tensors["conv_in.bias"] = torch.zeros(9)
    save_file(tensors, path)


FAULTS = {
    "no folder": (lambda f: shutil.rmtree(f), "there is no folder"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "neither model_index.json"),
    "no JSON": (lambda f: (f / "model_index.json").write_text("{"), "cannot read"),
    "no object": (lambda f: (f / "model_index.json").write_text("[]"), "holds no JSON object"),
    "unknown pipeline": (
        lambda f: tiny.edit_json(f / "model_index.json", _class_name="DDPMPipelin"), "did you mean DDPMPipeline",
    ),
    "no network": (lambda f: tiny.edit_json(f / "model_index.json", unet=None), "names no unet"),
    "no scheduler": (lambda f: tiny.edit_json(f / "model_index.json", scheduler=None), "names no scheduler"),
    "missing part": (lambda f: shutil.rmtree(f / "unet"), "lacks the folder unet"),
    "no part": (lambda f: (f / "unet" / "config.json").unlink(), "has no config.json"),
    "no class": (lambda f: tiny.edit_json(f / "unet" / "config.json", _class_name=None), "of which class"),
    "unknown class": (
        lambda f: tiny.edit_json(f / "unet" / "config.json", _class_name="UNet3DModel"), "did you mean UNet2DModel",
    ),
    "bad value": (
        lambda f: tiny.edit_json(f / "unet" / "config.json", down_block_types=["No", "Such"]), "does not describe",
    ),
    "other width": (
        lambda f: tiny.edit_json(f / "unet" / "config.json", block_out_channels=[8, 32]), "do not fit its config.json",
    ),
    "no weights": (lambda f: (f / "unet" / f"{STEM}.safetensors").unlink(), "has no weights"),
    "cut weights": (lambda f: cut(f / "unet" / f"{STEM}.safetensors"), "cannot read"),
    "missing tensor": (lambda f: drop_tensor(f / "unet" / f"{STEM}.safetensors"), "missing: .*conv_in.bias"),
    "other shape": (lambda f: reshape_tensor(f / "unet" / f"{STEM}.safetensors"), r"conv_in.bias: \(9,\), expected"),
    "bad scheduler": (
        lambda f: tiny.edit_json(f / "scheduler" / "scheduler_config.json", beta_schedule="x"), "beta_schedule is",
    ),
    "shard elsewhere": (
        lambda f: (
            (f / "unet" / f"{STEM}.safetensors").unlink(),
            (f / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../x"}})),
        ),
        "no file of its folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_clear_sentence(folder, capsys, name):
    make, message = FAULTS[name]
    make(folder)
    with pytest.raises(pf.Error, match=message) as error:
        pf.from_diffusers(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    # And so it is on the command line, which writes nothing then.
    out = folder.parent / "run"
    assert main(["import", str(folder), "--out", str(out)]) == 1
    assert not out.exists()


def test_classes_by_number_that_a_network_has_not_are_refused(tmp_path):
    pipe = diffusers.DiTPipeline(tiny.dit(), tiny.kl(), diffusers.DDIMScheduler())
    pipe.save_pretrained(tmp_path)
    tiny.edit_json(tmp_path / "model_index.json", id2label={"0": "a", "9": "b"})
    with pytest.raises(pf.CheckpointError, match="class 9, and the network has 5"):
        pf.from_diffusers(tmp_path)


def test_the_commands_import_and_export(whole, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["import", str(whole), "--out", str(run)]) == 0
    assert (
        main(
            [
                "sample",
                str(run),
                "--num",
                "2",
                "--nfe",
                "4",
                "--label",
                "1",
                "--out",
                str(tmp_path / "x.png"),
            ]
        )
        == 0
    )
    assert main(["export", str(run), "--format", "diffusers", "--out", str(out)]) == 0
    assert tiny.close(field(out), field(whole), 1e-6)
    assert main(["export", str(run), "--format", "diffusers", "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err


def photographs(folder, classes):
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(24):
            pixels = generator.integers(0, 256, (10, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


def test_with_data_an_imported_model_is_evaluated_and_distilled(
    whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PUSHFORWARD_QUICK", "1")
    data, run = photographs(tmp_path / "photographs", ("cats", "dogs", "foxes")), tmp_path / "run"
    assert main(["import", str(whole), "--out", str(run), "--data", str(data)]) == 0
    assert pf.load(run).spec.class_names == ("cats", "dogs", "foxes")
    assert main(["evaluate", str(run), "--num", "8", "--nfe", "4"]) == 0
    assert main(["likelihood", str(run), "--num", "2", "--nfe", "4"]) in (0, 2)
    assert main(["distill", str(run), "--out", str(tmp_path / "student"), "--steps", "2"]) == 0
    student = pf.load(tmp_path / "student")
    assert isinstance(student, pf.FlowMapModel)
    assert pf.generate(student, 2, label=["dogs", "cats"]).shape == (2, 3, 8, 8)
    # A consistency model of betas is one that diffusers knows.
    pf.to_diffusers(student, tmp_path / "lcm")
    assert isinstance(pf.from_diffusers(tmp_path / "lcm"), pf.FlowMapModel)


@pytest.mark.parametrize("classes", [("cats", "dogs"), ("",)])
def test_data_of_other_classes_are_refused_before_anything_is_written(
    whole, tmp_path, capsys, classes
):
    data = photographs(tmp_path / "photographs", classes)
    assert main(["import", str(whole), "--out", str(tmp_path / "run"), "--data", str(data)]) == 1
    assert "the model was trained with 3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


REFUSED = {
    "a network of ours": lambda: pf.Model(pf.nets.UNet(1, 8), pf.CondOT(), shape=(1, 8, 8)),
    "a law": lambda: pf.Empirical(torch.zeros(2, 2)),
    "SD3 of other positions": lambda: pf.Model(
        pf.nets.MMDiT(4, text=8, pooled=4), pf.CondOT(), shape=(4, 8, 8)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_diffusers_has_no_equal_of_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(pf.InputError, match=r"diffusers|SD3"):
        pf.to_diffusers(REFUSED[name](), tmp_path / "out")
    assert not (tmp_path / "out").exists()
