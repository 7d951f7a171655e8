"""The ranks of a trial that has several devices: the forked child is the first, and forks the others.

The runner sees one process. What ends another rank ends the first in the same way, so that the trial is tried again
where it would be if it had one process; what ends the first ends all.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from gpt_lab.config.schema import RunConfig
from gpt_lab.console import process, signals
from gpt_lab.errors import LabError

if TYPE_CHECKING:
    from gpt_lab.train.parallel.ranks import Ranks

PATIENCE = 20.0
"""Seconds in which the others leave once they have been told to."""


@contextmanager
def sharing(cfg: RunConfig, lost: Callable[[str], NoReturn]) -> Iterator[Ranks]:
    """The ranks that share a run, of which this process is the first; it runs one thread.

    Args:
        lost: ends this process where another rank has failed; takes how it did.
    """
    from gpt_lab import registry
    from gpt_lab.train.parallel.ranks import ALONE

    if cfg.gpus_per_trial == 1:
        yield ALONE
        return
    from gpt_lab.train.parallel.process_group import RankLost

    port, first = _free_port(), os.getpid()
    others = {_forked(cfg, rank, port, first): rank for rank in range(1, cfg.gpus_per_trial)}
    leaving = threading.Event()
    watching = [threading.Thread(target=_watch, args=(*one, leaving, lost), daemon=True) for one in others.items()]
    for thread in watching:
        thread.start()
    _be(0, cfg.gpus_per_trial, port)
    ranks = registry.build("parallel", cfg.parallel)
    try:
        yield ranks
    except RankLost:
        for thread in watching:  # that of the one that has ended ends this process
            thread.join(PATIENCE)
        raise
    finally:
        leaving.set()
        ranks.close()
        for thread, pid in zip(watching, others, strict=True):
            thread.join(PATIENCE)
            if thread.is_alive():
                os.kill(pid, signal.SIGKILL)


def _forked(cfg: RunConfig, rank: int, port: int, first: int) -> int:
    """The process of another rank, which does what the first does."""
    pid = os.fork()
    if pid:
        return pid
    from gpt_lab.train.parallel.launch import LOST
    from gpt_lab.train.parallel.process_group import RankLost

    status = 1
    try:
        process.end_with(first)
        process.close_all_but(set())
        signals.ignore()  # the first rank says when all leave
        _be(rank, cfg.gpus_per_trial, port)
        from gpt_lab import registry
        from gpt_lab.train.parallel.following import follow

        follow(cfg, registry.build("parallel", cfg.parallel))
        status = 0
    except RankLost:
        status = LOST
    except LabError as error:
        print(f"error: rank {rank}: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _be(rank: int, number: int, port: int) -> None:
    """Tells torch.distributed which rank this process is, as torchrun does."""
    import torch

    about: Mapping[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in about.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(torch.get_num_threads())  # renews the pool that a fork breaks, before two threads do


def _watch(pid: int, rank: int, leaving: threading.Event, lost: Callable[[str], NoReturn]) -> None:
    """Waits for another rank, which may end only when the first has told it to."""
    from gpt_lab.train.parallel.launch import LOST

    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if leaving.is_set() or status == LOST:  # another one has ended before it
        return
    if status < 0:
        print(f"error: rank {rank} was killed by {signals.name(-status)}, and with it the trial", file=sys.stderr)
        sys.stderr.flush()
        os.kill(os.getpid(), -status if -status in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT) else signal.SIGKILL)
    lost(f"rank {rank} ended with status {status}: its log says why")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
