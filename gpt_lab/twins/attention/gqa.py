"""Grouped-query attention: R query heads share one head of keys and values.

Paper: Ainslie et al. 2023, arXiv:2305.13245, section 2.2
Layout: queries are (B, T, G, R, K), head g R + r of the part's (B, H, T, K).

Shape letters: B rows, T and S tokens, D width, G key/value heads, R query heads
that share one, K head dimension.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gpt_lab.twins.attention.mha import Rotate
from gpt_lab.twins.weights import Weights


def gqa(
    w: Weights, x_BTD: Array, heads: int, kv_heads: int, rotate: Rotate
) -> Array:
    """All tokens at once."""
    rows, length, width = x_BTD.shape
    dim = width // heads
    ends = (heads * dim, (heads + kv_heads) * dim)
    q_BTHK, k_BSGK, v_BSGK = (
        (x_BTD @ matrix.T).reshape(rows, length, -1, dim)
        for matrix in jnp.split(w["qkv.weight"], ends)
    )
    positions_T = jnp.arange(length)
    k_BSGK = rotate(k_BSGK, positions_T)
    q_BTGRK = rotate(q_BTHK, positions_T).reshape(
        rows, length, kv_heads, heads // kv_heads, dim
    )

    scores_BGRTS = jnp.einsum("btgrk,bsgk->bgrts", q_BTGRK, k_BSGK) / dim**0.5
    seen_TS = jnp.tri(length, dtype=bool)
    weights_BGRTS = jax.nn.softmax(jnp.where(seen_TS, scores_BGRTS, -jnp.inf))
    y_BTGRK = jnp.einsum("bgrts,bsgk->btgrk", weights_BGRTS, v_BSGK)
    return y_BTGRK.reshape(x_BTD.shape) @ w["o_proj.weight"].T
