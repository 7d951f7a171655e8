"""`verify CLAIM`: runs some of a claim's runs again, and says whether the same comes out."""

from __future__ import annotations

import math
from pathlib import Path

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import MOST_SEEDS, Parser, whole_number
from gpt_lab.errors import ConfigError

DESCRIPTION = """\
Run some of the runs of a claim again (`report --claim` makes one), in a fresh store, and compare: the data, the \
parameters, the tokens, and the final metric, which is identical, within noise, or different.
"""
EPILOG = """\
examples:
  verify norm                        claims/norm: one run of the baseline, one of the arm that it is about
  verify norm --cell layernorm,0     this arm with this seed; may be repeated
  verify norm --cells 6              six runs, arms in turn
Without --tolerance: on the same code, CPU, threads and torch, every bit must be equal; elsewhere a difference counts \
as noise up to 2 standard deviations of a run over seeds.
exit status: 0 verified, 1 not, 2 bad input, a claim that is torn or was edited, or runs that this machine \
cannot make, 130 or 143 stopped by a signal
"""


def parser() -> Parser:
    """The options, each with its meaning."""
    made = Parser(prog="verify", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument("claim", metavar="CLAIM", help="a claim's folder, or its name in claims/")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--cell", action="append", metavar="ARM,PAIR", help="this run; may be repeated")
    which.add_argument(
        "--cells", type=whole_number(1, MOST_SEEDS), metavar="N", help="so many runs, the cheapest of each arm (2)"
    )
    which.add_argument("--all", action="store_true", help="every run that the verdicts rest on")
    made.add_argument("--tolerance", type=float, metavar="X", help="largest difference of the metric that is none")
    made.add_argument("--runs-dir", type=Path, metavar="DIR", help="keep the new runs there, and show their progress")
    return made


def run(arguments: list[str]) -> int:
    """Exit status: 0 verified, 1 not, 2 bad input, 128 + the number of a signal."""
    chosen = parser().parse_args(arguments)
    if chosen.tolerance is not None and not (math.isfinite(chosen.tolerance) and chosen.tolerance >= 0):
        raise ConfigError(f"--tolerance must be 0 or a positive number, not {chosen.tolerance:g}")
    from gpt_lab.claims import folder, selection

    claim = folder.read(folder.find(chosen.claim))
    cells = selection.choose(claim, chosen.cell or (), chosen.cells, chosen.all)

    import sys

    from gpt_lab.claims.verify import verify
    from gpt_lab.console.terminal import Terminal

    return verify(claim, cells, Terminal(file=sys.stdout), chosen.tolerance, chosen.runs_dir)


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
