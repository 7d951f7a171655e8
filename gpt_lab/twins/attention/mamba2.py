"""Mamba-2: a state for each head, faded and written token by token.

Paper: Dao and Gu 2024, arXiv:2405.21060, equation 1 with scalar A, section 7.1
Layout: one scan over tokens, where the part computes chunks of them at once.

Shape letters: B rows, T tokens, D width, E inner channels, C channels of the
convolution, L its taps, H heads, V dimension of a head, K state dimension.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt_lab.twins.norm.rmsnorm import rmsnorm
from gpt_lab.twins.weights import Weights, under


def mamba2(w: Weights, x_BTD: Array, state_dim: int = 128) -> Array:
    """All tokens at once; heads share keys and queries (one group)."""
    rows, length, _ = x_BTD.shape
    heads, inner = len(w["a_log"]), w["o_proj.weight"].shape[1]
    gate_BTE, mixed_BTC, step_BTH = jnp.split(
        x_BTD @ w["in_proj.weight"].T,
        (inner, 2 * inner + 2 * state_dim),
        axis=-1,
    )
    mixed_BTC = causal_conv(w["conv.weight"], mixed_BTC) + w["conv.bias"]
    x_BTE, write_BTK, read_BTK = jnp.split(
        jax.nn.silu(mixed_BTC), (inner, inner + state_dim), axis=-1
    )
    x_BTHV = x_BTE.reshape(rows, length, heads, -1)
    step_BTH = jax.nn.softplus(step_BTH + w["dt"])
    rate_H = jnp.exp(w["a_log"])

    def token(state_BHVK: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        """h = exp(-A dt) h + dt x B; y = h C."""
        x_BHV, write_BK, read_BK, step_BH = now
        fade_BH = jnp.exp(-rate_H * step_BH)
        new_BHVK = jnp.einsum("bh,bhv,bk->bhvk", step_BH, x_BHV, write_BK)
        state_BHVK = fade_BH[..., None, None] * state_BHVK + new_BHVK
        return state_BHVK, jnp.einsum("bhvk,bk->bhv", state_BHVK, read_BK)

    over_T = (x_BTHV, write_BTK, read_BTK, step_BTH)
    start_BHVK = jnp.zeros((rows, heads, x_BTHV.shape[-1], state_dim))
    _, y_TBHV = lax.scan(
        token, start_BHVK, tuple(jnp.moveaxis(a, 1, 0) for a in over_T)
    )
    y_BTHV = jnp.moveaxis(y_TBHV, 0, 1) + w["skip"][:, None] * x_BTHV
    gated_BTE = y_BTHV.reshape(gate_BTE.shape) * jax.nn.silu(gate_BTE)
    normed_BTE = rmsnorm(under(w, "norm"), gated_BTE, eps=1e-5)
    return normed_BTE @ w["o_proj.weight"].T


def causal_conv(weight_CL: Array, x_BTC: Array) -> Array:
    """Each channel's own filter over a token and the L - 1 before it."""
    length, taps = x_BTC.shape[1], weight_CL.shape[1]
    padded_BPC = jnp.pad(x_BTC, ((0, 0), (taps - 1, 0), (0, 0)))
    latest_LBTC = jnp.stack(
        [padded_BPC[:, i : i + length] for i in range(taps)]
    )
    return jnp.einsum("cl,lbtc->btc", weight_CL, latest_LBTC)
