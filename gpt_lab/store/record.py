"""Provenance of a run: code version, machine, packages, command."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_lab import registry

ROOT = Path(__file__).parents[2]
"""Of the source tree."""
CODE = ("gpt_lab", "conf", "experiments", "parts", "pyproject.toml")
"""What of ROOT can change a run."""
CPUINFO = Path("/proc/cpuinfo")


def gather(hardware: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Git commit, hardware, package versions and command line of this process; takes about 20 ms.

    Args:
        hardware: what only the caller knows, such as GPU names (this module does not import torch).
    """
    return {
        "git": loaded(),
        "hardware": {**machine(), **(hardware or {})},
        "packages": packages(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


@functools.cache
def loaded() -> dict[str, Any] | None:
    """As `git`, read once: of the code that this process runs, whatever becomes of the files."""
    return git()


def git() -> dict[str, Any] | None:
    """Commit of the lab's code and whether CODE was changed or added to since; None without git or a repository.

    `changes` names what was changed or added: 12 hex digits, equal for equal content; None where nothing was.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    dirty = _git("status", "--porcelain", "--untracked-files=normal", "--", *CODE) != ""
    return {"commit": commit, "dirty": dirty, "changes": _changes() if dirty else None}


def _changes() -> str | None:
    changed = _git("diff", "--binary", "HEAD", "--", *CODE)
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    if changed is None or new is None:
        return None
    digest = hashlib.sha256(changed.encode("utf-8", "replace"))
    try:
        for name in filter(None, new.split("\0")):
            digest.update(f"\0{name}\0".encode("utf-8", "replace") + (ROOT / name).read_bytes())
    except OSError:  # gone, or not to be read: nothing is known of it
        return None
    return digest.hexdigest()[:12]


def same_code(
    commit: str | None, dirty: bool | None, changes: str | None, other: str | None, was: bool | None, had: str | None
) -> bool:
    """Whether two versions of the code, as `git` states them, are the same in CODE as far as they tell.

    Commits that this clone does not have are taken for different ones; changes of which nothing more is known, for
    the same.
    """
    if commit is None or other is None:
        return True
    if bool(dirty) != bool(was) or (changes is not None and had is not None and changes != had):
        return False
    return commit == other or differ(commit, other) is False


def differ(commit: str, other: str) -> bool | None:
    """Whether two commits differ in CODE; None where this clone does not have both."""
    try:
        command = ["git", "-C", str(ROOT), "diff", "--quiet", commit, other, "--", *CODE]
        done = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {0: False, 1: True}.get(done.returncode)


@functools.cache
def code() -> str:
    """12 hex digits over the lab's own modules and others' parts, read once: the code that this process runs."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    for module, path in registry.foreign():
        digest.update(f"{module}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *command],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # never touches the index of a repository in use
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def machine() -> dict[str, Any]:
    """CPU model, usable and present cores, memory in GB, system; read once."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "cores_present": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_info() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu() -> str:
    info = cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    if re.search(r"\d", name) or not {"cpu family", "model"} <= info.keys():
        return name
    # virtual machines say "AMD EPYC" of every generation, and one multiplies twice as fast as another
    return f"{name} (family {info['cpu family']}, model {info['model']})"


def packages() -> dict[str, str]:
    """Versions of Python, of the lab and of each installed package that the lab asks for."""
    return dict(_versions())


@functools.cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("gpt_lab", *_required()):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # an optional one
            continue
    return versions


def _required() -> list[str]:
    try:
        lines = importlib.metadata.requires("gpt_lab") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source folder
        return ["torch", "numpy", "hydra-core", "wandb", "tokenizers", "tiktoken", "safetensors", "datasets"]
    return sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines})
