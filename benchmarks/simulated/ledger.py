"""What the ledger costs: 1, 8 and 64 processes on one file, and a simulated cluster of 1,000 workers.

    uv run python benchmarks/simulated/ledger.py processes --folder EMPTY
    uv run python benchmarks/simulated/ledger.py simulated --folder /dev/shm/EMPTY
    uv run python benchmarks/simulated/ledger.py status --folder EMPTY

`processes`: real ones that do with the ledger what a runner does, for trials of 5 seconds (a sleep); `share` is the
time in the ledger over the time of a trial. `WAL` is the journal of a local file system, `PERSIST` that of a shared
one, here on the local disk. `simulated`: fake workers and clock (benchmarks/simulated/cluster.py); 1 % of them die a
minute. `status`: the command `sweep FILE --status`, its start included, on 10,000 trials and 64 workers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.simulated import cluster
from gpt_lab.store.record import machine
from gpt_lab.sweep.ledger.database import SHARED, file_system
from gpt_lab.sweep.ledger.ledger import Ledger, entries
from gpt_lab.sweep.ledger.liveness import LISTEN_EVERY, Owner, OwnerWatch

RESULTS = Path(__file__).parent.parent / "results" / "ledger.json"
PROCESSES = (1, 8, 64)
TRIAL = 5.0
EACH = 3
"""Trials for each process."""


def work(folder: Path, seconds: float, number: int, queue: Any) -> None:
    """One process: trials until none is left; tells the queue its seconds in the ledger and its trials."""
    time.sleep(random.Random(number).uniform(0, seconds))  # workers do not begin in step
    spent, trials, watch, heard = 0.0, 0, OwnerWatch(), time.monotonic()
    ledger = Ledger.open(folder)
    begun = time.perf_counter()
    entry = ledger.claim()
    while entry is not None:
        spent += time.perf_counter() - begun
        time.sleep(seconds)
        begun = time.perf_counter()
        if time.monotonic() - heard >= LISTEN_EVERY:
            heard = time.monotonic()
            ledger.stops()
            ledger.bury(watch.dead)
        _, entry = ledger.end_and_claim(entry.key, "finished", run=f"run-{entry.key}", score=1.0, seconds=seconds)
        trials += 1
    spent += time.perf_counter() - begun
    ledger.close()
    queue.put((spent, trials))


def processes(folder: Path, count: int, journal: str, seconds: float = TRIAL, each: int = EACH) -> dict[str, Any]:
    """Ledger time of `count` processes, and whether each trial was noted once."""
    if journal == "PERSIST":
        (folder / SHARED).parent.mkdir(parents=True)
        (folder / SHARED).touch()
    cluster.begun(folder, count * each).close()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    started = [context.Process(target=work, args=(folder, seconds, number, queue)) for number in range(count)]
    for one in started:
        one.start()
    told = [queue.get() for _ in started]
    for one in started:
        one.join()
    per_trial = sum(spent for spent, _ in told) / (count * each)
    found = entries(folder)
    return {
        "processes": count,
        "journal": journal,
        "trials": count * each,
        "finished": sum(entry.state == "finished" for entry in found),
        "attempts": sum(entry.attempts for entry in found),
        "ledger_ms_per_trial": round(1000 * per_trial, 3),
        "share": round(per_trial / seconds, 5),
    }


def simulated(folder: Path, workers: int, trials: int, deaths: float = 0.01) -> dict[str, Any]:
    """The simulated cluster's end: trials lost and noted twice, and real seconds in the ledger."""
    played = cluster.simulate(folder, workers, trials, deaths, TRIAL)
    with cluster.closing(played):
        found = played.ledger.entries()
        return {
            "workers": workers,
            "trials": trials,
            "deaths_a_minute": deaths,
            "died": played.died,
            "died_with_a_trial": played.in_hand,
            "simulated_s": round(played.now, 1),
            "lost": sum(entry.state != "finished" for entry in found),
            "noted_twice": sum(times > 1 for times in played.finished.values()),
            "begun_again": sum(entry.attempts - 1 for entry in found),
            "ledger_s_per_trial": round(sum(played.spent.values()) / trials, 6),
            "us_per_call": {name: round(1e6 * played.spent[name] / played.calls[name], 1) for name in played.spent},
        }


def status(folder: Path, trials: int = 10_000, workers: int = 64, times: int = 5) -> dict[str, Any]:
    """Wall seconds of `--status` on a ledger of which half is over."""
    study = folder / "runs" / "fake"
    ledger = cluster.begun(study, trials)
    for _ in range(trials // 2):
        entry = ledger.claim()
        assert entry is not None
        ledger.end(entry.key, "finished", run=f"run-{entry.key}", score=1.0, seconds=TRIAL)
    shared = [Ledger.share(ledger, Owner(f"host-{number}", 1, None, "t")) for number in range(workers)]
    for one in shared:
        one.claim()
    path = folder / "fake.yaml"
    fixed = {"runs_dir": {"value": str(folder / "runs")}}
    path.write_text(json.dumps({"method": "grid", "parameters": {"seed": {"values": [0, 1]}, **fixed}}), "utf-8")
    took, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(times):
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "gpt_lab.cli.sweep", str(path), "--status"],
            check=True,
            capture_output=True,
            text=True,
        )
        took.append(time.perf_counter() - begun)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ledger.close()
    lines = done.stdout.splitlines()
    return {
        "trials": trials,
        "workers": sum("heartbeat" in line for line in lines),
        "said": lines[0],
        "cpu_s": round(cpu / times, 3),
        "wall_s": [round(seconds, 3) for seconds in took],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("processes", "simulated", "status"), help="what to measure; the others stay")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one, on the file system that is measured")
    chosen = parser.parse_args()
    found: dict[str, Any] = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.exists() else {}
    found |= {"machine": machine(), "trial_s": TRIAL}
    load = round(os.getloadavg()[0], 2)
    if chosen.part == "processes":
        rows = []
        for journal in ("WAL", "PERSIST"):
            for count in PROCESSES:
                rows.append(processes(chosen.folder / f"{journal}-{count}", count, journal))
                print(rows[-1], flush=True)
        measured: Any = {"rows": rows}
    elif chosen.part == "status":
        measured = status(chosen.folder)
        print(measured)
    else:
        measured = simulated(chosen.folder / "simulated", 1000, 100_000)
        print(json.dumps(measured, indent=1))
    where = file_system(chosen.folder)
    found[chosen.part] = {
        "file_system": where,
        "load_before": load,
        "load_after": round(os.getloadavg()[0], 2),
        **measured,
    }
    chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
