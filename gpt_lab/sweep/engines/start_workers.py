"""`--on`: which engine starts the workers, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.sweep.engines import local_processes, slurm_array, ssh_hosts
from gpt_lab.sweep.engines.worker_request import Request

ENGINES = ("local", "slurm", "ssh:HOST,HOST")


def start(request: Request, engine: str, sbatch: Sequence[str], limit: int | None, dry: bool) -> list[str]:
    """Starts workers on an engine, and leaves them; returns what to tell the user.

    Args:
        engine: one of ENGINES. sbatch, limit: options of Slurm. dry: only says what it would do.

    Raises:
        ConfigError: no such engine, options of another one. LabError: it could not start them.
    """
    kind, colon, hosts = engine.partition(":")
    if kind != "slurm" and (sbatch or limit is not None):
        raise ConfigError(f"{'--sbatch' if sbatch else '--array-limit'} is for --on slurm, not for {engine}")
    if kind == "ssh" and colon:
        names = hosts.split(",")
        bad = [name for name in names if not name or name.startswith("-") or set(name) & set(" /'\"$")]
        if bad:
            raise ConfigError(f"--on {engine}: {quoted(bad[0])} is no host; ssh:HOST,HOST is expected")
        return ssh_hosts.start(request, names, dry)
    if engine == "local":
        return local_processes.start(request, dry)
    if engine == "slurm":
        return slurm_array.start(request, slurm_array.options(sbatch), limit, dry)
    raise ConfigError(unknown("engine", engine, ENGINES))
