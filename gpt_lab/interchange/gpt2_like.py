"""Families with GPT-2's block: layer norms, a plain MLP of two matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.interchange import keys
from gpt_lab.interchange.family import Family, Released, Settings
from gpt_lab.interchange.links import AFTER_PADDING, PLAIN, TRANSPOSED, Form, Link, joined, same
from gpt_lab.model.gpt import GPT

GPT2 = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.o_proj": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
GPT_NEOX = {
    "attention_norm": "input_layernorm",
    "attention.qkv": "attention.query_key_value",
    "attention.o_proj": "attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
MPT = {
    "attention_norm": "norm_1",
    "attention.qkv": "attn.Wqkv",
    "attention.o_proj": "attn.out_proj",
    "mlp_norm": "norm_2",
    "mlp.up_proj": "ffn.up_proj",
    "mlp.down_proj": "ffn.down_proj",
}
OPT = {
    "attention_norm": "self_attn_layer_norm",
    "attention.o_proj": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
}


def layers(
    model: GPT, names: Mapping[str, str], there: str, form: Form = PLAIN, by_head: bool = False
) -> Iterator[Link]:
    """The weights and biases of all layers.

    Args:
        form: of their matrices.
        by_head: they have q, k and v of a head side by side, head by head.
    """
    parameters = dict(model.named_parameters())
    for i in range(len(model.blocks)):
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                name = f"blocks.{i}.{ours}.{kind}"
                if name in parameters:
                    order = _by_head(keys.attention(model, i)) if by_head and ours == "attention.qkv" else None
                    plain = parameters[name].ndim == 1
                    yield same(name, f"{there}{i}.{theirs}.{kind}", PLAIN if plain else form, order)


def _by_head(attention: Any) -> torch.Tensor:
    rows = torch.arange(3 * attention.heads * attention.head_dim)
    return rows.view(attention.heads, 3, -1).transpose(0, 1).flatten()


def around(model: GPT, embed: str, norm: str, head: str, position: str = "") -> Iterator[Link]:
    """Embeddings, last norm and head."""
    yield same("embed.weight", embed)
    if position:
        yield same("position.table", position)
    for kind in ("weight", "bias"):
        if getattr(model.norm, kind, None) is not None:
            yield same(f"norm.{kind}", f"{norm}.{kind}")
    if model.head is not None:
        yield same("head.weight", head)


def _read(hf: Released, depth: str, width: str, heads: str, context: str, eps: str) -> Settings:
    return {
        "scale": {"depth": hf[depth], "width": hf[width], "heads": hf[heads], "context": hf[context]},
        "attention": {"name": "mha"},
        "norm": {"name": "layernorm", "eps": hf[eps]},
        "residual": {"name": "pre"},
        "model": {"tied": hf.get("tie_word_embeddings", True), "bias": True},
    }


def _write_gpt2(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "n_positions": cfg.scale.context,
        "n_embd": cfg.scale.width,
        "n_layer": cfg.scale.depth,
        "n_head": cfg.scale.heads,
        "n_inner": keys.mlp(model).down_proj.in_features,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(cfg.mlp["name"], cfg.mlp["name"]),
        "layer_norm_epsilon": cfg.norm["eps"],
        "attn_pdrop": cfg.attention["dropout"],
        "embd_pdrop": cfg.model.dropout,
        "resid_pdrop": cfg.model.dropout,
        "tie_word_embeddings": cfg.model.tied,
    }


def _read_gpt2(hf: Released) -> Settings:
    hf.expect("scale_attn_weights", True)
    hf.expect("scale_attn_by_inverse_layer_idx", False)
    hf.expect("add_cross_attention", False)
    hf.expect("activation_function", "gelu_new", "gelu", "relu", "silu")
    found = _read(hf, "n_layer", "n_embd", "n_head", "n_positions", "layer_norm_epsilon")
    name = {"gelu_new": "gelu_tanh"}.get(hf["activation_function"], hf["activation_function"])
    found["mlp"] = {"name": name, "d_ff": hf.get("n_inner", 4 * hf["n_embd"])}
    found["attention"]["dropout"] = hf.get("attn_pdrop", 0.1)
    found["model"]["dropout"] = hf.get("resid_pdrop", 0.1)
    return found | {"position": {"name": "learned"}}


def _gpt2(model: GPT) -> Iterator[Link]:
    yield from around(model, "transformer.wte.weight", "transformer.ln_f", "lm_head.weight", "transformer.wpe.weight")
    yield from layers(model, GPT2, "transformer.h.", TRANSPOSED)


def _write_neox(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = keys.write_sizes(cfg, model)
    del found["rms_norm_eps"]
    return found | {
        "layer_norm_eps": cfg.norm["eps"],
        "intermediate_size": keys.mlp(model).down_proj.in_features,
        "hidden_act": {"gelu_tanh": "gelu_new"}.get(cfg.mlp["name"], cfg.mlp["name"]),
        "use_parallel_residual": cfg.residual["name"] == "parallel",
        "attention_bias": cfg.model.bias,
        "rope_parameters": {"partial_rotary_factor": 1.0} | keys.write_rope(cfg.position, model),
    }


def _read_neox(hf: Released) -> Settings:
    hf.expect("hidden_act", "gelu", "gelu_new", "relu", "silu")
    hf.expect("attention_bias", True)
    found = _read(
        hf, "num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings", "layer_norm_eps"
    )
    name = hf.get("hidden_act", "gelu")
    found["mlp"] = {"name": {"gelu_new": "gelu_tanh"}.get(name, name), "d_ff": hf["intermediate_size"]}
    found["model"]["tied"] = hf.get("tie_word_embeddings", False)
    old = {"rope_theta": hf.get("rotary_emb_base", 10000.0), "partial_rotary_factor": hf.get("rotary_pct", 0.25)}
    found["position"] = keys.read_rope(Released(hf.architecture, {**old, **hf.values}), partial=True)
    if hf.get("use_parallel_residual", True):
        found["residual"] = {"name": "parallel", "shared_norm": False}
    return found


def _neox(model: GPT) -> Iterator[Link]:
    prefix = "gpt_neox."
    yield from around(model, f"{prefix}embed_in.weight", f"{prefix}final_layer_norm", "lm_head.weight")
    yield from layers(model, GPT_NEOX, f"{prefix}layers.", by_head=True)


def _write_mpt(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "d_model": cfg.scale.width,
        "n_layers": cfg.scale.depth,
        "n_heads": cfg.scale.heads,
        "max_seq_len": cfg.scale.context,
        "expansion_ratio": 4,
        "layer_norm_epsilon": cfg.norm["eps"],
        "no_bias": True,
        "tie_word_embeddings": cfg.model.tied,
    }


def _read_mpt(hf: Released) -> Settings:
    hf.expect("expansion_ratio", 4)
    hf.expect("no_bias", True)
    hf.expect("logit_scale", None)
    hf.expect("layer_norm_epsilon", 1e-5)  # its model's, whatever the configuration says
    inner = Released(hf.architecture, hf.get("attn_config", {}))
    for key, usual in (
        ("alibi", True),
        ("alibi_bias_max", 8),
        ("clip_qkv", None),
        ("softmax_scale", None),
        ("qk_ln", False),
    ):
        inner.expect(key, usual)
    found = _read(hf, "n_layers", "d_model", "n_heads", "max_seq_len", "layer_norm_epsilon")
    found["norm"]["bias"] = False
    found["model"]["bias"] = False
    return found | {"position": {"name": "alibi"}, "mlp": {"name": "gelu", "d_ff": 4 * hf["d_model"]}}


def _mpt(model: GPT) -> Iterator[Link]:
    yield from around(model, "transformer.wte.weight", "transformer.norm_f", "lm_head.weight")
    yield from layers(model, MPT, "transformer.blocks.")


def _write_opt(cfg: RunConfig, model: GPT) -> dict[str, Any]:
    found = keys.write_sizes(cfg, model)
    del found["rms_norm_eps"]
    return found | {
        "ffn_dim": keys.mlp(model).down_proj.in_features,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(cfg.mlp["name"], cfg.mlp["name"]),
        "do_layer_norm_before": cfg.residual["name"] == "pre",
        "layer_norm_eps": cfg.norm["eps"],
        "enable_bias": cfg.model.bias,
        "dropout": cfg.model.dropout,
        "attention_dropout": cfg.attention["dropout"],
        "pad_token_id": None,
    }


def _read_opt(hf: Released) -> Settings:
    width, heads = hf["hidden_size"], hf["num_attention_heads"]
    hf.expect("activation_function", "relu", "gelu_new", "gelu", "silu")
    hf.expect("word_embed_proj_dim", width, None)
    hf.expect("layer_norm_elementwise_affine", True)
    hf.expect("_remove_final_layer_norm", False)
    hf.expect("layer_norm_eps", 1e-5)  # its model's, whatever the configuration says
    name = hf.get("activation_function", "relu")
    return {
        "scale": {
            "depth": hf["num_hidden_layers"],
            "width": width,
            "heads": heads,
            "context": hf["max_position_embeddings"],
        },
        "attention": {"name": "mha", "dropout": hf.get("attention_dropout", 0.0)},
        "position": {"name": "learned"},
        "norm": {"name": "layernorm"},
        "mlp": {"name": {"gelu_new": "gelu_tanh"}.get(name, name), "d_ff": hf["ffn_dim"]},
        "residual": {"name": "pre" if hf.get("do_layer_norm_before", True) else "post"},
        "model": {
            "tied": hf.get("tie_word_embeddings", True),
            "bias": hf.get("enable_bias", True),
            "dropout": hf.get("dropout", 0.1),
        },
    }


def _opt(model: GPT) -> Iterator[Link]:
    prefix = "model.decoder."
    yield from around(model, f"{prefix}embed_tokens.weight", f"{prefix}final_layer_norm", "lm_head.weight")
    yield same("position.table", f"{prefix}embed_positions.weight", AFTER_PADDING)
    yield from layers(model, OPT, f"{prefix}layers.")
    for i in range(len(model.blocks)):
        for kind in ("weight", "bias") if keys.attention(model, i).qkv.bias is not None else ("weight",):
            names = [f"{prefix}layers.{i}.self_attn.{x}_proj.{kind}" for x in "qkv"]
            yield joined(f"blocks.{i}.attention.qkv.{kind}", names, (model.shape.width,) * 3)


BLOCK = {"attention": ("mha",), "norm": ("layernorm",)}
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")
FAMILIES = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        BLOCK | {"position": ("learned",), "mlp": ACTIVATIONS, "residual": ("pre",)},
        _write_gpt2,
        _read_gpt2,
        _gpt2,
    ),
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        BLOCK | {"position": ("rope", "yarn"), "mlp": ACTIVATIONS, "residual": ("parallel", "pre")},
        _write_neox,
        _read_neox,
        _neox,
    ),
    Family(
        "mpt",
        "MptForCausalLM",
        BLOCK | {"position": ("alibi",), "mlp": ("gelu",), "residual": ("pre",)},
        _write_mpt,
        _read_mpt,
        _mpt,
    ),
    Family(
        "opt",
        "OPTForCausalLM",
        BLOCK | {"position": ("learned",), "mlp": ACTIVATIONS, "residual": ("pre", "post")},
        _write_opt,
        _read_opt,
        _opt,
    ),
)
