"""`report [TARGET ...]`: what the runs of a study say, and how surely."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from gpt_lab.cli._main import entry
from gpt_lab.cli._parser import Parser, output
from gpt_lab.errors import ConfigError
from gpt_lab.report.targets import REMOTE, Options, find

EPILOG = """\
A target is a sweep file (sweeps/pos_enc.yaml, or its name), a study's folder (runs/pos_enc, or its name), several of
them, a run's folder, a folder of offline .wandb files, or wandb:ENTITY/PROJECT/SWEEP. Without one: the only study.
"""


def parser() -> Parser:
    """The options, each with its meaning."""
    made = Parser(
        prog="report", description="Compare the runs of a study: table, verdicts, files, figures.", epilog=EPILOG
    )
    made.add_argument("targets", nargs="*", metavar="TARGET", help="where the runs are")
    made.add_argument("--from", dest="remote", metavar=f"{REMOTE}...", help="read the runs of a sweep file from W&B")
    made.add_argument("--baseline", metavar="ARM", help="arm to compare with, or its settings key=value,...")
    made.add_argument("--metric", metavar="KEY", help="final metric that decides, such as val/loss")
    made.add_argument("--goal", choices=("minimize", "maximize"), help="which direction of the metric is better")
    made.add_argument("--group-by", metavar="KEY,...", help="settings whose values make the arms")
    made.add_argument("--pair", metavar="KEY", help="setting that pairs the runs of two arms (seed)")
    made.add_argument("--mei", metavar="X", type=float, help="smallest effect of interest, in units of the metric")
    made.add_argument("--alpha", metavar="X", type=float, help="probability of a false verdict (0.05)")
    made.add_argument(
        "--tier", choices=("auto", "screen", "confirm"), default="auto", help="which test decides (auto: by the data)"
    )
    made.add_argument("--runs-dir", metavar="DIR", type=Path, help="where the studies are (runs)")
    made.add_argument("--out", metavar="DIR", type=Path, help="folder of the files (runs/STUDY/report)")
    made.add_argument("--no-files", action="store_true", help="the terminal's table only")
    made.add_argument("--wandb", action="store_true", help="also log the table and the figures to W&B")
    return made


def run(arguments: list[str]) -> int:
    """Exit status: 0 shown, 2 bad input."""
    chosen = parser().parse_args(arguments)
    if chosen.no_files and chosen.out is not None:
        raise ConfigError("--no-files and --out contradict each other: leave one out")
    if chosen.mei is not None and not (math.isfinite(chosen.mei) and chosen.mei >= 0):
        raise ConfigError(f"--mei must be 0 or a positive number, not {chosen.mei:g}")
    if chosen.alpha is not None and not 0 < chosen.alpha < 0.5:
        raise ConfigError(f"--alpha must be above 0 and below 0.5, not {chosen.alpha:g}")
    options = Options(
        runs_dir=chosen.runs_dir,
        remote=chosen.remote,
        baseline=chosen.baseline,
        metric=chosen.metric,
        goal=chosen.goal,
        group_by=_keys(chosen.group_by),
        pair=chosen.pair,
        mei=chosen.mei,
        alpha=chosen.alpha,
        tier=chosen.tier,
    )
    places = find(chosen.targets, options)
    command = shlex.join(["uv", "run", "report", *arguments])
    from gpt_lab.report import table, write

    comparison, study = write.answer(places, options)
    output(lambda console: table.show(comparison, study, console))
    if not chosen.no_files or chosen.wandb:
        folder = None if chosen.no_files else chosen.out or places.folder
        output(lambda console: write.keep(comparison, study, console, command, folder, chosen.wandb))
    return 0


def _keys(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    keys = tuple(key.strip() for key in text.split(","))
    if not all(keys) or len(set(keys)) < len(keys):
        raise ConfigError(f"--group-by takes settings, each once, such as position,scale.depth; not {text!r}")
    return keys


main = entry(run)

if __name__ == "__main__":
    main()
