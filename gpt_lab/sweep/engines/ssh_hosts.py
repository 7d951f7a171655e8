"""Workers by OpenSSH, on hosts that see the same folders and the same Python at the same paths."""

from __future__ import annotations

import shlex
import subprocess

from gpt_lab.errors import LabError
from gpt_lab.sweep.engines.worker_request import Request

PATIENCE = 30
"""Seconds for a host to answer and to start its workers."""


def start(request: Request, hosts: list[str], dry: bool) -> list[str]:
    """Starts `request.workers` on each host; returns what to tell the user.

    Raises:
        LabError: a host cannot be reached, or does not see the folder; the line says on which others workers run.
    """
    if dry:
        return [f"would start on {host}, {request.workers} times: {request.shell()}" for host in hosts]
    request.prepare(shared=True)
    lines: list[str] = []
    for host in hosts:
        for log in request.fresh_logs(host.rpartition("@")[2], request.workers):
            log.touch()
            words = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE // 2}", "--", host]
            place, here = shlex.quote(str(request.place)), shlex.quote(str(log))
            blind = shlex.quote(f"it does not see {log}")
            script = (
                f"cd {place} && test -w {here} || {{ echo {blind} >&2; exit 1; }}; "
                f"nohup setsid {request.shell()} >>{here} 2>&1 </dev/null & echo $!"
            )
            try:
                done = subprocess.run(
                    [*words, f"sh -c {shlex.quote(script)}"],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                )
                said, failed = done.stderr.strip().splitlines(), done.returncode != 0
            except (OSError, subprocess.TimeoutExpired) as error:
                said, failed = [str(error)], True
            if failed:
                others = f"; before that: {', '.join(lines)}" if lines else ""
                why = said[-1] if said else "ssh said nothing"
                raise LabError(f"no worker starts on {host}: {why}{others}")
            lines.append(f"started process {done.stdout.strip()} on {host}, which writes {log}")
    return lines
