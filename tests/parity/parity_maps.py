"""How weights of other models are laid out in ours: differentiable functions on {name: tensor}.

A map renames, cuts, stacks and permutes; where a model states a weight in other terms (Gemma's norms multiply by
1 + w), it says the same weight in ours. It changes no value that the model would use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

LLAMA_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
OLMO2_NORMS = {"post_attention_layernorm": "attention_out_norm", "post_feedforward_layernorm": "mlp_out_norm"}
GEMMA2_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_out_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_out_norm",
}


def gpt2(theirs: Tensors) -> dict[str, Tensor]:
    """GPT2LMHeadModel, whose Conv1D weights are (in, out)."""
    ours = {
        "embed.weight": theirs["transformer.wte.weight"],
        "position.table": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
    }
    names = {
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.o_proj",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    for i in _layers(theirs, "transformer.h."):
        for there, here in names.items():
            weight = theirs[f"transformer.h.{i}.{there}.weight"]
            ours[f"blocks.{i}.{here}.weight"] = weight.T if weight.ndim == 2 else weight
            ours[f"blocks.{i}.{here}.bias"] = theirs[f"transformer.h.{i}.{there}.bias"]
    return ours


def llama(theirs: Tensors, norms: Mapping[str, str] = LLAMA_NORMS) -> dict[str, Tensor]:
    """LlamaForCausalLM and its descendants; `norms` names the norms of a layer in both."""
    ours = {"embed.weight": theirs["model.embed_tokens.weight"]}
    optional = {"model.norm.weight": "norm.weight", "lm_head.weight": "head.weight"}
    for i in _layers(theirs, "model.layers."):
        there, here = f"model.layers.{i}.", f"blocks.{i}."
        ours[here + "attention.qkv.weight"] = torch.cat([theirs[f"{there}self_attn.{x}_proj.weight"] for x in "qkv"])
        ours[here + "attention.o_proj.weight"] = theirs[there + "self_attn.o_proj.weight"]
        optional |= {f"{there}self_attn.{x}_norm.weight": f"{here}attention.{x}_norm.weight" for x in "qk"}
        optional |= {f"{there}mlp.{x}_proj.weight": f"{here}mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
        optional |= {f"{there}{x}.weight": f"{here}{y}.weight" for x, y in norms.items()}
    return ours | {y: theirs[x] for x, y in optional.items() if x in theirs}


def olmo2(theirs: Tensors) -> dict[str, Tensor]:
    """Olmo2ForCausalLM."""
    return llama(theirs, OLMO2_NORMS)


def gemma2(theirs: Tensors) -> dict[str, Tensor]:
    """Gemma2ForCausalLM, whose norms multiply by 1 + w and whose embeddings are multiplied by sqrt(width)."""
    ours = llama(theirs, GEMMA2_NORMS)
    ours = {name: 1 + weight if "norm." in name else weight for name, weight in ours.items()}
    return ours | {"embed.weight": ours["embed.weight"] * ours["embed.weight"].shape[1] ** 0.5}


def nanochat(theirs: Tensors, heads: int, kv_heads: int) -> dict[str, Tensor]:
    """NanoChatForCausalLM, which rotates the other way: that is our rotation with a head's halves swapped."""
    ours = llama(theirs, {})
    for i in _layers(theirs, "model.layers."):
        there, here = f"model.layers.{i}.", f"blocks.{i}."
        q, k, v = (theirs[f"{there}self_attn.{x}_proj.weight"] for x in "qkv")
        swapped = [w.unflatten(0, (n, 2, -1)).flip(1).flatten(0, 2) for w, n in ((q, heads), (k, kv_heads))]
        ours[here + "attention.qkv.weight"] = torch.cat([*swapped, v])
        ours[here + "mlp.up_proj.weight"] = theirs[there + "mlp.fc1.weight"]
        ours[here + "mlp.down_proj.weight"] = theirs[there + "mlp.fc2.weight"]
    return ours


def gpt_neox(theirs: Tensors, heads: int) -> dict[str, Tensor]:
    """GPTNeoXForCausalLM, whose fused projection holds q, k, v head by head."""
    ours = {
        "embed.weight": theirs["gpt_neox.embed_in.weight"],
        "norm.weight": theirs["gpt_neox.final_layer_norm.weight"],
        "norm.bias": theirs["gpt_neox.final_layer_norm.bias"],
        "head.weight": theirs["embed_out.weight"] if "embed_out.weight" in theirs else theirs["lm_head.weight"],
    }
    names = {
        "input_layernorm": "attention_norm",
        "attention.query_key_value": "attention.qkv",
        "attention.dense": "attention.o_proj",
        "post_attention_layernorm": "mlp_norm",
        "mlp.dense_h_to_4h": "mlp.up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    }
    for i in _layers(theirs, "gpt_neox.layers."):
        for there, here in names.items():
            for kind in ("weight", "bias"):
                value = theirs[f"gpt_neox.layers.{i}.{there}.{kind}"]
                if here == "attention.qkv":
                    value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
                ours[f"blocks.{i}.{here}.{kind}"] = value
    return ours


def mpt(theirs: Tensors) -> dict[str, Tensor]:
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


def marian(theirs: Tensors) -> dict[str, Tensor]:
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


def nanogpt(theirs: Tensors) -> dict[str, Tensor]:
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


def _layers(theirs: Tensors, prefix: str) -> range:
    return range(1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in theirs if name.startswith(prefix)))


Map = Callable[[Tensors], dict[str, Tensor]]
