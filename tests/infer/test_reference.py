"""Greedy continuations against `generate` of Hugging Face's transformers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from gpt_lab.infer.generate import complete
from gpt_lab.interchange import counterpart, links
from gpt_lab.model.gpt import GPT
from tests.helpers import tiny_config

VOCAB, WIDTH, HEADS, CONTEXT, HIDDEN = 61, 32, 4, 48, 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
}
ENDS = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
GPT2_SIZES = {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS}
MODERN = {"model.tied": False, "norm.eps": 1e-6}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        GPT2_SIZES | {"n_inner": HIDDEN},
        {"position": "learned", "norm": "layernorm", "mlp": "gelu_tanh", "model.bias": True},
    ),
    "llama": ("LlamaForCausalLM", SIZES, {"attention": "gqa", "attention.kv_heads": 2, **MODERN}),
    "mistral": (
        "MistralForCausalLM",
        SIZES | {"sliding_window": 5},
        {"attention": {"name": "sliding", "window": 5, "kv_heads": 2, "pattern": "S"}, **MODERN},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_greedy_continuation(case: str) -> None:
    """Up to the training context: 40 tokens after 8, eight times the window of the sliding one."""
    name, sizes, settings = CASES[case]
    torch.manual_seed(3)
    architecture = getattr(transformers, name)
    theirs = architecture(architecture.config_class(**sizes, **ENDS, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.9 * parameter.shape[-1] ** -0.5)
    shape = {"scale.width": WIDTH, "scale.heads": HEADS, "scale.context": CONTEXT, "mlp.d_ff": HIDDEN}
    ours = GPT(tiny_config(**shape, **settings), VOCAB).eval()
    ours.load_state_dict(links.back(counterpart.FAMILIES[case].links(ours), theirs.state_dict()), strict=True)
    prompt = torch.randint(VOCAB, (1, 8))
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=CONTEXT - 8, do_sample=False, use_cache=True
    )[0, 8:].tolist()
    assert len(set(expected)) > 8  # not stuck in a loop, which would prove little
    for use_cache in (True, False):
        got = complete(ours, prompt[0].tolist(), max_tokens=CONTEXT - 8, temperature=0.0, use_cache=use_cache)
        assert got == [expected]
