"""Names of tasks: the lab's own, files of items or text, classes of one's own. Imports no torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gpt_lab import registry
from gpt_lab.digests import sha256
from gpt_lab.errors import ConfigError, DataError, quoted, unknown
from gpt_lab.metrics import BITS

ITEMS, TEXT = ".jsonl", ".txt"
"""Files of items and of text that are tasks."""
_MARKED = re.compile(r'^@task\("([^"\n]+)"\)\n(?:@.+\n)*class (\w+)', re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class TaskName(NamedTuple):
    """A task that was asked for.

    Fields:
        name: of the task and, behind eval/, of its metric. file: of its items or its text. part: its class otherwise.
    """

    name: str
    file: Path | None = None
    part: registry.Part | None = None

    @property
    def digest(self) -> str:
        """Changes with what the task asks: its file, or the source of a class of one's own."""
        if self.file is not None:
            return sha256(self.file)
        assert self.part is not None, "a task is a file or a class"
        return "" if self.part.module.startswith("gpt_lab.") else sha256(self.part.path)


@functools.cache
def known() -> Mapping[str, registry.Part]:
    """Every task that is a class, by name: the lab's, those of parts/ and of packages; none is imported.

    Raises:
        ConfigError: two have the same name, or one whose name cannot be that of a file.
    """
    own = sorted(Path(__file__).parent.rglob("*.py"))
    here = [(f"{__package__}.{path.stem}", path) for path in own]
    found: dict[str, registry.Part] = {}
    for module, path in [*here, *registry.foreign()]:
        for name, qualname in _MARKED.findall(path.read_text(encoding="utf-8", errors="replace")):
            _check_name(str(path), name)
            if name in found:
                raise ConfigError(f"task {name} is in both {found[name].path} and {path}: rename one")
            found[name] = registry.Part("task", name, module, path, qualname)
    return dict(sorted(found.items()))


def find(asked: str) -> TaskName:
    """The task that a name, or the path of a file, stands for.

    Raises:
        ConfigError: no such task. DataError: no such file.
    """
    path = Path(asked).expanduser()
    if path.suffix in (ITEMS, TEXT):
        if not path.is_file():
            raise DataError(f"tasks: there is no file {asked}")
        _check_name("tasks", path.stem)
        return TaskName(path.stem + (BITS if path.suffix == TEXT else ""), file=path)
    if asked not in known():
        raise ConfigError(f"{unknown('task', asked, known())}; a file is NAME{ITEMS} (items) or NAME{TEXT} (a text)")
    return TaskName(asked, part=known()[asked])


def find_all(asked: Sequence[str]) -> list[TaskName]:
    """The tasks, each once.

    Raises:
        ConfigError, DataError: as find; two tasks of one name.
    """
    found = [find(one) for one in asked]
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"tasks: {twice} is there twice: leave one out, or rename its file")
    return found


def _check_name(where: str, name: str) -> None:
    """Refuses what cannot be the name of a metric and of a file."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a task's name has letters, digits and _ . - only, not {quoted(name)}")
