"""TensorBoard event files in the run folder."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.registry import register
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Event

FOLDER = "tensorboard"


def require(option: str) -> None:
    """Refuses where the package is missing; `option` is what needs it.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(f"{option} needs its package: run `uv sync --extra tensorboard`")


@register("tracker", "tensorboard")
class TensorBoard(Background):
    """TensorBoard event files in the run folder; needs the extra `tensorboard`.

    Reference: https://www.tensorflow.org/tensorboard
    """

    title = "TensorBoard"

    def __init__(self, run: Run, cfg: RunConfig) -> None:
        super().__init__(run)
        flat = cfg.flat()
        self._settings = {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in flat.items()}
        self._file: BinaryIO | None = None
        self._began: float | None = None

    @classmethod
    def check(cls) -> None:
        require("tracker=tensorboard")

    def catch_up(self, past: Sequence[Event]) -> None:
        """The past anew, at the times that it had: of a killed process's last seconds nothing is in its files."""
        self._began = datetime.fromisoformat(str(self.run.record["started"])).timestamp()
        super().catch_up(past)
        self._began = None

    def write(self, event: Event) -> None:
        from gpt_lab.trackers import event_file

        now, data = time.time(), event.data
        if self._file is None:  # what an earlier process wrote from this step on is hidden
            folder = self.run.path / FOLDER
            folder.mkdir(exist_ok=True)
            self._file = open(folder / f"events.out.tfevents.{time.time_ns()}", "wb")  # noqa: SIM115
            settings = event_file.settings(now, self.run.path.name, self._settings)
            event_file.write(self._file, [*event_file.begin(now, event.step or 0), settings])
        if event.op == "log":
            when = now if self._began is None else self._began + data.get("seconds", 0.0)
            values = {name: value for name, value in data.items() if name != "seconds"}  # of the past: when it was
            record = event_file.scalars(when, event.step, values)
        elif event.op == "text":
            record = event_file.text(now, event.step, data["name"], _quoted(data["text"]))
        elif event.op == "table":
            record = event_file.text(now, event.step, data["name"], _markdown(data["columns"], data["rows"]))
        else:
            return
        event_file.write(self._file, [record])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def recovery(self) -> str:
        return f"everything is in {self.run.path / 'metrics.jsonl'}"


def _quoted(text: str) -> str:
    """Markdown that shows the text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "


def _markdown(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
