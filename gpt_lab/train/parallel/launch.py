"""`train` with several ranks: starts them by torchrun's launcher, or is one that torchrun has started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.console import process, signals
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError, one_line
from gpt_lab.train.parallel.process_group import LAUNCHED, Joined, RankLost
from gpt_lab.train.parallel.ranks import ALONE, Ranks

STARTED = "TORCHELASTIC_RUN_ID"
"""In the environment of what torchrun starts."""
RANK = "import sys; sys.argv[:] = sys.argv[1:]; from gpt_lab.cli.train import main; main()"
"""The command train in a process of its own, under the name that the user has called it by."""
LOST = 75
"""Exit status of a rank that another has left alone; sysexits.h calls it EX_TEMPFAIL."""


def launched(cfg: RunConfig, arguments: Sequence[str], train: Callable[[Ranks], int]) -> int:
    """The exit status of `train` with these arguments, on as many devices as they say.

    Args:
        train: the run, in the first of its ranks or in the only one.
    """
    if STARTED in os.environ:
        return as_rank(cfg, train)
    return train(ALONE) if cfg.gpus_per_trial == 1 else start(cfg, arguments)


def as_rank(cfg: RunConfig, train: Callable[[Ranks], int]) -> int:
    """This rank's exit status: the first trains, the others follow.

    Raises:
        ConfigError: torchrun has started another number of ranks than the settings say.
    """
    started = int(os.environ["WORLD_SIZE"])
    if started != cfg.gpus_per_trial:
        raise ConfigError(
            f"torchrun has started {started} ranks, and gpus_per_trial={cfg.gpus_per_trial}: make them equal"
        )
    if LAUNCHED in os.environ:
        process.end_with(int(os.environ[LAUNCHED]), signal.SIGTERM)
    try:
        ranks: Joined = registry.build("parallel", cfg.parallel)
        if ranks.rank == 0:
            try:
                return train(ranks)
            finally:
                ranks.close()
        from gpt_lab.train.parallel.following import follow

        signals.ignore()  # the first rank says when all leave
        follow(cfg, ranks)
        leave(0)
    except RankLost:
        if LAUNCHED in os.environ:  # whoever started the ranks says which one has ended
            leave(LOST)
        raise


def leave(status: int) -> NoReturn:
    """Ends a rank here: what joined the ranks has threads, and C++ aborts where Python's own end meets them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def start(cfg: RunConfig, arguments: Sequence[str]) -> int:
    """Starts the ranks of `train` with these arguments and waits for them; returns the exit status of the whole.

    If one ends before its time, the launcher ends all others.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    number = cfg.gpus_per_trial
    os.environ[LAUNCHED] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // number)))
    logging.disable(logging.CRITICAL)  # what the launcher says of an end takes a page
    how = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(how, sys.executable)("-c", RANK, sys.argv[0], *arguments)
    except ChildFailedError as error:
        return _ended({rank: failure.exitcode for rank, failure in error.failures.items()}, number)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


def _ended(statuses: Mapping[int, int], number: int) -> int:
    """Says which rank ended the others, where none has said so itself; returns the exit status."""
    own = statuses.get(0, LOST)
    if own > 0 and own != LOST:
        return own
    # the launcher ends those that are left by SIGTERM: the first to end comes before them
    died = min(statuses, key=lambda rank: (statuses[rank] == LOST, statuses[rank] == -signal.SIGTERM, statuses[rank]))
    status = statuses[died]
    how = f"was killed by {signals.name(-status)}" if status < 0 else f"ended with status {status}"
    line = f"rank {died} {how}, and with it all {number}: the same command goes on from the last checkpoint"
    print_lines(f"error: {one_line(line)}", sys.stderr)
    return 1
