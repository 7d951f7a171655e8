"""What the scripts share that take no Hydra overrides: their options, their output."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from gpt_lab.errors import ConfigError

PIPE_WIDTH = 100


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line, like every other error of the lab."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")


def output(show: Callable[[Console], None]) -> None:
    """Calls `show` on the terminal; into a pipe it writes plain lines of fixed width without trailing blanks."""
    if sys.stdout.isatty():
        show(Console(highlight=False))
        return
    text = io.StringIO()
    show(Console(file=text, width=PIPE_WIDTH, highlight=False))
    for line in text.getvalue().splitlines():
        print(line.rstrip())
