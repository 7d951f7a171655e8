"""Builds the shards of a config ahead of training, with a progress bar and a summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import RowsDataset, TextDataset, open_dataset
from gpt_lab.data.shard_cache import Progress


def prepare(cfg: RunConfig, console: Console) -> None:
    """Builds what `train` with this config would read, unless it is there, and prints what it is.

    Raises:
        ConfigError, DataError: as `open_dataset`.
    """
    start = time.monotonic()
    with progress_bar(console) as show:
        dataset = open_dataset(cfg, show)
        show("counting n-grams", 0, None)
        dataset.floors()  # they are kept
    if not isinstance(dataset, RowsDataset):
        console.print(f"data={cfg.data['name']} is made while training: there is nothing to prepare")
        return
    seconds = time.monotonic() - start
    for warning in dataset.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    for name, part in dataset.texts.items():
        console.print(_summary(cfg, name, part))
        done = f"built in {seconds:.1f} s" if part.shards.built else "already there"
        console.print(f"{done}: {part.shards.folder}", markup=False, soft_wrap=True)
    if dataset.ends:
        packed = dataset.packed or dataset.rows.statistics()
        console.print(f"batch.packing={cfg.batch.packing}: {packed}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A bar that lasts as long as the block, on a terminal; what shards are built with can move it."""
    columns = (TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("looking", total=None)

        def show(phase: str, done: int, total: int | None) -> None:
            bar.update(task, description=phase, completed=done, total=total)

        yield show


def _summary(cfg: RunConfig, name: str, dataset: TextDataset) -> Table:
    shards = dataset.shards
    data = f"data.sources.{name}" if name else f"data={cfg.data['name']}"
    table = Table(title=f"{data} tokenizer={cfg.tokenizer['name']}", title_justify="left")
    for heading in ("", "train", "val"):
        table.add_column(heading, justify="left" if not heading else "right")
    splits = shards.splits["train"], shards.splits["val"]
    rows = {"documents": "documents", "text, bytes": "text_bytes", "bytes lost": "lost_bytes", "tokens": "tokens"}
    for label, key in rows.items():
        table.add_row(label, *(f"{split[key]:,}" for split in splits))
    table.add_row("bytes per token", *(f"{split['target_bytes'] / (split['tokens'] - 1):.2f}" for split in splits))
    windows = (split["tokens"] // cfg.scale.context for split in splits)
    table.add_row(f"windows of {cfg.scale.context}", *(f"{number:,}" for number in windows))
    table.add_section()
    table.add_row("vocabulary", f"{shards.vocab_size:,}", "")
    for name, value in dataset.floors().items():
        table.add_row(f"{name}, bits per byte", "", f"{value:.3f}")
    return table
