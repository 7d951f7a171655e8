"""`sweep FILE [key=value ...]`: every run of a sweep file, each exactly once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import MOST_JOBS, MOST_SEEDS, Parser, whole_number
from gpt_lab.console.invocation import prefix
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError, quoted
from gpt_lab.study import place

if TYPE_CHECKING:
    import argparse

    from gpt_lab.study.sweep import Sweep

MOST_WORKERS = 10_000
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
  sweep pos_enc --on slurm --workers 8    workers elsewhere, on the same folder; then --status, --stop
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
        "--per-gpu", type=_per_gpu, metavar="auto|K", help="trials at a time on each GPU; auto measures what pays"
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
    made.add_argument("--on", metavar="ENGINE", help="start workers and leave: local, slurm, ray or ssh:HOST,HOST")
    made.add_argument(
        "--workers", type=whole_number(1, MOST_WORKERS), metavar="N", help="workers to start, on each host (default: 1)"
    )
    made.add_argument("--sbatch", action="append", default=[], metavar="key=value", help="an option of Slurm's sbatch")
    made.add_argument(
        "--array-limit", type=whole_number(1, MOST_WORKERS), metavar="N", help="workers that Slurm runs at a time"
    )
    made.add_argument(
        "--resource", action="append", default=[], metavar="name=N", help="what a task of Ray takes, as num_gpus=1"
    )
    made.add_argument("--status", action="store_true", help="say how far the sweep is, and who works on it")
    made.add_argument("--stop", action="store_true", help="have all its workers write checkpoints and leave")
    made.add_argument(
        "--stops", type=whole_number(0, 1_000_000), metavar="N", help="of workers: leave after the N+1st --stop"
    )
    return made


def _per_gpu(text: str) -> int | str:
    return "auto" if text == "auto" else whole_number(1, MOST_JOBS)(text)


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
    if chosen.per_gpu is not None and chosen.jobs is not None:
        raise ConfigError("--per-gpu and --jobs both say how many trials at a time: leave one out")
    if chosen.per_gpu == "auto" and chosen.dry_run:
        raise ConfigError("--per-gpu auto is measured when the sweep begins: --dry-run takes a number")
    _check_engine(chosen)
    sweep = sweep_file.load(chosen.file, chosen.overrides)
    if chosen.seeds is not None:
        sweep = sweep_file.with_seeds(sweep, chosen.seeds)

    if chosen.on is not None or chosen.status or chosen.stop:
        return _elsewhere(chosen, sweep)

    from gpt_lab.console.terminal import Terminal, pipe_width
    from gpt_lab.sweep import runner

    console = Terminal(file=sys.stdout, width=None if sys.stdout.isatty() else pipe_width(PIPE_WIDTH))
    if chosen.target_effect is not None:
        from gpt_lab.plan import sample_size

        sweep, line = sample_size.with_enough_seeds(sweep, chosen.target_effect)
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if chosen.dry_run:
        return runner.dry_run(sweep, console, chosen.jobs, chosen.threads, chosen.per_gpu)
    status = runner.run_sweep(
        sweep,
        console,
        chosen.jobs,
        chosen.threads,
        fail_fast=chosen.fail_fast,
        retries=chosen.retries,
        stops=chosen.stops,
        per_gpu=chosen.per_gpu,
    )
    return status if not chosen.report or status > 1 else _report(sweep, status)


def _check_engine(chosen: argparse.Namespace) -> None:
    """Refuses options that would say nothing."""
    if chosen.on is None:
        for name in ("workers", "sbatch", "array_limit", "resource"):
            if getattr(chosen, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for workers that --on starts: add --on slurm, or local"
                )
    else:
        if chosen.report:
            raise ConfigError("--on leaves before there is anything to report: run `report` when --status says done")
        if chosen.target_effect is not None:
            raise ConfigError("--on takes --seeds: --target-effect with --dry-run says how many")
        if chosen.stops is not None:
            raise ConfigError("--stops is what --on gives its workers: leave it out")
    if (chosen.status or chosen.stop) and any(
        getattr(chosen, name) not in (None, False)
        for name in (
            "on",
            "jobs",
            "per_gpu",
            "threads",
            "target_effect",
            "dry_run",
            "report",
            "fail_fast",
            "retries",
            "stops",
        )
    ):
        raise ConfigError(f"--{'status' if chosen.status else 'stop'} takes the file and its settings, nothing else")
    if chosen.status and chosen.stop:
        raise ConfigError("--status and --stop: leave one out")


def _elsewhere(chosen: argparse.Namespace, sweep: Sweep) -> int:
    """Workers: starts them, tells of them, stops them. Returns 0."""
    from gpt_lab.sweep.engines import show_workers

    folder = place.runs_folder(sweep)
    if chosen.status:
        print_lines("\n".join(show_workers.status(sweep, folder)))
        return 0
    if chosen.stop:
        print_lines("\n".join(show_workers.stop(sweep, folder)))
        return 0

    from gpt_lab.sweep import runner
    from gpt_lab.sweep.engines import start_workers
    from gpt_lab.sweep.engines.worker_request import Request

    words = [chosen.file, *chosen.overrides]
    if chosen.seeds is not None:
        words += ["--seeds", str(chosen.seeds)]
    if chosen.fail_fast:
        words.append("--fail-fast")
    if chosen.retries is not None:
        words += ["--retries", str(chosen.retries)]
    gpu, ranks = runner.uses_gpu(sweep, ()), runner.devices_each(sweep)
    runner.refuse_shared(chosen.per_gpu, ranks)
    if chosen.per_gpu is not None and not (gpu and (chosen.on != "local" or runner.gpus_here())):
        raise ConfigError(runner.NO_GPU)
    request = Request(
        sweep.design.study,
        folder,
        tuple(words),
        chosen.workers or 1,
        chosen.jobs,
        chosen.threads,
        Path.cwd(),
        gpu,
        chosen.per_gpu,
        ranks,
    )
    lines = start_workers.start(request, chosen.on, chosen.sbatch, chosen.array_limit, chosen.resource, chosen.dry_run)
    if not chosen.dry_run:
        again = shlex.join(["sweep", chosen.file, *chosen.overrides])
        lines.append(f"how far they are:  {prefix()}{again} --status     end them:  {prefix()}{again} --stop")
    print_lines("\n".join(lines))
    return 0


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
