"""Batches on their way to the device, prefetched. B rows, T tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gpt_lab.data.base import Batch, Dataset
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import IGNORED


class Micro(NamedTuple):
    """Rows of a step that go through the model at once, on the device.

    `share` is their part of the step's counted targets; with it as weight, means over micro-batches add up to the
    mean over the whole step.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor | None
    keys_B: Tensor | None
    share: float


class StepBatch(NamedTuple):
    """All rows of one optimizer step and how many of their targets count."""

    micro: list[Micro]
    targets: int


class Feed:
    """The batches of a run, a pure function of the step.

    On a GPU the next step's batch is fetched and sent while the device is still busy with this one; on CPU fetching
    takes less than 0.1 ms and no thread could hide it.

    Args:
        micro: sequences of a context per micro-batch, of shorter ones as many more; None: all of a step's.
        draw_seed: seed of the rows' keys; None: nothing is drawn.
        rank, ranks: this process of so many that share each step: it has the rows of its turn, in as many
            micro-batches as the others.
    """

    def __init__(
        self, dataset: Dataset, device: str, micro: int | None, draw_seed: int | None, rank: int = 0, ranks: int = 1
    ) -> None:
        self.dataset = dataset
        self.rank, self.ranks = rank, ranks
        self.device = torch.device(device)
        self.micro = micro
        self.draw_seed = draw_seed
        self._ahead: tuple[int, StepBatch] | None = None

    def take(self, step: int) -> StepBatch:
        """The batch of a 0-based step."""
        ahead, self._ahead = self._ahead, None
        return ahead[1] if ahead is not None and ahead[0] == step else self._fetch(step)

    def prefetch(self, step: int) -> None:
        """Begins to bring the batch of `step`; call it once the device has been given its work."""
        if self.device.type != "cpu":
            self._ahead = (step, self._fetch(step))

    def _fetch(self, step: int) -> StepBatch:
        batch = self.dataset.batch(step)
        rows = len(batch.tokens_BT)
        total = int((batch.targets_BT != IGNORED).sum())
        most = -(-rows // self.ranks)
        first, last = (rows * rank // self.ranks for rank in (self.rank, self.rank + 1))
        micro = min(self.micro * (self.dataset.context // batch.tokens_BT.shape[1]) if self.micro else rows, most)
        mine = tokens_BT, targets_BT, documents_BT, keys_B = self._send(batch, step, slice(first, last))
        if self.ranks == 1 and micro == rows:
            return StepBatch([Micro(*mine, 1.0)], total)
        micros = []
        for begin in range(first, first + most, micro):
            part = slice(begin, min(begin + micro, last))
            count = int((batch.targets_BT[part] != IGNORED).sum())
            if count or (not total and begin < last):
                inside = slice(part.start - first, part.stop - first)
                documents = None if documents_BT is None else documents_BT[inside]
                keys = None if keys_B is None else keys_B[inside]
                share = count / max(total, 1)
                micros.append(Micro(tokens_BT[inside], targets_BT[inside], documents, keys, share))
            elif self.ranks > 1:  # nothing to learn from, and yet a pass: ranks exchange gradients at each
                some = self._send(batch, step, slice(0, micro))
                micros.append(Micro(some[0], torch.full_like(some[1], IGNORED), *some[2:], 0.0))
        return StepBatch(micros, total)

    def _send(self, batch: Batch, step: int, rows: slice) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Rows of a step on the device, with their keys."""
        keys_B = None
        if self.draw_seed is not None:
            keys_B = row_keys(self.draw_seed, step, torch.arange(rows.start, rows.stop))
            keys_B = keys_B.to(self.device, non_blocking=True)
        tokens_BT, targets_BT, documents_BT = batch
        part = Batch(tokens_BT[rows], targets_BT[rows], None if documents_BT is None else documents_BT[rows])
        return (*to_device(part, self.device), keys_B)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; to a GPU from pinned memory, without waiting, where it has memory of its own."""
    if device.type == "cpu":
        return batch
    tokens_BT, targets_BT, documents_BT = batch

    def send(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return Batch(send(tokens_BT), send(targets_BT), None if documents_BT is None else send(documents_BT))
