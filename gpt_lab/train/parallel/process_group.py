"""Ranks that are processes of their own, joined by torch.distributed: gloo between CPUs, NCCL between GPUs.

The first tells the others what comes next (`announce`, `heard`): so they need to know nothing of budgets, clocks,
signals or the store, and all do the same at the same time.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gpt_lab.errors import LabError
from gpt_lab.train.parallel.ranks import Ranks

PATIENCE = timedelta(days=7)
"""How long a rank waits for another that lives: one may be reading a corpus. One that has died is noticed at once."""
LAUNCHED = "GPT_LAB_LAUNCHED"
"""Set by `train` for the ranks that it starts: it says itself how they ended."""


class RankLost(LabError):
    """Another rank has ended."""


class Joined(Ranks):
    """This process among its ranks, whose numbers torchrun has put into the environment."""

    def __init__(self) -> None:
        cuda = torch.cuda.device_count() >= int(os.environ["WORLD_SIZE"])
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        with _lost():
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
        self.rank, self.number = dist.get_rank(), dist.get_world_size()

    def announce(self, name: str, *arguments: Any) -> None:
        if self.rank == 0:
            content = torch.frombuffer(bytearray(pickle.dumps((name, arguments))), dtype=torch.uint8)
            dist.broadcast(torch.tensor([len(content)]), 0)
            dist.broadcast(content, 0)

    def heard(self) -> tuple[str, tuple[Any, ...]]:
        """What the first rank does next; waits for it."""
        with _lost():
            size = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(size, 0)
            content = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, 0)
        name, arguments = pickle.loads(content.numpy().tobytes())
        return name, arguments

    @contextmanager
    def watched(self) -> Iterator[None]:
        with _lost():
            yield

    def sum(self, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    def told(self, number: int | None) -> int | None:
        said = torch.tensor([-1 if number is None else number])
        dist.broadcast(said, 0)
        return None if said.item() < 0 else int(said.item())

    def gather(self, value: Tensor) -> list[Tensor]:
        found = [torch.empty_like(value) for _ in range(self.number)]
        dist.all_gather(found, value)
        return found

    def close(self) -> None:
        """Tells the others to leave, where they can still hear it."""
        try:
            self.announce("end")
        except RuntimeError:
            return
        dist.destroy_process_group()


@contextmanager
def _lost() -> Iterator[None]:
    """Names an error of the connection what it is."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RankLost("another rank has ended: the same command goes on from the last checkpoint") from error
        raise
