"""The runner's loop: claims trials, has the fork server train them, records their outcomes in the ledger."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt_lab.console.signals import SAME, Signals, leave_at_once
from gpt_lab.errors import LabError
from gpt_lab.study import cells
from gpt_lab.study.design import Cell
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger.entry import LedgerEntry, TrialState
from gpt_lab.sweep.ledger.ledger import Ledger
from gpt_lab.sweep.ledger.liveness import BEAT_EVERY, LISTEN_EVERY, OwnerWatch
from gpt_lab.sweep.search.trunk import Trunks
from gpt_lab.sweep.sweep_display import SweepDisplay
from gpt_lab.sweep.tail import MetricsTail
from gpt_lab.sweep.trial import Trial
from gpt_lab.sweep.workers.client import ForkServer, how_ended

LOOK_EVERY = 0.5
"""Seconds between two looks at the metrics of running trials."""
BUSY_PAUSE = 1.0
"""Seconds before a trial is tried again that another process was training."""
IDLE_PAUSE = 0.5
"""Seconds between two questions to the ledger while all that is left is in other runners' hands."""
SERVER_DEATHS = 5
"""Deaths of the fork server in a row, without a trial that ended in between, after which the sweep gives up."""
Draw = Callable[[Sequence[LedgerEntry]], Cell | None]
"""The next cell of a search, given all entries so far; None when it is over."""
Prune = Callable[[Trial, Sequence[Trial], Sequence[LedgerEntry]], bool]
"""Whether a running trial is to end for its curve."""


class Runner:
    """One process's work on a sweep.

    Args:
        gpus: what CUDA_VISIBLE_DEVICES shall be in each slot; empty: no GPUs.
        jobs: trials at a time. threads: of each. cores: to which each slot is pinned; empty: to none.
        retries: how often a failed trial is tried again.
        draw: next cell of a search; None: all cells are in the ledger.
        trunks: which cells begin where another one stands.
        prune: see Prune; None: nothing is pruned. enough: whether nothing more is to be begun; None:
            it never is.
        stops: how often workers had been asked to stop when this one was started.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        ledger: Ledger,
        server: ForkServer,
        view: SweepDisplay,
        *,
        jobs: int,
        threads: int,
        gpus: Sequence[str] = (),
        cores: Sequence[Sequence[int]] = (),
        retries: int = 1,
        fail_fast: bool = False,
        draw: Draw | None = None,
        prune: Prune | None = None,
        enough: Callable[[Sequence[LedgerEntry]], bool] | None = None,
        watch: OwnerWatch | None = None,
        trunks: Trunks | None = None,
        stops: int = 0,
    ) -> None:
        self.sweep, self.folder, self.ledger, self.server, self.view = sweep, folder, ledger, server, view
        self.jobs, self.threads, self.gpus, self.cores = jobs, threads, tuple(gpus), tuple(cores)
        self.retries, self.fail_fast = retries, fail_fast
        self.draw, self.prune, self.enough = draw, prune, enough
        self.watch = watch or OwnerWatch()
        self.trunks = trunks or Trunks()
        self._stops = stops
        self.running: dict[str, Trial] = {}
        self.signals = Signals(at_once=self._hurry)
        self.stopping = self.hurried = False
        self.problem: str | None = None
        """What ends the whole sweep, in one line."""
        self._later: dict[str, float] = {}
        self._deaths = 0
        self._beat_at = self._listened_at = self._looked_at = self._idle_until = 0.0
        self._unnamed: dict[str, str] = {}
        """Runs by their trials' keys, whose names go into the ledger with its next write."""
        self._killed = False
        self._peaks: dict[tuple[str, int], float] = {}
        """FLOP/s of this CPU by precision and threads: what trials have measured, those after them need not."""

    def run(self) -> int | None:
        """Works until nothing is left; returns the number of the signal that ended it sooner, if one did.

        Raises:
            LabError: the disk is full, the ledger cannot be written, no process can be started.
        """
        with self.signals:
            while self._step():
                pass
        if self.problem is not None:
            raise LabError(self.problem)
        return self.signals.caught

    def _step(self) -> bool:
        """One turn of the loop; False: nothing is left to do."""
        self._obey()
        waiting_for_others = False
        if not self.stopping:
            waiting_for_others = self._fill()
        if not self.running and not waiting_for_others:
            return False
        for event in self.server.events(LOOK_EVERY / 2):
            self._handle(event)
        if self.server.gone:
            self._mourn()
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self._look()
        if now - self._listened_at >= LISTEN_EVERY:
            self._listened_at = now
            self._listen()
        return True

    def _listen(self) -> None:
        """Hears whether to stop, says that this process lives, and looks for dead ones."""
        if self.ledger.stops() > self._stops and not self.stopping:
            self.view.say("stopping, as asked with --stop: trials write their checkpoints")
            self.stop()
        if self._listened_at - self._beat_at >= BEAT_EVERY:
            self._beat()
        self.ledger.bury(self.watch.dead)

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        unnamed, self._unnamed = self._unnamed, {}
        for key in self.ledger.beat(unnamed):
            if key in self.running:
                self._lose(self.running[key])

    def _obey(self) -> None:
        """Does what signals ask for."""
        if self.signals.caught is not None and not self.stopping:
            self.view.say(f"stopping: trials write their checkpoints (again after {SAME:g} s: at once)")
            self.stop()
        if self.hurried and not self._killed:
            self._killed = True
            for key in self.running:
                self.server.signal(key, signal.SIGKILL)

    def _hurry(self, number: int) -> None:
        """What a signal does that comes later than those which are one; if not even that helped, the next ends it."""
        if self.hurried:
            leave_at_once(number)
        self.hurried = True

    def stop(self) -> None:
        """Begins nothing more; running trials write a checkpoint and end."""
        self.stopping = True
        for key, trial in self.running.items():
            if trial.ending is None:
                trial.ending = "stop"
                self.server.signal(key, signal.SIGTERM)

    def _fill(self) -> bool:
        """Starts trials while there are free slots; True: what is left is in others' hands, or has to wait a moment."""
        now = time.monotonic()
        if len(self.running) >= self.jobs or now < self._idle_until:
            return True
        if self.enough is not None and self.enough(self.ledger.entries()):
            return False
        self._later = {key: until for key, until in self._later.items() if until > now}
        while len(self.running) < self.jobs:
            entry = self.ledger.claim(self._not_yet()) or self._drawn()
            if entry is None:
                break
            self._start(entry)
        else:
            return False
        self._idle_until = now + IDLE_PAUSE
        if self.running:
            return False
        counts = self.ledger.counts()
        if counts["running"]:
            self.view.others(self.ledger.others())
        return counts["running"] + counts["waiting"] > 0

    def _not_yet(self) -> set[str]:
        """Cells to leave alone: those that were busy a moment ago, and branches whose trunk is on its way."""
        if not self.trunks.branches:
            return set(self._later)
        return {*self._later, *self.trunks.waiting(self.ledger.entries(), self.folder)}

    def _drawn(self) -> LedgerEntry | None:
        """A new cell of the search, claimed."""
        while self.draw is not None:
            wanted = [entry for entry in self.ledger.entries() if entry.wanted]
            try:
                cell = self.draw(wanted)
            except LabError as error:  # values that no run can have
                self.problem = str(error)
                self.stop()
                return None
            if cell is None:
                return None
            entry = self.ledger.add(cell, len(wanted))
            if entry is not None and entry.state == "running":
                return entry
        return None

    def _start(self, entry: LedgerEntry) -> None:
        slot = min(set(range(self.jobs)) - {trial.slot for trial in self.running.values()})
        log = self.folder / "logs" / f"{entry.key}.log"
        size = log.stat().st_size if log.exists() else 0
        tail = MetricsTail(log.with_suffix(".none"), self.sweep.design.metric)
        trial = Trial(entry, slot, tail, log, size)
        self.running[entry.key] = trial
        shared = {}
        if self.trunks.branches:
            shared = self.trunks.settings(entry.key, self.ledger.entries(), self.folder)
        self.server.start(
            entry.key,
            overrides=list(entry.overrides),
            config=cells.configs([entry.cell])[0].to_dict(),
            identity=entry.identity,
            log=str(log),
            threads=self.threads,
            gpu=self.gpus[slot % len(self.gpus)] if self.gpus else None,
            cores=self.cores[slot] if self.cores else (),
            peaks=[(*key, flops) for key, flops in self._peaks.items()],
            **shared,
        )
        self.view.started(trial)

    def _handle(self, event: dict[str, Any]) -> None:
        trial = self.running.get(event.get("job", ""))
        if trial is None:
            return
        if event["event"] == "said":
            named = trial.run
            trial.receive(event["message"], self.folder)
            if trial.run != named and trial.run is not None:
                self._unnamed[trial.entry.key] = trial.run
                if self.trunks.branches:  # they wait for it
                    self._beat()
        elif event["event"] == "ended":
            del self.running[trial.entry.key]
            self._deaths = 0
            self._idle_until = 0.0
            trial.tail.poll()
            self._settle(trial, event["status"])
            if self.trunks.branches:
                self.trunks.clear(self.ledger.entries(), self.folder)

    def _settle(self, trial: Trial, status: int) -> None:
        """Notes how a trial ended whose process is gone."""
        key, result = trial.entry.key, trial.result
        unnamed = self._unnamed.pop(key, None)
        if trial.ending == "lost":
            return
        stopped = trial.stopped(status)
        if unnamed is not None and (stopped or result is None):
            self.ledger.name_run(key, unnamed)
        if stopped:
            self._settle_stopped(trial)
        elif result is not None:
            for *key, flops in result["peaks"]:  # of several the highest is the least disturbed
                self._peaks[tuple(key)] = max(flops, self._peaks.get(tuple(key), 0.0))
            summary, state = result["summary"], result["state"]
            score = summary.get(self.sweep.design.metric)
            if state == "finished" and self.sweep.design.tuning_pairs and self.prune is not None:
                # it may have been faster than the looks at it: what is pruned must not depend on that
                state = "pruned" if self.prune(trial, [], self.ledger.entries()) else state
            following = self._end(trial, state, score, summary.get("seconds"))
            self.view.ended(trial, state, score, summary.get("seconds"), done=result["done"])
            if following is not None:
                self._start(following)
        elif trial.busy:
            self.ledger.wait(key)
            self._later[key] = time.monotonic() + BUSY_PAUSE
            self.view.postponed(trial)
        else:
            self._settle_failed(trial, trial.error or how_ended(status))

    def _end(self, trial: Trial, state: TrialState, score: float | None, seconds: float | None) -> LedgerEntry | None:
        """Notes an outcome; the trial that takes its place, claimed, unless it has to be looked for."""
        end: dict[str, Any] = {"run": trial.run, "score": score, "seconds": seconds}
        if self.stopping or self.signals.caught is not None or self.enough is not None or self.trunks.branches:
            self.ledger.end(trial.entry.key, state, **end)
            return None
        self._beat_at = time.monotonic()
        return self.ledger.end_and_claim(trial.entry.key, state, self._not_yet(), **end)[1]

    def _settle_stopped(self, trial: Trial) -> None:
        key, last = trial.entry.key, trial.tail.curve[-1][1] if trial.tail.curve else None
        if trial.ending == "prune":
            self.ledger.end(key, "pruned", score=last, seconds=trial.tail.seconds)
            self.view.ended(trial, "pruned", last, trial.tail.seconds)
        elif trial.ending == "stop" and any(owner for owner, beat, _ in self._living()):
            self.ledger.wait(key)  # another runner goes on with it
            self.view.ended(trial, "waiting", None, None)
        else:
            self.ledger.end(key, "stopped", seconds=trial.tail.seconds)
            self.view.ended(trial, "stopped", None, None)

    def _settle_failed(self, trial: Trial, error: str) -> None:
        if "no space left: " in error:  # it would fail every trial in turn
            self.ledger.wait(trial.entry.key)
            self.problem = self.problem or error
            self.stop()
            return
        state = self.ledger.fail(trial.entry.key, error, 0 if self.stopping else self.retries)
        self.view.failed(trial, error, again=state == "waiting")
        if state == "failed" and self.fail_fast and not self.stopping:
            self.view.say("stopping the other trials (--fail-fast): they write their checkpoints")
            self.stop()

    def _lose(self, trial: Trial) -> None:
        """Gives up a trial that another runner has taken over while this process seemed dead."""
        trial.ending = "lost"
        self.server.signal(trial.entry.key, signal.SIGKILL)

    def _living(self) -> list[Any]:
        self.ledger.bury(self.watch.dead)
        return self.ledger.others()

    def _look(self) -> None:
        """Reads what running trials have logged, and ends those that the pruner gives up."""
        for trial in self.running.values():
            known = len(trial.tail.curve)
            trial.tail.poll()
            if self.prune is not None and trial.ending is None and len(trial.tail.curve) > known:
                others = [other for other in self.running.values() if other is not trial]
                if self.prune(trial, others, self.ledger.entries()):
                    trial.ending = "prune"
                    self.server.signal(trial.entry.key, signal.SIGTERM)
        self.view.refresh(self.running.values(), self.ledger.counts)

    def _mourn(self) -> None:
        """Goes on after the fork server has died: its children died with it, their trials wait again."""
        words = self.server.last_words()
        trials, self.running = list(self.running.values()), {}
        self._deaths += 1
        if self._deaths >= SERVER_DEATHS:
            raise LabError(f"the fork server died {self._deaths} times in a row ({words})")
        self.view.say(f"the fork server died ({words}): its {len(trials)} trials wait for a new one")
        self.server.restart()  # its children are gone by then
        for trial in trials:
            if trial.ending != "lost":
                self.ledger.wait(trial.entry.key)
