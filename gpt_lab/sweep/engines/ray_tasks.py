"""Workers as tasks of a Ray cluster (Moritz et al., OSDI 2018): those of a node that is lost begin again on another.

A driver in the background, on the machine that started them, keeps the tasks: without it Ray ends them.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_lab.errors import ConfigError, LabError, quoted
from gpt_lab.store.atomic_files import writing
from gpt_lab.sweep.engines.worker_request import Request

QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
ENDS_WITH = (
    "import os, sys; from gpt_lab.sweep.workers.process import end_with; "
    f"end_with(int(sys.argv[1]), {int(signal.SIGTERM)}); os.execv(sys.argv[2], sys.argv[2:])"
)
"""A worker writes its checkpoints when the task that it is ends before it."""


def resources(given: Sequence[str]) -> dict[str, float]:
    """`--resource name=number`, checked: num_cpus, num_gpus, memory (bytes), or a name that the cluster's nodes have.

    Raises:
        ConfigError: no number above 0, one twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not name or not 0 < number < math.inf:
            raise ConfigError(f"--resource {quoted(text)}: name=number is expected, as num_gpus=1")
        if found.setdefault(name, number) != number:
            raise ConfigError(f"--resource {name} is given twice: {found[name]:g} and {number:g}")
    return found


def start(request: Request, address: str, given: Mapping[str, float], dry: bool) -> list[str]:
    """Starts the driver of `request.workers` tasks; returns what to tell the user.

    Args:
        address: of the cluster's head; "auto": the one of $RAY_ADDRESS, or of this machine.
        given: what each task takes; cores as its trials have threads unless they are said.

    Raises:
        LabError: Ray is not installed, there is no cluster, or none of its nodes has as much.
    """
    request = request.with_jobs(1)
    wanted = {"num_cpus": float(request.cores), **given}
    each = ", ".join(f"{name}={number:g}" for name, number in wanted.items())
    if dry:
        return [f"would start {request.workers} tasks of Ray, {each} each: {request.shell()}"]
    _check(address, wanted, each)
    request.prepare(shared=True)
    (log,) = request.fresh_logs("ray-driver", 1)
    logs = request.fresh_logs("ray", request.workers)
    tasks = {
        "address": address,
        "options": _options(wanted),
        "command": request.command(),
        "place": str(request.place),
        "logs": [str(path) for path in logs],
    }
    with writing(log), open(log, "xb") as file:
        begun = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(tasks)],
            cwd=request.place,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    begun.returncode = 0  # nobody waits for it: it outlives this command
    return [
        f"process {begun.pid} keeps {request.workers} tasks of Ray, {each} each; it writes {log}",
        f"they write {logs[0]}" + (f" to {logs[-1].name}" if len(logs) > 1 else ""),
    ]


def _options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """What `ray.remote` is told of a task."""
    own = {name: number for name, number in wanted.items() if name in ("num_cpus", "num_gpus", "memory")}
    return {**own, "resources": {name: number for name, number in wanted.items() if name not in own}}


def _check(address: str, wanted: Mapping[str, float], each: str) -> None:
    try:
        import ray
    except ModuleNotFoundError:
        raise LabError("--on ray needs Ray: `uv sync --extra ray` installs it") from None
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise LabError(f"no Ray cluster at {address}: {said} (`ray start --head` begins one)") from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    if not any(all(node.get(names.get(name, name), 0) >= number for name, number in wanted.items()) for node in nodes):
        raise LabError(f"none of the {len(nodes)} nodes of Ray has {each}: `ray status` says what they have")


def work(command: Sequence[str], place: str, log: str) -> int:
    """One task: a worker, until it leaves; returns its exit status."""
    with open(log, "ab") as file:
        return subprocess.run(
            [command[0], "-c", ENDS_WITH, str(os.getpid()), *command],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def main() -> None:
    """Argument: the tasks, as `start` writes them. Waits for all of them."""
    import ray

    tasks = json.loads(sys.argv[1])
    ray.init(address=tasks["address"], **QUIET)
    task = ray.remote(max_retries=-1, **tasks["options"])(work)
    left = {task.remote(tasks["command"], tasks["place"], log): log for log in tasks["logs"]}
    while left:
        for done in ray.wait(list(left))[0]:
            print(f"{left.pop(done)}: ended with status {ray.get(done)}", flush=True)


if __name__ == "__main__":
    main()
