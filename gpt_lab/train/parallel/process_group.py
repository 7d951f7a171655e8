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
"""The process of `train` that has started this rank, and says itself how ranks ended."""


AT_ONCE = 512
"""Bytes of what the first rank says that go in one message: a step is less."""


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
            content = pickle.dumps((name, arguments))
            first = len(content).to_bytes(8, "little") + content
            dist.broadcast(_tensor(first[:AT_ONCE].ljust(AT_ONCE, b"\0")), 0)
            if len(first) > AT_ONCE:
                dist.broadcast(_tensor(first[AT_ONCE:]), 0)

    def heard(self) -> tuple[str, tuple[Any, ...]]:
        """What the first rank does next; waits for it."""
        with _lost():
            said = torch.empty(AT_ONCE, dtype=torch.uint8)
            dist.broadcast(said, 0)
            content = said.numpy().tobytes()
            more = 8 + int.from_bytes(content[:8], "little") - AT_ONCE
            if more > 0:
                rest = torch.empty(more, dtype=torch.uint8)
                dist.broadcast(rest, 0)
                content += rest.numpy().tobytes()
        name, arguments = pickle.loads(content[8:])
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


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


@contextmanager
def _lost() -> Iterator[None]:
    """Names an error of the connection what it is."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RankLost("another rank has ended: the same command goes on from the last checkpoint") from error
        raise
