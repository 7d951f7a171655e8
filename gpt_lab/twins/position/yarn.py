"""YaRN: slow rotations are slowed by a factor, fast ones stay.

Paper: Peng et al. 2023, arXiv:2309.00071, section 3; the ramp between slow and
fast is linear in the pairs, as in the authors' code.
Layout: heads stand after the tokens here, (B, T, H, K), and before them there.

Shape letters as in rope.py.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from gpt_lab.twins.position.rope import turn


def yarn(
    x_BTHK: Array,
    positions_T: Array,
    original: int,
    factor: float = 4.0,
    base: float = 1e4,
    fast: float = 32.0,
    slow: float = 1.0,
) -> Array:
    """Queries or keys for a context `factor` times `original` tokens.

    Args:
        fast: pairs that turn more often within `original` tokens stay.
        slow: pairs that turn less often have their positions divided by factor.
    """
    pairs = x_BTHK.shape[-1] // 2
    rates_P = base ** (-jnp.arange(pairs) / pairs)

    def pair(turns: float) -> float:
        """The pair with original base^(-pair/P) = 2 pi turns."""
        return pairs * math.log(original / (2 * math.pi * turns), base)

    first = max(math.floor(pair(fast)), 0)
    last = min(math.ceil(pair(slow)), 2 * pairs - 1)
    ramp_P = (jnp.arange(pairs) - first) / max(last - first, 1e-3)
    slowed_P = jnp.clip(ramp_P, 0, 1)
    rates_P = (1 - slowed_P) * rates_P + slowed_P * rates_P / factor
    # queries and keys each carry the root of the temperature on their product
    sharper = 0.1 * math.log(factor) + 1
    return sharper * turn(x_BTHK, positions_T[:, None] * rates_P)
