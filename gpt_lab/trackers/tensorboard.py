"""TensorBoard event files in the run folder."""

from __future__ import annotations

import importlib.util
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
        self._metrics: set[str] = set()

    @classmethod
    def check(cls) -> None:
        """Refuses where the package is missing.

        Raises:
            ConfigError: tensorboard is not installed.
        """
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("tracker=tensorboard needs its package: run `uv sync --extra tensorboard`")

    def write(self, event: Event) -> None:
        if self._writer is None:
            self._writer = self._open_at(event.step)
        data, writer = event.data, self._writer
        if event.op == "log":
            self._metrics |= {name for name in data if name.startswith(("val/", "train/loss"))}
            for name, value in data.items():
                writer.add_scalar(name, value, event.step)
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
        """A writer that begins at `step`: what an earlier, killed process wrote from there on is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.run.path / FOLDER
        return SummaryWriter(folder, flush_secs=2, purge_step=step if folder.exists() else None)


def _quoted(text: str) -> str:
    """Markdown that shows the text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "


def _markdown(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
