"""Families with DeepSeek's latent attention and experts: DeepSeek-V3, Kimi Linear."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import PRE_NORM, Family, Released, Settings
from gpt_lab.interchange.links import Form, Link, named, paired, same, taken
from gpt_lab.interchange.llama_like import EXPERTS, ROTARY, convolutions, ends, gated, layer_norms, layers
from gpt_lab.model.gpt import GPT


def _write_latent(mixer: Any) -> dict[str, Any]:
    return {
        "kv_lora_rank": mixer.kv_rank,
        "q_lora_rank": mixer.q_rank,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.value_dim,
        "num_key_value_heads": mixer.heads,
    }


def _read_latent(hf: Released) -> dict[str, Any]:
    return {
        "name": "mla",
        "kv_rank": hf["kv_lora_rank"],
        "q_rank": hf["q_lora_rank"],
        "nope_dim": hf["qk_nope_head_dim"],
        "rope_dim": hf["qk_rope_head_dim"],
        "v_dim": hf["v_head_dim"],
    }


def _latent(mixer: Any, here: str, there: str, interleaved: bool) -> Iterator[Link]:
    turned = paired(mixer.rope_dim) if interleaved else torch.arange(mixer.rope_dim)
    head = taken(torch.arange(mixer.nope_dim), turned)
    queries = taken(*[head] * mixer.heads)
    if mixer.q_rank is None:
        yield same(f"{here}q_proj.weight", f"{there}q_proj.weight", order=queries)
    else:
        yield from named({"q_a_proj.weight": "q_a_proj.weight", "q_a_norm.weight": "q_a_layernorm.weight"}, here, there)
        yield same(f"{here}q_b_proj.weight", f"{there}q_b_proj.weight", order=queries)
    latent = taken(torch.arange(mixer.kv_rank), turned)
    yield same(f"{here}kv_a_proj.weight", f"{there}kv_a_proj_with_mqa.weight", order=latent)
    rest = {"kv_a_norm.weight": "kv_a_layernorm.weight", "kv_b_proj.weight": "kv_b_proj.weight"}
    yield from named(rest | {"o_proj.weight": "o_proj.weight"}, here, there)


def _write_routed(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    """Experts of all layers but the first, which are dense."""
    parts = [block.mlp for block in model.layers()]
    moe = keys.first_with(parts, "routed", "experts")
    dense: Any = next((part for part in parts if not hasattr(part, "routed")), None)
    return {
        "intermediate_size": 0 if dense is None else dense.down_proj.in_features,
        "moe_intermediate_size": moe.d_ff,
        "num_experts_per_tok": moe.top_k,
        "n_shared_experts": 0 if moe.shared is None else moe.shared.down_proj.in_features // moe.d_ff,
        "norm_topk_prob": moe.renormalize,
        "routed_scaling_factor": moe.routed_scale,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
    }


def _read_routed(hf: Released, experts: str, dense: list[bool]) -> dict[str, Any]:
    if not hf["n_shared_experts"]:
        hf.demand("n_shared_experts", 1)
    moe = {
        "name": "moe",
        "router": "sigmoid",
        "experts": hf[experts],
        "top_k": hf["num_experts_per_tok"],
        "d_ff": hf["moe_intermediate_size"],
        "shared_experts": hf["n_shared_experts"],
        "renormalize": hf["norm_topk_prob"],
        "routed_scale": hf["routed_scaling_factor"],
        "groups": hf["n_group"],
        "top_groups": hf["topk_group"],
    }
    if not any(dense):
        return moe
    first = dense.index(False) if False in dense else len(dense)
    pattern = keys.shortest("".join("D" if one else "E" for one in dense[first:]))
    swiglu = {"name": "swiglu", "d_ff": hf["intermediate_size"]}
    return {"name": "hybrid", "first": "D" * first, "pattern": pattern, "letters": {"D": swiglu, "E": moe}}


def _routed(part: Any, here: str, there: str) -> Iterator[Link]:
    if not hasattr(part, "routed"):
        yield from gated(part, here, there)
        return
    yield from named({"router.weight": "gate.weight", "choice_bias_E": "gate.e_score_correction_bias"}, here, there)
    yield from named(EXPERTS, here, there)
    yield from gated(part.shared, f"{here}shared.", f"{there}shared_experts.")


def _write_deepseek(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = keys.write_sizes(cfg, model) | _write_latent(keys.attention(model)) | _write_routed(cfg, model)
    parts = [block.mlp for block in model.layers()]
    moe = keys.first_with(parts, "routed", "experts")
    return found | {
        "n_routed_experts": moe.experts,
        "first_k_dense_replace": parts.index(moe),
        "rope_parameters": keys.write_rope(cfg.position, model),
        "rope_interleave": True,
    }


def _read_deepseek(hf: Released) -> Settings:
    for key, only in (("hidden_act", "silu"), ("attention_bias", False), ("rope_interleave", True)):
        hf.expect(key, only)
    hf.expect("scoring_func", "sigmoid")
    dense = [layer < hf["first_k_dense_replace"] for layer in range(hf["num_hidden_layers"])]
    found = keys.read_sizes(hf) | {"attention": _read_latent(hf), "position": keys.read_rope(hf)}
    return found | {"mlp": _read_routed(hf, "n_routed_experts", dense)}


def _deepseek(model: GPT) -> Iterator[Link]:
    """Rotated dimensions are interleaved there."""
    yield from ends(model)
    for block, here, there in layers(model):
        yield from layer_norms(here, there)
        yield from _latent(block.attention, f"{here}attention.", f"{there}self_attn.", interleaved=True)
        yield from _routed(block.mlp, f"{here}mlp.", f"{there}mlp.")


# Kimi Linear


KIMI = {
    "max_position_embeddings": "model_max_length",
    "norm_topk_prob": "moe_renormalize",
    "n_group": "num_expert_group",
    "num_experts_per_tok": "num_experts_per_token",
    "n_shared_experts": "num_shared_experts",
}
"""Names of its configuration that differ from DeepSeek's."""


def _write_kimi(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    mixers, parts = ([getattr(block, kind) for block in model.layers()] for kind in ("attention", "mlp"))
    full = keys.first_with(mixers, "kv_rank", "latent attention")
    delta = keys.first_with(mixers, "q_conv", "delta attention")
    found = keys.write_sizes(cfg, model) | _write_routed(cfg, model) | _write_latent(full)
    return {KIMI.get(key, key): value for key, value in found.items()} | {
        "layer_types": [keys.FULL if hasattr(mixer, "kv_rank") else "linear_attention" for mixer in mixers],
        "mlp_layer_types": ["sparse" if hasattr(part, "routed") else "dense" for part in parts],
        "num_experts": keys.first_with(parts, "routed", "experts").experts,
        "linear_num_heads": delta.heads,
        "linear_head_dim": delta.key_dim,
        "linear_conv_kernel_dim": delta.q_conv.taps,
        "pad_token_id": None,
    }


def _read_kimi(found: Released) -> Settings:
    """Its released file numbers its layers from 1 and has their sizes in a place of their own."""
    linear, depth = found.get("linear_attn_config", {}), found["num_hidden_layers"]
    full = [
        keys.FULL if layer + 1 in linear.get("full_attn_layers", ()) else "linear_attention" for layer in range(depth)
    ]
    dense = ["dense" if layer < found.get("first_k_dense_replace", 1) else "sparse" for layer in range(depth)]
    values: dict[str, Any] = {"layer_types": full, "mlp_layer_types": dense}
    names = {"num_heads": "linear_num_heads", "head_dim": "linear_head_dim"}
    names["short_conv_kernel_size"] = "linear_conv_kernel_dim"
    values |= {theirs: linear[key] for key, theirs in names.items() if key in linear}
    values |= {key: found.values[theirs] for key, theirs in KIMI.items() if theirs in found.values}
    hf = Released(
        found.architecture, values | {k: v for k, v in found.values.items() if v is not None or k not in values}
    )
    for key, only in (("hidden_act", "silu"), ("attention_bias", False), ("rms_norm_eps", 1e-5), ("moe_layer_freq", 1)):
        hf.expect(key, only)
    count = hf["num_attention_heads"]
    hf.expect("linear_num_heads", count)
    hf.expect("linear_head_dim", hf["hidden_size"] // count)
    types = {"linear_attention": "K", keys.FULL: "M"}
    settings = keys.read_sizes(hf) | {"position": {"name": "none"}}
    settings["attention"] = {
        "name": "hybrid",
        "pattern": keys.letters(hf, hf["layer_types"], types),
        "letters": {"K": {"name": "kda", "conv": hf["linear_conv_kernel_dim"]}, "M": _read_latent(hf)},
    }
    return settings | {"mlp": _read_routed(hf, "num_experts", [one == "dense" for one in hf["mlp_layer_types"]])}


def _kimi(model: GPT) -> Iterator[Link]:
    yield from ends(model)
    for block, here, there in layers(model):
        yield from layer_norms(here, there)
        if hasattr(block.attention, "kv_rank"):
            yield from _latent(block.attention, f"{here}attention.", f"{there}self_attn.", interleaved=False)
        else:
            yield from _kimi_delta(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield from _routed(block.mlp, f"{here}mlp.", f"{there}mlp.")


def _kimi_delta(mixer: Any, here: str, there: str) -> Iterator[Link]:
    yield from named({f"{x}_proj.weight": f"{x}_proj.weight" for x in "qkvo"}, here, there)
    yield convolutions(mixer, here, there)
    names = {
        "beta_proj.weight": "b_proj.weight",
        "decay_down.weight": "forget_gate.f_a_proj.weight",
        "decay_up.weight": "forget_gate.f_b_proj.weight",
        "gate_down.weight": "g_a_proj.weight",
        "gate_up.weight": "g_b_proj.weight",
        "dt": "forget_gate.dt_bias",
        "norm.weight": "o_norm.weight",
    }
    yield from named(names, here, there)
    by_head = Form(lambda w: w.flatten(), lambda w: w.view(1, 1, -1, 1))
    yield same(f"{here}a_log", f"{there}forget_gate.A_log", by_head)


FAMILIES = (
    Family(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        PRE_NORM | ROTARY | {"attention": ("mla",), "mlp": ("swiglu", "moe")},
        _write_deepseek,
        _read_deepseek,
        _deepseek,
    ),
    Family(
        "kimi_linear",
        "KimiLinearForCausalLM",
        PRE_NORM | {"position": ("none",), "attention": ("kda", "mla"), "mlp": ("swiglu", "moe")},
        _write_kimi,
        _read_kimi,
        _kimi,
    ),
)
