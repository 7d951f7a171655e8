"""Fork points: a run as it was after some step, kept in its folder for others that go on from there.

<run>/forks/step-80/    whole or not there
  fork.json               the step, the run it is of, what another run must share with it
  checkpoints/            those of the run up to that step; their tensors are hard links, which cost no space
  metrics.jsonl, samples/, tokenizer/
  SHA256SUMS              digests of all but checkpoints/, which have their own
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_lab.digests import Damaged, check_sums, write_sums
from gpt_lab.errors import DataError
from gpt_lab.store.atomic_files import read_json, sync_folder, write_json, writing

FOLDER = "forks"
FACTS = "fork.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"


def fork_point(run: Path, step: int) -> Path:
    """Where the fork point of a run after `step` steps is, if it is there."""
    return run / FOLDER / f"step-{step}"


def read(path: Path) -> dict[str, Any] | None:
    """What is said of a fork point; None if it is not there, or cannot be read."""
    try:
        return read_json(path / FACTS)
    except DataError:
        return None


def check(path: Path) -> dict[str, Any]:
    """What is said of a fork point that is as it was left, its checkpoints apart.

    Raises:
        Damaged: it is not. DataError: it cannot be read.
    """
    check_sums(path)
    facts = read_json(path / FACTS)
    if not {"step", "run", "id", "shared"} <= facts.keys():
        raise Damaged(f"{FACTS} is not that of a fork point")
    return facts


def write_fork_point(run: Path, step: int, facts: Mapping[str, Any]) -> None:
    """Keeps a run whose newest checkpoint is of `step` and whose metrics end there; nothing if it is kept already.

    Args:
        run: its folder. facts: what `read` shall tell beside `step`: `run`, `id` and `shared`.

    Raises:
        LabError: it cannot be written; nothing half-written is left.
    """
    final = fork_point(run, step)
    if read(final) is not None:
        return
    temporary = final.with_name(f".tmp-{step}")
    with writing(final):
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process: only the holder of the lock comes here
        try:
            temporary.mkdir(parents=True)
            copy(run, temporary, step)
            write_json(temporary / FACTS, {**facts, "step": step})
            files = (path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
            write_sums(temporary, [path.as_posix() for path in files if path.parts[0] != CHECKPOINTS])
            shutil.rmtree(final, ignore_errors=True)  # damaged
            os.rename(temporary, final)
            sync_folder(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def copy(source: Path, folder: Path, step: int) -> None:
    """Fills a new run's folder with what a fork point, or a run that stands at `step`, has.

    Raises:
        OSError: it cannot be read or written.
    """
    shutil.copyfile(source / METRICS, folder / METRICS)
    for name in (CHECKPOINTS, "samples", "tokenizer"):
        if not (source / name).is_dir():
            continue
        (folder / name).mkdir(exist_ok=True)
        for path in sorted((source / name).iterdir()):
            number = re.search(r"step[-_](\d+)", path.name)
            if path.name.startswith(".") or (number is not None and int(number[1]) > step):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, folder / name / path.name, copy_function=_link)
            else:
                shutil.copy2(path, folder / name / path.name, follow_symlinks=False)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix != ".safetensors":
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Removes a fork point, whole or not."""
    shutil.rmtree(path, ignore_errors=True)


def _link(source: str, target: str) -> str:
    """Tensors are written once and never changed: a second name will do, where the file system has them."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return target
        except OSError:
            pass
    return str(shutil.copy2(source, target))
