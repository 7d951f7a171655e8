"""FlashAttention's tiling: softmax in one pass over tiles of keys.

Paper: Dao 2023, arXiv:2307.08691, algorithm 1, without its loop over queries
Layout: one head, (T, K); the part takes (B, H, T, K), and vmap does here.

Shape letters: T queries, S keys, C keys of a tile, K head dimension.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def flash_attn(q_TK: Array, k_SK: Array, v_SK: Array, tile: int) -> Array:
    """Causal attention of one head; no (T, S) scores are ever there.

    Args:
        tile: C, which must divide S.
    """
    queries, dim = q_TK.shape
    own_T = jnp.arange(len(k_SK) - queries, len(k_SK))

    def over(
        carry: tuple[Array, Array, Array], now: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array, Array], None]:
        """One tile: what was added up before shrinks to the new maximum."""
        most_T, total_T, sum_TK = carry
        k_CK, v_CK, place_C = now
        scores_TC = q_TK @ k_CK.T / dim**0.5
        scores_TC = jnp.where(place_C <= own_T[:, None], scores_TC, -jnp.inf)
        larger_T = jnp.maximum(most_T, scores_TC.max(axis=1))
        shrink_T = jnp.exp(most_T - larger_T)
        weights_TC = jnp.exp(scores_TC - larger_T[:, None])
        total_T = shrink_T * total_T + weights_TC.sum(axis=1)
        sum_TK = shrink_T[:, None] * sum_TK + weights_TC @ v_CK
        return (larger_T, total_T, sum_TK), None

    tiles = tuple(
        a.reshape(-1, tile, *a.shape[1:])
        for a in (k_SK, v_SK, jnp.arange(len(k_SK)))
    )
    # the first tile has a key for every query, so that no maximum stays -inf
    nothing = jnp.full(queries, -jnp.inf), jnp.zeros(queries)
    start = (*nothing, jnp.zeros((queries, v_SK.shape[1])))
    (_, total_T, sum_TK), _ = lax.scan(over, start, tiles)
    return sum_TK / total_T[:, None]
