"""Plants faults in a copy of the tree, one at a time, and writes down which test catches each.

    python scripts/mutation.py [NAME ...]

Plants all faults of mutation.toml, or those named, and writes their rows of benchmarks/results/mutation.json; all of
them take about ten minutes on one core. Exit status 1: a fault was not caught, or its text is no longer there.
"""

from __future__ import annotations

import datetime
import importlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAULTS = Path(__file__).with_suffix(".toml")
RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
NOT_CAUGHT = "NOT CAUGHT"
SLOW_IMPORTS = ("torch", "torch._dynamo", "pandas", "scipy.stats", "hydra", "rich.live")
"""Imported once; what tests a fault is forked."""


@dataclass(frozen=True)
class Fault:
    """A text that stands once in gpt_lab/, what it becomes, and the files or folders of tests that must find it.

    Where the text is, and a file of tests that has moved, is looked up.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]

    def file(self, texts: Mapping[Path, str]) -> Path:
        """The file of `sources` that the text is in.

        Raises:
            LookupError: it is in none, or stands in several places.
        """
        counts = {path: count for path, text in texts.items() if (count := text.count(self.old))}
        if sum(counts.values()) != 1:
            found = " and ".join(f"{count} times in {path}" for path, count in counts.items()) or "nowhere"
            raise LookupError(f"fault {self.name!r}: its text must stand once in gpt_lab/, and is {found}")
        return next(iter(counts))

    def watched_by(self, root: Path = ROOT) -> list[str]:
        """The tests that must find it, where they are now.

        Raises:
            LookupError: some are gone.
        """
        found = []
        for name in self.tests:
            places = [root / name] if (root / name).exists() else list((root / "tests").rglob(Path(name).name))
            if len(places) != 1:
                raise LookupError(f"fault {self.name!r}: {name} is gone, or one of {len(places)}")
            found.append(str(places[0].relative_to(root)))
        return found


def sources(root: Path = ROOT) -> dict[Path, str]:
    """The files of gpt_lab/ and their texts."""
    return {path: path.read_text(encoding="utf-8") for path in sorted((root / "gpt_lab").rglob("*.py"))}


def faults() -> list[Fault]:
    """All of mutation.toml."""
    listed = tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]
    return [Fault(**{**one, "tests": tuple(one["tests"])}) for one in listed]


def copy(to: Path) -> None:
    """The files that git knows of, as they are now, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def first_failure(root: Path, tests: Sequence[str]) -> str | None:
    """The test that fails first in a tree, None if all pass; a file that cannot be imported stands for its tests."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        process = multiprocessing.get_context("fork").Process(target=_pytest, args=(root, tests, output.name))
        process.start()
        process.join()
        said = output.read()
    if process.exitcode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+(?: [^-].*?)?)(?: - .*)?$", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"pytest ended with {process.exitcode}: {said[-2000:]}")
    return found[1]


def _pytest(root: Path, tests: Sequence[str], output: str) -> None:
    """pytest in a process that was forked after the slow imports; of the lab itself nothing is imported before."""
    import pytest

    opened = os.open(output, os.O_WRONLY)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.chdir(root)
    sys.path[:0] = [str(root)]
    os.environ["PYTHONPATH"] = str(root)
    ignored = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    words = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=no", "-W", ignored]
    sys.exit(pytest.main([*words, *tests]))


def caught_by(fault: Fault, path: Path, root: Path) -> str | None:
    """What fails in a copy of the tree while the fault is in a file of it."""
    text, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        return first_failure(root, fault.watched_by(root))
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # bytecode of the fault has another time


def main(names: Sequence[str]) -> int:
    """Plants the faults of these names, all without any; 0 if each was caught."""
    every = faults()
    unknown = set(names) - {fault.name for fault in every}
    if unknown:
        print(f"no fault of mutation.toml: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [fault for fault in every if not names or fault.name in names]
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
    assert "gpt_lab" not in sys.modules, "it would be tested in place of the copy"
    found: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory(prefix="mutation_") as folder:
        root = Path(folder)
        copy(root)
        texts = sources(root)
        places = {fault.name: fault.file(texts) for fault in chosen}
        if wrong := first_failure(root, sorted({test for fault in chosen for test in fault.watched_by(root)})):
            print(f"{wrong} fails without any fault", file=sys.stderr)
            return 1
        for fault in chosen:
            path = places[fault.name]
            found[fault.name] = caught_by(fault, path, root)
            print(f"{path.relative_to(root)}: {fault.name} -> {found[fault.name] or NOT_CAUGHT}", flush=True)
    today = datetime.date.today().isoformat()
    rows = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    rows |= {
        name: {"file": str(places[name].relative_to(root)), "caught_by": test, "date": today}
        for name, test in found.items()
    }
    kept = {fault.name: rows[fault.name] for fault in every if fault.name in rows}
    RESULT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(None in found.values())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LookupError as error:
        sys.exit(str(error))
