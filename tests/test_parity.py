"""The assembled model against Hugging Face's: same weights, same logits, same gradients."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from gpt_lab.model import GPT
from gpt_lab.parts.objective import CrossEntropy
from tests import parity_maps
from tests.helpers import tiny_config

VOCAB, WIDTH, HEADS, KV_HEADS, HIDDEN, LENGTH = 61, 32, 4, 2, 48, 24
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "attn_implementation": "eager",
}
GROUPED = SIZES | {"num_key_value_heads": KV_HEADS, "head_dim": WIDTH // HEADS}
GQA = {"name": "gqa", "kv_heads": KV_HEADS}


@dataclass(frozen=True)
class Case:
    """One architecture: its Hugging Face class and config, our settings, how names map, what differs by design."""

    reference: str
    theirs: dict[str, Any]
    ours: dict[str, Any]
    names: parity_maps.Map
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    unit_embedding: bool = False


def _ours(depth: int = 2, **settings: Any) -> dict[str, Any]:
    base = {"scale.depth": depth, "scale.width": WIDTH, "scale.heads": HEADS, "scale.context": 32, "model.tied": False}
    return base | {"mlp.d_ff": HIDDEN} | settings


CASES = {
    "gpt2": Case(
        "GPT2LMHeadModel",
        {"vocab_size": VOCAB, "n_positions": 32, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "n_inner": HIDDEN}
        | {"bos_token_id": 0, "eos_token_id": 1, "attn_implementation": "eager"},
        _ours(position="learned", norm="layernorm", mlp="gelu_tanh", **{"model.bias": True, "model.tied": True}),
        parity_maps.gpt2,
    ),
    "llama": Case(
        "LlamaForCausalLM",
        GROUPED | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-3},
        _ours(attention=GQA, **{"position.base": 500.0, "norm.eps": 1e-3}),
        parity_maps.llama,
    ),
    "qwen3": Case("Qwen3ForCausalLM", GROUPED, _ours(attention=GQA | {"qk_norm": "head"}), parity_maps.llama),
    "olmo2": Case(
        "Olmo2ForCausalLM",
        SIZES | {"num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-6},
        _ours(attention=GQA | {"qk_norm": "full"}, residual="olmo2"),
        parity_maps.olmo2,
    ),
    "mistral": Case(
        "MistralForCausalLM",
        GROUPED | {"sliding_window": 5},
        _ours(attention={"name": "sliding", "window": 5, "kv_heads": KV_HEADS, "pattern": "S"}),
        parity_maps.llama,
    ),
    "gemma2": Case(
        "Gemma2ForCausalLM",
        GROUPED
        | {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | {"query_pre_attn_scalar": WIDTH // HEADS, "layer_types": ["sliding_attention", "full_attention"]},
        _ours(
            attention={"name": "sliding", "window": 5, "kv_heads": KV_HEADS, "pattern": "SL", "softcap": 2.0},
            residual="sandwich",
            mlp="geglu",
            **{"model.logit_softcap": 3.0},
        ),
        parity_maps.gemma2,
        embedding_scale=WIDTH**0.5,
        norm_offset=1.0,
    ),
    "nanochat": Case(
        "NanoChatForCausalLM",
        SIZES | {"num_key_value_heads": KV_HEADS, "final_logit_softcapping": 3.0},
        _ours(attention=GQA | {"qk_norm": "unit"}, norm={"name": "rmsnorm", "gain": False}, mlp="relu2")
        | {"model.logit_softcap": 3.0},
        functools.partial(parity_maps.nanochat, heads=HEADS, kv_heads=KV_HEADS),
        unit_embedding=True,
    ),
    "gpt_neox": Case(
        "GPTNeoXForCausalLM",
        SIZES | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
        _ours(
            position={"name": "rope", "base": 100.0, "partial": 0.5},
            norm="layernorm",
            mlp="gelu",
            residual={"name": "parallel", "shared_norm": False},
            **{"model.bias": True},
        ),
        functools.partial(parity_maps.gpt_neox, heads=HEADS),
    ),
}


def _reference(case: Case) -> nn.Module:
    """A random network whose weights are large enough for every mistake to show."""
    cls = getattr(transformers, case.reference)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = cls(cls.config_class(**case.theirs)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.9 * parameter.shape[-1] ** -0.5)
                else:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
            if case.unit_embedding:
                embedding = model.get_input_embeddings().weight
                embedding.div_(embedding.square().mean(-1, keepdim=True).sqrt())
    return model


def _load(model: GPT, case: Case, reference: nn.Module) -> None:
    weights = {name: value.clone() for name, value in case.names(dict(reference.named_parameters())).items()}
    weights["embed.weight"] *= case.embedding_scale
    for name in weights:
        if "norm." in name:
            weights[name] += case.norm_offset
    names = {name for name, _ in model.named_parameters()}
    assert weights.keys() == names, weights.keys() ^ names
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not names & set(missing)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients(name: str) -> None:
    case = CASES[name]
    reference = _reference(case)
    model = GPT(tiny_config(**case.ours), VOCAB).eval()
    with torch.no_grad():
        _load(model, case, reference)
    generator = torch.Generator().manual_seed(1)
    tokens, targets = (torch.randint(VOCAB, (3, LENGTH), generator=generator) for _ in range(2))
    logits, expected = model(tokens), reference(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)

    mine, theirs = (CrossEntropy()(value, targets)[0] for value in (logits, expected))
    mine.backward()
    theirs.backward()
    gradients = case.names({key: p.grad for key, p in reference.named_parameters()})
    gradients["embed.weight"] = gradients["embed.weight"] / case.embedding_scale
    for key, parameter in model.named_parameters():
        if key == "embed.weight" and case.unit_embedding:
            continue  # theirs goes through one more norm
        torch.testing.assert_close(
            parameter.grad, gradients[key], rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )
