"""What training asks of the ranks that share a run; a process that is alone answers for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from gpt_lab.registry import register
from gpt_lab.train import checkpoint
from gpt_lab.train.checkpoint import Content

Forward = Callable[..., tuple[Tensor, Tensor]]
"""Loss and sum of nats of some rows."""


@register("parallel", "none")
class Ranks:
    """One process on one device.

    Attributes:
        rank: number of this process among `number`; the first, 0, decides, and alone writes and speaks.
    """

    rank: int = 0
    number: int = 1

    # -- what rank 0 tells the others
    def announce(self, name: str, *arguments: Any) -> None:
        """Has the other ranks do what this one is about to do."""

    def watched(self) -> AbstractContextManager[None]:
        """Around work that ranks do together.

        Raises:
            RankLost: another one has ended.
        """
        return nullcontext()

    # -- model and optimizer
    def place(self, model: nn.Module, device: str) -> None:
        """Takes this rank's part of a model that is whole; before its optimizer is built."""
        model.to(device)

    def fit(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Has an optimizer move this rank's part; before its first step."""

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """What this rank's optimizer moves."""
        return [p for p in model.parameters() if p.requires_grad]

    def forward(self, model: nn.Module, compute: Forward) -> Forward:
        """`compute`, a pass of the model, so that gradients are those of all ranks' rows."""
        return compute

    # -- a step
    def exchanging(self, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch's forward and backward pass; after the last of a step gradients are exchanged."""
        return nullcontext()

    def settle(self) -> None:
        """Puts gradients where the optimizer looks for them."""

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Of the gradient of all parameters, from those that this rank moves."""
        return get_total_norm(gradients)

    def sum(self, value: Tensor) -> Tensor:
        """Over the ranks."""
        return value

    # -- validation
    def told(self, number: int | None) -> int | None:
        """Rank 0's."""
        return number

    def gather(self, value: Tensor) -> list[Tensor]:
        """Every rank's, in their order; all of one shape."""
        return [value]

    def forget(self) -> None:
        """Drops what a pass without gradients has put together of other ranks' parts."""

    # -- checkpoints
    def save(self, content: Content, path: Path, state: Mapping[str, Any]) -> None:
        """As checkpoint.save."""
        content.save(path, state)

    def restore(self, content: Content, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """As checkpoint.restore."""
        return checkpoint.restore(path, state, *content)

    def close(self) -> None:
        """Ends the other ranks' work."""


ALONE = Ranks()
