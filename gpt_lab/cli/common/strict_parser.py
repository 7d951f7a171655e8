"""What the scripts share that take no Hydra overrides: their options, their output."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gpt_lab.console import invocation, lines
from gpt_lab.errors import ConfigError, quoted

if TYPE_CHECKING:
    from rich.console import Console

MOST_JOBS = 1000
"""Processes, or threads of one, beyond which a number is a slip."""
MOST_SEEDS = 100_000
"""As many as a grid has cells (sweep.grid.LARGEST)."""


UNKNOWN = "unrecognized arguments: "
"""How argparse begins what it says of options that there are not."""
READABLE = 118
"""Longest line of prose in a help text, however wide the terminal."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help whose lines are broken between words only, those of examples included."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return lines.fold(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(part for line in text.splitlines() for part in lines.fold(indent + line, min(width, READABLE)))


class _Once(argparse._StoreAction):
    """Stores an option's value; a second, different one would silently win."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        if option is not None and repr(before) not in (repr(self.default), repr(values)):  # nan is not equal to itself
            raise argparse.ArgumentError(self, f"given twice: {quoted(before)} and {quoted(values)}")
        super().__call__(parser, namespace, values, option)


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line, like every other error of the lab; strict where it would guess."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, "allow_abbrev": False, **settings})
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; an empty word, which a path would take for the working folder, is refused."""
        for word in args or ():
            name, equals, value = word.partition("=")
            if not word.strip() or (word.startswith("--") and equals and not value.strip()):
                self.error(f"{name.strip() or 'an argument'} is empty: give it a value or leave it out")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix(UNKNOWN).split() if message.startswith(UNKNOWN) else []
        options = [option for option in self._option_string_actions if option.startswith("--")]
        found = (difflib.get_close_matches(word.partition("=")[0], options, n=1) for word in words if word[0] == "-")
        meant = next((f"; did you mean {close[0]}?" for close in found if close), "")
        raise ConfigError(f"{self.prog}: {message}{meant} (see {invocation.prefix()}{self.prog} --help)")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that is a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"a whole number from {low} to {high:,} is expected, not {quoted(text)}")
        return int(text)

    return read


def output(show: Callable[[Console], None]) -> None:
    """Calls `show` on the terminal; into a pipe it writes plain lines without trailing blanks."""
    from gpt_lab.console.terminal import PLAIN_WIDTH, Terminal, pipe_width, plain

    if sys.stdout.isatty():
        show(Terminal(highlight=False))
        return
    for line in plain(show, pipe_width(PLAIN_WIDTH)):
        print(line)
