#!/usr/bin/env bash
# A CLIP text model whose end-of-text token has the id 2 is not pooled at that token.
#
# CLIPTextModel pools the hidden state at the first token equal to config.eos_token_id. An id of 2, which
# is the end token of many vocabularies (RoBERTa's and XLM-R's, for instance), is read as the mark of an
# old OpenAI configuration instead, and the state at the LARGEST id of the text is taken. A causal model
# has seen only a part of the text there: the words after it do not change the embedding.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from transformers import CLIPTextConfig, CLIPTextModel

versions("torch", "transformers")


def model(end):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8,
        bos_token_id=0, pad_token_id=1, eos_token_id=end,
    )
    return CLIPTextModel(config).eval()


@torch.no_grad()
def pooled(end, words):
    output = model(end)(torch.tensor([[0, *words, end]]))
    gaps = (output.last_hidden_state - output.pooler_output[:, None]).abs().amax(-1)[0]
    return gaps.argmin().item(), output.pooler_output


for end, right in ((3, True), (2, False)):
    expected(f"end token {end}: pooled at position 4, and another last word changes the embedding")
    position, embedding = pooled(end, (90, 50, 60))
    change = (embedding - pooled(end, (90, 50, 61))[1]).abs().max().item()
    seen(f"pooled at position {position}; another last word changes the embedding by {change:.2g}",
         position == 4 and change > 1e-3 if right else position == 1 and change < 1e-5)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, transformers 5.24.0
#   expected: end token 3: pooled at position 4, and another last word changes the embedding
#   seen: pooled at position 4; another last word changes the embedding by 0.73
#   expected: end token 2: pooled at position 4, and another last word changes the embedding
#   seen: pooled at position 1; another last word changes the embedding by 0
