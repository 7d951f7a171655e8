"""`noise [SWEEP] [key=value ...]`: how far apart two runs of the baseline are by chance alone."""

from __future__ import annotations

import sys

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import MOST_JOBS, MOST_SEEDS, Parser, whole_number
from gpt_lab.errors import ConfigError, quoted

PIPE_WIDTH = 160
"""Characters of a line where there is no terminal and no $COLUMNS: names of runs stay whole."""
DESCRIPTION = """\
Measure the noise floor of a sweep's baseline, or of the settings given: null pairs, two runs of one seed whose \
initial values alone differ. They are ordinary runs in runs/noise-RECIPE; each is trained exactly once, and every \
later study with that baseline uses them (report, sweep --dry-run, sweep --target-effect).
"""
EXAMPLES = """\
examples:
  noise pos_enc                    the null pairs that the baseline of sweeps/pos_enc.yaml still needs
  noise pos_enc --seeds 10         ten of them
  noise optim optim.lr=2.0e-3      of a baseline that the sweep tunes: at this value
  noise scale=nano optim=muon      of these settings
  noise --list                     what is known
exit status: 0 known, 1 some runs failed or diverged, 2 bad input, 130 or 143 stopped by a signal
"""


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="noise", description=DESCRIPTION, epilog=EXAMPLES)
    made.add_argument("words", nargs="*", metavar="SWEEP | key=value", help="a sweep file or name; settings of train")
    made.add_argument(
        "--seeds",
        type=whole_number(1, MOST_SEEDS),
        metavar="N",
        help="null pairs there shall be (default: 5, 3 at least)",
    )
    made.add_argument(
        "--jobs", type=whole_number(1, MOST_JOBS), metavar="N", help="runs at a time (default: one per GPU, else cores)"
    )
    made.add_argument(
        "--threads", type=whole_number(1, MOST_JOBS), metavar="N", help="CPU threads of each run (default: 1)"
    )
    made.add_argument("--list", action="store_true", help="show what is known and leave")
    made.add_argument("--metric", metavar="KEY", help="metric of --list (val/bpb)")
    return made


def run(argv: list[str]) -> int:
    """Exit status: 0 known, 1 some runs failed or diverged, 2 bad input, 128 + the number of a signal."""
    chosen = parser().parse_intermixed_args(argv)

    files = [word for word in chosen.words if "=" not in word]
    words = [word for word in chosen.words if "=" in word]
    if len(files) > 1:
        raise ConfigError(f"one sweep file, or settings key=value: {quoted(files[1])} is a second one")
    if not chosen.list and not chosen.words:
        raise ConfigError("whose noise? name a sweep (noise pos_enc) or settings (noise scale=nano); --list: all known")
    if chosen.metric is not None and not chosen.list:
        raise ConfigError("--metric is for --list: a sweep file says its own, settings are measured in val/bpb")

    from gpt_lab.console.terminal import Terminal, pipe_width
    from gpt_lab.sweep import measure_noise

    console = Terminal(file=sys.stdout, width=None if sys.stdout.isatty() else pipe_width(PIPE_WIDTH))
    if chosen.list:
        given = {"--seeds": chosen.seeds, "--jobs": chosen.jobs, "--threads": chosen.threads}
        extra = [*files, *(word for word in words if not word.startswith("runs_dir="))]
        extra += [name for name, value in given.items() if value is not None]
        if extra:
            raise ConfigError(f"--list takes runs_dir=DIR and --metric only, not {extra[0]}")
        return measure_noise.show_all(console, words, chosen.metric)
    return measure_noise.measure(console, files[0] if files else None, words, chosen.seeds, chosen.jobs, chosen.threads)


main = entry(run, works=lambda argv: "--list" not in argv)

if __name__ == "__main__":
    main()
