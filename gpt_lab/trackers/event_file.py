"""TensorBoard's event files, record by record. Imports the package of the extra `tensorboard`.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter


def write(file: BinaryIO, events: Iterable[Any]) -> None:
    """Adds the events at the file's position and hands them to the system."""
    records = RecordWriter(file)
    for event in events:
        records.write(event.SerializeToString())
    file.flush()


def begin(when: float, step: int) -> list[Any]:
    """The head of a file, and the mark of a session from `step` on.

    TensorBoard's page takes only the second mark for a restart, so that each file begins with one.
    """
    return [Event(wall_time=when, file_version="brain.Event:2"), restart(when, step)]


def restart(when: float, step: int) -> Any:
    """The mark of a new session: what earlier records say of this step and later ones is hidden."""
    return Event(wall_time=when, step=step, session_log=SessionLog(status=SessionLog.START))


def scalars(when: float, step: int | None, values: Mapping[str, float]) -> Any:
    """One point of each curve."""
    points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return Event(wall_time=when, step=step, summary=Summary(value=points))


def text(when: float, step: int | None, name: str, markdown: str) -> Any:
    """A text, for the page TEXT."""
    return Event(wall_time=when, step=step, summary=text_pb(f"{name}/text_summary", markdown))


def settings(when: float, run: str, values: Mapping[str, bool | int | float | str]) -> Any:
    """A run's settings, for the page HPARAMS; its metrics there are the ends of the curves."""
    return Event(wall_time=when, summary=hparams_pb(values, run, when))
