"""Sliding-window attention: a query sees the latest W tokens, its own included.

Paper: Beltagy et al. 2020, arXiv:2004.05150, section 3.1
Layout: one loop over queries, each with its own W keys; the part masks scores.

Shape letters: B rows, T tokens, W window, D width, H heads, K head dimension.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt_lab.twins.attention.mha import Rotate
from gpt_lab.twins.weights import Weights


def sliding(
    w: Weights, x_BTD: Array, heads: int, window: int, rotate: Rotate
) -> Array:
    """All tokens at once; a window as long as the text is full attention."""
    rows, length, width = x_BTD.shape
    q_BTHK, k_BTHK, v_BTHK = (
        (x_BTD @ matrix.T).reshape(rows, length, heads, width // heads)
        for matrix in jnp.split(w["qkv.weight"], 3)
    )
    q_BTHK = rotate(q_BTHK, jnp.arange(length))
    before = ((0, 0), (window - 1, 0), (0, 0), (0, 0))
    k_BPHK = jnp.pad(rotate(k_BTHK, jnp.arange(length)), before)
    v_BPHK = jnp.pad(v_BTHK, before)

    def query(t: Array) -> Array:
        """What token t reads: its window begins at t - W + 1, padded to t."""
        k_BWHK = lax.dynamic_slice_in_dim(k_BPHK, t, window, axis=1)
        v_BWHK = lax.dynamic_slice_in_dim(v_BPHK, t, window, axis=1)
        scores_BHW = jnp.einsum("bhk,bwhk->bhw", q_BTHK[:, t], k_BWHK)
        scores_BHW /= (width // heads) ** 0.5
        there_W = jnp.arange(window) + t >= window - 1
        weights_BHW = jax.nn.softmax(jnp.where(there_W, scores_BHW, -jnp.inf))
        return jnp.einsum("bhw,bwhk->bhk", weights_BHW, v_BWHK)

    y_TBHK = jax.vmap(query)(jnp.arange(length))
    y_BTD = jnp.moveaxis(y_TBHK, 0, 1).reshape(x_BTD.shape)
    return y_BTD @ w["o_proj.weight"].T
