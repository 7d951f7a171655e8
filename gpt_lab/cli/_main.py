"""What every console script shares: errors as one line, exit codes, the version."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from gpt_lab.errors import LabError
from gpt_lab.lines import say

BAD_INPUT = 2
INTERRUPTED = 130


def entry(run: Callable[[list[str]], int]) -> Callable[[], None]:
    """A console script: calls `run(arguments)` and exits with its status; a LabError is one line and status 2."""

    def main() -> None:
        try:
            status = run(sys.argv[1:])
            sys.stdout.flush()
        except LabError as error:
            say(f"error: {error}", sys.stderr)
            status = BAD_INPUT
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 0
        sys.exit(status)

    return main
