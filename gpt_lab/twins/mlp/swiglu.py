"""SwiGLU: a linear unit times the SiLU of another, projected down.

Paper: Shazeer 2020, arXiv:2002.05202, equation 6
Layout: none; matrices are (out, in) as torch has them.

Shape letters: D width, F hidden width.
"""

from __future__ import annotations

import jax
from jax import Array

from gpt_lab.twins.weights import Weights


def swiglu(w: Weights, x_D: Array) -> Array:
    """Any leading dimensions."""
    gate_F = jax.nn.silu(x_D @ w["gate_proj.weight"].T)
    up_F = x_D @ w["up_proj.weight"].T
    return (gate_F * up_F) @ w["down_proj.weight"].T
