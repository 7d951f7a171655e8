"""`dashboard [FOLDER ...]`: the runs in a browser, live."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser, whole_number
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError, DataError

EXAMPLES = """examples:
  dashboard                                   all studies of runs/
  dashboard runs/pos_enc runs/seeds --port 8000
  dashboard --project everything              all studies on one page, to compare runs across them
  dashboard --metric val/bpb --once           mirror that metric and leave
"""

_served = False
"""Whether this process has served a page."""


def run(argv: list[str]) -> int:
    """Exit status: 0 ended by Ctrl-C or --once, 2 bad input."""
    parser = Parser(
        prog="dashboard",
        description="Shows runs in a browser, on this machine alone, and follows them while they train.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="store, study or run, or a study's name [runs]")
    parser.add_argument("--port", type=whole_number(1, 65535), help="port on 127.0.0.1 [the first free one]")
    parser.add_argument("--tensorboard", action="store_true", help="in TensorBoard instead of trackio")
    parser.add_argument("--project", metavar="NAME", help="one trackio project for all [one for each study]")
    parser.add_argument("--metric", action="append", metavar="NAME", help="mirror this metric only; may be repeated")
    parser.add_argument("--once", action="store_true", help="bring the mirror up to date, say where it is, and leave")
    parser.add_argument("--no-browser", action="store_true", help="open no browser, only print the address")
    chosen = parser.parse_args(argv)
    if chosen.tensorboard and chosen.project is not None:
        raise ConfigError("--project is trackio's: TensorBoard shows all studies on one page anyway")
    if chosen.once and chosen.port is not None:
        raise ConfigError("--once serves no page: leave out --port")

    from gpt_lab.dashboard import mirror
    from gpt_lab.dashboard.follow import check_targets, find

    targets = check_targets(chosen.folders or ["runs"])
    if chosen.once and not any(path for target in targets for path in find(target)):
        raise DataError(f"no runs in {', '.join(chosen.folders or ['runs'])}: name a folder that holds runs")
    options = mirror.MirrorOptions(
        targets=tuple(targets),
        project=chosen.project,
        metrics=frozenset(chosen.metric) if chosen.metric else None,
        port=chosen.port,
        tensorboard=chosen.tensorboard,
        once=chosen.once,
        browser=not chosen.no_browser,
    )
    global _served
    _served = not chosen.once
    return mirror.show(options, print_lines)


def _leave(status: int) -> NoReturn:
    """Ends a process that has served a page without taking its interpreter apart; all of ours is closed by then.

    trackio's event loop and poller are threads that cannot be awaited; they are C, and an interpreter that is taken
    apart beneath them ends, now and then, with a segmentation fault.
    """
    if _served:
        os._exit(status)
    sys.exit(status)


main = entry(run, works=lambda argv: True, leave=_leave)

if __name__ == "__main__":
    main()
