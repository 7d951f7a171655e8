"""How weights of models that gpt_lab.interchange does not know are laid out in ours: functions on {name: tensor}.

A map renames, cuts, stacks and permutes. It changes no value that the model would use.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


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
