"""torch.optim without torch.compile: its methods import that machinery at the first call, 1.4 times all of torch."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def plain(method: Any) -> Any:
    """A method as it is written, without what torch wraps around it."""
    return inspect.unwrap(method)


def plain_step(optimizer: type[torch.optim.Optimizer]) -> Any:
    """The step of one of torch's optimizers, eager only."""
    return torch.no_grad()(plain(optimizer.step))


class Eager(torch.optim.Optimizer):
    """Base of the lab's optimizers, which are never compiled: a run with compile=off starts seconds sooner."""

    add_param_group = plain(torch.optim.Optimizer.add_param_group)
    load_state_dict = plain(torch.optim.Optimizer.load_state_dict)
    state_dict = plain(torch.optim.Optimizer.state_dict)
    zero_grad = plain(torch.optim.Optimizer.zero_grad)
