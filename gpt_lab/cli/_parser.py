"""What the scripts share that take no Hydra overrides: their options, their output."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from gpt_lab import lines
from gpt_lab.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 100
READABLE = 118
"""Longest line of prose in a help text, however wide the terminal."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose lines are broken between words only, those of examples included."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return lines.fold(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(part for line in text.splitlines() for part in lines.fold(indent + line, min(width, READABLE)))


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line, like every other error of the lab."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Help, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")


def output(show: Callable[[Console], None]) -> None:
    """Calls `show` on the terminal; into a pipe it writes plain lines of fixed width without trailing blanks."""
    from gpt_lab.terminal import Terminal

    if sys.stdout.isatty():
        show(Terminal(highlight=False))
        return
    text = io.StringIO()
    show(Terminal(file=text, width=PIPE_WIDTH, highlight=False))
    for line in text.getvalue().splitlines():
        print(line.rstrip())
