"""The conversation in a terminal or a pipe: reads lines, shows answers as they grow, obeys /commands."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpt_lab.chat import transcript
from gpt_lab.chat.session import Said, Session, Turn
from gpt_lab.errors import ConfigError, DataError, LabError, one_line, quoted, unknown

HELP = """\
/reset            forget what was said
/seed N           the same seed gives the same answers
/temperature X    0: always the likeliest token
/tokens N         new tokens at most
/export FILE      what was said, as one HTML file
/quit             leave (as does Ctrl-D)
A line that ends with a backslash goes on in the next one."""


class Leaving(Exception):
    """/quit."""


def converse(session: Session, console: Console, lines: TextIO = sys.stdin) -> None:
    """Reads prompts and commands until there are no more.

    In a terminal a mistake is said and the conversation goes on.

    Raises:
        LabError: a mistake in lines that come from a pipe.
    """
    typed = lines.isatty()
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(errors="surrogateescape")  # what is no text is said below, for the line that has it
    show = _show_live if console.is_terminal else _show_plain
    try:
        for line in _prompts(lines, typed):
            try:
                _check(line)
                _obey(session, line, console) if line.startswith("/") else show(session, line, console)
            except LabError as error:
                if not typed:
                    raise
                console.print(Text(f"error: {one_line(str(error))}", style="red"))
    except Leaving:
        return


def _prompts(lines: TextIO, typed: bool) -> Iterator[str]:
    """Lines without their ends, those that go on joined; empty ones only where they were typed on purpose."""
    read: Callable[[], str] = (lambda: _typed("> ")) if typed else lines.readline
    while line := read():
        while line.rstrip("\n").endswith("\\"):
            line = line.rstrip("\n")[:-1] + "\n" + (_typed(". ") if typed else lines.readline())
        if line.strip():
            yield line.rstrip("\n") if not line.startswith("/") else line.strip()


def _check(line: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError:
        raise DataError(f"{quoted(line)} is no text in UTF-8: convert it, as with iconv") from None


def _typed(sign: str) -> str:
    try:
        return input(sign) + "\n"
    except EOFError:
        print()
        return ""


def _obey(session: Session, line: str, console: Console) -> None:
    name, _, value = line[1:].partition(" ")
    value = value.strip()
    acts: dict[str, Callable[[], None]] = {
        "help": lambda: console.print(Text(HELP)),
        "quit": _leave,
        "reset": session.reset,
        "seed": lambda: session.change(seed=_whole("seed", value, 0)),
        "temperature": lambda: session.change(temperature=_number("temperature", value)),
        "tokens": lambda: session.change(max_tokens=_whole("tokens", value, 1)),
        "export": lambda: _export(session, value, console),
    }
    if name not in acts:
        raise ConfigError(unknown("command", name, acts))
    if value and name in ("help", "quit", "reset"):
        raise ConfigError(f"/{name} takes nothing, not {quoted(value)}")
    acts[name]()


def _leave() -> None:
    raise Leaving


def _export(session: Session, value: str, console: Console) -> None:
    if not value:
        raise ConfigError("/export takes a file, such as /export conversation.html")
    transcript.export(Path(value), session.turns, session.chat)
    console.print(Text(f"wrote {value}"))


def _whole(name: str, text: str, low: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text[:20]) < 2**63):
        raise ConfigError(f"/{name} takes a whole number >= {low}, not {quoted(text)}")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"/{name} takes a number, not {quoted(text)}") from None


def _show_plain(session: Session, prompt: str, console: Console) -> None:
    """Without a terminal: one model's text as it comes, two models' one after the other."""
    shown = 0
    alone = len(session.models) == 1
    if alone and not session.chat:
        console.file.write(prompt)
    turn = None
    for turn in session.say(prompt):
        if alone:
            console.file.write(turn.answers[0].text[shown:])
            console.file.flush()
            shown = len(turn.answers[0].text)
    assert turn is not None
    if not alone:
        for said in turn.answers:
            console.file.write(f"--- {said.model} ---\n{'' if session.chat else prompt}{said.text}\n")
        console.file.write(f"--- {_parting(turn)} ---")
    console.file.write("\n")
    console.file.flush()


def _show_live(session: Session, prompt: str, console: Console) -> None:
    turn = None
    with Live(console=console, refresh_per_second=12, transient=True) as live:
        for turn in session.say(prompt):
            live.update(_laid(session, turn, console, console.height - 4))
    assert turn is not None
    console.print(_laid(session, turn, console, None))


def _laid(session: Session, turn: Turn, console: Console, height: int | None) -> Group:
    """The answers side by side; while they grow only the last lines, as many as there is room for."""
    number = len(turn.answers)
    table = Table.grid(expand=True, padding=(0, 2))
    for _ in range(number):
        table.add_column(ratio=1)
    width = max(10, console.width // number - 2)
    texts = []
    for said in turn.answers:
        text = _text(session, turn, said)
        if height is not None:
            text = Text("\n").join(text.wrap(console, width)[-max(1, height) :])
        texts.append(text)
    table.add_row(*(Text(said.model, style="bold") for said in turn.answers))
    table.add_row(*texts)
    table.add_row(*(Text(said.speed, style="dim") for said in turn.answers))
    return Group(table, Text(_parting(turn), style="dim")) if number > 1 and height is None else Group(table)


def _text(session: Session, turn: Turn, said: Said) -> Text:
    text = Text("" if session.chat else turn.prompt, style="dim")
    answer = Text(said.text, style="not dim")
    place = turn.parted
    if place is not None and place < len(said.offsets):
        end = said.offsets[place + 1] if place + 1 < len(said.offsets) else len(said.text)
        answer.stylize("reverse", said.offsets[place], max(end, said.offsets[place] + 1))
    return text.append_text(answer)


def _parting(turn: Turn) -> str:
    return "both say the same" if turn.parted is None else f"they part at token {turn.parted + 1}"
