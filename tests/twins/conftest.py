"""JAX, imported once in a process and only where a test of twins runs there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest


@pytest.fixture(scope="session")
def jitted() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`jax.jit` that compiles fast and computes slowly: the arrays of these tests are tiny."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed: uv sync --extra jax")
    import jax

    jax.config.update("jax_platforms", "cpu")
    # JAX would warn at each later fork of this process; children of other tests do nothing with it
    with mock.patch.object(os, "register_at_fork"):
        jax.devices()
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return lambda function: jax.jit(function, compiler_options=options)
