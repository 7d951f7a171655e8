"""`quantize RUN bits=4`: a checkpoint of a run with its weights in few bits, and what that saves and costs."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Literal, get_type_hints

from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.key_values import read, with_one
from gpt_lab.console.lines import print_lines, show_help
from gpt_lab.errors import ConfigError
from gpt_lab.options import NonEmpty, PositiveInt

HELP = """\
usage: quantize RUN bits=8|4 [key=value ...] [--help]

Writes a checkpoint of a run, checkpoints/int4-g64 say, whose linear layers keep
their weights as whole numbers of 8 or 4 bits, with a scale for each group of
columns; embeddings, norms and biases stay fp32. It then says the size, the bits
per byte on the whole validation split and the tokens per second of both. The
weights are widened to fp32 when they are loaded: the file is small, the speed is
that of any checkpoint.

  RUN                latest, a study (its best run), STUDY/best, a run's name or
                     its folder
  bits=8|4           of each weight
  group=64           columns that share a scale
  checkpoint=null    best, last or step-N; null: best if there is one, else last
  runs_dir=runs      where the studies are

examples:
  quantize latest bits=4
  generate run=latest checkpoint=int4-g64
exit status: 0 written, 2 nothing is written, and the line says why
"""


@dataclass(frozen=True)
class Arguments:
    """What the command line may set; the annotations are the check."""

    run: NonEmpty
    bits: Literal[8, 4]
    group: PositiveInt = 64
    checkpoint: NonEmpty | None = None
    runs_dir: NonEmpty = "runs"


def parse(argv: list[str]) -> Arguments:
    """The arguments, checked.

    Raises:
        ConfigError: no or several runs, no bits, an unknown key or a value of the wrong type.
    """
    found = with_one(*read(argv, get_type_hints(Arguments, include_extras=True), "quantize"), "run")
    for key, example in (("run", "quantize latest bits=4"), ("bits", f"quantize {found.get('run', 'latest')} bits=4")):
        if key not in found:
            raise ConfigError(f"quantize needs {'a run' if key == 'run' else 'a number of bits'}: {example}")
    return Arguments(**found)


def run(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input or nothing written."""
    if {"--help", "-h"} & {*argv}:
        show_help(HELP)
        return 0
    arguments = parse(argv)
    from gpt_lab.store import find_run

    found = find_run(arguments.runs_dir, arguments.run)
    from gpt_lab.train.few_bits.quantized_checkpoint import quantize

    say = functools.partial(print_lines, file=sys.stdout)
    written = quantize(found, arguments.bits, arguments.group, arguments.checkpoint, say)
    before, after = written.before, written.after
    say(f"{written.place}: {written.source} in {arguments.bits} bits, groups of {arguments.group}")
    share = after.nbytes / before.nbytes
    say(f"size        {before.nbytes / 1e6:.2f} MB -> {after.nbytes / 1e6:.2f} MB ({share:.0%})")
    for key, label in (("val/bpb", "val bpb     "), ("val/loss", "val loss    ")):
        if key in after.values:
            one, two = before.values[key], after.values[key]
            say(f"{label}{one:.4f} -> {two:.4f} ({two - one:+.4f})")
    say(f"tokens/s    {before.tokens_per_s:,.0f} -> {after.tokens_per_s:,.0f} (batch 1; widened to fp32 at loading)")
    return 0


main = entry(run, works=lambda argv: True)

if __name__ == "__main__":
    main()
