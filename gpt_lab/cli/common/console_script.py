"""What every console script shares: errors as one line, exit codes, how it leaves when it is asked to, lost output."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gpt_lab.console import signals, streams
from gpt_lab.console.lines import print_lines
from gpt_lab.errors import ConfigError, LabError, one_line, quoted

BAD_INPUT = 2
Works = Callable[[Sequence[str]], bool]


def entry(
    run: Callable[[list[str]], int], works: Works = lambda argv: False, leave: Callable[[int], NoReturn] = sys.exit
) -> Callable[[], None]:
    """A console script: calls `run(arguments)` and exits with its status; a LabError is one line and status 2.

    Asked to leave by a signal it exits with 128 + its number. Output that is gone never stops it; whether it makes the
    status 2 depends on what the command is for. A reader that has seen enough (`| head`) is no error.

    Args:
        works: whether the command with these arguments does more than show something: then the status is its work's.
        leave: ends the process with a status; called last.
    """

    def main() -> None:
        streams.install()
        signals.listen()
        argv = sys.argv[1:]
        try:
            status = run(_utf8(argv))
        except LabError as error:
            print_lines(f"error: {one_line(str(error))}", sys.stderr)
            status = BAD_INPUT
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, signals.Leave) else signal.SIGINT
            print(f"stopped by {signals.name(number)}: the same command begins anew", file=sys.stderr)
            status = 128 + number
        except OSError as error:  # a path that is too long, or that nobody may read
            if error.filename is None:
                raise
            print_lines(f"error: cannot use {quoted(str(error.filename))}: {error.strerror}", sys.stderr)
            status = BAD_INPUT
        except SystemExit as end:  # argparse, after --help
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        signals.ignore_from_now_on()
        leave(_exit_status(status, works(argv) and not {"--help", "-h"} & {*argv}))

    return main


def _exit_status(status: int, worked: bool) -> int:
    """The exit status, once it is clear whether the output has arrived."""
    for text in (sys.stdout, sys.stderr):
        if text is not None:
            text.flush()
    lost = streams.output_error(sys.stdout)
    if lost is None or lost.errno == errno.EPIPE or status > 128:
        return status
    if worked and status != BAD_INPUT:
        print(f"warning: standard output was lost ({lost.strerror}): the work went on without it", file=sys.stderr)
    if worked:
        return status
    print(f"error: cannot write standard output: {lost.strerror}", file=sys.stderr)
    return status or BAD_INPUT


def _utf8(words: list[str]) -> list[str]:
    """The words of the command line.

    Raises:
        ConfigError: one is not UTF-8, so that no record and no report could name it.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            way = "write the text in it" if word.partition("=")[0].endswith("prompt") else "rename the file or folder"
            raise ConfigError(f"{quoted(word)} is not UTF-8: {way}") from None
    return words
