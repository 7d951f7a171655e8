"""Gated DeltaNet: the delta rule on a fading memory, token by token.

Paper: Yang et al. 2024, arXiv:2412.06464, equation 10 and figure 1
Layout: one scan over tokens, and the memory is (V, K); the part has chunks, and
(K, V).

Shape letters: B rows, T tokens, D width, H heads, K and V dimensions of a
head's keys and values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt_lab.twins.attention.mamba2 import causal_conv
from gpt_lab.twins.norm.rmsnorm import rmsnorm
from gpt_lab.twins.weights import Weights, under


def gated_deltanet(w: Weights, x_BTD: Array, heads: int) -> Array:
    """All tokens at once."""
    rows, length, _ = x_BTD.shape

    def mixed(name: str) -> Array:
        """SiLU of a short convolution over a projection, by head."""
        y_BTX = x_BTD @ w[f"{name}_proj.weight"].T
        y_BTX = jax.nn.silu(causal_conv(w[f"{name}_conv.weight"], y_BTX))
        return y_BTX.reshape(rows, length, heads, -1)

    def unit(x_BTHK: Array) -> Array:
        return x_BTHK / jnp.sqrt((x_BTHK**2).sum(-1, keepdims=True) + 1e-6)

    q_BTHK, k_BTHK, v_BTHV = unit(mixed("q")), unit(mixed("k")), mixed("v")
    beta_BTH = jax.nn.sigmoid(x_BTD @ w["beta_proj.weight"].T)
    step_BTH = jax.nn.softplus(x_BTD @ w["decay_proj.weight"].T + w["dt"])
    alpha_BTH = jnp.exp(-jnp.exp(w["a_log"]) * step_BTH)

    def token(state_BHVK: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        """S = S alpha (1 - beta k k^T) + beta v k^T; o = S q."""
        q_BHK, k_BHK, v_BHV, alpha_BH, beta_BH = now
        state_BHVK = alpha_BH[..., None, None] * state_BHVK
        recalled_BHV = jnp.einsum("bhvk,bhk->bhv", state_BHVK, k_BHK)
        fresh_BHV = beta_BH[..., None] * (v_BHV - recalled_BHV)
        state_BHVK += jnp.einsum("bhv,bhk->bhvk", fresh_BHV, k_BHK)
        return state_BHVK, jnp.einsum("bhvk,bhk->bhv", state_BHVK, q_BHK)

    dim = q_BTHK.shape[-1]
    over_T = (q_BTHK / dim**0.5, k_BTHK, v_BTHV, alpha_BTH, beta_BTH)
    start_BHVK = jnp.zeros((rows, heads, v_BTHV.shape[-1], dim))
    _, o_TBHV = lax.scan(
        token, start_BHVK, tuple(jnp.moveaxis(a, 1, 0) for a in over_T)
    )
    o_BTHV = rmsnorm(under(w, "norm"), jnp.moveaxis(o_TBHV, 0, 1))
    gate_BTX = jax.nn.silu(x_BTD @ w["gate_proj.weight"].T)
    return (o_BTHV.reshape(gate_BTX.shape) * gate_BTX) @ w["o_proj.weight"].T
