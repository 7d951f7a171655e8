"""A folder that is there whole or not at all: written beside its place under another name, then renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gpt_lab.digests import write_sums
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.store.atomic_files import sync_folder


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder for the block to fill, which becomes `out` when the block ends, and is gone if it fails.

    A killed process leaves its folder behind under a hidden name; the next export to the same place removes it.

    Raises:
        ConfigError: there is something at `out`. LabError: it cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already: remove it, or choose another folder with out=...")
    temporary = out.absolute().parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(out)
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():  # safetensors makes files that only their owner reads
            path.chmod(temporary.stat().st_mode & 0o666)
        write_sums(temporary)
        os.rename(temporary, out)
        sync_folder(out.absolute().parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabError(f"cannot write {out}: {reason}; choose another folder with out=...") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left_behind(out: Path) -> None:
    for path in out.absolute().parent.glob(f".{out.name}.*.tmp"):
        number = re.fullmatch(r"\.(\d+)\.tmp", path.name.removeprefix(f".{out.name}"))
        if number is not None and not _alive(int(number[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
