"""Tiny text encoders of transformers with random weights, and their tokenizers."""

from __future__ import annotations

from typing import Any

import transformers

from interop.tiny import randomised

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer(length: int = 12, pad: str = "<|endoftext|>") -> Any:
    vocab = ["!", *LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocab)}
    return transformers.CLIPTokenizer(vocab=ids, merges=[], model_max_length=length, pad_token=pad)


def t5_tokenizer() -> Any:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    return transformers.T5TokenizerFast(vocab=special + [(c, -2.0) for c in LETTERS], extra_ids=0)


def clip(width: int = 12, projection: int | None = None, length: int = 12, seed: int = 1) -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=55,
        max_position_embeddings=length, projection_dim=projection or width, bos_token_id=53, eos_token_id=54,
    )  # fmt: skip
    cls = (
        transformers.CLIPTextModel
        if projection is None
        else transformers.CLIPTextModelWithProjection
    )
    return randomised(cls(config), seed, 0.3)


def t5(width: int = 24, seed: int = 3) -> Any:
    config = transformers.T5Config(
        d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=30, dropout_rate=0.0
    )
    return randomised(transformers.T5EncoderModel(config), seed, 0.3)
