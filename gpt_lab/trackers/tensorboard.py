"""TensorBoard event files in the run folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gpt_lab.errors import ConfigError
from gpt_lab.registry import register
from gpt_lab.schema import RunConfig
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Event

FOLDER = "tensorboard"


@register("tracker", "tensorboard")
class TensorBoard(Background):
    """TensorBoard event files in the run folder; needs the extra `tensorboard`.

    Reference: https://www.tensorflow.org/tensorboard
    """

    title = "TensorBoard"

    def __init__(self, run: Run, cfg: RunConfig) -> None:
        super().__init__(run)
        self._flat = cfg.flat()
        self._writer: Any = None
        self._began: float | None = None
        self._metrics: set[str] = set()

    @classmethod
    def check(cls) -> None:
        """Refuses where the package is missing.

        Raises:
            ConfigError: tensorboard is not installed.
        """
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("tracker=tensorboard needs its package: run `uv sync --extra tensorboard`")

    def catch_up(self, past: Sequence[Event]) -> None:
        """The past anew, at the times that it had: of a killed process's last seconds nothing is in its files."""
        self._began = datetime.fromisoformat(str(self.run.record["started"])).timestamp()
        super().catch_up(past)
        self._began = None

    def write(self, event: Event) -> None:
        if self._writer is None:
            self._writer = self._open_at(event.step)
        data, writer = event.data, self._writer
        if event.op == "log":
            when = None if self._began is None else self._began + data.get("seconds", 0.0)
            self._metrics |= {name for name in data if name.startswith(("val/", "train/loss"))}
            for name, value in data.items():
                if name != "seconds":  # of the past, which says when it was
                    writer.add_scalar(name, value, event.step, walltime=when)
        elif event.op == "text":
            writer.add_text(data["name"], _quoted(data["text"]), event.step)
        elif event.op == "table":
            writer.add_text(data["name"], _markdown(data["columns"], data["rows"]))
        else:
            self._settings(writer)

    def _settings(self, writer: Any) -> None:
        """The flat config, for the page that compares runs by it; their numbers are the ends of the curves."""
        from torch.utils.tensorboard.summary import hparams

        settings = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in self._flat.items()}
        for summary in hparams(settings, dict.fromkeys(sorted(self._metrics), 0.0)):
            writer.file_writer.add_summary(summary)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def recovery(self) -> str:
        return f"everything is in {self.run.path / 'metrics.jsonl'}"

    def _open_at(self, step: int | None) -> Any:
        """A writer that begins at `step`: what an earlier process wrote from there on is hidden.

        The first one says so too: TensorBoard's page takes only the second such word for a restart.
        """
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.run.path / FOLDER, flush_secs=2, purge_step=step or 0)


def _quoted(text: str) -> str:
    """Markdown that shows the text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "


def _markdown(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
