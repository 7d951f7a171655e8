"""Workers as one array job of Slurm: a readable sbatch file beside the study, submitted.

A worker that is told to leave, 120 s before its time is over, writes checkpoints and has its task queued again.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from gpt_lab.errors import ConfigError, LabError, quoted
from gpt_lab.store.atomic_files import write_atomic
from gpt_lab.sweep.engines.worker_request import Request

FILE = "slurm.sbatch"
OWN = {
    "array": "--workers and --array-limit say it",
    **dict.fromkeys(("requeue", "no-requeue", "signal", "open-mode"), "a worker's checkpoints depend on it"),
    **dict.fromkeys(("output", "error", "job-name", "chdir"), "--status looks there"),
}
"""Options of sbatch that are not the user's, and why."""
BODY = """
# One worker: it takes trials from the study's ledger until none is left. Told to leave (TERM: the time limit comes,
# or a job of higher priority), it writes checkpoints; then its task is queued again, and goes on from them.
cd {place} || exit 1
asked=
trap 'asked=1; kill -TERM "$worker" 2>/dev/null' TERM
{command} &
worker=$!
wait "$worker"
status=$?
while kill -0 "$worker" 2>/dev/null; do
    wait "$worker"
    status=$?
done
if [ -n "$asked" ] && [ "$status" -gt 128 ]; then
    task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    case "$(scontrol show job -o "$task")" in  # after scancel it is CANCELLED, and stays so
        *JobState=RUNNING*) scontrol requeue "$task" ;;
    esac
fi
exit "$status"
"""


def options(given: Sequence[str]) -> dict[str, str]:
    """`--sbatch key=value`, checked; a key without a value is a switch.

    Raises:
        ConfigError: no option, one that is the lab's own, one twice.
    """
    found: dict[str, str] = {}
    for text in given:
        key, _, value = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key) or "\n" in value:
            raise ConfigError(f"--sbatch {quoted(text)}: an option of sbatch is expected, as time=01:00:00")
        if key in OWN:
            raise ConfigError(f"--sbatch {key}: {OWN[key]}")
        if found.setdefault(key, value) != value:
            raise ConfigError(f"--sbatch {key} is given twice: {quoted(found[key])} and {quoted(value)}")
    return found


def text(request: Request, given: dict[str, str], limit: int | None) -> str:
    """The sbatch file: as many cores for each worker as its trials have threads."""
    request = request.with_jobs(1)
    wanted = {
        "job-name": request.study,
        "array": f"1-{request.workers}" + (f"%{limit}" if limit is not None else ""),
        "requeue": "",
        "signal": "B:TERM@120",
        "open-mode": "append",
        "output": f"{request.logs}/slurm-%A_%a.log",
        **({} if "cpus-per-task" in given else {"cpus-per-task": str(request.cores)}),
        **given,
    }
    heads = [f"#SBATCH --{key}" + (f"={_quoted(value)}" if value else "") for key, value in wanted.items()]
    return "\n".join(["#!/bin/bash", *heads]) + BODY.format(
        place=shlex.quote(str(request.place)), command=request.shell()
    )


def start(request: Request, given: dict[str, str], limit: int | None, dry: bool) -> list[str]:
    """Writes the file and submits it; returns what to tell the user.

    Raises:
        LabError: there is no sbatch here, or it refuses the job.
    """
    content = text(request, given, limit)
    path = request.logs / FILE
    if dry:
        return [f"would write and submit {path}:", *content.splitlines()]
    if shutil.which("sbatch") is None:
        raise LabError("there is no sbatch here: run this on a machine that submits to Slurm")
    request.prepare(shared=True)
    write_atomic(path, content.encode())
    done = subprocess.run(["sbatch", "--parsable", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        path.unlink()
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise LabError(f"sbatch refuses the job (--dry-run shows it): {said}")
    job = done.stdout.strip().partition(";")[0]
    return [f"submitted job {job}: {request.workers} workers, by {path}", f"squeue --job {job} says when they begin"]


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w%@:./,+=-]+", value) else '"' + value.replace('"', '\\"') + '"'
