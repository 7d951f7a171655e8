"""Kills sweeps at random moments, many times in one process that has imported torch once.

Runners are forked from here and fork their server from themselves, in place of starting a new interpreter; all else is
the real thing. As a subreaper this process becomes the parent of every orphan, so it sees whether one is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt_lab.console import signals
from gpt_lab.store import Run
from gpt_lab.study import cells, place, sweep_file
from gpt_lab.sweep import runner
from gpt_lab.sweep.ledger.ledger import entries
from gpt_lab.sweep.search import search
from tests.processes import commands
from tests.sweep import forked
from tests.sweep.sweep_helpers import ROOT, children, tree

PR_SET_CHILD_SUBREAPER = 36
KILLS = 4


class Scenario:
    """Runs of one sweep, disturbed."""

    def __init__(self, path: Path, seed: int) -> None:
        self.sweep = sweep_file.load(path)
        cells.configs(search.Search(self.sweep).planned or ())  # Hydra's part, once for all runners
        self.folder = place.runs_folder(self.sweep)
        self.draw = random.Random(seed)
        self.out = path.with_suffix(".out")
        self.facts: dict[str, Any] = {"kills": 0, "codes": []}

    def start(self, **settings: Any) -> int:
        """The pid of a new runner."""
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                signals.listen()  # as the command line has it
                with open(self.out, "a", encoding="utf-8") as file:
                    code = runner.run_sweep(self.sweep, Console(file=file, width=160), jobs=2, **settings)
            except signals.Leave as leave:  # before the first trial
                code = 128 + leave.number
            except BaseException as error:
                with open(self.out, "a", encoding="utf-8") as file:
                    print(f"{type(error).__name__}: {error}", file=file)
            finally:
                os._exit(code)
        return pid

    def end(self, pid: int, seconds: float = 300) -> int:
        """How a runner ended; no process of it is left."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
                self.facts["codes"].append(status)
                return status
            time.sleep(0.002)
        raise TimeoutError("the runner hangs")

    def nothing_left(self, seconds: float = 30) -> None:
        """Every orphan has ended: there is no child left to wait for."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            time.sleep(0.005)
        raise AssertionError(f"processes are left: {children(os.getpid())}")

    def finished(self) -> int:
        return sum(entry.state == "finished" for entry in entries(self.folder))

    def trained(self) -> int:
        """Bytes of metrics so far: grows with every line."""
        return sum(path.stat().st_size for path in self.folder.glob("*/metrics.jsonl"))

    def moment(self, pid: int) -> None:
        """Waits for a random moment of a runner's life: some are before the first trial, most while they train."""
        if self.draw.random() < 0.2:
            time.sleep(self.draw.uniform(0, 0.2))
        else:
            self.train_on(pid)

    def train_on(self, pid: int) -> None:
        """Waits until a runner's trials have logged some more, or it has ended."""
        enough = self.trained() + self.draw.randint(1, 1500)
        limit = time.monotonic() + 30
        while self.trained() < enough and time.monotonic() < limit:
            if over(pid):
                return
            time.sleep(0.002)
        time.sleep(self.draw.uniform(0, 0.05))

    def lost(self) -> list[str]:
        """Runs that are not saved as far as they have logged."""
        runs = [Run.open(path.parent) for path in self.folder.glob("[!.]*/run.json")]
        return [f"{run.path}: {run.state}" for run in runs if run.metrics() and not whole(run)]

    def tell_all(self, pid: int, number: int) -> None:
        """A signal to every process of a sweep, in any order, and to each twice, as if others passed it on."""
        everybody = tree(pid)
        for one in self.draw.sample(everybody * 2, 2 * len(everybody)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, signal.SIGKILL)
            self.facts["kills"] += 1


def over(pid: int) -> bool:
    """Whether a runner has ended that nobody has waited for yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def whole(run: Run) -> bool:
    """Whether a run has ended in an orderly way: its last step is that of its last checkpoint."""
    steps = run.summary.get("steps", -1)
    last = (run.checkpoints / "last").resolve().name
    return run.state in ("stopped", "finished") and last == f"step-{steps}" and run.metrics()[-1]["step"] <= steps


def undisturbed(scenario: Scenario) -> None:
    """One runner that nobody bothers."""
    scenario.end(scenario.start())


def kill_runner(scenario: Scenario) -> None:
    """kill -9 of the runner, again and again; the same command each time."""
    while scenario.facts["kills"] < KILLS:
        pid = scenario.start()
        scenario.moment(pid)
        scenario.kill(pid)
        scenario.end(pid)
        scenario.nothing_left()
        scenario.facts.setdefault("lost", []).extend(scenario.lost())
    scenario.end(scenario.start())


def kill_trials(scenario: Scenario) -> None:
    """kill -9 of random trials under one runner."""
    pid = scenario.start(retries=KILLS)
    while scenario.facts["kills"] < KILLS:
        scenario.moment(pid)
        trials = [trial for server in children(pid) for trial in children(server)]
        if trials:
            scenario.kill(scenario.draw.choice(trials))
        elif over(pid):
            break
    scenario.end(pid)


def kill_server(scenario: Scenario) -> None:
    """kill -9 of the fork server while trials run, under one runner."""
    pid = scenario.start()
    while scenario.facts["kills"] < 4:
        scenario.train_on(pid)
        if over(pid):
            break
        for server in children(pid):  # none while another one is begun
            scenario.kill(server)
    scenario.end(pid)


def together(scenario: Scenario) -> None:
    """Three runners at once, one of which dies; a fourth comes later."""
    pids = [scenario.start() for _ in range(3)]
    scenario.moment(pids[0])
    scenario.kill(pids[0])
    pids.append(scenario.start())
    for pid in pids:
        scenario.end(pid)


def interrupt(scenario: Scenario) -> None:
    """Every process is told to leave: Ctrl-C, SIGTERM and SIGHUP by turns; the same command each time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        pid = scenario.start()
        scenario.moment(pid)
        scenario.tell_all(pid, number)
        scenario.end(pid)
        scenario.nothing_left()
        found = entries(scenario.folder)
        scenario.facts.setdefault("lost", []).extend(scenario.lost())
        scenario.facts.setdefault("states", []).append(sorted({entry.state for entry in found}))
    scenario.end(scenario.start())


SCENARIOS: dict[str, Callable[[Scenario], None]] = {
    made.__name__: made for made in (undisturbed, kill_runner, kill_trials, kill_server, together, interrupt)
}


def disturbed(seed: int, paths: Mapping[str, Path]) -> subprocess.CompletedProcess[str]:
    """Plays each scenario with its sweep file, in a process of its own; it prints what happened as JSON."""
    return commands.call(functools.partial(_play, seed, dict(paths)), ROOT, timeout=1200)


def _play(seed: int, paths: Mapping[str, Path]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    forked.use()
    facts = {}
    for name, path in paths.items():
        scenario = Scenario(path, seed)
        SCENARIOS[name](scenario)
        scenario.nothing_left()
        facts[name] = {**scenario.facts, "finished": scenario.finished()}
    print(json.dumps(facts))
