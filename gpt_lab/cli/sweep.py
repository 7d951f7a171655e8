"""`sweep FILE [key=value ...]`: every run of a sweep file, each exactly once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import MOST_JOBS, MOST_SEEDS, Parser, whole_number
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError, quoted
from gpt_lab.study import place

if TYPE_CHECKING:
    from gpt_lab.study.sweep import Sweep

PIPE_WIDTH = 160
"""Characters of a line where there is no terminal and no $COLUMNS: names of runs stay whole."""
DESCRIPTION = """\
Run a sweep file: W&B's own format, without account or server. Each cell is trained exactly once. Ctrl-C, kill -9, a \
crash, a second runner on the same sweep: the same command goes on with what is left, from the last checkpoints.
"""
EXAMPLES = """\
examples:
  sweep pos_enc --dry-run                 what it will cost, and what it can detect
  sweep sweeps/pos_enc.yaml --jobs 2      two trials at a time
  sweep pos_enc --seeds 5 scale=nano      other seeds, other settings for every cell
  sweep norm --report                     and then what `report norm` says
  sweep pos_enc --target-effect 0.05      enough seeds for it (`noise pos_enc` measures the noise first)
exit status: 0 all finished, 1 some failed or diverged, 2 bad input, 130 or 143 stopped by a signal
"""


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="sweep", description=DESCRIPTION, epilog=EXAMPLES)
    made.add_argument("file", help="a sweep file, or a name of sweeps/")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings of train, for every cell")
    made.add_argument(
        "--jobs",
        type=whole_number(1, MOST_JOBS),
        metavar="N",
        help="trials at a time (default: one per GPU, else cores)",
    )
    made.add_argument(
        "--threads", type=whole_number(1, MOST_JOBS), metavar="N", help="CPU threads of each trial (default: 1)"
    )
    made.add_argument("--seeds", type=whole_number(1, MOST_SEEDS), metavar="N", help="N values of the pairing setting")
    made.add_argument(
        "--target-effect", type=_effect, metavar="X", help="seeds enough to show X, in units of the metric"
    )
    made.add_argument("--dry-run", action="store_true", help="show the plan and leave")
    made.add_argument("--report", action="store_true", help="then say what is better, as `report` does")
    made.add_argument("--fail-fast", action="store_true", help="stop all when a trial fails")
    made.add_argument(
        "--retries", type=whole_number(0, 100), metavar="N", help="tries after a failure (1; 0 with --fail-fast)"
    )
    return made


def _effect(text: str) -> float:
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is expected, not {quoted(text)}")
    return value


def run(argv: list[str]) -> int:
    """Exit status: 0 all finished, 1 some failed or diverged, 2 bad input, 128 + the number of a signal."""
    chosen = parser().parse_intermixed_args(argv)

    from gpt_lab.study import sweep_file

    if chosen.seeds is not None and chosen.target_effect is not None:
        raise ConfigError("--seeds and --target-effect both say how many seeds: leave one out")
    if chosen.report and chosen.dry_run:
        raise ConfigError("--report is about runs and --dry-run makes none: leave one out")
    sweep = sweep_file.load(chosen.file, chosen.overrides)
    if chosen.seeds is not None:
        sweep = sweep_file.with_seeds(sweep, chosen.seeds)

    from gpt_lab.console.terminal import Terminal, pipe_width
    from gpt_lab.sweep import runner

    console = Terminal(file=sys.stdout, width=None if sys.stdout.isatty() else pipe_width(PIPE_WIDTH))
    if chosen.target_effect is not None:
        from gpt_lab.plan import sample_size

        sweep, line = sample_size.with_enough_seeds(sweep, chosen.target_effect)
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if chosen.dry_run:
        return runner.dry_run(sweep, console, chosen.jobs, chosen.threads)
    status = runner.run_sweep(
        sweep, console, chosen.jobs, chosen.threads, fail_fast=chosen.fail_fast, retries=chosen.retries
    )
    return status if not chosen.report or status > 1 else _report(sweep, status)


def _report(sweep: Sweep, status: int) -> int:
    """Reports what a sweep has left; its exit status stays, and a report that cannot be made is 1."""
    from gpt_lab.cli import report
    from gpt_lab.errors import LabError

    try:
        return max(status, report.run([str(place.report_target(sweep))]))
    except LabError as error:
        print_lines(f"error: {error}", sys.stderr)
        return 1


main = entry(run, works=lambda argv: "--dry-run" not in argv)

if __name__ == "__main__":
    main()
