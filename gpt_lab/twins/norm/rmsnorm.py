"""RMSNorm: division by the root mean square, times a learned gain.

Paper: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4
Layout: none; the part has its gain under the name `weight` too.

Shape letter: D width.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from gpt_lab.twins.weights import Weights


def rmsnorm(w: Weights, x_D: Array, eps: float = 1e-6) -> Array:
    """Any leading dimensions."""
    rms = jnp.sqrt(jnp.mean(x_D**2, axis=-1, keepdims=True) + eps)
    return w["weight"] * x_D / rms
