"""The source of a part and of its twin in JAX, read as text: neither torch nor JAX need be there to show it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_lab import project, registry
from gpt_lab.config.components import KINDS, CatalogueEntry
from gpt_lab.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

TWINS = project.PACKAGE / "twins"
"""KIND/NAME.py there is the twin of KIND=NAME."""
HANGING = 4
COMPUTES = ("forward", "rotate", "run")
"""What a part is called by; bases above the class that has one of them say nothing of the formula."""


@dataclass(frozen=True)
class Source:
    """Some lines of a file, of which `line` is the first."""

    path: Path
    line: int
    text: str


def twins() -> dict[str, list[str]]:
    """Kind -> names of the parts and presets that have a twin."""
    found = {kind: sorted(path.stem for path in (TWINS / kind).glob("[a-z]*.py")) for kind in KINDS}
    return {kind: names for kind, names in found.items() if names}


def twin(kind: str | None, name: str | None) -> Source:
    """The twin of a part.

    Raises:
        ConfigError: it has none; the line lists those that have one.
    """
    have = twins()
    if kind is None or name is None or name not in have.get(kind, ()):
        listed = "; ".join(f"{one}: {', '.join(names)}" for one, names in have.items())
        said = "--jax shows the twin of one part" if name is None else f"{kind}={name} has no twin in JAX"
        raise ConfigError(f"{said} (those that have one are {listed})")
    path = TWINS / kind / f"{name}.py"
    return Source(path, 1, path.read_text(encoding="utf-8"))


def layout(of: Source) -> str:
    """Where a twin's arrays differ from the part's: the line `Layout: ...` of its docstring."""
    found = re.search(r"^Layout: (.+(?:\n.+)*)", of.text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def part(entry: CatalogueEntry) -> list[Source]:
    """The class of a part, then its bases up to the one that computes; the file of a preset."""
    if entry.kind not in registry.KINDS:
        return [Source(entry.source, 1, entry.source.read_text(encoding="utf-8"))]
    return list(_classes(entry.source, registry.get(entry.kind, entry.name).qualname))


def show(entry: CatalogueEntry, console: Console) -> None:
    """The part, its twin below, and where their layouts differ.

    Raises:
        ConfigError: as twin.
    """
    from rich.syntax import Syntax
    from rich.text import Text

    other = twin(entry.kind, entry.name)
    for title, source in (*(("Part", one) for one in part(entry)), ("Twin", other)):
        place = f"{title}: {project.near(source.path)}:{source.line}"
        console.print(Text(place, "bold cyan"), soft_wrap=True)
        language = "yaml" if source.path.suffix == ".yaml" else "python"
        colours = Syntax("", language, theme="ansi_dark", background_color="default")
        for line in colours.highlight(source.text.strip("\n")).split("\n"):
            for shown in _folded(line, console):
                console.print(shown, soft_wrap=True)
        console.print()
    console.print(Text(f"Layout: {layout(other)}"), soft_wrap=True)


def _folded(line: Text, console: Console) -> Iterator[Text]:
    """A line of code as several where it is too long; what goes on stands further in."""
    blank = len(line.plain) - len(line.plain.lstrip())
    if len(line.plain.rstrip()) <= console.width:
        yield line
        return
    for number, piece in enumerate(line[blank:].wrap(console, console.width - blank - HANGING)):
        piece.rstrip()
        piece.pad_left(blank + (HANGING if number else 0))
        yield piece


def _classes(path: Path, name: str) -> Iterator[Source]:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    node = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name)
    first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
    yield Source(path, first, "\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    if any(isinstance(one, ast.FunctionDef) and one.name in COMPUTES for one in node.body):
        return
    base = node.bases[0]
    assert isinstance(base, ast.Name), "parts with a twin inherit from classes by name"
    yield from _classes(_defines(path, tree, base.id), base.id)


def _defines(path: Path, tree: ast.Module, name: str) -> Path:
    """The file that a class comes from: the one it is imported from, or this one."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return project.PACKAGE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
    return path
