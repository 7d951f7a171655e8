"""Mixture of experts: every expert sees every token, most times a gate of 0.

Paper: Shazeer et al. 2017, arXiv:1701.06538, equations 1 and 5; the balance
loss is that of Fedus et al. 2021, arXiv:2101.03961, equation 4.
Layout: tokens are not sorted by expert; gate and up stand in one matrix there.

Shape letters: B rows, T tokens, D width, E experts, K of a token, F hidden
width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt_lab.twins.weights import Weights


def moe(w: Weights, x_BTD: Array, top_k: int = 2) -> tuple[Array, Array]:
    """The output; and E x the sum over experts of share x mean score."""
    scores_BTE = jax.nn.softmax(x_BTD @ w["router.weight"].T)
    _, best_BTK = lax.top_k(scores_BTE, top_k)
    chosen_BTE = jax.nn.one_hot(best_BTK, scores_BTE.shape[-1]).sum(axis=-2)
    gates_BTE = chosen_BTE * scores_BTE
    gates_BTE /= gates_BTE.sum(axis=-1, keepdims=True)

    gate_EFD, up_EFD = jnp.split(w["routed.gate_up_proj.weight"], 2, axis=1)
    gate_BTEF = jax.nn.silu(jnp.einsum("btd,efd->btef", x_BTD, gate_EFD))
    hidden_BTEF = gate_BTEF * jnp.einsum("btd,efd->btef", x_BTD, up_EFD)
    down_EDF = w["routed.down_proj.weight"]
    y_BTED = jnp.einsum("btef,edf->bted", hidden_BTEF, down_EDF)

    share_E = chosen_BTE.mean(axis=(0, 1))
    balance = len(share_E) * jnp.sum(share_E * scores_BTE.mean(axis=(0, 1)))
    return jnp.einsum("bte,bted->btd", gates_BTE, y_BTED), balance
