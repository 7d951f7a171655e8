"""torch's optimizers without the import of torch's compiler.

Their first use imports torch._dynamo, for programs that compile the optimizer too. That takes longer than importing
torch itself (4.1 s against 3.0 s of CPU time, torch 2.15), and a run that does not compile has no use for it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def spare_compiler() -> None:
    """Lets methods that all optimizers inherit do without the compiler; call it before the first one is built.

    torch._disable_dynamo keeps, on the function it wraps, what the compiler makes of it, and asks for the compiler
    only where nothing is kept. Should a later torch do otherwise, the compiler is imported after all.
    """
    for name in DECORATED:
        function = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        if not hasattr(function, "__dynamo_disable"):
            function.__dynamo_disable = function


def light_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """The optimizer's `step` as its class wrote it, under no_grad.

    torch wraps `step` for its profiler, for hooks and for the compiler. Where somebody hooked it, it is left alone.
    """
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    if any(hooks) or optimizer.defaults.get("differentiable"):
        return optimizer.step
    return torch.no_grad()(functools.partial(inspect.unwrap(type(optimizer).step), optimizer))
