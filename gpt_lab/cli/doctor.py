"""`doctor`: what this machine offers for training, what is missing and how to get it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser, output
from gpt_lab.errors import ConfigError

CHECK = "ten minutes of all that must be shown of"


def run(arguments: list[str]) -> int:
    """Print one row per check; 1 if something that training needs is missing, else 0."""
    parser = Parser(prog="doctor", description="Check this machine: what it offers, what is missing, how to get it.")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--cuda", action="store_true", help=f"{CHECK} a CUDA device; writes device-<name>.json here")
    parser.add_argument("--mps", action="store_true", help="the same of Apple's GPU")
    chosen = parser.parse_args(arguments)
    if chosen.cuda or chosen.mps:
        if chosen.json or (chosen.cuda and chosen.mps):
            raise ConfigError("doctor takes one of --json, --cuda, --mps")
        return _check("cuda" if chosen.cuda else "mps")

    from gpt_lab import doctor

    rows = doctor.examine()
    ready = doctor.can_train(rows)
    if chosen.json:
        print(json.dumps({"can_train": ready, "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
    else:
        output(lambda console: doctor.show(rows, console))
    return 0 if ready else 1


def _check(device: str) -> int:
    """Every step of a check; 1 if one fails."""
    from gpt_lab.device_check import check
    from gpt_lab.device_check.steps import Place

    place = Place(device, Path(), compiled=device == "cuda")
    found, path = check.check(place, lambda line: print(line, flush=True), Path())
    failed = [name for name, outcome in found["steps"].items() if outcome["state"] == "failed"]
    print(f"{len(failed)} of {len(found['steps'])} steps failed. Written: {path}; send it in, whatever it says")
    return int(bool(failed))


main = entry(run)

if __name__ == "__main__":
    main()
