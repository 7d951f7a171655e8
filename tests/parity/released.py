"""Known models and our command lines for them: sizes are small, everything else is what was released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.trained.bare import BareGPT, ModelShape
from gpt_lab.interchange import counterpart
from gpt_lab.interchange.family import Family

VOCAB, WIDTH, HEADS, KV_HEADS, CONTEXT, LENGTH = 61, 32, 4, 2, 32, 24
PLAIN, GATED = 4 * WIDTH, 88
"""Hidden widths of MLPs: four times the width; 8/3 of it, to the nearest multiple of 8."""
SIZES = [f"scale.width={WIDTH}", f"scale.heads={HEADS}", f"scale.context={CONTEXT}"]
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
THEIRS = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": None,
}
GATED_THEIRS = THEIRS | {"intermediate_size": GATED, "head_dim": WIDTH // HEADS}
GROUPED = GATED_THEIRS | {"num_key_value_heads": KV_HEADS}
Weights = Mapping[str, Tensor]


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


class NanoGPT(BareGPT):
    """nanoGPT's model, in the words of the benchmark that trains it."""

    def __init__(self) -> None:
        super().__init__(ModelShape(2, HEADS, WIDTH, CONTEXT, 3, VOCAB))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.logits(x)


def mpt_weights(theirs: Weights) -> dict[str, Tensor]:
    """MptForCausalLM with one head of keys and values."""
    ours = {"embed.weight": theirs["transformer.wte.weight"], "norm.weight": theirs["transformer.norm_f.weight"]}
    names = {
        "norm_1": "attention_norm",
        "attn.Wqkv": "attention.qkv",
        "attn.out_proj": "attention.o_proj",
        "norm_2": "mlp_norm",
        "ffn.up_proj": "mlp.up_proj",
        "ffn.down_proj": "mlp.down_proj",
    }
    for i in _layers(theirs, "transformer.blocks."):
        for there, here in names.items():
            ours[f"blocks.{i}.{here}.weight"] = theirs[f"transformer.blocks.{i}.{there}.weight"]
    return ours


def marian_weights(theirs: Weights) -> dict[str, Tensor]:
    """MarianForCausalLM: its positions have all sines first, ours take turns with cosines, so the width is permuted."""
    prefix = "model.decoder."
    embedding = theirs[f"{prefix}embed_tokens.weight"]
    turns = torch.arange(embedding.shape[1]).unflatten(0, (2, -1)).T.flatten()
    ours = {"embed.weight": embedding[:, turns]}
    for i in _layers(theirs, f"{prefix}layers."):
        there, here = f"{prefix}layers.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            qkv = torch.cat([theirs[f"{there}self_attn.{x}_proj.{kind}"] for x in "qkv"])
            up = theirs[f"{there}fc1.{kind}"]
            ours[f"{here}attention.qkv.{kind}"] = qkv[:, turns] if kind == "weight" else qkv
            ours[f"{here}mlp.up_proj.{kind}"] = up[:, turns] if kind == "weight" else up
            ours[f"{here}attention.o_proj.{kind}"] = theirs[f"{there}self_attn.out_proj.{kind}"][turns]
            ours[f"{here}mlp.down_proj.{kind}"] = theirs[f"{there}fc2.{kind}"][turns]
            ours[f"{here}attention_norm.{kind}"] = theirs[f"{there}self_attn_layer_norm.{kind}"][turns]
            ours[f"{here}mlp_norm.{kind}"] = theirs[f"{there}final_layer_norm.{kind}"][turns]
    return ours


def nanogpt_weights(theirs: Weights) -> dict[str, Tensor]:
    """benchmarks.throughput.BareGPT, nanoGPT's model in that file's words."""
    ours = {"embed.weight": theirs["tokens.weight"], "position.table": theirs["positions.weight"]}
    names = {
        "norm_1": "attention_norm",
        "qkv": "attention.qkv",
        "out": "attention.o_proj",
        "norm_2": "mlp_norm",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    for i in _layers(theirs, "blocks."):
        for there, here in names.items():
            ours[f"blocks.{i}.{here}.weight"] = theirs[f"blocks.{i}.{there}.weight"]
    return ours | {"norm.weight": theirs["norm.weight"]}


def _layers(theirs: Weights, prefix: str) -> range:
    return range(1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in theirs if name.startswith(prefix)))


@dataclass(frozen=True)
class Case:
    """One architecture: our command line, the original and how its weights are named here.

    Fields:
        reference: a class of transformers, or NanoGPT.
        theirs: what the original's configuration says, from its release, never read from ours.
        names: its weights -> ours; None: by the links of its family (gpt_lab.interchange).
        one_kv_head: the original has a head of keys and values for each of queries, which here are all the same one.
        depth: layers of both.
        seed: of weights and tokens; another where by chance a head of delta attention reads next to nothing, and fp32
            cannot say what.
    """

    words: list[str]
    reference: str
    theirs: dict[str, Any]
    names: Callable[[Weights], dict[str, Tensor]] | None = None
    one_kv_head: bool = False
    depth: int = 2
    seed: int = 0

    @property
    def overrides(self) -> list[str]:
        """Our command line, with sizes."""
        return [*self.words, *SIZES, f"scale.depth={self.depth}"]

    @property
    def family(self) -> Family:
        """Whose the original is."""
        return next(family for family in counterpart.FAMILIES.values() if family.architecture == self.reference)


QWEN3_NEXT = (
    GROUPED
    | {"linear_num_value_heads": HEADS, "linear_num_key_heads": 2, "linear_key_head_dim": 16}
    | {"linear_value_head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    | {"shared_expert_intermediate_size": 32}
    | _rope(1e7, partial_rotary_factor=0.25)
)
CASES = {
    "gpt2": Case(
        ["model=gpt2"],
        "GPT2LMHeadModel",
        {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS},
    ),
    "llama": Case(["model=llama"], "LlamaForCausalLM", GATED_THEIRS | _rope(1e4)),
    "gqa_rope": Case(["model=gqa_rope"], "LlamaForCausalLM", GROUPED | _rope(1e4) | {"tie_word_embeddings": True}),
    "qwen3": Case(["model=qwen3"], "Qwen3ForCausalLM", GROUPED | _rope(1e6) | {"tie_word_embeddings": True}),
    "olmo2": Case(
        ["model=olmo2"],
        "Olmo2ForCausalLM",
        THEIRS | {"intermediate_size": GATED, "rms_norm_eps": 1e-6} | _rope(5e5),
    ),
    "original": Case(
        ["model=original"],
        "MarianForCausalLM",
        {"vocab_size": VOCAB, "d_model": WIDTH, "decoder_layers": 2, "decoder_attention_heads": HEADS}
        | {"decoder_ffn_dim": PLAIN, "max_position_embeddings": CONTEXT, "activation_function": "relu"}
        | {"scale_embedding": True, "pad_token_id": 0, "decoder_start_token_id": 0, "encoder_layers": 2},
        marian_weights,
    ),
    "nanochat": Case(
        ["model=nanochat"],
        "NanoChatForCausalLM",
        THEIRS | {"intermediate_size": PLAIN} | _rope(1e4),
    ),
    "mqa_alibi": Case(
        ["model=mqa_alibi"],
        "MptForCausalLM",
        {"vocab_size": VOCAB, "d_model": WIDTH, "n_heads": HEADS, "n_layers": 2, "max_seq_len": CONTEXT},
        mpt_weights,
        one_kv_head=True,
    ),
    "llama3": Case(
        ["model=llama3"],
        "LlamaForCausalLM",
        GROUPED
        | {"rms_norm_eps": 1e-5}
        | _rope(
            5e5,
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
    ),
    "mistral": Case(
        ["model=mistral"],
        "MistralForCausalLM",
        GROUPED | _rope(1e4) | {"sliding_window": CONTEXT // 4, "rms_norm_eps": 1e-5},
    ),
    "smollm3": Case(
        ["model=smollm3"],
        "SmolLM3ForCausalLM",
        GROUPED | _rope(5e6) | {"tie_word_embeddings": True, "no_rope_layer_interval": 4},
        depth=5,
    ),
    "gemma3": Case(
        ["model=gemma3"],
        "Gemma3ForCausalLM",
        GATED_THEIRS
        | {"num_key_value_heads": 1, "sliding_window": CONTEXT // 4, "query_pre_attn_scalar": WIDTH // HEADS}
        | {"rope_parameters": {kind: {"rope_type": "default"} for kind in ("full_attention", "sliding_attention")}},
        depth=6,
    ),
    "gpt_oss": Case(
        ["model=gpt_oss"],
        "GptOssForCausalLM",
        GROUPED
        | {"intermediate_size": 40, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": CONTEXT // 4}
        | _rope(
            150000.0,
            rope_type="yarn",
            factor=32.0,
            beta_fast=32.0,
            beta_slow=1.0,
            truncate=False,
            original_max_position_embeddings=4096,
        ),
    ),
    "qwen3_next": Case(["model=qwen3_next"], "Qwen3NextForCausalLM", QWEN3_NEXT, depth=4, seed=2),
    "qwen3_next, heads of 16": Case(
        ["model=qwen3_next", "attention.letters.A.head_dim=16"],
        "Qwen3NextForCausalLM",
        QWEN3_NEXT | {"head_dim": 16},
        depth=4,
        seed=2,
    ),
    "qwen3, heads of 12": Case(
        ["model=qwen3", "attention.head_dim=12"],
        "Qwen3ForCausalLM",
        GROUPED | _rope(1e6) | {"tie_word_embeddings": True, "head_dim": 12},
    ),
    "deepseek_v3": Case(
        ["model=deepseek_v3"],
        "DeepseekV3ForCausalLM",
        THEIRS
        | {"intermediate_size": GATED, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2}
        | {"n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "num_key_value_heads": HEADS}
        | {"kv_lora_rank": 32, "q_lora_rank": 64, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
        | _rope(1e4),
    ),
    "kimi_linear": Case(
        ["model=kimi_linear"],
        "KimiLinearForCausalLM",
        THEIRS
        | {"intermediate_size": GATED, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_token": 2}
        | {"kv_lora_rank": 32, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
        | {"num_key_value_heads": HEADS, "linear_num_heads": HEADS, "linear_head_dim": 8, "first_k_dense_replace": 1}
        | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]},
        depth=4,
        seed=1,
    ),
    "modded_nanogpt": Case(
        ["model=modded_nanogpt"],
        "NanoChatForCausalLM",
        THEIRS | {"intermediate_size": PLAIN, "final_logit_softcapping": 30.0} | _rope(1e4),
    ),
    "a window": Case(
        ["model=llama", "attention=sliding", "attention.window=5", "attention.pattern=S", "attention.kv_heads=2"],
        "MistralForCausalLM",
        GROUPED | _rope(1e4) | {"sliding_window": 5},
    ),
    "llama, other numbers": Case(
        ["model=llama", "attention=gqa", "norm.eps=1e-3", "position.base=500", "mlp.d_ff=48"],
        "LlamaForCausalLM",
        GROUPED | _rope(500.0) | {"rms_norm_eps": 1e-3, "intermediate_size": 48},
    ),
    "gemma2": Case(
        [
            "model=llama",
            "attention=sliding",
            "attention.window=5",
            "attention.pattern=SL",
            "attention.kv_heads=2",
            "attention.softcap=2",
            "residual=sandwich",
            "mlp=geglu",
            "model.embed_scale=true",
            "model.logit_softcap=3",
        ],
        "Gemma2ForCausalLM",
        GROUPED
        | _rope(1e4)
        | {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        | {"query_pre_attn_scalar": WIDTH // HEADS, "layer_types": ["sliding_attention", "full_attention"]}
        | {"tie_word_embeddings": False},
    ),
    "gpt_neox": Case(
        [
            "model=gpt2",
            "position=rope",
            "position.partial=0.25",
            "mlp=gelu",
            "residual=parallel",
            "residual.shared_norm=false",
            "model.tied=false",
        ],
        "GPTNeoXForCausalLM",
        THEIRS | {"intermediate_size": PLAIN} | _rope(1e4, partial_rotary_factor=0.25),
    ),
    "nanogpt": Case(["+experiment=shakespeare_char"], "NanoGPT", {}, nanogpt_weights),
    "nanogpt on a CPU": Case(["+experiment=shakespeare_char_cpu"], "NanoGPT", {}, nanogpt_weights),
}
