"""Code versions of runs and checkouts: commit, uncommitted changes, and whether two versions are the same code."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from gpt_lab.errors import LabError
from gpt_lab.store import record

PATIENCE = 60


@dataclass(frozen=True)
class Version:
    """A commit, and whether what can change a run (record.CODE) was changed since; None where it is not known."""

    commit: str | None
    dirty: bool | None

    def __str__(self) -> str:
        if self.commit is None:
            return "code of no known commit"
        return f"commit {self.commit[:12]}{'' if self.dirty is False else ' with uncommitted changes'}"


def of_this_checkout() -> Version:
    """That of this checkout."""
    found = record.git()
    return Version(None, None) if found is None else Version(found["commit"], found["dirty"])


def patch() -> bytes:
    """What `git apply` makes of the commit of this checkout to get its code: changed files and new ones; b"" if clean.

    Raises:
        LabError: git does not answer.
    """
    changed = _git("diff", "--binary", "HEAD", "--", *record.CODE)
    listed = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *record.CODE)
    new = [name for name in listed.decode("utf-8", "surrogateescape").split("\0") if name]
    return changed + b"".join(_git("diff", "--binary", "--no-index", "--", os.devnull, name, ok=(1,)) for name in new)


def compare(then: Version, now: Version) -> tuple[bool, str]:
    """Whether two versions are surely the same code, and in words where they are not or where it is not obvious."""
    if then.commit is None or now.commit is None:
        return False, f"the run was made by {then}, this is {now}"
    if then.dirty is not False or now.dirty is not False:
        return False, f"the run was made by {then}, this checkout is {now}: not known to be the same code"
    if then.commit == now.commit:
        return True, ""
    differ = record.differ(then.commit, now.commit)
    if differ is False:
        return True, f"the run was made by {then}, this checkout is {now}: the same code in {', '.join(record.CODE)}"
    how = "they differ" if differ else "the former is not in this clone"
    return False, f"the run was made by {then}, this checkout is {now}: {how}"


def _git(*words: str, ok: tuple[int, ...] = (0,)) -> bytes:
    done = _run(*words)
    if done is None or done.returncode not in ok:
        said = "" if done is None else done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise LabError(f"git {words[0]} did not answer in {record.ROOT}{f' ({said})' if said else ''}: try again")
    return done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[bytes] | None:
    command = ["git", "-C", str(record.ROOT), "-c", "core.quotePath=false", *words]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # never touches the index of a repository in use
    try:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
