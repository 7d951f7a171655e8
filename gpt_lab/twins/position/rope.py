"""Rotary positions: a pair of dimensions is a complex number, turned.

Paper: Su et al. 2021, arXiv:2104.09864, equation 34; pairs (i, i + K/2) as in
Llama.
Layout: heads stand after the tokens here, (B, T, H, K), and before them there.

Shape letters: B rows, T tokens, H heads, K head dimension, P = K/2 pairs.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def rope(x_BTHK: Array, positions_T: Array, base: float = 1e4) -> Array:
    """Queries or keys, each pair times e^(i position base^(-pair/P))."""
    pairs = x_BTHK.shape[-1] // 2
    rates_P = base ** (-jnp.arange(pairs) / pairs)
    return turn(x_BTHK, positions_T[:, None] * rates_P)


def turn(x_BTHK: Array, angles_TP: Array) -> Array:
    """Pairs turned by the angles of their token."""
    real, imaginary = jnp.split(x_BTHK, 2, axis=-1)
    unit_TP = lax.complex(jnp.cos(angles_TP), jnp.sin(angles_TP))
    turned_BTHP = lax.complex(real, imaginary) * unit_TP[:, None]
    return jnp.concatenate((turned_BTHP.real, turned_BTHP.imag), axis=-1)
