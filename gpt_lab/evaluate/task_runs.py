"""Tasks measured, one after the other, and their results in a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.evaluate.items_file import FileQuestions
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.task import Asked, Task, TaskResult
from gpt_lab.evaluate.task_names import TEXT, TaskName
from gpt_lab.evaluate.text_bits import FileBits
from gpt_lab.store.atomic_files import write_json, writing

ONE_MODEL = "the standard error is of items: of one model, and no replication"


def built(name: TaskName) -> Task:
    """The task.

    Raises:
        DataError: its file cannot be read, or has a line that is no item. ConfigError: its class is no Task.
    """
    if name.file is not None:
        return FileBits(name.file) if name.file.suffix == TEXT else FileQuestions(name.file)
    assert name.part is not None, "a task is a file or a class"
    made = registry.load_class(name.part)()
    if not isinstance(made, Task):
        raise ConfigError(f"task {name.name} in {name.part.path} is no Task: its class must be one of gpt_lab.evaluate")
    return made


def prepared(names: Sequence[TaskName], asked: Asked) -> list[Task]:
    """The tasks, which can be asked so.

    Raises:
        ConfigError: examples, and a task that takes none; a class that is no Task. DataError: as built.
    """
    without = [name.name for name in names if not _takes_examples(name)]
    if asked.shots and without:
        raise ConfigError(
            f"shots={asked.shots}: examples are of files of items (NAME.jsonl), and {', '.join(without)} cannot have "
            "any: leave out one or the other"
        )
    return [built(name) for name in names]


def _takes_examples(name: TaskName) -> bool:
    """False: a text, or a task of the lab that makes its questions; a class of one's own may."""
    if name.file is not None:
        return name.file.suffix != TEXT
    return name.part is None or not name.part.module.startswith("gpt_lab.")


def measure(
    subject: Subject, names: Sequence[TaskName], asked: Asked, told: Callable[[str, Task, TaskResult], None]
) -> dict[str, dict[str, Any]]:
    """The record of each task by its name; all are built before the first is measured.

    Args:
        told: called with each result as it is there.

    Raises:
        ConfigError, DataError: as Task.measure.
    """
    tasks = prepared(names, asked)
    found = {}
    for name, task in zip(names, tasks, strict=True):
        result = task.measure(subject, asked)
        told(name.name, task, result)
        found[name.name] = record(subject, name, task, result, asked)
    return found


def record(subject: Subject, name: TaskName, task: Task, result: TaskResult, asked: Asked) -> dict[str, Any]:
    """What is written of a task: the score, how it was asked, of which weights, and every item."""
    return {
        "task": name.name,
        "digest": name.digest,
        "checkpoint": subject.checkpoint,
        "weights": subject.digest,
        "context": subject.context,
        **asked._asdict(),
        "score": result.score,
        "is": task.shown,
        "stderr": result.stderr,
        "note": ONE_MODEL,
        "measured": result.items,
        "values": dict(result.values),
        "each": list(result.each),
    }


def write(folder: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes records, each atomically, over those of before.

    Raises:
        LabError: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, one in found.items():
        write_json(folder / f"{name}.json", one)
