"""`doctor`: what this machine offers for training, what is missing and how to get it."""

from __future__ import annotations

import dataclasses
import json
import sys

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt_lab.cli._main import entry
from gpt_lab.cli._parser import Parser

PIPE_WIDTH = 120
MARKS = {"ok": ("ok", "green"), "missing": ("missing", "bold red"), "note": ("-", "dim")}


def run(arguments: list[str]) -> int:
    """Print one row per check; 1 if something that training needs is missing, else 0."""
    parser = Parser(
        prog="doctor", description="Check this machine: what training can use, what is missing, how to get it."
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    chosen = parser.parse_args(arguments)

    from gpt_lab import doctor

    rows = doctor.examine()
    ready = doctor.can_train(rows)
    if chosen.json:
        print(json.dumps({"can_train": ready, "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return 0 if ready else 1
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for heading in ("", "check", "state", "found", "how to get it"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("", "check", "state"))
    section = ""
    for row in rows:
        mark, style = MARKS[row.state]
        cells = ("" if row.section == section else row.section, row.name, mark, row.found, row.fix)
        table.add_row(*(Text(cell, style=style if cell is mark else "") for cell in cells))
        section = row.section
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    console.print(table)
    console.print()
    console.print("Ready to train: uv run train" if ready else "Not ready to train: see the rows marked missing.")
    return 0 if ready else 1


main = entry(run)

if __name__ == "__main__":
    main()
