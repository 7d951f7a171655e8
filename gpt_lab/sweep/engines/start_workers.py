"""`--on`: which engine starts the workers, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.sweep.engines import local_processes, ray_tasks, slurm_array, ssh_hosts
from gpt_lab.sweep.engines.worker_request import Request

ENGINES = ("local", "slurm", "ssh:HOST,HOST", "ray", "ray:HOST:PORT")


def start(
    request: Request, engine: str, sbatch: Sequence[str], limit: int | None, resources: Sequence[str], dry: bool
) -> list[str]:
    """Starts workers on an engine, and leaves them; returns what to tell the user.

    Args:
        engine: one of ENGINES. sbatch, limit: options of Slurm. resources: of a task of Ray.
        dry: only says what it would do.

    Raises:
        ConfigError: no such engine, options of another one. LabError: it could not start them.
    """
    kind, colon, hosts = engine.partition(":")
    if kind != "slurm" and (sbatch or limit is not None):
        raise ConfigError(f"{'--sbatch' if sbatch else '--array-limit'} is for --on slurm, not for {engine}")
    if kind != "ray" and resources:
        raise ConfigError(f"--resource is for --on ray, not for {engine}")
    if kind == "ssh" and colon:
        names = hosts.split(",")
        bad = [name for name in names if not name or name.startswith("-") or set(name) & set(" /'\"$")]
        if bad:
            raise ConfigError(f"--on {engine}: {quoted(bad[0])} is no host; ssh:HOST,HOST is expected")
        return ssh_hosts.start(request, names, dry)
    if engine == "local":
        return local_processes.start(request, dry)
    if kind == "ray" and (hosts or not colon):
        return ray_tasks.start(request, hosts or "auto", ray_tasks.resources(resources), dry)
    if engine == "slurm":
        return slurm_array.start(request, slurm_array.options(sbatch), limit, dry)
    raise ConfigError(unknown("engine", engine, ENGINES))
