"""Families of state spaces alone: Mamba-2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import PRE_NORM, Family, Released, Settings
from gpt_lab.interchange.links import CHANNELS, Link, named, same
from gpt_lab.model.gpt import GPT

MIXER = {"in_proj.weight": "in_proj.weight", "o_proj.weight": "out_proj.weight", "norm.weight": "norm.weight"}
MIXER |= {"conv.bias": "conv1d.bias", "a_log": "A_log", "dt": "dt_bias", "skip": "D"}
UNBOUNDED = float("inf")
FILED = {"__float__": "Infinity"}
"""How transformers writes it into a config.json."""
CONTEXT = 2048
"""Of the released models' training: their configurations tell of none."""


def _write_mamba2(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    mixer = keys.attention(model)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": cfg.scale.width,
        "num_hidden_layers": cfg.scale.depth,
        "max_position_embeddings": cfg.scale.context,
        "num_attention_heads": cfg.scale.heads,
        "num_heads": mixer.heads,
        "head_dim": mixer.head_dim,
        "n_groups": mixer.groups,
        "state_size": cfg.attention["state_dim"],
        "expand": int(cfg.attention["expand"]),
        "conv_kernel": cfg.attention["conv"],
        "use_bias": cfg.model.bias,
        "layer_norm_epsilon": cfg.norm["eps"],
        "time_step_min": cfg.attention["dt_min"],
        "time_step_max": cfg.attention["dt_max"],
        "time_step_limit": [cfg.attention["dt_limit"], UNBOUNDED],
        "tie_word_embeddings": cfg.model.tied,
        "pad_token_id": None,
    }


def _read_mamba2(hf: Released) -> Settings:
    hf.expect("hidden_act", "silu")
    hf.expect("use_conv_bias", True)
    hf.expect("layer_norm_epsilon", 1e-5)  # that of the norms inside the mixers
    least, most = hf.get("time_step_limit", (0.0, UNBOUNDED))
    Released(hf.architecture, {"time_step_limit": most}).expect("time_step_limit", UNBOUNDED, FILED)
    width, own = hf["hidden_size"], hf["head_dim"]
    heads = hf.get("num_attention_heads", max(1, width // own))
    steps = {f"dt_{end}": hf.get(f"time_step_{end}", usual) for end, usual in (("min", 0.001), ("max", 0.1))}
    return {
        "scale": {
            "depth": hf["num_hidden_layers"],
            "width": width,
            "heads": heads,
            "context": hf.get("max_position_embeddings", CONTEXT),
        },
        "attention": {
            "name": "mamba2",
            "state_dim": hf["state_size"],
            "head_dim": None if own * heads == width else own,
            "groups": hf["n_groups"],
            "expand": float(hf["expand"]),
            "conv": hf["conv_kernel"],
            "dt_limit": float(least),
            **steps,
        },
        "position": {"name": "none"},
        "norm": {"name": "rmsnorm", "eps": hf["layer_norm_epsilon"]},
        "mlp": {"name": "none"},
        "residual": {"name": "pre"},
        "model": {"tied": hf["tie_word_embeddings"], "bias": hf.get("use_bias", False)},
    }


def _mamba2(model: GPT) -> Iterator[Link]:
    yield same("embed.weight", "backbone.embeddings.weight")
    yield same("norm.weight", "backbone.norm_f.weight")
    if model.head is not None:
        yield same("head.weight", "lm_head.weight")
    for i, block in enumerate(model.blocks):
        here, there = f"blocks.{i}.attention.", f"backbone.layers.{i}.mixer."
        mixer: Any = block.attention
        biases = {} if mixer.in_proj.bias is None else {"in_proj.bias": "in_proj.bias", "o_proj.bias": "out_proj.bias"}
        yield from named(MIXER | biases, here, there)
        yield same(f"{here}conv.weight", f"{there}conv1d.weight", CHANNELS)
        yield same(f"blocks.{i}.attention_norm.weight", f"backbone.layers.{i}.norm.weight")


FAMILIES = (
    Family(
        "mamba2",
        "Mamba2ForCausalLM",
        PRE_NORM | {"attention": ("mamba2",), "position": ("none",), "mlp": ("none",)},
        _write_mamba2,
        _read_mamba2,
        _mamba2,
    ),
)
