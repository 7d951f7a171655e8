"""Multi-head attention, with the cache of keys and values that decoding keeps.

Paper: Vaswani et al. 2017, arXiv:1706.03762, equation 1 and section 3.2.2
Layout: heads follow tokens, (B, T, H, K); `qkv` there is queries, keys, values.

Shape letters: B rows, T new tokens, S all tokens, D width, H heads, K head
dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from gpt_lab.twins.weights import Weights

Rotate = Callable[[Array, Array], Array]
"""Of queries or keys, and the positions of their tokens."""
Cache = tuple[Array, Array]
"""Keys and values of the tokens before, (B, S - T, H, K) each."""


def mha(
    w: Weights, x_BTD: Array, heads: int, rotate: Rotate, cache: Cache
) -> tuple[Array, Cache]:
    """The output for the new tokens, and the cache with them."""
    width, seen = x_BTD.shape[-1], cache[0].shape[1]
    q_BTHK, k_BTHK, v_BTHK = (
        (x_BTD @ matrix.T).reshape(*x_BTD.shape[:2], heads, width // heads)
        for matrix in jnp.split(w["qkv.weight"], 3)
    )
    positions_T = seen + jnp.arange(x_BTD.shape[1])
    q_BTHK, k_BTHK = rotate(q_BTHK, positions_T), rotate(k_BTHK, positions_T)
    k_BSHK = jnp.concatenate((cache[0], k_BTHK), axis=1)
    v_BSHK = jnp.concatenate((cache[1], v_BTHK), axis=1)

    scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK)
    scores_BHTS /= (width // heads) ** 0.5
    hidden_TS = jnp.arange(k_BSHK.shape[1]) > positions_T[:, None]
    weights_BHTS = jax.nn.softmax(jnp.where(hidden_TS, -jnp.inf, scores_BHTS))
    y_BTHK = jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)
    y_BTD = y_BTHK.reshape(x_BTD.shape)
    return y_BTD @ w["o_proj.weight"].T, (k_BSHK, v_BSHK)


def empty(x_BTD: Array, heads: int) -> Cache:
    """The cache before the first token."""
    none = jnp.zeros((len(x_BTD), 0, heads, x_BTD.shape[-1] // heads))
    return none, none
