"""Where each weight is in both: tensors of ours that hold what tensors of theirs hold, in other rows and layouts.

All of it is differentiable, and exact both ways: a layout is a permutation. The one exception is SHIFTED, for families
whose gains are 1 + w: gains outside of [1/2, 2] lose their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_lab.errors import ConfigError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Form:
    """How one tensor is written in both: `back` makes ours of theirs, `there` theirs of ours."""

    back: Callable[[Tensor], Tensor]
    there: Callable[[Tensor], Tensor]


PLAIN = Form(lambda w: w, lambda w: w)
TRANSPOSED = Form(lambda w: w.mT, lambda w: w.mT)
"""GPT-2's matrices are (in, out)."""
SHIFTED = Form(lambda w: 1 + w, lambda w: w - 1)
"""Gemma's and Qwen3-Next's norms multiply by 1 + w."""
CHANNELS = Form(lambda w: w.squeeze(1), lambda w: w.unsqueeze(1))
"""A depthwise convolution is (channels, 1, taps) in torch."""
AFTER_PADDING = Form(lambda w: w[2:], lambda w: torch.cat((w.new_zeros(2, w.shape[1]), w)))
"""OPT's table of positions begins with two rows for what stands before a text."""


@dataclass(frozen=True)
class Link:
    """The rows of some tensors of ours are those of some of theirs in another order.

    Fields:
        ours, theirs: names of tensors, whose rows (first dimension) stand one after the other.
        our_rows, their_rows: how many rows each has; may be empty where there is one tensor.
        order: row i of ours is row order[i] of theirs; None: the same order.
        form: of each of theirs.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    our_rows: tuple[int, ...] = ()
    their_rows: tuple[int, ...] = ()
    order: Tensor | None = None
    form: Form = PLAIN

    def back(self, found: Tensors) -> dict[str, Tensor]:
        """Our tensors, of theirs."""
        rows = [self.form.back(_get(found, name)) for name in self.theirs]
        _check(self.theirs, rows, self.their_rows)
        return _cut(self.ours, _ordered(_joined(rows), self.order), self.our_rows)

    def there(self, found: Tensors) -> dict[str, Tensor]:
        """Their tensors, of ours."""
        rows = [_get(found, name) for name in self.ours]
        _check(self.ours, rows, self.our_rows)
        order = None if self.order is None else self.order.argsort()
        cut = _cut(self.theirs, _ordered(_joined(rows), order), self.their_rows)
        return {name: self.form.there(tensor).contiguous() for name, tensor in cut.items()}


def same(ours: str, theirs: str, form: Form = PLAIN, order: Tensor | None = None) -> Link:
    """One tensor of ours that is one of theirs."""
    return Link((ours,), (theirs,), order=order, form=form)


def joined(
    ours: str, theirs: Sequence[str], rows: Sequence[int], order: Tensor | None = None, form: Form = PLAIN
) -> Link:
    """One tensor of ours that is several of theirs, of so many rows, one after the other."""
    return Link((ours,), tuple(theirs), (), tuple(rows), order, form)


def named(names: Mapping[str, str], here: str = "", there: str = "", form: Form = PLAIN) -> Iterator[Link]:
    """Tensors that only their names tell apart: {ours: theirs}, after prefixes."""
    for ours, theirs in names.items():
        yield same(here + ours, there + theirs, form)


def swapped_halves(heads: int, head_dim: int) -> Tensor:
    """Each head's second half of rows before its first: a rotation the other way."""
    return torch.arange(heads * head_dim).view(heads, 2, -1).flip(1).flatten()


def paired(rows: int) -> Tensor:
    """Rows 0, 2, 4, ... then 1, 3, ...: halves of what is interleaved."""
    return torch.arange(rows).view(-1, 2).T.flatten()


def taken(*orders: Tensor) -> Tensor:
    """Orders of tensors that stand one after the other, as one."""
    starts, found = 0, []
    for order in orders:
        found.append(order + starts)
        starts += len(order)
    return torch.cat(found)


def back(links: Iterable[Link], found: Tensors) -> dict[str, Tensor]:
    """Our tensors, of theirs."""
    return {name: tensor for link in links for name, tensor in link.back(found).items()}


def there(links: Iterable[Link], found: Tensors) -> dict[str, Tensor]:
    """Their tensors, of ours."""
    return {name: tensor for link in links for name, tensor in link.there(found).items()}


def _get(found: Tensors, name: str) -> Tensor:
    if name not in found:
        raise ConfigError(f"the weights lack {name}: they are of another model, or not all of them are here")
    return found[name]


def _check(names: Sequence[str], tensors: Sequence[Tensor], rows: Sequence[int]) -> None:
    for name, tensor, wanted in zip(names, tensors, rows, strict=bool(rows)):
        if tensor.shape[0] != wanted:
            raise ConfigError(f"{name} has {tensor.shape[0]:,} rows, but the configuration asks for {wanted:,}")


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _ordered(whole: Tensor, order: Tensor | None) -> Tensor:
    if order is None:
        return whole
    if len(order) != whole.shape[0]:
        raise ConfigError(f"a tensor has {whole.shape[0]:,} rows, but the configuration asks for {len(order):,}")
    return whole[order.to(whole.device)]


def _cut(names: Sequence[str], whole: Tensor, rows: Sequence[int]) -> dict[str, Tensor]:
    return {names[0]: whole} if len(names) == 1 else dict(zip(names, whole.split(list(rows)), strict=True))
