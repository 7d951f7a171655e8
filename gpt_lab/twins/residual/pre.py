"""The pre-norm block: each branch reads a norm of the stream it adds to.

Paper: Xiong et al. 2020, arXiv:2002.04745, table 1
Layout: none; branches are given as functions of their weights and input.

Shape letters: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable

from jax import Array

from gpt_lab.twins.norm.rmsnorm import rmsnorm
from gpt_lab.twins.weights import Weights, under

Branch = Callable[[Weights, Array], Array]


def pre(w: Weights, x_BTD: Array, attention: Branch, mlp: Branch) -> Array:
    """x + f(norm(x)), with attention for f, then with the MLP."""
    for name, branch in (("attention", attention), ("mlp", mlp)):
        normed_BTD = rmsnorm(under(w, f"{name}_norm"), x_BTD)
        x_BTD = x_BTD + branch(under(w, name), normed_BTD)
    return x_BTD
