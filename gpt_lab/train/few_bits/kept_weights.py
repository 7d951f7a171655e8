"""Weights that are kept in few bits: widened for each product, and to fp32 while the optimizer moves them.

A module of such a weight has its parameter still, under its name and in its shape, so that gradients, optimizers and
parameter groups are those of any model; between steps that parameter has no memory, and `kept` has what is true.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.train.few_bits.formats import CODES, Format


class KeptProduct(torch.autograd.Function):
    """x W^T, x (N, I), of what is kept of W (O, I): numbers and, where there is one, a factor of each row.

    The gradient of W goes to the parameter `held`. Nothing wide is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, held_OI: Tensor, kept_OI: Tensor, scale_O1: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, kept_OI, scale_O1)
        y_NO = x_NI @ kept_OI.to(x_NI.dtype).t()
        return y_NO if scale_O1 is None else y_NO * (scale_O1.t() / CODES).to(y_NO.dtype)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_NI, kept_OI, scale_O1 = ctx.saved_tensors
        scaled_NO = grad_NO if scale_O1 is None else grad_NO * (scale_O1.t() / CODES).to(grad_NO.dtype)
        return scaled_NO @ kept_OI.to(grad_NO.dtype), (grad_NO.t() @ x_NI).float(), None, None


class Widened(torch.autograd.Function):
    """The weight in fp32; its gradient goes to the parameter `held`."""

    @staticmethod
    def forward(ctx: Any, held: Tensor, kept: Tensor, scale: Tensor | None, way: Format) -> Tensor:
        return way.decode(kept, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad, None, None, None


class Kept(nn.Module):
    """What modules with such a weight share; `kept` and `scale` are what is true of it while it is not wide."""

    kept: Tensor
    scale: Tensor | None
    way: Format
    nothing: Tensor
    wide: bool

    @property
    def held(self) -> nn.Parameter:
        """The parameter: fp32 values while wide, else without memory."""
        found = self._parameters["weight"]
        assert found is not None
        return found

    @property
    def weight(self) -> Tensor:
        """The weight in fp32, for whoever reads it."""
        if self.wide:
            return self.held
        found: Tensor = Widened.apply(self.held, self.kept, self.scale, self.way)
        return found

    def keep(self, way: Format, nothing: Tensor) -> None:
        """Begins: rounds to nearest what the parameter holds."""
        self.way, self.nothing, self.wide = way, nothing, True
        kept, scale = way.encode(self.held.detach(), None)
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.narrow(None)

    def widen(self) -> None:
        """Gives the parameter its values in fp32."""
        self.held.data, self.wide = self.way.decode(self.kept, self.scale), True

    def narrow(self, generator: torch.Generator | None) -> None:
        """Rounds the parameter's values to what is kept, and takes its memory."""
        held = self.held
        kept, scale = self.way.encode(held.detach(), generator)
        self.kept.copy_(kept)
        if self.scale is not None and scale is not None:
            self.scale.copy_(scale)
        held.data, self.wide = self.nothing.expand(held.shape), False

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The weight under its name: whoever reads the file need not know how it was kept."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.wide:
            kept = self.kept.clone() if self.kept.is_floating_point() else self.way.decode(self.kept, self.scale)
            destination[f"{prefix}weight"] = kept

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        self.widen()
        super()._load_from_state_dict(state_dict, prefix, *others)
        self.narrow(None)


class KeptLinear(Kept, nn.Linear):  # type: ignore[override]
    """nn.Linear of a kept weight."""

    def forward(self, x: Tensor) -> Tensor:
        if self.wide:
            return super().forward(x)
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y_NO: Tensor = KeptProduct.apply(x.flatten(0, -2), self.held, self.kept, self.scale)
        y = y_NO.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class KeptEmbedding(Kept, nn.Embedding):  # type: ignore[override]
    """nn.Embedding of a kept weight: activations are fp32, and so are the sums of its gradient."""


KINDS: dict[type[nn.Module], type[Kept]] = {nn.Linear: KeptLinear, nn.Embedding: KeptEmbedding}


def fitting(model: nn.Module, way: Format) -> list[nn.Module]:
    """The modules whose weights can be kept in a format: plain ones, whose weight is theirs alone.

    Raises:
        ConfigError: there is none.
    """
    modules = list(model.modules())
    owners = Counter(id(p) for module in modules for p in module._parameters.values() if p is not None)
    head = getattr(model, "head", None)
    found = [
        module
        for module in modules
        if type(module) in way.modules and (way.head or module is not head) and owners[id(module.weight)] == 1
    ]
    if not found:
        raise ConfigError(
            "this model has no plain linear layer whose weight could be kept in few bits: use precision=bf16 or fp32"
        )
    return found


def keep(model: nn.Module, way: Format) -> None:
    """Keeps all weights that can be in a format, in place; the model must be on its device already."""
    found = fitting(model, way)
    nothing = torch.zeros((), device=next(model.parameters()).device)
    for module in found:
        module.__class__ = KINDS[type(module)]  # parameters, names and hooks stay as they are
        assert isinstance(module, Kept)
        module.keep(way, nothing)


def weight_bytes(model: nn.Module, way: Format | None) -> int:
    """Bytes of all weights between steps; of a model whose weights are not kept yet."""
    own = set() if way is None else {id(module.weight) for module in fitting(model, way)}
    return sum(p.nbytes if way is None or id(p) not in own else way.nbytes(p) for p in model.parameters())


@contextmanager
def widened(modules: Sequence[Kept], seed: int, step: int) -> Iterator[None]:
    """Inside, weights are fp32; what they are then is rounded at random, by draws of this seed and step alone."""
    if not modules:
        yield
        return
    for module in modules:
        module.widen()
    yield
    digest = hashlib.sha256(f"{seed}/{step}/rounding".encode()).digest()
    generator = torch.Generator(modules[0].kept.device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    for module in modules:
        module.narrow(generator)
