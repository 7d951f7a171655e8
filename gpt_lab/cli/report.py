"""`report [TARGET ...]`: what the runs of a study say, and how surely; as a claim; as an exit status."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser, output
from gpt_lab.console.invocation import prefix
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError
from gpt_lab.frame.places import REMOTE, StudyOptions, find
from gpt_lab.report.gate import EXIT, TABLE

EPILOG = f"""\
A target is a sweep file (sweeps/pos_enc.yaml, or its name; beside it the settings that `sweep` was given), a study's \
folder (runs/pos_enc, or its name), several of them, a run's folder, or wandb:ENTITY/PROJECT/SWEEP. \
Without one: the only study.

--gate prints one line and leaves with a status:
{chr(10).join(f"  {EXIT[decision]}  {decision:<9}  {verdict}" for verdict, decision in TABLE.items())}
Bad input is 2 as well: it prints nothing on standard output and `error: ...` on standard error.
"""


def parser() -> Parser:
    """The options, each with its meaning."""
    made = Parser(
        prog="report",
        description="Compare the runs of a study: table, verdicts, files, figures.",
        epilog=EPILOG,
    )
    made.add_argument("targets", nargs="*", metavar="TARGET", help="where the runs are")
    made.add_argument("--from", dest="remote", metavar=f"{REMOTE}...", help="read the runs of a sweep file from W&B")
    made.add_argument("--baseline", metavar="ARM", help="arm to compare with, or its settings key=value,...")
    made.add_argument("--metric", metavar="KEY", help="final metric that decides, such as val/loss")
    made.add_argument("--goal", choices=("minimize", "maximize"), help="which direction of the metric is better")
    made.add_argument("--group-by", metavar="KEY,...", help="settings whose values make the arms")
    made.add_argument("--pair", metavar="KEY", help="setting that pairs the runs of two arms (seed)")
    made.add_argument(
        "--sesoi", metavar="X", type=float, help="smallest effect size of interest, in units of the metric"
    )
    made.add_argument("--alpha", metavar="X", type=float, help="probability of a false verdict (0.05)")
    made.add_argument(
        "--tier", choices=("auto", "screen", "confirm"), default="auto", help="which test decides (auto: by the data)"
    )
    made.add_argument("--details", action="store_true", help="also what pairing was worth")
    made.add_argument("--runs-dir", metavar="DIR", type=Path, help="where the studies are (runs)")
    made.add_argument("--out", metavar="DIR", type=Path, help="folder of the files (runs/STUDY/report)")
    made.add_argument("--no-files", action="store_true", help="the terminal's table only")
    made.add_argument("--wandb", action="store_true", help="also log the table and the figures to W&B")
    made.add_argument(
        "--claim", metavar="NAME", help="write claims/NAME (or --out) instead: the report and all that `verify` needs"
    )
    made.add_argument("--force", action="store_true", help="replace a claim of that name")
    made.add_argument("--gate", metavar="VARIANT", help="one line on one arm, and its exit status; no files")
    made.add_argument("--json", action="store_true", help="that line as JSON")
    return made


def run(arguments: list[str]) -> int:
    """Exit status: 0 shown, 2 bad input; with --gate 0 keep, 1 discard, 2 more runs needed or bad input."""
    chosen = parser().parse_args(arguments)
    _refuse_contradictions(chosen)
    gc.set_threshold(1_000_000)  # what is read lives to the end: to search it for garbage took a sixth of the time
    options = StudyOptions(
        runs_dir=chosen.runs_dir,
        remote=chosen.remote,
        baseline=chosen.baseline,
        metric=chosen.metric,
        goal=chosen.goal,
        group_by=() if chosen.group_by is None else tuple(key.strip() for key in chosen.group_by.split(",")),
        pair=chosen.pair,
        sesoi=chosen.sesoi,
        alpha=chosen.alpha,
        details=chosen.details,
        tier=chosen.tier,
    )
    places = find(chosen.targets, options)
    if chosen.gate is not None:
        from gpt_lab.report import gate

        found = gate.ask(places, options, chosen.gate)
        print(found.json()) if chosen.json else print_lines(found.line)
        return found.status
    folder = None if chosen.no_files or chosen.claim else chosen.out or places.folder
    command = prefix() + shlex.join(["report", *arguments])
    claim = None
    if chosen.claim is not None:
        from gpt_lab.claims import folder as claims

        claim = claims.new_folder(chosen.claim, chosen.out, chosen.force)
    from gpt_lab.store import atomic_files

    if folder is not None:
        with _out_of_place():
            atomic_files.check_folder(folder)
    from gpt_lab.report import console as terminal
    from gpt_lab.report import write
    from gpt_lab.report.tables import Report

    comparison, study = write.answer(places, options)
    report = Report(comparison, study)
    output(lambda console: terminal.show(report, console))
    if claim is not None:
        from gpt_lab.claims.write_claim import write_claim

        write_claim(report, study, claim, chosen.claim, command, chosen.force)
        print_lines(f"wrote {claim}; {prefix()}verify {shlex.quote(str(claim))} checks it")
    if folder is not None or chosen.wandb:
        with _out_of_place():
            output(lambda console: write.publish(report, console, command, folder, chosen.wandb))
    return 0


@contextlib.contextmanager
def _out_of_place() -> Iterator[None]:
    """A folder that takes no files is the report's: --out names another."""
    from gpt_lab.store.atomic_files import Unwritable

    try:
        yield
    except Unwritable as error:
        raise Unwritable(error.path, error.reason, "--out DIR") from error


def _refuse_contradictions(chosen: argparse.Namespace) -> None:
    if chosen.no_files and chosen.out is not None:
        raise ConfigError("--no-files and --out contradict each other: leave one out")
    if chosen.no_files and chosen.claim is not None:
        raise ConfigError("--no-files and --claim contradict each other: leave one out")
    if chosen.force and chosen.claim is None:
        raise ConfigError("--force replaces a claim: name it with --claim")
    if chosen.json and chosen.gate is None:
        raise ConfigError("--json is the form of --gate's answer: name a variant with --gate")
    if chosen.gate is not None:
        for option in ("claim", "out", "wandb"):
            if getattr(chosen, option):
                raise ConfigError(f"--gate answers with one line and writes nothing: leave --{option} out")


def _leave(status: int) -> NoReturn:
    """Ends the process; without taking down the tables of thousands of runs, which took a tenth of the time.

    W&B's client has an end of its own.
    """
    if "pandas" in sys.modules and "wandb" not in sys.modules:
        os._exit(status)
    sys.exit(status)


main = entry(run, leave=_leave)

if __name__ == "__main__":
    main()
