"""Families whose layers have experts, and mixers of several kinds: Qwen3-Next, DeepSeek-V3, Kimi Linear, gpt-oss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpt_lab.config.schema import RunConfig
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import PRE_NORM, Family, Released, Settings
from gpt_lab.interchange.links import CHANNELS, PLAIN, SHIFTED, Form, Link, named, paired, same, taken
from gpt_lab.interchange.llama_like import NORMS, ends, gated, heads
from gpt_lab.model.gpt import GPT

EXPERTS = {"routed.gate_up_proj.weight": "experts.gate_up_proj", "routed.down_proj.weight": "experts.down_proj"}
ROTARY = {"position": ("rope", "yarn")}


def _layers(model: GPT) -> Iterator[tuple[Any, str, str]]:
    """Each block with the prefixes of its names here and there."""
    for i, block in enumerate(model.blocks):
        yield block, f"blocks.{i}.", f"model.layers.{i}."


def _norms(here: str, there: str, gain: Form = PLAIN) -> Iterator[Link]:
    yield from named({f"{x}.weight": f"{y}.weight" for x, y in NORMS.items()}, here, there, gain)


# Qwen3-Next


def _write_qwen3_next(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    mixers = [block.attention for block in model.layers()]
    delta: Any = next((m for m in mixers if hasattr(m, "key_heads")), None)
    full: Any = next((m for m in mixers if hasattr(m, "kv_heads")), None)
    moe = keys.mlp(model)
    found = keys.write_sizes(cfg, model)
    if full is not None:
        found |= {"num_key_value_heads": full.kv_heads, "head_dim": full.head_dim}
    if delta is not None:
        found |= {
            "linear_num_key_heads": delta.key_heads,
            "linear_num_value_heads": delta.heads,
            "linear_key_head_dim": delta.key_dim,
            "linear_value_head_dim": delta.value_dim,
            "linear_conv_kernel_dim": delta.q_conv.taps,
        }
    return found | {
        "layer_types": [keys.FULL if hasattr(m, "kv_heads") else "linear_attention" for m in mixers],
        "rope_parameters": {"partial_rotary_factor": 1.0} | keys.write_rope(cfg.position, model),
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.d_ff,
        "shared_expert_intermediate_size": cfg.mlp["shared_experts"] * moe.d_ff,
        "norm_topk_prob": cfg.mlp["renormalize"],
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    }


def _read_qwen3_next(hf: Released) -> Settings:
    for key, only in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("decoder_sparse_step", 1),
        ("rms_norm_eps", 1e-6),
    ):
        hf.expect(key, only)
    hf.expect("mlp_only_layers", [], None)
    width, count = hf["hidden_size"], hf["num_attention_heads"]
    every = hf.get("full_attention_interval", 4)
    usual = [keys.FULL if (layer + 1) % every == 0 else "linear_attention" for layer in range(hf["num_hidden_layers"])]
    types = hf.get("layer_types", usual)
    found = keys.read_sizes(hf)
    letters: dict[str, Any] = {}
    if "linear_attention" in types:
        hf.expect("linear_num_value_heads", count)
        letters["G"] = {
            "name": "gated_deltanet",
            "expand_k": hf["linear_key_head_dim"] * count / width,
            "expand_v": hf["linear_value_head_dim"] * count / width,
            "key_heads": hf["linear_num_key_heads"],
            "conv": hf["linear_conv_kernel_dim"],
        }
    if keys.FULL in types:
        letters["A"] = keys.read_heads(hf, "gated") | {"qk_norm": "head"}
    pattern = keys.letters(hf, types, {"linear_attention": "G", keys.FULL: "A"})
    found["attention"] = {"name": "hybrid", "pattern": pattern, "letters": letters}
    found["position"] = keys.read_rope(
        Released(hf.architecture, {"partial_rotary_factor": 0.25, **hf.values}), partial=True
    )
    shared, d_ff = hf["shared_expert_intermediate_size"], hf["moe_intermediate_size"]
    hf.expect("shared_expert_intermediate_size", *(n * d_ff for n in range(1, 1 + max(1, shared // d_ff))))
    found["mlp"] = {
        "name": "moe",
        "experts": hf["num_experts"],
        "top_k": hf["num_experts_per_tok"],
        "d_ff": d_ff,
        "shared_experts": shared // d_ff,
        "shared_gate": True,
        "renormalize": hf["norm_topk_prob"],
    }
    return found


def _qwen3_next(model: GPT) -> Iterator[Link]:
    yield from ends(model, SHIFTED)
    for block, here, there in _layers(model):
        mixer, at = block.attention, f"{here}attention."
        yield from _norms(here, there, SHIFTED)
        if hasattr(mixer, "kv_heads"):
            yield from _gated_heads(mixer, at, f"{there}self_attn.")
        else:
            yield from _gated_delta(mixer, at, f"{there}linear_attn.")
        inner, outer = f"{here}mlp.", f"{there}mlp."
        yield from named({"router.weight": "gate.weight", **EXPERTS}, inner, outer)
        yield from gated(block.mlp.shared, f"{inner}shared.", f"{outer}shared_expert.")
        yield same(f"{inner}shared_gate.weight", f"{outer}shared_expert_gate.weight")


def _gated_heads(mixer: Any, here: str, there: str) -> Iterator[Link]:
    """Their q_proj has queries and gate of a head side by side."""
    q, kv = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    both = torch.arange(2 * q).view(mixer.heads, 2, -1)
    rest = 2 * q + torch.arange(2 * kv)
    yield Link(
        (f"{here}qkv.weight", f"{here}gate_proj.weight"),
        tuple(f"{there}{x}_proj.weight" for x in "qkv"),
        (q + 2 * kv, q),
        (2 * q, kv, kv),
        torch.cat((both[:, 0].flatten(), rest, both[:, 1].flatten())),
    )
    yield same(f"{here}o_proj.weight", f"{there}o_proj.weight")
    yield from named({f"{x}_norm.weight": f"{x}_norm.weight" for x in "qk"}, here, there, SHIFTED)


def _gated_delta(mixer: Any, here: str, there: str) -> Iterator[Link]:
    """Their projections have all of a key head side by side: q, k, the values of its heads, their gates; b and a."""
    groups, each = mixer.key_heads, mixer.heads // mixer.key_heads
    sizes = (mixer.key_dim, mixer.key_dim, each * mixer.value_dim, each * mixer.value_dim)
    yield Link(
        tuple(f"{here}{x}_proj.weight" for x in ("q", "k", "v", "gate")),
        (f"{there}in_proj_qkvz.weight",),
        tuple(groups * size for size in sizes),
        order=_by_group(groups, sizes),
    )
    yield Link(
        tuple(f"{here}{x}_proj.weight" for x in ("beta", "decay")),
        (f"{there}in_proj_ba.weight",),
        (mixer.heads, mixer.heads),
        order=_by_group(groups, (each, each)),
    )
    yield _convolutions(mixer, here, there)
    rest = {"dt": "dt_bias", "a_log": "A_log", "norm.weight": "norm.weight", "o_proj.weight": "out_proj.weight"}
    yield from named(rest, here, there)


def _by_group(groups: int, sizes: tuple[int, ...]) -> Tensor:
    rows = torch.arange(groups * sum(sizes)).view(groups, -1)
    return torch.cat([part.flatten() for part in rows.split(list(sizes), dim=1)])


def _convolutions(mixer: Any, here: str, there: str) -> Link:
    names = tuple(f"{here}{x}_conv.weight" for x in "qkv")
    rows = (mixer.key_width, mixer.key_width, mixer.value_width)
    return Link(names, (f"{there}conv1d.weight",), rows, form=CHANNELS)


# latent attention with DeepSeek's experts


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
    for block, here, there in _layers(model):
        yield from _norms(here, there)
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
    for block, here, there in _layers(model):
        yield from _norms(here, there)
        if hasattr(block.attention, "kv_rank"):
            yield from _latent(block.attention, f"{here}attention.", f"{there}self_attn.", interleaved=False)
        else:
            yield from _kimi_delta(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield from _routed(block.mlp, f"{here}mlp.", f"{there}mlp.")


def _kimi_delta(mixer: Any, here: str, there: str) -> Iterator[Link]:
    yield from named({f"{x}_proj.weight": f"{x}_proj.weight" for x in "qkvo"}, here, there)
    yield _convolutions(mixer, here, there)
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


# gpt-oss


def _write_gpt_oss(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    moe = keys.mlp(model)
    return keys.write_sizes(cfg, model) | {
        **keys.write_heads(model),
        "intermediate_size": moe.d_ff,
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "swiglu_limit": cfg.mlp["clamp"],
        "sliding_window": keys.window(model),
        "layer_types": keys.layer_types(model),
        "attention_bias": cfg.model.bias,
        "rope_parameters": keys.write_rope(cfg.position, model),
    }


def _read_gpt_oss(hf: Released) -> Settings:
    for key, only in (("hidden_act", "silu"), ("attention_bias", True), ("swiglu_alpha", 1.702)):
        hf.expect(key, only)
    found = keys.read_sizes(hf) | {"position": keys.read_rope(hf, theta=150000.0)}
    found["attention"] = keys.read_heads(hf, "sliding") | keys.read_windows(hf, hf["layer_types"]) | {"sinks": True}
    found["model"]["bias"] = True
    found["mlp"] = {
        "name": "moe",
        "experts": hf["num_local_experts"],
        "top_k": hf["num_experts_per_tok"],
        "d_ff": hf["intermediate_size"],
        "clamp": hf.get("swiglu_limit", 7.0),
    }
    return found


def _gpt_oss(model: GPT) -> Iterator[Link]:
    """Experts are (in, out) there, their gate and up rows take turns."""
    yield from ends(model)
    for block, here, there in _layers(model):
        yield from _norms(here, there)
        yield from heads(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield same(f"{here}attention.sinks_H", f"{there}self_attn.sinks")
        inner, outer = f"{here}mlp.", f"{there}mlp."
        yield from named({f"router.{x}": f"router.{x}" for x in ("weight", "bias")}, inner, outer)
        halves = paired(2 * block.mlp.d_ff)
        turns = halves.argsort()
        matrix = Form(lambda w, o=halves: w[..., o].mT, lambda w, o=turns: w.mT[..., o])  # type: ignore[misc]
        vector = Form(lambda w, o=halves: w[:, o], lambda w, o=turns: w[:, o])  # type: ignore[misc]
        yield same(f"{inner}routed.gate_up_proj.weight", f"{outer}experts.gate_up_proj", matrix)
        yield same(f"{inner}routed.gate_up_proj.bias", f"{outer}experts.gate_up_proj_bias", vector)
        yield same(f"{inner}routed.down_proj.weight", f"{outer}experts.down_proj", Form(lambda w: w.mT, lambda w: w.mT))
        yield same(f"{inner}routed.down_proj.bias", f"{outer}experts.down_proj_bias")


FAMILIES = (
    Family(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        PRE_NORM | ROTARY | {"attention": ("gated", "gated_deltanet"), "mlp": ("moe",)},
        _write_qwen3_next,
        _read_qwen3_next,
        _qwen3_next,
    ),
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
    Family(
        "gpt_oss",
        "GptOssForCausalLM",
        PRE_NORM | ROTARY | {"attention": ("sliding",), "mlp": ("moe",)},
        _write_gpt_oss,
        _read_gpt_oss,
        _gpt_oss,
    ),
)
