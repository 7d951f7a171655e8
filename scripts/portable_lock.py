"""Make uv.lock free of addresses: exact versions stay, so it works behind any mirror and a diff can be read.

uv takes the versions of such a file as preferences, resolves to the very same ones and fills its working copy in.
So run this before committing a changed uv.lock; it may run any number of times.

    python scripts/portable_lock.py [FILE]           rewrite FILE (default: uv.lock beside pyproject.toml)
    python scripts/portable_lock.py --check [FILE]   change nothing; exit code 1 if FILE is not portable
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "uv.lock"

REGISTRY = re.compile(r'\{ registry = "[^"]*" \}')
TABLE = re.compile(r"^\[+([^\[\]]+)\]+\s*$")
MARKERS = re.compile(r"^(resolution-markers = \[\n)((?:    .*\n)*)(\]$)", re.MULTILINE)
# uv rebuilds these from pyproject.toml; an [options] table may hold an index address or a date.
DROPPED_TABLES = ("package.metadata", "package.dev-dependencies", "options")


def portable(text: str) -> str:
    """The text of a uv.lock without sources of archives; the same text if it is portable already."""
    kept: list[str] = []
    in_dropped = in_wheels = False
    for line in MARKERS.sub(_sorted_markers, text).splitlines():
        if table := TABLE.match(line):
            in_dropped = table[1].startswith(DROPPED_TABLES)
        if in_wheels:
            in_wheels = line != "]"
        elif line == "wheels = [":
            in_wheels = True
        elif not in_dropped and not line.startswith(("sdist = ", "wheels = ")):
            kept.append(REGISTRY.sub('{ registry = "index" }', line))
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip("\n") + "\n"
    if "://" in joined:
        line = next(line for line in joined.splitlines() if "://" in line)
        raise ValueError(f"an address is left that only a full lock can hold: {line.strip()}")
    return joined


def _sorted_markers(block: re.Match[str]) -> str:
    """uv lists the same markers in another order from one resolution to the next: without this a diff is noise."""
    return block[1] + "".join(sorted(block[2].splitlines(keepends=True))) + block[3]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make uv.lock free of addresses.")
    parser.add_argument("file", nargs="?", type=Path, default=LOCK)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the file is not portable")
    arguments = parser.parse_args(argv)
    try:
        before = arguments.file.read_text(encoding="utf-8")
        after = portable(before)
    except (OSError, ValueError) as error:
        print(f"error: {arguments.file}: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        if before != after:
            print(f"error: {arguments.file} is not portable: run python scripts/portable_lock.py", file=sys.stderr)
        return int(before != after)
    if before != after:
        temporary = arguments.file.with_name(arguments.file.name + ".tmp")
        temporary.write_text(after, encoding="utf-8")
        temporary.replace(arguments.file)
    print(f"{arguments.file}: {after.count('[[package]]')} packages, {len(after.encode()) / 1024:.0f} KB, no address")
    return 0


if __name__ == "__main__":
    sys.exit(main())
