"""Workers as background processes of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gpt_lab.errors import ConfigError
from gpt_lab.store.atomic_files import writing
from gpt_lab.store.record import cores
from gpt_lab.sweep.engines.worker_request import Request

NVIDIA = Path("/dev/nvidia0")


def start(request: Request, dry: bool) -> list[str]:
    """Starts them; returns what to tell the user.

    Raises:
        ConfigError: several workers where one takes all GPUs. LabError: the folder of logs cannot be written.
    """
    if request.workers > 1:
        if NVIDIA.exists() and request.gpu:
            raise ConfigError("--workers: one worker takes all GPUs of this machine: leave it out, or state device=cpu")
        request = request.with_jobs(max(1, cores() // ((request.threads or 1) * request.ranks) // request.workers))
    if dry:
        return [f"would start {request.workers} times: {request.shell()}"]
    request.prepare(shared=False)
    lines = []
    for log in request.fresh_logs("local", request.workers):
        with writing(log), open(log, "xb") as file:
            begun = subprocess.Popen(
                request.command(),
                cwd=request.place,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C and hang-up are not meant for it
            )
        begun.returncode = 0  # nobody waits for it: it outlives this command
        lines.append(f"started process {begun.pid}, which writes {log}")
    return lines
