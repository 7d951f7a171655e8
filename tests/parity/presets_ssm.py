"""Presets of state spaces beside their originals; see presets.py."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tests.parity.case import Comparison, parity
from tests.parity.presets import both
from tests.parity.released import HEADS, VOCAB, WIDTH, Case, Weights

MIXER = {"in_proj.weight": "in_proj.weight", "out_proj.weight": "o_proj.weight", "norm.weight": "norm.weight"}
MIXER |= {"conv1d.bias": "conv.bias", "A_log": "a_log", "dt_bias": "dt", "D": "skip"}
SHARED = {"input_layernorm": "attention_norm", "pre_ff_layernorm": "mlp_norm", "self_attn.o_proj": "attention.o_proj"}
SHARED |= {"feed_forward.gate_up_proj": "gate_up_proj", "feed_forward.down_proj": "down_proj"}


def _mixer(theirs: Weights, there: str, here: str) -> dict[str, Tensor]:
    """Mamba2Mixer and Zamba2's, whose convolutions are (C, 1, W)."""
    ours = {f"{here}.{y}": theirs[f"{there}.{x}"] for x, y in MIXER.items()}
    return ours | {f"{here}.conv.weight": theirs[f"{there}.conv1d.weight"][:, 0]}


def mamba2(theirs: Weights) -> dict[str, Tensor]:
    """Mamba2ForCausalLM."""
    ours = {"embed.weight": theirs["backbone.embeddings.weight"], "norm.weight": theirs["backbone.norm_f.weight"]}
    for i in range(2):
        ours |= _mixer(theirs, f"backbone.layers.{i}.mixer", f"blocks.{i}.attention")
        ours[f"blocks.{i}.attention_norm.weight"] = theirs[f"backbone.layers.{i}.norm.weight"]
    return ours


def zamba2(theirs: Weights, pattern: str, blocks: int) -> dict[str, Tensor]:
    """Zamba2ForCausalLM, which names a shared block by the first layer that uses it."""
    ours = {"embed.weight": theirs["model.embed_tokens.weight"], "norm.weight": theirs["model.final_layernorm.weight"]}
    uses = [layer for layer, letter in enumerate(pattern) if letter == "H"]
    for i, letter in enumerate(pattern):
        there, here = f"model.layers.{i}", f"blocks.{i}"
        inside = f"{there}.mamba_decoder" if letter == "H" else there
        ours |= _mixer(theirs, f"{inside}.mamba", f"{here}.attention")
        ours[f"{here}.attention_norm.weight"] = theirs[f"{inside}.input_layernorm.weight"]
        if letter == "H":
            ours[f"{here}.shared_proj.weight"] = theirs[f"{there}.linear.weight"]
    for block in range(blocks):
        there, here = f"model.layers.{uses[block]}.shared_transformer", f"streams.blocks.{block}"
        ours |= {f"{here}.{y}.weight": theirs[f"{there}.{x}.weight"] for x, y in SHARED.items()}
        ours[f"{here}.attention.qkv.weight"] = torch.cat([theirs[f"{there}.self_attn.{x}_proj.weight"] for x in "qkv"])
        for turn, use in enumerate(range(block, len(uses), blocks)):
            adapter = f"{there}.feed_forward.gate_up_proj_adapter_list.{use}"
            for x, y in enumerate(("down", "up")):
                ours[f"{here}.adapters.{turn}.{y}.weight"] = theirs[f"{adapter}.{x}.weight"]
    return ours


TYPES = {"M": "linear_attention", "H": "hybrid"}


def _zamba2(words: list[str], pattern: str, blocks: int, **theirs: object) -> Case:
    return Case(
        ["model=zamba2", *words],
        "Zamba2ForCausalLM",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS}
        | {"layers_block_type": [TYPES[letter] for letter in pattern], "n_mamba_heads": 8, "num_mem_blocks": blocks}
        | {"pad_token_id": None}
        | theirs,
        functools.partial(zamba2, pattern=pattern, blocks=blocks),
    )


CASES = {
    "mamba2": Case(
        ["model=mamba2"],
        "Mamba2ForCausalLM",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "expand": 2, "n_groups": 1}
        | {"num_heads": 8, "head_dim": 8, "state_size": 128, "tie_word_embeddings": True, "pad_token_id": None}
        | {"max_position_embeddings": 32},
        mamba2,
    ),
    "zamba2": _zamba2([], "MH", 1),
    "zamba2, a block used twice": _zamba2(
        ["residual.pattern=H", "residual.rank=3", "residual.d_ff=48", "position=rope"],
        "HH",
        1,
        adapter_rank=3,
        intermediate_size=48,
        use_mem_rope=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "zamba2, two blocks": _zamba2(
        ["residual.pattern=H", "residual.blocks=2", "residual.rank=3", "residual.d_ff=32"],
        "HH",
        2,
        adapter_rank=3,
        intermediate_size=32,
    ),
}


def _whole(name: str) -> Comparison:
    mine, theirs = both(CASES[name])
    return Comparison([(mine[0], theirs[0])], list(zip(mine[1:], theirs[1:], strict=True)))


parity("attention", "mamba2", "transformers.Mamba2ForCausalLM", "model=mamba2")(functools.partial(_whole, "mamba2"))
parity("residual", "zamba2", "transformers.Zamba2ForCausalLM")(functools.partial(_whole, "zamba2"))
parity("residual", "zamba2", "transformers.Zamba2ForCausalLM", "pattern=H rank=3 d_ff=48 position=rope")(
    functools.partial(_whole, "zamba2, a block used twice")
)
parity("residual", "zamba2", "transformers.Zamba2ForCausalLM", "pattern=H blocks=2 rank=3 d_ff=32")(
    functools.partial(_whole, "zamba2, two blocks")
)
