"""A cluster that is not there: fake workers and a fake clock on the real ledger.

Each worker claims, beats, buries the dead and ends trials by the ledger's own code; only training and time are made
up. Workers die without a word, are replaced, and the clock of each host stands elsewhere.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_lab.study.design import Cell, Design, Settings
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.entry import LedgerEntry
from gpt_lab.sweep.ledger.ledger import Ledger
from gpt_lab.sweep.ledger.liveness import BEAT_EVERY, SILENCE, Owner, OwnerWatch

SKEW = 3600.0
"""Seconds by which the clocks of two hosts differ at most."""
LOOK_EVERY = 60.0
"""Seconds between two looks of one worker at the others' heartbeats; a real one looks oftener."""


def cells(number: int) -> Iterator[Cell]:
    """Cells that nothing could run."""
    for i in range(number):
        yield Cell(i, {"seed": i}, Settings(), Settings(), i, (f"seed={i}",), f"{i:012x}", f"{i:012x}")


def begun(folder: Path, number: int) -> Ledger:
    """A ledger with so many waiting trials."""
    ledger = Ledger.open(folder)
    content = {"method": "grid", "parameters": {"seed": {"values": [0]}}}
    ledger.begin(Sweep(folder / "fake.yaml", Design("fake"), content=content), list(cells(number)))
    return ledger


@dataclass
class Cluster:
    """The workers and their clock.

    Fields:
        deaths: share of workers that dies in a minute. seconds: mean of a trial.
        spent: real seconds in the ledger, by operation. calls: how often each was called.
        finished: how often each trial was noted as finished. died: workers that died, in_hand: with a trial.
    """

    ledger: Ledger
    workers: int
    deaths: float
    seconds: float
    draw: random.Random
    now: float = 0.0
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    died: int = 0
    in_hand: int = 0

    def run(self) -> None:
        """Until every trial is finished."""
        events: list[tuple[float, int, str, Worker]] = []
        number = 0

        def at(delay: float, what: str, worker: Worker) -> None:
            nonlocal number
            number += 1
            heapq.heappush(events, (self.now + delay, number, what, worker))

        def begin(delay: float) -> None:
            worker = Worker(self, f"host-{number}")
            at(delay, "claim", worker)
            at(delay + self.draw.uniform(0, BEAT_EVERY), "beat", worker)
            at(delay + self.draw.uniform(0, LOOK_EVERY), "look", worker)
            if self.deaths:
                at(delay + self.draw.expovariate(self.deaths / 60), "die", worker)

        def follow(worker: Worker) -> None:
            if worker.entry is not None:
                at(self.draw.uniform(0.5, 1.5) * self.seconds, "end", worker)
            elif len(self.finished) < self.calls["trials"]:
                at(1.0, "claim", worker)
            else:
                worker.gone = True

        for _ in range(self.workers):
            begin(self.draw.uniform(0, BEAT_EVERY))
        while events:
            self.now, _, what, worker = heapq.heappop(events)
            if worker.gone:
                continue
            if what == "die":
                worker.gone = True
                self.died += 1
                self.in_hand += worker.entry is not None
                begin(self.draw.uniform(10, 120))
            elif what == "beat":
                if self.now - worker.written >= BEAT_EVERY:
                    worker.act("beat", worker.ledger.beat)
                at(BEAT_EVERY, "beat", worker)
            elif what == "look":
                worker.act("look", lambda worker=worker: worker.ledger.bury(worker.watch.dead))
                at(LOOK_EVERY, "look", worker)
            elif what == "end" and worker.entry is not None:
                key = worker.entry.key
                noted, worker.entry = worker.act(
                    "end", lambda worker=worker, key=key: worker.ledger.end_and_claim(key, "finished", run=f"run-{key}")
                )
                if noted:
                    self.finished[key] += 1
                worker.written = self.now
                follow(worker)
            elif what == "claim":
                worker.entry = worker.act("claim", worker.ledger.claim)
                follow(worker)
            if len(self.finished) == self.calls["trials"]:
                return


class Worker:
    """One fake worker: an owner of its own in the ledger, and a clock of its own."""

    def __init__(self, cluster: Cluster, host: str) -> None:
        self.cluster, self.gone, self.written = cluster, False, cluster.now
        self.entry: LedgerEntry | None = None
        owner = Owner(host, 1, None, f"{cluster.draw.getrandbits(32):08x}")
        skew = cluster.draw.uniform(0, SKEW)
        self.watch = OwnerWatch(SILENCE, lambda: cluster.now + skew)
        self.ledger = Ledger.share(cluster.ledger, owner)

    def act(self, name: str, call: Any) -> Any:
        """What a call to the ledger gives, timed."""
        begun = time.perf_counter()
        found = call()
        self.cluster.spent[name] += time.perf_counter() - begun
        self.cluster.calls[name] += 1
        return found


def simulate(folder: Path, workers: int, trials: int, deaths: float, seconds: float, seed: int = 0) -> Cluster:
    """Plays a study to its end."""
    cluster = Cluster(begun(folder, trials), workers, deaths, seconds, random.Random(seed))
    cluster.calls["trials"] = trials
    cluster.run()
    return cluster


@contextmanager
def closing(cluster: Cluster) -> Iterator[Cluster]:
    try:
        yield cluster
    finally:
        cluster.ledger.close()
