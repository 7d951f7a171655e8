"""The weights that a twin takes: what the torch part has in its state_dict."""

from __future__ import annotations

from collections.abc import Mapping

from jax import Array

Weights = Mapping[str, Array]


def under(w: Weights, name: str) -> Weights:
    """The weights of a module inside, by the names that they have there."""
    start = f"{name}."
    return {
        key.removeprefix(start): value
        for key, value in w.items()
        if key.startswith(start)
    }
