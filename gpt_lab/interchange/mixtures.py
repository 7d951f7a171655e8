"""Families of experts beside other mixers: Qwen3-Next, gpt-oss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import PRE_NORM, Family, Released, Settings
from gpt_lab.interchange.links import SHIFTED, Form, Link, named, paired, same
from gpt_lab.interchange.llama_like import EXPERTS, ROTARY, convolutions, ends, gated, heads, layer_norms, layers
from gpt_lab.model.gpt import GPT

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
    for block, here, there in layers(model):
        mixer, at = block.attention, f"{here}attention."
        yield from layer_norms(here, there, SHIFTED)
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
    yield convolutions(mixer, here, there)
    rest = {"dt": "dt_bias", "a_log": "A_log", "norm.weight": "norm.weight", "o_proj.weight": "out_proj.weight"}
    yield from named(rest, here, there)


def _by_group(groups: int, sizes: tuple[int, ...]) -> Tensor:
    rows = torch.arange(groups * sum(sizes)).view(groups, -1)
    return torch.cat([part.flatten() for part in rows.split(list(sizes), dim=1)])


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
    if not (hf.get("rope_parameters") or hf.get("rope_scaling")):  # its own default is no plain rotation
        raise ConfigError(f"the configuration of {hf.architecture} lacks rope_parameters")
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
    for block, here, there in layers(model):
        yield from layer_norms(here, there)
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
        "gpt_oss",
        "GptOssForCausalLM",
        PRE_NORM | ROTARY | {"attention": ("sliding",), "mlp": ("moe",)},
        _write_gpt_oss,
        _read_gpt_oss,
        _gpt_oss,
    ),
)
