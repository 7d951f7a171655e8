"""`components`: what can be chosen, from the source text alone."""

from __future__ import annotations

import json

from gpt_lab.cli._main import entry
from gpt_lab.cli._parser import Parser, output
from gpt_lab.config import components


def run(arguments: list[str]) -> int:
    """Print all kinds, one kind, or all that one part says of itself."""
    parser = Parser(prog="components", description="List what can be chosen: every kind, its names, their options.")
    parser.add_argument("kind", nargs="?", help="attention, optim, data, ...: only this kind")
    parser.add_argument("name", nargs="?", help="one part: its whole description and every option")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    chosen = parser.parse_args(arguments)
    found = components.catalogue(chosen.kind, chosen.name)
    if chosen.json:
        print(json.dumps(components.to_dict(found), indent=2))
    elif chosen.name is None:
        output(lambda console: components.show(found, console))
    else:
        output(lambda console: components.show_one(found[chosen.kind][chosen.name], console))
    return 0


main = entry(run)

if __name__ == "__main__":
    main()
