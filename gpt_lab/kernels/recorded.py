"""Attention calls, recorded: what each was given, what its kernel made of it, and the weights of the plain softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from gpt_lab.kernels.base import Kernel, KernelRequest, KeyView
from gpt_lab.kernels.choose import KERNELS
from gpt_lab.kernels.dense import softmax_weights


class Call(NamedTuple):
    """One call of `gpt_lab.kernels.attention`; shape letters as in kernels/base.py.

    Fields:
        kernel: name of the one that computed output_BHTV.
    """

    kernel: str
    q_BHTK: Tensor
    k_BGSK: Tensor
    v_BGSV: Tensor
    view: KeyView
    scale: float
    softcap: float | None
    output_BHTV: Tensor

    def weights(self) -> Tensor:
        """The weight of each key for each query, by the plain softmax, whatever the kernel: (B, H, T, S).

        A row sums to one, less what a sink takes.
        """
        batch, heads, queries, _ = self.q_BHTK.shape
        found = softmax_weights(self.q_BHTK, self.k_BGSK, self.view, self.scale, self.softcap)
        return found.view(batch, heads, queries, -1)

    def values(self) -> Tensor:
        """The values that each query head weighs: (B, H, S, V)."""
        return self.v_BGSV.repeat_interleave(self.q_BHTK.shape[1] // self.v_BGSV.shape[1], dim=1)


@contextmanager
def recording(keep: Callable[[Call], None]) -> Iterator[None]:
    """Inside it, every attention, which the layer's own kernel computes as ever, is given to `keep`."""
    before: dict[str, type[Kernel]] = dict(KERNELS)
    KERNELS.update({name: _recorded(name, kernel, keep) for name, kernel in before.items()})
    try:
        yield
    finally:
        KERNELS.update(before)


def _recorded(name: str, kernel: type[Kernel], keep: Callable[[Call], None]) -> type[Kernel]:
    class Recorded:
        @staticmethod
        def unavailable() -> str | None:
            return kernel.unavailable()

        @staticmethod
        def refusal(request: KernelRequest) -> str | None:
            return kernel.refusal(request)

        @staticmethod
        def run(
            q_BHTK: Tensor,
            k_BGSK: Tensor,
            v_BGSV: Tensor,
            view: KeyView,
            scale: float,
            softcap: float | None,
            dropout: float,
            keys_B: Tensor | None,
            salt: int,
        ) -> Tensor:
            output = kernel.run(q_BHTK, k_BGSK, v_BGSV, view, scale, softcap, dropout, keys_B, salt)
            keep(Call(name, q_BHTK, k_BGSK, v_BGSV, view, scale, softcap, output))
            return output

    return Recorded
