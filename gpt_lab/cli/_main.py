"""What every console script shares: errors as one line, exit codes, the version."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from gpt_lab.errors import ConfigError, LabError, one_line, quoted

BAD_INPUT = 2
INTERRUPTED = 130


def entry(run: Callable[[list[str]], int]) -> Callable[[], None]:
    """A console script: calls `run(arguments)` and exits with its status; a LabError is one line and status 2."""

    def main() -> None:
        try:
            status = run(_arguments())
            sys.stdout.flush()
        except LabError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            status = BAD_INPUT
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 0
        except OSError as error:  # a path that is too long, or that nobody may read
            if error.filename is None:
                raise
            print(f"error: cannot use {quoted(str(error.filename))}: {error.strerror}", file=sys.stderr)
            status = BAD_INPUT
        sys.exit(status)

    return main


def _arguments() -> list[str]:
    """The words of the command line.

    Raises:
        ConfigError: one is not UTF-8, so that no record and no report could name it.
    """
    for word in sys.argv[1:]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{quoted(word)} is not UTF-8: rename the file or folder") from None
    return sys.argv[1:]
