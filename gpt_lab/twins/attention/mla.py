"""Multi-head latent attention: all heads' keys and values from one latent.

Paper: DeepSeek-AI et al. 2024, arXiv:2405.04434, equations 9 to 19
Layout: the latent is always projected up; the part absorbs that in decoding.

Shape letters: B rows, T and S tokens, D width, H heads, R rank of the latent, N
and P head dimensions without and with position, V that of values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gpt_lab.twins.attention.mha import Rotate
from gpt_lab.twins.norm.rmsnorm import rmsnorm
from gpt_lab.twins.weights import Weights, under


def mla(w: Weights, x_BTD: Array, heads: int, rotate: Rotate) -> Array:
    """All tokens at once. P is half of N, as where no option says otherwise."""
    rows, length, width = x_BTD.shape
    nope, positions_T = width // heads, jnp.arange(length)

    def per_head(y_BTX: Array) -> Array:
        return y_BTX.reshape(rows, length, heads, -1)

    q_BTHX = per_head(x_BTD @ w["q_proj.weight"].T)
    q_BTHN, q_BTHP = q_BTHX[..., :nope], q_BTHX[..., nope:]
    rank = w["kv_a_norm.weight"].shape[0]
    down_BTX = x_BTD @ w["kv_a_proj.weight"].T
    latent_BSR = rmsnorm(under(w, "kv_a_norm"), down_BTX[..., :rank])
    k_BS1P = rotate(down_BTX[:, :, None, rank:], positions_T)
    up_BSHX = per_head(latent_BSR @ w["kv_b_proj.weight"].T)
    k_BSHN, v_BSHV = up_BSHX[..., :nope], up_BSHX[..., nope:]

    content = jnp.einsum("bthn,bshn->bhts", q_BTHN, k_BSHN)
    q_BTHP = rotate(q_BTHP, positions_T)
    place = jnp.einsum("bthp,bsp->bhts", q_BTHP, k_BS1P[:, :, 0])
    scores_BHTS = (content + place) / q_BTHX.shape[-1] ** 0.5
    seen_TS = jnp.tri(length, dtype=bool)
    weights_BHTS = jax.nn.softmax(jnp.where(seen_TS, scores_BHTS, -jnp.inf))
    y_BTHV = jnp.einsum("bhts,bshv->bthv", weights_BHTS, v_BSHV)
    return y_BTHV.reshape(rows, length, -1) @ w["o_proj.weight"].T
