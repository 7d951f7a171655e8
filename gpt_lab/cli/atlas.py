"""`atlas [--only KIND[=OPTION]] [key=value ...]`: every option of every group against its default, on two corpora."""

from __future__ import annotations

import sys
from pathlib import Path

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import MOST_JOBS, Parser, whole_number
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError

FOLDER = Path("runs") / "atlas"
DESCRIPTION = """\
Run what is left of the atlas, and write it: for each option of attention, position, mlp, norm, residual, init, optim \
and objective its effect against the default with an interval, its verdict on each corpus, its price, and where the \
corpora disagree. It is made of ordinary sweeps (sweeps/atlas, sweeps/optim.yaml): a killed one goes on with the same \
command, and `report` reads each.
"""
EXAMPLES = """\
examples:
  atlas --report                          write it from the runs that are there
  atlas --only attention,position         these groups
  atlas --only attention=gla              one row again: on fresh seeds, in a study of its own
  atlas --only norm --corpus stdlib --dry-run
  atlas --scale tiny budget.steps=1000    at another size and budget: other studies
exit status: 0 all finished, 1 some failed or diverged, 2 bad input, 130 or 143 stopped by a signal
"""


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="atlas", description=DESCRIPTION, epilog=EXAMPLES)
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings of train, for every run")
    made.add_argument(
        "--only", metavar="KIND[=OPTION],...", default="", help="these groups; with an option that row again"
    )
    made.add_argument("--corpus", metavar="NAME,...", default="", help="shakespeare, stdlib, or both (unless stated)")
    made.add_argument("--scale", metavar="NAME", help="the same as scale=NAME")
    made.add_argument("--jobs", type=whole_number(1, MOST_JOBS), metavar="N", help="trials at a time")
    made.add_argument("--dry-run", action="store_true", help="show the plan of each sweep and leave")
    made.add_argument("--report", action="store_true", help="run nothing: write what there is")
    made.add_argument("--out", metavar="DIR", type=Path, default=FOLDER, help=f"folder of its files ({FOLDER})")
    return made


def run(argv: list[str]) -> int:
    """Exit status: 0 all finished, 1 some failed or diverged, 2 bad input, 128 + the number of a signal."""
    chosen = parser().parse_intermixed_args(argv)
    if chosen.report and chosen.dry_run:
        raise ConfigError("--report is about runs and --dry-run makes none: leave one out")

    from gpt_lab.atlas import studies

    settings = [*([f"scale={chosen.scale}"] if chosen.scale else []), *chosen.overrides]
    wanted = studies.chosen(_listed(chosen.only), _listed(chosen.corpus), settings)
    status = 0
    if not chosen.report:
        from gpt_lab.console.terminal import Terminal
        from gpt_lab.sweep import runner

        console = Terminal(file=sys.stdout)
        for group in wanted:
            if chosen.dry_run:
                status = max(status, runner.dry_run(group.sweep, console, chosen.jobs))
                continue
            status = max(status, runner.run_sweep(group.sweep, console, chosen.jobs))
            if status > 1:
                return status
    if not chosen.dry_run:
        from gpt_lab.atlas import atlas_files, collect

        chapters = collect.from_place(chosen.out, settings, wanted)
        paths = atlas_files.write(chapters, chosen.out)
        print_lines("\n".join([*atlas_files.overview(chapters), *(f"wrote {path}" for path in paths)]))
    return status


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


main = entry(run, works=lambda argv: "--dry-run" not in argv)

if __name__ == "__main__":
    main()
