"""Ranks for tests: forked processes, joined by gloo on this machine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.sweep.workers import forkserver
from gpt_lab.train.parallel import launch
from gpt_lab.train.parallel.ranks import Ranks
from gpt_lab.train.start import run_training
from tests.train.train_helpers import fork, quiet, status

Work = Callable[[Ranks], int]


def train_of(cfg: RunConfig) -> Work:
    """What the first rank does."""
    return lambda ranks: run_training(cfg, quiet(), "train", ranks=ranks).exit_code


def start_ranks(cfg: RunConfig, work: Work | None = None) -> list[int]:
    """The pids of a run's ranks, which are as torchrun would have started them; what they import is there before."""
    forkserver.complete()
    forkserver.join_ranks(cfg.parallel["name"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def be(rank: int) -> None:
        torch.set_num_threads(1)  # renews the pool that a fork breaks, before two threads do it at once
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": cfg.gpus_per_trial, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in about.items()}, MASTER_ADDR="127.0.0.1")
        os.environ |= {launch.STARTED: "test", launch.LAUNCHED: str(os.getppid())}
        code = launch.as_rank(cfg, work or train_of(cfg))
        sys.stderr.flush()
        os._exit(code)

    return [fork(lambda rank=rank: be(rank)) for rank in range(cfg.gpus_per_trial)]  # type: ignore[misc]


def run_ranks(cfg: RunConfig, work: Work | None = None) -> list[int]:
    """How each of a run's ranks ended."""
    return [status(pid) for pid in start_ranks(cfg, work)]


def run_alone(cfg: RunConfig) -> int:
    """How a process ended that has the run to itself."""
    return status(fork(lambda: os._exit(run_training(cfg, quiet(), "train").exit_code)))
