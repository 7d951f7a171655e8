"""The device that a setting means on this machine: `auto` is CUDA, then Apple's GPU (MPS), then the CPU."""

from __future__ import annotations

import torch

from gpt_lab.errors import ConfigError

TOLD = {"cuda": "CUDA device", "mps": "Apple GPU (MPS)", "cpu": "CPU"}
"""Kinds in the order in which `auto` wants them, and what they are called."""


def there(kind: str) -> bool:
    """Whether torch reaches a device of this kind here."""
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind == "cpu" or torch.backends.mps.is_available()


def pick(name: str) -> tuple[str, str]:
    """The kind of device, and why.

    Args:
        name: auto, cuda, mps or cpu.

    Raises:
        ConfigError: a device that is not there.
    """
    if name != "auto":
        if not there(name):
            raise ConfigError(f"device={name}, but PyTorch finds no {TOLD[name]} here: use device=cpu or device=auto")
        return name, "asked for"
    kind = next(one for one in TOLD if there(one))
    if kind == "cpu":
        return kind, f"no {TOLD['cuda']}, no {TOLD['mps']}"
    return kind, f"{'an' if kind == 'mps' else 'a'} {TOLD[kind]} is there"
