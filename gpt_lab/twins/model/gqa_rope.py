"""The whole preset: embedding, pre-norm blocks, norm, the tied head.

Paper: Ainslie et al. 2023, arXiv:2305.13245; Su et al. 2021, arXiv:2104.09864
Layout: none; weights have the names of the model's state_dict.

Shape letters: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import functools

from jax import Array

from gpt_lab.twins.attention.gqa import gqa
from gpt_lab.twins.mlp.swiglu import swiglu
from gpt_lab.twins.norm.rmsnorm import rmsnorm
from gpt_lab.twins.position.rope import rope
from gpt_lab.twins.residual.pre import pre
from gpt_lab.twins.weights import Weights, under


def gqa_rope(
    w: Weights, tokens_BT: Array, depth: int, heads: int, kv_heads: int = 2
) -> Array:
    """Logits of the token after each token, (B, T, V)."""
    attention = functools.partial(
        gqa, heads=heads, kv_heads=kv_heads, rotate=rope
    )
    x_BTD = embed(w, tokens_BT)
    for layer in range(depth):
        x_BTD = pre(under(w, f"blocks.{layer}"), x_BTD, attention, swiglu)
    return unembed(w, rmsnorm(under(w, "norm"), x_BTD))


def embed(w: Weights, tokens_BT: Array) -> Array:
    """Each token's row of the embedding."""
    return w["embed.weight"][tokens_BT]


def unembed(w: Weights, x_BTD: Array) -> Array:
    """The same rows again, as the head: products with each of them."""
    return x_BTD @ w["embed.weight"].T
