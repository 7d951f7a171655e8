"""`doctor`: what this machine offers for training, what is missing and how to get it."""

from __future__ import annotations

import dataclasses
import json

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser, output


def run(arguments: list[str]) -> int:
    """Print one row per check; 1 if something that training needs is missing, else 0."""
    parser = Parser(prog="doctor", description="Check this machine: what it offers, what is missing, how to get it.")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    chosen = parser.parse_args(arguments)

    from gpt_lab import doctor

    rows = doctor.examine()
    ready = doctor.can_train(rows)
    if chosen.json:
        print(json.dumps({"can_train": ready, "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
    else:
        output(lambda console: doctor.show(rows, console))
    return 0 if ready else 1


main = entry(run)

if __name__ == "__main__":
    main()
