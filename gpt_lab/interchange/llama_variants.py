"""Families whose block is Llama's but for the MLP or the norm: Arcee, Mixtral, StarCoder2, StableLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import HEADS, PRE_NORM, Family, Released, Settings
from gpt_lab.interchange.links import Link, named, same
from gpt_lab.interchange.llama_like import EXPERTS, NORMS, ROTARY, ends, gated, heads, layer_norms, layers, write
from gpt_lab.model.gpt import GPT

ACTIVATIONS = {"relu2": "relu2", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}
"""transformers' names of what plain MLPs have between their matrices."""
_OURS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_new": "gelu_tanh"}


def _plain(mlp: Any, here: str, there: str, up: str, down: str) -> Iterator[Link]:
    """An MLP of two matrices."""
    for kind in ("weight", "bias"):
        if getattr(mlp.up_proj, kind) is not None:
            yield from named({f"up_proj.{kind}": f"{up}.{kind}", f"down_proj.{kind}": f"{down}.{kind}"}, here, there)


def _write_arcee(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    bias = {"attention_bias": cfg.model.bias, "mlp_bias": cfg.model.bias}
    return write(cfg, model) | {"hidden_act": ACTIVATIONS[cfg.mlp["name"]], **bias}


def _read_arcee(hf: Released) -> Settings:
    bias = hf.get("attention_bias", False)
    hf.expect("mlp_bias", bias)
    hf.expect("hidden_act", "relu2", *_OURS)
    found = keys.read_sizes(hf) | {"attention": keys.read_heads(hf), "position": keys.read_rope(hf)}
    found["mlp"] = {"name": _OURS[hf.get("hidden_act", "relu2")], "d_ff": hf["intermediate_size"]}
    found["model"]["bias"] = bias
    return found


def _arcee(model: GPT) -> Iterator[Link]:
    yield from ends(model)
    for block, here, there in layers(model):
        yield from heads(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield from _plain(block.mlp, f"{here}mlp.", f"{there}mlp.", "up_proj", "down_proj")
        yield from layer_norms(here, there)


def _write_mixtral(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    moe = keys.mlp(model)
    return keys.write_sizes(cfg, model) | {
        **keys.write_heads(model),
        "intermediate_size": moe.d_ff,
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "sliding_window": keys.window(model),
        "rope_parameters": keys.write_rope(cfg.position, model),
    }


def _read_mixtral(hf: Released) -> Settings:
    hf.expect("hidden_act", "silu")
    found = keys.read_sizes(hf) | {"position": keys.read_rope(hf, theta=1e6)}
    if hf.get("sliding_window") is None:
        found["attention"] = keys.read_heads(hf)
    else:
        found["attention"] = keys.read_heads(hf, "sliding") | {"window": hf["sliding_window"], "pattern": "S"}
    found["mlp"] = {
        "name": "moe",
        "experts": hf["num_local_experts"],
        "top_k": hf["num_experts_per_tok"],
        "d_ff": hf["intermediate_size"],
    }
    return found


def _mixtral(model: GPT) -> Iterator[Link]:
    yield from ends(model)
    for block, here, there in layers(model):
        yield from heads(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield from named({"router.weight": "gate.weight", **EXPERTS}, f"{here}mlp.", f"{there}mlp.")
        yield from layer_norms(here, there)


def _write_starcoder2(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = keys.write_sizes(cfg, model)
    del found["rms_norm_eps"]
    return found | {
        "num_key_value_heads": keys.attention(model).kv_heads,
        "intermediate_size": keys.mlp(model).down_proj.in_features,
        "hidden_act": ACTIVATIONS[cfg.mlp["name"]],
        "norm_epsilon": cfg.norm["eps"],
        "use_bias": cfg.model.bias,
        "sliding_window": keys.window(model),
        "rope_parameters": keys.write_rope(cfg.position, model),
    }


def _read_starcoder2(hf: Released) -> Settings:
    hf.expect("hidden_act", "gelu_pytorch_tanh", *_OURS)
    found = keys.read_sizes(Released(hf.architecture, {"tie_word_embeddings": True, **hf.values, "rms_norm_eps": 1.0}))
    found["norm"] = {"name": "layernorm", "eps": hf["norm_epsilon"]}
    found["position"] = keys.read_rope(hf)
    found["attention"] = keys.read_heads(hf)
    if hf.get("sliding_window") is not None:
        found["attention"] = keys.read_heads(hf, "sliding") | {"window": hf["sliding_window"], "pattern": "S"}
    found["mlp"] = {"name": _OURS[hf.get("hidden_act", "gelu_pytorch_tanh")], "d_ff": hf["intermediate_size"]}
    found["model"]["bias"] = hf.get("use_bias", True)
    return found


def _starcoder2(model: GPT) -> Iterator[Link]:
    yield from ends(model)
    yield same("norm.bias", "model.norm.bias")
    for block, here, there in layers(model):
        yield from heads(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield from _plain(block.mlp, f"{here}mlp.", f"{there}mlp.", "c_fc", "c_proj")
        yield from layer_norms(here, there)
        yield from named({f"{x}.bias": f"{y}.bias" for x, y in NORMS.items()}, here, there)


def _write_stablelm(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = keys.write_sizes(cfg, model)
    del found["rms_norm_eps"]
    first = keys.attention(model)
    return found | {
        "num_key_value_heads": first.kv_heads,
        "intermediate_size": keys.mlp(model).down_proj.in_features,
        "layer_norm_eps": cfg.norm["eps"],
        "use_qkv_bias": first.qkv.bias is not None,
        "use_parallel_residual": cfg.residual["name"] == "parallel",
        "rope_parameters": {"partial_rotary_factor": 1.0} | keys.write_rope(cfg.position, model),
    }


def _read_stablelm(hf: Released) -> Settings:
    hf.expect("hidden_act", "silu")
    hf.expect("qk_layernorm", False)
    found = keys.read_sizes(Released(hf.architecture, {"tie_word_embeddings": False, **hf.values, "rms_norm_eps": 1.0}))
    found["norm"] = {"name": "layernorm", "eps": hf.get("layer_norm_eps", 1e-5)}
    found["attention"] = keys.read_heads(hf) | {"qkv_bias": hf.get("use_qkv_bias", False)}
    found["mlp"] = {"name": "swiglu", "d_ff": hf["intermediate_size"]}
    old = {"partial_rotary_factor": 0.25}
    found["position"] = keys.read_rope(Released(hf.architecture, {**old, **hf.values}), partial=True)
    if hf.get("use_parallel_residual", False):
        found["residual"] = {"name": "parallel"}
    return found


def _stablelm(model: GPT) -> Iterator[Link]:
    yield from ends(model)
    yield same("norm.bias", "model.norm.bias")
    for block, here, there in layers(model):
        yield from heads(block.attention, f"{here}attention.", f"{there}self_attn.")
        yield from gated(block.mlp, f"{here}mlp.", f"{there}mlp.")
        norms = NORMS if block.mlp_norm is not None else {"attention_norm": NORMS["attention_norm"]}
        for kind in ("weight", "bias"):
            yield from named({f"{x}.{kind}": f"{y}.{kind}" for x, y in norms.items()}, here, there)


WINDOWED = ROTARY | {"attention": (*HEADS, "sliding"), "residual": ("pre",)}
FAMILIES = (
    Family(
        "arcee",
        "ArceeForCausalLM",
        PRE_NORM | ROTARY | {"attention": HEADS, "mlp": tuple(ACTIVATIONS)},
        _write_arcee,
        _read_arcee,
        _arcee,
    ),
    Family(
        "mixtral",
        "MixtralForCausalLM",
        PRE_NORM | WINDOWED | {"mlp": ("moe",)},
        _write_mixtral,
        _read_mixtral,
        _mixtral,
    ),
    Family(
        "starcoder2",
        "Starcoder2ForCausalLM",
        WINDOWED | {"norm": ("layernorm",), "mlp": tuple(ACTIVATIONS)},
        _write_starcoder2,
        _read_starcoder2,
        _starcoder2,
    ),
    Family(
        "stablelm",
        "StableLmForCausalLM",
        ROTARY | {"attention": HEADS, "norm": ("layernorm",), "mlp": ("swiglu",), "residual": ("pre", "parallel")},
        _write_stablelm,
        _read_stablelm,
        _stablelm,
    ),
)
