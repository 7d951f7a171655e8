"""Model construction without initialization: constructors draw no random values that are overwritten anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT

UNALLOCATED = ("can't allocate memory", "not enough memory", "calculation overflow", "multiplication overflow")
"""What torch says of a tensor that a CPU has no room for."""
RANDOM = {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"}


class _NoDraws(TorchFunctionMode):
    """Makes the random functions of torch.nn.init leave tensors as they are that `initialize` will fill.

    Vectors keep what their constructor drew, so it must draw.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init" and func.__name__ in RANDOM:
            tensor = args[0] if args else named["tensor"]
            if tensor.ndim >= 2:
                return tensor
        return func(*args, **named)


def bare_model(cfg: RunConfig, vocab_size: int) -> GPT:
    """The model of a config, for `initialize` to fill.

    Its large tensors are reserved but not touched, so it costs milliseconds and no memory at any size. The meta device
    would not either, but its arithmetic imports torch's compiler, which takes seconds.

    Raises:
        ConfigError: the parts and sizes do not fit together, or not into the memory.
    """
    with _NoDraws():
        try:
            return GPT(cfg, vocab_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            scale = cfg.scale
            raise ConfigError(
                f"no tensor of this machine can be as large as one of this model (scale.width={scale.width}, "
                f"scale.context={scale.context}, a vocabulary of {vocab_size:,}): lower them, or the sizes of its parts"
            ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or numpy, got no memory: less than was asked for, or more than can be counted."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in said for sign in UNALLOCATED)
    )
