"""The forked child: one trial, from its overrides to its result, reported through a pipe."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from gpt_lab.console import process, signals, streams
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.store import record
from gpt_lab.study import build
from gpt_lab.study.design import Cell, Settings
from gpt_lab.sweep.workers import pinning, trial_ranks

LOG_WIDTH = 120


Send = Callable[[dict[str, Any]], None]


def run_job(job: Mapping[str, Any], send: Send) -> int:
    """Does what the runner asks for: trains a trial, checks cells, or measures a pace."""
    if "measure" in job:
        return answer(send, lambda: measure_job(job))
    return answer(send, lambda: check_job(job)) if "cells" in job else train_job(job, send)


def answer(send: Send, work: Callable[[], dict[str, Any]]) -> int:
    """Tells what `work` gives, or {"error": one line, "config": whether a setting is at fault}."""
    try:
        send(work())
    except LabError as error:
        send({"error": str(error), "config": True})
        return 2
    except BaseException as error:
        traceback.print_exc()
        send({"error": _line(error), "config": False})
        return 1
    return 0


def check_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Builds the model of each cell, so that none fails for that later, and counts the GPUs.

    Args:
        job: cells: the fields of each. configs: their composed configs. lengths: whether to say how long each trains.

    Returns:
        {"gpus": number, "lengths": the fields of each trunk.Length, "warnings": lines on the data}
    """
    from gpt_lab.config import checked
    from gpt_lab.sweep.search import trunk

    cells = [from_fields(fields) for fields in job["cells"]]
    configs, builder = [checked.from_dict(tree) for tree in job["configs"]], build.Builder()
    builder.check(cells, configs)
    lengths = trunk.lengths(cells, configs, builder) if job.get("lengths") else []
    import torch

    said = {"lengths": [dataclasses.asdict(one) for one in lengths], "warnings": builder.warnings}
    return {"gpus": torch.cuda.device_count(), **said}


def measure_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Times a few steps of a config.

    Args:
        job: measure: the config. threads, gpu: as train_job has them. meet: the arguments of `process.meet`, where
            processes are timed beside each other.

    Returns:
        {"pace": the fields of a Pace}, and on a GPU "memory": {"taken": bytes of its tensors, "free": before them}
    """
    _take_place(job)
    import torch

    from gpt_lab.config import checked
    from gpt_lab.train.speed import pace

    gpu = job["gpu"] is not None and torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if gpu else 0
    where = job.get("meet")
    ready = (lambda: None) if where is None else functools.partial(process.meet, **where)
    said: dict[str, Any] = {"pace": dataclasses.asdict(pace.measure(checked.from_dict(job["measure"]), ready))}
    return said | ({"memory": {"taken": torch.cuda.max_memory_reserved(), "free": free}} if gpu else {})


def from_fields(fields: Mapping[str, Any]) -> Cell:
    """The cell whose fields, as dataclasses.asdict gives them, came through JSON."""
    named = {key: Settings(tuple(map(tuple, fields[key]["given"]))) for key in ("arm", "tuning")}
    return Cell(**{**fields, **named, "overrides": tuple(fields["overrides"])})


def train_job(job: Mapping[str, Any], send: Send) -> int:
    """Trains one trial; returns the exit status of the process.

    Args:
        job: overrides, the config composed of them, its identity, log (file for what the run says), threads (of each
            rank), gpu (what CUDA_VISIBLE_DEVICES shall be, or None), cores (to stay on; none: on any); trunk, forks: as
            run_training takes them, where there are any; peaks: what earlier trials have measured of the CPU.
        send: takes messages: {"run": ..., "steps": ..., "seconds": ...} once the run is locked; {"state": ...,
            "summary": ..., "peaks": ...} at its end; {"error": one line, "busy": whether another process trains it}.
    """
    try:
        _redirect(Path(job["log"]))
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {_command(job)}", flush=True)
        return _train(job, send)
    except LabError as error:
        from gpt_lab.store.lock import Busy

        print(f"error: {error}", file=sys.stderr)
        send({"error": str(error), "busy": isinstance(error, Busy)})
        return 2
    except BaseException as error:
        traceback.print_exc()
        send({"error": _line(error), "busy": False})
        return 1


def _train(job: Mapping[str, Any], send: Send) -> int:
    random.seed()  # else all children of one server would draw the same
    sys.argv = ["train", *job["overrides"]]  # what trackers show as the program
    _take_place(job)
    from rich.console import Console

    from gpt_lab.config import checked
    from gpt_lab.store import Run
    from gpt_lab.train.speed import peak_flops
    from gpt_lab.train.start import run_training

    cfg = checked.from_dict(job["config"])
    if cfg.identity() != job["identity"]:
        raise ConfigError("the settings of this trial are not those that were planned (conf/ has changed?): try again")

    def started(run: Run) -> None:
        send({"run": run.name, "steps": run.record.get("steps"), "budget_seconds": cfg.budget.seconds})

    peak_flops.know(job.get("peaks", ()))
    console = Console(file=sys.stdout, width=LOG_WIDTH)
    trunk = Path(job["trunk"]) if job.get("trunk") else None
    asked = signals.Signals(at_once=lambda number: None)  # the runner kills where it has to be at once
    with trial_ranks.sharing(cfg, functools.partial(_lost, send)) as ranks:
        result = run_training(cfg, console, _command(job), started, trunk, job.get("forks", ()), asked, ranks)
    said = {"state": result.state, "summary": dict(result.summary), "done": result.done, "peaks": peak_flops.known()}
    send({"run": result.path.name, **said})
    return result.exit_code


def _lost(send: Send, how: str) -> NoReturn:
    """Ends this process, whose other rank has failed."""
    send({"error": how, "busy": False})
    os._exit(1)


def _take_place(job: Mapping[str, Any]) -> None:
    """Takes the job's GPU, its cores and its number of CPU threads, before torch has used any."""
    record.machine()  # what the record says of the machine is not the part that this trial has
    pinning.pin(job.get("cores", ()))
    if job["gpu"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job["gpu"]
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(job["threads"])
    torch.set_num_threads(job["threads"])


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _command(job: Mapping[str, Any]) -> str:
    return shlex.join(["train", *job["overrides"]])


def _redirect(log: Path) -> None:
    """Standard output and error go to the end of the log, input comes from nowhere."""
    from gpt_lab.store.atomic_files import writing

    with writing(log):
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)
    sys.stdout, sys.stderr = (streams.wrapped(streams.Stream(number)) for number in (1, 2))


def speaker(pipe: int) -> Send:
    """A `tell` that writes each message as one line of JSON into a pipe."""

    def tell(message: dict[str, Any]) -> None:
        from gpt_lab.store.atomic_files import encode

        data = (json.dumps(encode(message)) + "\n").encode()
        try:
            while data:
                data = data[os.write(pipe, data) :]
        except BrokenPipeError:  # the fork server is gone: the run folder says what became of the run
            return

    return tell


def plain_signals() -> None:
    """Undoes what the server did with signals: until training begins, when there is nothing to keep, they end it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signals.restore_defaults()
